// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

// The chart draws the record of the last minute: access tokens on top, calls by latency in the middle, the authorization
// server at the bottom.

const SPAN = 60_000; // milliseconds that are shown
const SLOW = 10_000; // latency at the top of the scale
const FAST = 1; // latency at its bottom

/** Hues of the access tokens, in the order of their appearance; none is near those of trouble. */
const HUES = [182, 262, 325, 222, 295, 150];

export class Chart {
  #canvas;
  #record;
  #context;
  #colors = {};
  #dark = matchMedia('(prefers-color-scheme: dark)');
  #calm = matchMedia('(prefers-reduced-motion: reduce)');
  #frame = 0;
  #drawn = 0;
  #hatch;
  #stale = true; // colours are read with the next frame: at the event itself styles may still be the old ones

  constructor(canvas, record) {
    this.#canvas = canvas;
    this.#record = record;
    this.#context = canvas.getContext('2d');
    this.#dark.addEventListener('change', () => { this.#stale = true; });
  }

  /** Draws until stop is called: about a pixel at a time, or twice a second for people who prefer less motion. */
  start() {
    this.stop();
    const step = (time) => {
      if (time - this.#drawn > (this.#calm.matches ? 500 : 40)) {
        this.#drawn = time;
        this.#draw(Date.now());
      }
      this.#frame = requestAnimationFrame(step);
    };
    this.#frame = requestAnimationFrame(step);
  }

  stop() {
    cancelAnimationFrame(this.#frame);
  }

  /** The colour of the access token with the given place in the order of appearance. */
  color(index, alpha = 1) {
    if (index < 0) return this.#colors.soft;
    const [lightness, chroma] = this.#dark.matches ? [0.78, 0.125] : [0.56, 0.135];
    return `oklch(${lightness} ${chroma} ${HUES[index % HUES.length]} / ${alpha})`;
  }

  #readColors() {
    this.#stale = false;
    const style = getComputedStyle(document.documentElement);
    for (const name of ['panel', 'line', 'text', 'soft', 'good', 'held', 'bad', 'shade']) {
      this.#colors[name] = style.getPropertyValue(`--${name}`).trim();
    }
    this.#colors.font = style.getPropertyValue('--sans').trim();
    this.#colors.mono = style.getPropertyValue('--mono').trim();
    const tile = document.createElement('canvas');
    tile.width = tile.height = 16;
    const context = tile.getContext('2d');
    context.strokeStyle = this.#colors.shade;
    context.lineWidth = 3;
    for (const shift of [-16, 0, 16]) {
      context.beginPath();
      context.moveTo(shift - 2, 18);
      context.lineTo(shift + 18, -2);
      context.stroke();
    }
    this.#hatch = tile;
  }

  #draw(now) {
    const { width, height } = this.#canvas.getBoundingClientRect();
    if (!width) return;
    if (this.#stale) this.#readColors();
    const ratio = window.devicePixelRatio || 1;
    if (this.#canvas.width !== Math.round(width * ratio) || this.#canvas.height !== Math.round(height * ratio)) {
      this.#canvas.width = Math.round(width * ratio);
      this.#canvas.height = Math.round(height * ratio);
    }
    const c = this.#context;
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.clearRect(0, 0, width, height);

    const narrow = width < 560;
    const left = narrow ? 48 : 58;
    const right = width - 12;
    const view = {
      now, narrow, left, right, width, height,
      x: (t) => left + ((t - now + SPAN) / SPAN) * (right - left),
      tokens: { top: 6, bottom: 34 },
      plot: { top: 46, bottom: height - 84 },
      server: { top: height - 70, bottom: height - 30 },
    };
    view.y = (ms) => {
      const part = Math.log(Math.min(SLOW, Math.max(FAST, ms)) / FAST) / Math.log(SLOW / FAST);
      return view.plot.bottom - part * (view.plot.bottom - view.plot.top);
    };

    this.#scales(view);
    c.save();
    c.beginPath();
    c.rect(left, 0, right - left + 8, height);
    c.clip();
    this.#outages(view);
    this.#bands(view);
    this.#events(view);
    this.#calls(view);
    c.restore();
  }

  #scales({ x, y, now, left, right, height, server, tokens, narrow }) {
    const c = this.#context;
    c.lineWidth = 1;
    c.strokeStyle = this.#colors.line;
    c.fillStyle = this.#colors.soft;
    c.font = `11px ${this.#colors.font}`;
    c.textBaseline = 'middle';
    c.textAlign = 'right';
    for (const [ms, label] of [[1, '1 ms'], [10, '10 ms'], [100, '100 ms'], [1000, '1 s'], [10_000, '10 s']]) {
      c.beginPath();
      c.moveTo(left, Math.round(y(ms)) + 0.5);
      c.lineTo(right, Math.round(y(ms)) + 0.5);
      c.stroke();
      c.fillText(label, left - 8, y(ms));
    }
    c.fillText('token', left - 8, (tokens.top + tokens.bottom) / 2);
    c.fillText('auth', left - 8, (server.top + server.bottom) / 2 - 6);
    c.fillText('server', left - 8, (server.top + server.bottom) / 2 + 7);
    c.textAlign = 'center';
    for (const seconds of [60, 45, 30, 15, 0]) {
      const at = x(now - seconds * 1000);
      c.textAlign = seconds === 60 ? 'left' : seconds === 0 ? 'right' : 'center';
      c.fillText(seconds ? `${seconds} s${narrow ? '' : ' ago'}` : 'now', at, height - 9);
    }
    const middle = (server.top + server.bottom) / 2;
    c.strokeStyle = this.#colors.good;
    c.lineWidth = 2;
    c.beginPath();
    c.moveTo(left, middle);
    c.lineTo(right, middle);
    c.stroke();
  }

  #outages({ x, now, plot, server, tokens, right }) {
    const c = this.#context;
    for (const outage of this.#record.outages) {
      const from = x(outage.from);
      const to = Math.min(x(Math.min(outage.to, now)), right);
      if (to <= from) continue;
      const whole = outage.server === 'gateway';
      const top = whole ? tokens.top : plot.top;
      c.fillStyle = c.createPattern(this.#hatch, 'repeat');
      c.fillRect(from, top, to - from, server.bottom - top);
      if (!whole) {
        c.fillStyle = this.#colors.panel;
        c.fillRect(from, server.top, to - from, server.bottom - server.top);
        c.fillStyle = c.createPattern(this.#hatch, 'repeat');
        c.fillRect(from, server.top, to - from, server.bottom - server.top);
        this.#label('down', from + 6, (server.top + server.bottom) / 2, to - from - 8, this.#colors.bad, 'bold');
      }
    }
  }

  #bands({ x, now, plot, tokens, right }) {
    const c = this.#context;
    for (const [i, band] of this.#record.bands.entries()) {
      const next = this.#record.bands[i + 1];
      const from = x(band.from);
      const to = Math.min(x(next ? next.from : Math.min(now, band.to + 600)), right);
      if (to <= from) continue;
      c.fillStyle = this.color(band.index, 0.07);
      c.fillRect(from, plot.top, to - from, plot.bottom - plot.top);
      c.fillStyle = this.color(band.index, 0.2);
      c.beginPath();
      c.roundRect(from + 1, tokens.top, Math.max(1, to - from - 2), tokens.bottom - tokens.top, 6);
      c.fill();
      c.fillStyle = this.color(band.index);
      c.beginPath();
      c.roundRect(from + 1, tokens.top, 3, tokens.bottom - tokens.top, 2);
      c.fill();
      const start = Math.max(from, x(now - SPAN));
      this.#label(band.generation, start + 11, (tokens.top + tokens.bottom) / 2 + 0.5, to - start - 14, this.#colors.text, '600', this.#colors.mono);
    }
  }

  #events({ x, now, plot, tokens, server, right }) {
    const c = this.#context;
    const middle = (server.top + server.bottom) / 2;
    for (const { at, kind, generation } of this.#record.events) {
      if (at < now - SPAN) continue;
      const place = x(at);
      const color = this.color(this.#record.index(generation));
      if (kind === 'refreshed' || kind === 'signed_in') {
        c.strokeStyle = color;
        c.lineWidth = 1;
        c.setLineDash([2, 3]);
        c.beginPath();
        c.moveTo(place, tokens.bottom);
        c.lineTo(place, middle - 8);
        c.stroke();
        c.setLineDash([]);
        c.fillStyle = color;
        if (kind === 'refreshed') this.#diamond(place, middle, 7.5);
        else this.#disc(place, middle, 6);
      } else if (kind === 'revoked') {
        c.fillStyle = this.#colors.held;
        c.fillRect(place - 1, tokens.top, 2, plot.bottom - tokens.top);
        this.#note('revoked', place, plot.top + 10, right, this.#colors.held);
      } else if (kind === 'refused') {
        c.fillStyle = this.#colors.held;
        this.#triangle(place, plot.bottom - 2, 7);
      } else if (kind === 'reused') {
        c.fillStyle = this.#colors.bad;
        this.#diamond(place, middle, 9);
        this.#note('reuse detected', place, middle - 16, right, this.#colors.bad);
      } else if (kind === 'gateway_restarted') {
        this.#note('gateway restarted', place, plot.top + 26, right, this.#colors.text);
      }
    }
  }

  #calls({ x, y, now }) {
    const c = this.#context;
    for (const call of this.#record.calls) {
      if (call.at < now - SPAN - 1000) continue;
      const place = x(call.at);
      const height = y(call.ms);
      if (call.outcome === 'ok') {
        c.fillStyle = this.color(this.#record.index(call.generation));
        this.#disc(place, height, 3);
        if (call.retried) {
          c.strokeStyle = c.fillStyle;
          c.lineWidth = 1.5;
          c.beginPath();
          c.arc(place, height, 5.5, 0, 2 * Math.PI);
          c.stroke();
        }
      } else if (call.outcome === 'held') {
        c.strokeStyle = this.#colors.held;
        c.lineWidth = 1.75;
        c.beginPath();
        c.arc(place, height, 3.25, 0, 2 * Math.PI);
        c.stroke();
      } else {
        c.strokeStyle = this.#colors.bad;
        c.lineWidth = 2.25;
        c.beginPath();
        c.moveTo(place - 4, height - 4);
        c.lineTo(place + 4, height + 4);
        c.moveTo(place + 4, height - 4);
        c.lineTo(place - 4, height + 4);
        c.stroke();
      }
    }
  }

  /** Writes text where it fits into room. */
  #label(text, x, y, room, color, weight, family = this.#colors.font) {
    const c = this.#context;
    c.font = `${weight} 11px ${family}`;
    c.textAlign = 'left';
    c.textBaseline = 'middle';
    if (c.measureText(text).width > room) return;
    c.fillStyle = color;
    c.fillText(text, x, y);
  }

  /** Writes text beside a moment: after it where there is room before end, else before it. */
  #note(text, x, y, end, color) {
    const c = this.#context;
    c.font = `600 11px ${this.#colors.font}`;
    const { width } = c.measureText(text);
    this.#label(text, x + 6 + width < end ? x + 6 : x - 6 - width, y, Infinity, color, '600');
  }

  #disc(x, y, radius) {
    this.#context.beginPath();
    this.#context.arc(x, y, radius, 0, 2 * Math.PI);
    this.#context.fill();
  }

  #diamond(x, y, size) {
    this.#polygon([[x, y - size], [x + size, y], [x, y + size], [x - size, y]]);
  }

  #triangle(x, y, size) {
    this.#polygon([[x, y - size * 1.5], [x + size, y], [x - size, y]]);
  }

  #polygon(corners) {
    const c = this.#context;
    c.beginPath();
    for (const [x, y] of corners) c.lineTo(x, y);
    c.closePath();
    c.fill();
    c.lineWidth = 2;
    c.strokeStyle = this.#colors.panel;
    c.stroke();
  }
}
