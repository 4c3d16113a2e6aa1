// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

// Walks through the demo in headless Chromium, as a person would. The first
// argument is one JSON object: address, user, password, chromium (the path of the
// browser), output (a directory for screenshots), profile (an empty directory).
// Says what it does line by line; ends with 1 and the reason if anything is not
// as it should be.

import { chromium } from 'playwright-core';

const { address, user, password, chromium: executablePath, output, profile } = JSON.parse(process.argv[2]);
const origin = new URL(address).origin;

function expect(what, truth, seen) {
  if (!truth) throw new Error(`${what}: ${JSON.stringify(seen)}`);
}

const context = await chromium.launchPersistentContext(profile, {
  executablePath,
  headless: true,
  viewport: { width: 1200, height: 900 },
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
});
const page = context.pages()[0] ?? await context.newPage();
page.setDefaultTimeout(15_000);

const scriptErrors = [];
page.on('pageerror', (error) => scriptErrors.push(String(error)));
page.on('console', (message) => { if (/Content Security Policy|SyntaxError/.test(message.text())) scriptErrors.push(message.text()); });

// No answer of the gateway's origin may hold a token, with one exception: the
// ID token, as the hint at logout that some authorization servers insist on.
const leaks = [];
const looks = [];
page.on('response', (response) => { if (response.url().startsWith(origin)) looks.push(look(response)); });
async function look(response) {
  const headers = JSON.stringify(await response.allHeaders().catch(() => ({})));
  const body = await response.text().catch(() => '');
  const said = (headers + body).replace(/id_token_hint=[\w.-]+/g, '');
  if (/eyJ[\w-]{10,}\.[\w-]{10,}/.test(said) || /"(access|refresh|id)_token"\s*:/.test(said)) leaks.push(response.url());
}

let shots = 0;
async function screenshot(name) {
  shots += 1;
  await page.screenshot({ path: `${output}/${shots}-${name}.png`, fullPage: true });
  console.log(`screenshot ${shots}-${name}.png`);
}

const counters = () => page.evaluate(() => structuredClone(window.demo));
const status = () => page.textContent('#status');
const pause = (ms) => page.waitForTimeout(ms);

/** Waits until counters are as wanted, and gives them. */
async function until(what, wanted, ms) {
  const end = Date.now() + ms;
  for (;;) {
    const now = await counters();
    if (await wanted(now)) return now;
    expect(`${what} did not happen within ${ms} ms`, Date.now() < end, { ...now, status: await status() });
    await pause(100);
  }
}

/** Checks that calls are answered now, and that none has failed so far. */
async function goesOn(after) {
  const before = await counters();
  const now = await until(`calls going on after ${after}`, (c) => c.ok >= before.ok + 3, 10_000);
  expect(`calls failed by ${after}`, now.failed === 0, now.failures);
  expect(`signed in after ${after}`, await page.isVisible('#sign-out'), await status());
  return now;
}

/** Presses a button by keyboard. */
async function press(id, key = 'Enter') {
  await page.focus(id);
  await page.keyboard.press(key);
}

async function walk() {
  await page.goto(address);
  await page.waitForSelector('#sign-in', { state: 'visible' });
  await screenshot('welcome');
  await press('#sign-in');
  await page.waitForSelector('input[type=password]');
  expect('the login page is not at the gateway', !page.url().startsWith(origin), page.url());
  await screenshot('login');
  await page.fill('input[type=text], input[name=username]', user);
  await page.fill('input[type=password]', password);
  await page.keyboard.press('Enter');
  await page.waitForSelector('#sign-out', { state: 'visible' });
  expect('back at the page', page.url().startsWith(origin), page.url());
  expect('the name of the user', (await page.textContent('#user')).toLowerCase().includes(user), await page.textContent('#user'));
  console.log(`signed in as ${await page.textContent('#user')}`);

  const stored = await page.evaluate(() => [document.cookie, localStorage.length, sessionStorage.length]);
  expect('scripts see neither cookie nor storage', stored[0] === '' && stored[1] === 0 && stored[2] === 0, stored);

  await pause(60_000);
  await screenshot('a-minute');
  const minute = await counters();
  console.log(`a minute: ${JSON.stringify({ ...minute, generations: minute.generations.length })}`);
  expect('calls in a minute', minute.ok >= 100, minute);
  expect('failures in a minute', minute.failed === 0 && minute.held === 0, minute);
  expect('expiries in a minute', minute.generations.length >= 4, minute.generations);
  expect('one refresh for each new token', Math.abs(minute.refreshes - (minute.generations.length - 1)) <= 1, minute);
  expect('what the page shows', Number((await page.textContent('#calls-failed')).replace(/\D/g, '')) === 0
    && Number((await page.textContent('#generations')).replace(/\D/g, '')) >= 4
    && Number((await page.textContent('#calls-ok')).replace(/\D/g, '')) >= 100, await page.textContent('.figures'));

  // A token may be replaced in the moment in which it is revoked: then nobody is refused.
  const healed = (c) => c.refused > minute.refused && c.refreshes > minute.refreshes;
  let pressed = 0;
  await until('the refusal and the refresh', async (c) => {
    if (!healed(c) && Date.now() - pressed > 4_000) {
      pressed = Date.now();
      await press('#revoke');
    }
    return healed(c);
  }, 15_000);
  await goesOn('the revocation of the access token');
  await screenshot('revoked');
  console.log(`revoked: ${await status()}`);

  await press('#burst', 'Space');
  const burst = await until('the burst', (c) => c.bursts.length === 1, 20_000);
  expect('200 calls at once', burst.bursts[0].ok === 200 && burst.bursts[0].failed === 0, burst.bursts);
  await goesOn('200 calls at once');
  await screenshot('burst');
  console.log(`burst: ${JSON.stringify(burst.bursts[0])}`);

  await press('#restart');
  await page.waitForFunction(() => /^The gateway is back/.test(document.querySelector('#status').textContent), null, { timeout: 30_000 });
  await goesOn('the restart of the gateway');
  await screenshot('restarted');
  console.log(`restarted: ${await status()}`);

  await press('#outage');
  await pause(10_000);
  await screenshot('outage');
  await page.waitForFunction(() => /^The authorization server is back/.test(document.querySelector('#status').textContent), null, { timeout: 30_000 });
  const after = await until('an answer after the outage', (c) => c.ok > 0, 1_000);
  await until('answers within seconds of its end', (c) => c.ok > after.ok + 2, 10_000);
  const outage = await goesOn('an outage of the authorization server');
  await screenshot('after-the-outage');
  console.log(`outage: ${outage.held} calls were told to wait`);

  await press('#sign-out');
  await page.waitForSelector('#sign-in', { state: 'visible' });
  expect('signed out at the page', page.url().startsWith(origin), page.url());
  const left = (await context.cookies(origin)).filter((cookie) => cookie.name.includes('bff'));
  expect('cookies of the gateway after signing out', left.length === 0, left.map((cookie) => cookie.name));
  const call = await page.evaluate(async () => (await fetch('/api/hello', { headers: { 'X-CSRF': '1' } })).status);
  expect('the API after signing out', call === 401, call);
  await screenshot('signed-out');

  expect('errors of scripts', scriptErrors.length === 0, scriptErrors);
  // The body of an answer whose page has gone may never come.
  await Promise.race([Promise.all(looks), pause(5_000)]);
  expect('looked at answers', looks.length > 200, looks.length);
  expect('tokens in the browser', leaks.length === 0, leaks);
}

let code = 0;
try {
  await walk();
  console.log('done');
} catch (error) {
  code = 1;
  console.log(`failed: ${error.message}`);
  if (scriptErrors.length) console.log(`errors of scripts: ${scriptErrors.join('\n')}`);
  await screenshot('failed').catch(() => {});
}
await context.close();
process.exit(code);
