// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

// The record is what this page has seen: its own calls, and what the servers say has happened. The chart draws it, and
// tests read its counters from window.demo.

/** How long calls and events are kept, in milliseconds: what the chart shows, and a little more. */
const KEPT = 70_000;

export class Record {
  /** Counters since the page was opened. */
  counters = { ok: 0, failed: 0, held: 0, retried: 0, failures: [], generations: [], refreshes: 0, refused: 0, bursts: [] };
  /** Calls of the last minute: {at, ms, outcome: 'ok'|'held'|'failed', generation}; times in milliseconds of Date.now(). */
  calls = [];
  /** One for each access token that the API saw: {generation, index, from, to}. */
  bands = [];
  /** Events of the servers: {at, kind, generation}. */
  events = [];
  /** Spans in which a server is down: {server: 'authorization'|'gateway', from, to}; to may be in the future. */
  outages = [];
  /** The access token that the API saw last: {generation, expires, lifetime}. */
  token = null;

  #opened = Date.now();

  /** Records a call that has ended. */
  call(call) {
    this.calls.push(call);
    const { counters } = this;
    if (call.retried) counters.retried++;
    if (call.outcome === 'ok') {
      counters.ok++;
      this.#saw(call);
    } else if (call.outcome === 'held') {
      counters.held++;
    } else {
      counters.failed++;
      counters.failures.push({ at: new Date(call.at).toISOString(), status: call.status, code: call.code });
    }
    this.#forget();
  }

  #saw({ generation, expiresIn, at, ms }) {
    const end = at + ms;
    const band = this.bands.at(-1);
    if (band?.generation === generation) {
      band.to = Math.max(band.to, end);
    } else if (!this.counters.generations.includes(generation)) {
      if (band) band.to = Math.max(band.to, Math.min(end, at));
      this.bands.push({ generation, index: this.counters.generations.length, from: end, to: end });
      this.counters.generations.push(generation);
      this.token = { generation, expires: 0, lifetime: expiresIn };
    }
    if (this.token?.generation === generation) this.token.expires = end + expiresIn * 1000;
  }

  /** Records an event of a server; at is in milliseconds of this machine's clock. */
  event({ at, kind, generation }) {
    this.events.push({ at, kind, generation });
    if (kind === 'outage_started') this.down('authorization', at, Infinity);
    if (kind === 'outage_ended') this.up('authorization', at);
    if (kind === 'gateway_stopped') this.down('gateway', at, Infinity);
    if (kind === 'gateway_restarted') this.up('gateway', at);
    if (at < this.#opened) return;
    if (kind === 'refreshed') this.counters.refreshes++;
    if (kind === 'refused') this.counters.refused++;
  }

  /** Notes that a server is down; a span that is known already is made more precise. */
  down(server, from, to) {
    const known = this.outages.find((o) => o.server === server && Math.abs(o.from - from) < 3000);
    if (known) known.to = Math.min(known.to, to);
    else this.outages.push({ server, from, to });
  }

  /** Notes that a server is back. */
  up(server, at) {
    for (const o of this.outages) if (o.server === server && o.to > at) o.to = at;
  }

  /** The order in which the generation was seen, which decides its colour; -1 where the API has not seen it. */
  index(generation) {
    return this.counters.generations.indexOf(generation);
  }

  /** The slowest answered call of the last minute in milliseconds, or 0. */
  slowest(now = Date.now()) {
    let slowest = 0;
    for (const c of this.calls) if (c.outcome === 'ok' && c.at > now - 60_000) slowest = Math.max(slowest, c.ms);
    return slowest;
  }

  #forget() {
    const oldest = Date.now() - KEPT;
    while (this.calls.length && this.calls[0].at < oldest) this.calls.shift();
    while (this.events.length && this.events[0].at < oldest) this.events.shift();
    while (this.bands.length > 1 && this.bands[0].to < oldest) this.bands.shift();
    while (this.outages.length && this.outages[0].to < oldest) this.outages.shift();
  }
}
