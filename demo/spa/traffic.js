// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

// Traffic calls the API: twice a second, and many at once where asked.

import { fetch } from '/bff/client.js';

const INTERVAL = 500; // milliseconds between two calls
const PATIENCE = 15_000; // how long a call is tried again while the gateway cannot be reached
const PAUSE = 250; // between two tries
const TIMEOUT = 30_000; // of one try

export class Traffic {
  #record;
  #timer = 0;
  #stop = new AbortController();

  constructor(record) {
    this.#record = record;
  }

  /** Starts calling. */
  start() {
    this.stop();
    this.#stop = new AbortController();
    this.#timer = setInterval(() => this.call(), INTERVAL);
    this.call();
  }

  /** Stops calling; calls under way are forgotten. */
  stop() {
    clearInterval(this.#timer);
    this.#stop.abort();
  }

  /** Makes n calls at once and returns how they ended: {ok, failed, held, ms, generations}. */
  async burst(n) {
    const from = performance.now();
    const calls = (await Promise.all(Array.from({ length: n }, () => this.call()))).filter(Boolean);
    const count = (outcome) => calls.filter((c) => c.outcome === outcome).length;
    const result = {
      ok: count('ok'),
      failed: count('failed'),
      held: count('held'),
      ms: Math.round(performance.now() - from),
      generations: new Set(calls.filter((c) => c.generation).map((c) => c.generation)).size,
    };
    this.#record.counters.bursts.push(result);
    return result;
  }

  /** Makes one call, records it and returns it; nothing where it was cut off by stop. */
  async call() {
    const { signal } = this.#stop;
    const at = Date.now();
    const from = performance.now();
    const call = { at, ms: 0, outcome: 'failed', status: 0, code: '', generation: '', retried: false };
    try {
      const response = await this.#patiently(call, from, signal);
      call.status = response.status;
      call.code = response.headers.get('X-BFF-Error') ?? '';
      const body = await response.json();
      if (response.ok) {
        call.outcome = 'ok';
        call.generation = body.generation;
        call.expiresIn = body.expires_in;
      } else if (response.status === 503 && response.headers.has('Retry-After')) {
        call.outcome = 'held';
      }
    } catch (error) {
      call.code ||= error.name;
    }
    if (signal.aborted) return undefined;
    call.ms = performance.now() - from;
    this.#record.call(call);
    return call;
  }

  /** Fetches; where nobody answers at all it tries again, as a GET may. */
  async #patiently(call, from, signal) {
    for (;;) {
      try {
        return await fetch('/api/hello', { cache: 'no-store', signal: AbortSignal.any([signal, AbortSignal.timeout(TIMEOUT)]) });
      } catch (error) {
        if (signal.aborted || error.name !== 'TypeError' || performance.now() - from > PATIENCE) throw error;
        call.retried = true;
        await new Promise((resolve) => setTimeout(resolve, PAUSE));
      }
    }
  }
}
