// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

// Where oidc-provider keeps what it has issued, for the servers of these tests.
// The library's own adapter forgets when it is full, and looks a token up and
// consumes it in two steps, so that two requests at once may both win. With this
// one the second loses, and the grant ends with all its tokens.

import { errors } from 'oidc-provider';

const entries = new Map();
const grants = new Map(); // grant → keys of its entries
const sessions = new Map(); // uid → id

export class Adapter {
  constructor(model) { this.model = model; }

  key(id) { return `${this.model}:${id}`; }

  async upsert(id, payload, expiresIn) {
    const key = this.key(id);
    entries.set(key, { payload, end: expiresIn ? Date.now() + expiresIn * 1000 : Infinity });
    if (this.model === 'Session') sessions.set(payload.uid, id);
    else if (payload.grantId) {
      if (!grants.has(payload.grantId)) grants.set(payload.grantId, new Set());
      grants.get(payload.grantId).add(key);
    }
  }

  async find(id) {
    const entry = entries.get(this.key(id));
    return entry && entry.end > Date.now() ? entry.payload : undefined;
  }

  async findByUid(uid) { return this.find(sessions.get(uid)); }

  async findByUserCode() { return undefined; }

  async consume(id) {
    const entry = entries.get(this.key(id));
    if (!entry) return;
    if (entry.payload.consumed) {
      this.endGrant(entry.payload.grantId);
      throw new errors.InvalidGrant('used before');
    }
    entry.payload.consumed = Math.floor(Date.now() / 1000);
  }

  async destroy(id) { entries.delete(this.key(id)); }

  async revokeByGrantId(grantId) {
    for (const key of grants.get(grantId) ?? []) if (key.startsWith(`${this.model}:`)) entries.delete(key);
  }

  endGrant(grantId) {
    for (const key of grants.get(grantId) ?? []) entries.delete(key);
    entries.delete(`Grant:${grantId}`);
  }
}
