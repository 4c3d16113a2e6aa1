// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0
//
// The gateway's client module. Import it from where the gateway serves it:
//
//     import { session, login, logout, fetch, onSession } from "/bff/client.js";
//
// It holds no token; there is none in the browser. It knows the session's state,
// starts sign-in and sign-out, and puts the CSRF header on requests.

const CSRF = ["X-CSRF", "1"];
const CHANNEL = "bff-session";

let base = new URL(".", import.meta.url);
let loginOn401 = false;

/**
 * Changes settings. All are optional.
 * @param {object} options
 * @param {string|URL} [options.base] where the endpoints are; by default beside this module
 * @param {boolean} [options.loginOn401] fetch() starts a login when the session is over; off by default
 */
export function configure(options = {}) {
  if (options.base !== undefined) base = new URL(String(options.base).replace(/\/?$/, "/"), document.baseURI);
  if (options.loginOn401 !== undefined) loginOn401 = Boolean(options.loginOn401);
}

const endpoint = (name) => new URL(name, base);

/**
 * fetch() as the browser has it, with credentials and the CSRF header. The
 * header is only put on requests to the page's own origin and the gateway's.
 * @param {RequestInfo|URL} input
 * @param {RequestInit} [init]
 * @returns {Promise<Response>}
 */
export async function fetch(input, init) {
  const target = input instanceof Request ? input.url : new URL(input, document.baseURI).href;
  const origin = new URL(target).origin;
  const own = origin === location.origin || origin === base.origin;
  const request = new Request(input, own ? { credentials: "include", ...init } : init);
  if (own) request.headers.set(CSRF[0], CSRF[1]);
  const response = await globalThis.fetch(request);
  if (own && response.status === 401 && response.headers.has("X-BFF-Error")) {
    check();
    if (loginOn401) login({ loginUrl: await stepUpURL(response) });
  }
  return response;
}

// Where a resource server wants more than the session has, a plain login would lead
// straight back.
async function stepUpURL(response) {
  if (response.headers.get("X-BFF-Error") !== "step_up_required") return undefined;
  return (await response.clone().json().catch(() => null))?.login_url;
}

async function call(name, init) {
  const response = await fetch(endpoint(name), { cache: "no-store", ...init });
  const body = await response.json().catch(() => null);
  if (!response.ok) {
    const error = new Error(body?.title ?? `HTTP status ${response.status}`);
    error.status = response.status;
    error.code = body?.code ?? response.headers.get("X-BFF-Error");
    error.problem = body;
    throw error;
  }
  return body;
}

/**
 * The state of the session: { authenticated, user, session, reason, login_url,
 * logout_url }. Asking does not extend the session.
 * Rejects, with error.code, when it cannot be known at the moment.
 */
export const session = () => call("session");

/**
 * Leaves the page to sign in, and comes back.
 * @param {object} [options]
 * @param {string} [options.returnTo] path to come back to; by default this page
 * @param {string} [options.loginUrl] the login_url of an error, of step_up_required above all
 * @param {string} [options.prompt] as in OpenID Connect; "none" asks without the user
 * Further members are passed on where the gateway is configured to.
 */
export function login({ returnTo = location.pathname + location.search + location.hash, loginUrl, ...params } = {}) {
  let url = new URL(loginUrl ?? "login", base);
  if (url.origin !== base.origin) url = endpoint("login");
  url.searchParams.set("return_to", returnTo);
  for (const [name, value] of Object.entries(params)) url.searchParams.set(name, value);
  location.assign(url);
}

/**
 * Ends the session, here and at the authorization server, and leaves the page.
 * @param {object} [options]
 * @param {string} [options.returnTo] path to come back to; by default what the gateway is configured with
 */
export async function logout({ returnTo } = {}) {
  const body = new URLSearchParams(returnTo === undefined ? {} : { return_to: returnTo });
  const { logout_url } = await call("logout", { method: "POST", body });
  announce();
  location.assign(logout_url ?? returnTo ?? "/");
}

/** Extends the idle timeout on the user's behalf; gives what session() gives. */
export const extend = () => call("session/extend", { method: "POST" });

/** Gets new tokens, for new claims or roles; gives { access_token_expires_in, claims_changed }. */
export const refresh = () => call("refresh", { method: "POST" });

const listeners = new Set();
const channel = typeof BroadcastChannel === "function" ? new BroadcastChannel(CHANNEL) : null;
let last = null; // the state that listeners know
let timer = 0;
let running = null;

const announce = () => channel?.postMessage("changed");
const key = (s) => JSON.stringify([s.authenticated, s.session?.id, s.reason, s.user]);

/**
 * Calls back with the state of the session now, and whenever it changes: signed
 * in or out in another tab, expired, ended elsewhere.
 * @param {(state: object) => void} listener
 * @returns {() => void} ends it
 */
export function onSession(listener) {
  listeners.add(listener);
  if (last) listener(last);
  check();
  return () => {
    listeners.delete(listener);
    if (listeners.size === 0) clearTimeout(timer);
  };
}

// One look at a time, however many ask for it.
function check() {
  if (listeners.size === 0) return;
  running ??= look().finally(() => { running = null; });
}

async function look() {
  clearTimeout(timer);
  let wait = 60;
  try {
    const state = await session();
    const changed = !last || key(state) !== key(last);
    const told = last !== null;
    last = state;
    if (changed) {
      for (const listener of [...listeners]) listener(state);
      if (told) announce();
    }
    // Look again when the session may be over, if not sooner.
    if (state.session) wait = Math.min(wait, state.session.expires_in + 1);
  } catch {
    wait = 5; // not known at the moment: nobody is signed out for it
  }
  if (listeners.size > 0) timer = setTimeout(() => { if (!document.hidden) check(); }, wait * 1000);
}

channel?.addEventListener("message", () => check());
addEventListener("visibilitychange", () => { if (!document.hidden) check(); });
addEventListener("pageshow", (event) => { if (event.persisted) check(); });
addEventListener("online", () => check());
