// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

// The page: who is signed in, the figures, the buttons, and what to say about it all.

import { login, logout, onSession } from '/bff/client.js';
import { Chart } from './chart.js';
import { Journal } from './journal.js';
import { Record } from './record.js';
import { Traffic } from './traffic.js';

const OUTAGE = 20; // seconds
const BURST = 200; // calls
const LOG = 60; // lines

const $ = (id) => document.getElementById(id);
const record = new Record();
const chart = new Chart($('chart'), record);
const journal = new Journal(record, heard);
const traffic = new Traffic(record);
let signedIn = false;
let leaving = false;

window.demo = record.counters;

// ---- who is signed in

const REASONS = {
  idle: 'Your session ended: nothing happened for too long.',
  lifetime: 'Your session ended: it had lived its time.',
  revoked: 'Your session was ended elsewhere.',
  logged_out: 'You are signed out.',
  refresh_token: 'Your session ended: the authorization server no longer takes its refresh token.',
  access_token: 'Your session ended with its access token.',
  limit: 'Your session ended: too many others were begun.',
};

/** Shows the state of the session. It comes at the start and whenever it changes, in other tabs too. */
function show({ authenticated, user, reason }) {
  if (leaving) return;
  $('welcome').hidden = authenticated;
  $('board').hidden = !authenticated;
  $('account').hidden = !authenticated;
  $('user').textContent = authenticated ? user.name ?? user.preferred_username ?? user.sub : '';
  if (authenticated && !signedIn) {
    say(`Signed in as ${$('user').textContent}. Calls go out twice a second.`);
    traffic.start();
    journal.start();
    chart.start();
  }
  if (!authenticated) {
    say(REASONS[reason] ?? 'You are not signed in.', reason in REASONS ? 'calm' : 'none');
    traffic.stop();
    journal.stop();
    chart.stop();
  }
  signedIn = authenticated;
}

$('sign-in').addEventListener('click', () => {
  say('Going to the authorization server …');
  login();
});

$('sign-out').addEventListener('click', async () => {
  leaving = true;
  traffic.stop();
  journal.stop();
  say('Signing out …');
  try {
    await logout();
  } catch (error) {
    leaving = false;
    say(`Signing out failed: ${error.message}`, 'bad');
    traffic.start();
    journal.start();
  }
});

// ---- the buttons

/** Makes a button run action, and keeps it from being pressed again meanwhile. */
function button(id, action) {
  const element = $(id);
  const caption = element.querySelector('span');
  const label = caption.textContent;
  const show = (text) => { caption.textContent = text ?? label; };
  element.addEventListener('click', async () => {
    if (element.getAttribute('aria-disabled') === 'true') return;
    element.setAttribute('aria-disabled', 'true');
    try {
      await action(show);
    } catch (error) {
      say(`That did not work: ${error.message}`, 'bad');
    }
    show();
    element.removeAttribute('aria-disabled');
  });
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

button('revoke', async () => {
  const before = record.counters.refreshes;
  await journal.revoke();
  say('The access token is revoked. The next call meets a 401 …', 'held');
  await heardOf('refreshed', 10_000);
  if (record.counters.refreshes > before) say('Healed: the API refused the token, the gateway refreshed it and sent the call again.', 'good');
});

button('outage', async (show) => {
  const seconds = await journal.takeDown(OUTAGE);
  const end = Date.now() + seconds * 1000;
  say(`The authorization server is down for ${OUTAGE} seconds. Calls go on while the access token lives.`, 'held');
  for (let left = seconds; left > 0; left = (end - Date.now()) / 1000) {
    show(`Authorization server is down: ${Math.ceil(left)} s`);
    await sleep(Math.min(1000, left * 1000));
  }
});

button('burst', async (show) => {
  show(`${BURST} calls are under way …`);
  const { ok, failed, held, ms, generations } = await traffic.burst(BURST);
  const tokens = generations === 1 ? 'one access token' : `${generations} access tokens`;
  const rest = [held && `${held} told to wait`, failed && `${failed} failed`].filter(Boolean).join(', ');
  say(`${ok} of ${BURST} calls answered in ${duration(ms)}, with ${tokens}${rest ? `; ${rest}` : ''}.`, failed ? 'bad' : held ? 'held' : 'good');
});

button('restart', async (show) => {
  await journal.restart();
  show('The gateway is restarting …');
  say('The gateway restarts. Calls are tried again until it is back.', 'held');
  await heardOf('gateway_restarted', 30_000);
});

// ---- what the servers say

const waiting = new Set();

/** Resolves when the servers say that kind has happened, or after ms. */
function heardOf(kind, ms) {
  return new Promise((resolve) => {
    const one = { kind, resolve };
    waiting.add(one);
    setTimeout(() => { waiting.delete(one); resolve(); }, ms);
  });
}

const SENTENCES = {
  signed_in: (token) => ['good', 'Signed in. First access token', token],
  refreshed: (token) => ['good', 'Refreshed. New access token', token],
  refused: (token) => ['held', 'The API answered 401 to access token', token],
  revoked: () => ['held', 'The access token was revoked.'],
  reused: () => ['bad', 'A spent refresh token was presented: the session is over.'],
  signed_out: () => ['calm', 'Signed out: the refresh token is revoked.'],
  outage_started: () => ['bad', 'The authorization server is down.'],
  outage_ended: () => ['good', 'The authorization server is back.'],
  gateway_stopped: () => ['held', 'The gateway stopped.'],
  gateway_restarted: () => ['good', 'The gateway is back.'],
};

function heard({ at, kind, generation }) {
  for (const one of waiting) {
    if (one.kind !== kind) continue;
    waiting.delete(one);
    one.resolve();
  }
  if (kind === 'outage_ended') say('The authorization server is back. You were never signed out.', 'good');
  if (kind === 'gateway_restarted') say('The gateway is back. You are still signed in.', 'good');
  if (kind === 'reused') say('A spent refresh token was presented: the session is over.', 'bad');

  const [tone, text, token] = (SENTENCES[kind] ?? (() => ['calm', kind]))(generation);
  const line = document.createElement('li');
  line.className = tone;
  const time = document.createElement('time');
  time.dateTime = new Date(at).toISOString();
  time.textContent = new Date(at).toLocaleTimeString();
  line.append(time, ` ${text}`);
  if (token) {
    const name = document.createElement('code');
    name.textContent = token;
    line.append(' ', name);
  }
  $('log').prepend(line);
  while ($('log').children.length > LOG) $('log').lastChild.remove();
}

// ---- what is shown

function say(text, tone = 'calm') {
  const status = $('status');
  status.textContent = text;
  status.dataset.tone = tone;
}

function duration(ms) {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

function write(id, text) {
  const element = $(id);
  if (element.textContent !== String(text)) element.textContent = text;
}

function refreshFigures() {
  const { counters, token } = record;
  write('calls-ok', counters.ok);
  write('calls-failed', counters.failed);
  write('calls-held', counters.held);
  write('generations', counters.generations.length);
  write('refreshes', counters.refreshes);
  write('slowest', record.slowest() ? duration(record.slowest()) : '–');
  $('failed-figure').classList.toggle('bad', counters.failed > 0);
  if (!token) return;
  const left = Math.max(0, (token.expires - Date.now()) / 1000);
  write('token', token.generation);
  write('token-left', left ? `expires in ${Math.ceil(left)} s` : 'has expired');
  const ring = $('ring');
  ring.style.stroke = chart.color(record.index(token.generation));
  ring.style.strokeDashoffset = 100 - Math.min(100, (left / Math.max(1, token.lifetime)) * 100);
}

function summarize() {
  const { ok, held, failed, generations, refreshes } = record.counters;
  write('chart-summary', `So far ${ok} calls were answered, ${held} were told to wait and ${failed} failed; the API saw ` +
    `${generations.length} access tokens; there were ${refreshes} refreshes. The slowest call of the last minute took ` +
    `${duration(record.slowest())}.`);
}

setInterval(refreshFigures, 200);
setInterval(summarize, 10_000);
onSession(show);
