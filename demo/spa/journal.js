// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

// The journal asks the servers of the demo what has happened, and makes them do what the buttons say.

import { fetch } from '/bff/client.js';

const INTERVAL = 700; // milliseconds between two questions

export class Journal {
  #record;
  #heard; // called with each event
  #last = 0;
  #timer = 0;
  #running = false;

  constructor(record, heard) {
    this.#record = record;
    this.#heard = heard;
  }

  /** Starts asking. */
  start() {
    this.#running = true;
    this.#ask();
  }

  /** Stops asking. */
  stop() {
    this.#running = false;
    clearTimeout(this.#timer);
  }

  /** Revokes the access tokens that this session has had so far. */
  async revoke() {
    await this.#post('revoke');
  }

  /** Takes the authorization server down. */
  async takeDown(seconds) {
    const { down_for: downFor } = await this.#post(`outage?seconds=${seconds}`);
    this.#record.down('authorization', Date.now() - Math.max(0, seconds - downFor) * 1000, Date.now() + downFor * 1000);
    return downFor;
  }

  /** Restarts the gateway. */
  async restart() {
    await this.#post('restart');
    this.#record.down('gateway', Date.now(), Infinity);
  }

  async #post(path) {
    const response = await fetch(`/api/demo/${path}`, { method: 'POST' });
    if (!response.ok) throw new Error(`${response.status} ${response.headers.get('X-BFF-Error') ?? ''}`.trim());
    return response.json();
  }

  async #ask() {
    try {
      const asked = Date.now();
      const response = await fetch(`/api/demo/events?after=${this.#last}`, { cache: 'no-store' });
      if (response.ok) this.#hear(await response.json(), asked);
    } catch {
      // The gateway is away or the token has run out: what has happened is told by the next answer.
    }
    if (this.#running) this.#timer = setTimeout(() => this.#ask(), INTERVAL);
  }

  #hear({ events, last, time }, asked) {
    const offset = (asked + Date.now()) / 2 - Date.parse(time); // this machine's clock minus the server's
    this.#last = last;
    for (const { time: at, kind, generation } of events) {
      const event = { at: Date.parse(at) + offset, kind, generation };
      this.#record.event(event);
      this.#heard(event);
    }
  }
}
