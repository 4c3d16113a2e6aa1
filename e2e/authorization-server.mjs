// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

// An authorization server on loopback for the end-to-end tests, made of npm
// oidc-provider: JWT access tokens that live for seconds, a new refresh token
// with every refresh, and no mercy: a refresh token that comes twice ends the
// grant with all its tokens. Users are signed in without being asked.
//
// Settings are one JSON object in the first argument. When the server listens
// it prints one line of JSON with its issuer. It ends when its standard input
// does, so that it never outlives the test that started it.

import { randomBytes, generateKeyPairSync } from 'node:crypto';
import { createServer } from 'node:http';
import { createServer as createTLSServer } from 'node:https';
import { Provider, errors } from 'oidc-provider';
import { Adapter } from './adapter.mjs';

const settings = {
  accessTokenLife: 3, // seconds
  clientId: 'e2e',
  clientSecret: 'only-for-these-tests',
  redirectUri: 'http://127.0.0.1:1/bff/callback',
  postLogoutRedirectUri: 'http://127.0.0.1:1/bff/logout/callback',
  backchannelLogoutUri: 'http://127.0.0.1:1/bff/backchannel',
  audience: 'urn:e2e:api',
  clientAuthMethod: 'client_secret_basic',
  jwksUri: '', // of the client
  mutualTLS: undefined, // { ca, cert, key } in PEM: a second listener asks for client certificates
  ...JSON.parse(process.argv[2] ?? '{}'),
};

// What the tests ask about, and change.
const stats = { codes: 0, refreshes: 0, refused: [], reused: 0, revocations: 0, logouts: 0, assertions: 0, told: 0, untold: [] };
const issued = []; // every code and token that was handed out, with its kind: nothing of it may be in a log
let tokenDelay = 0; // milliseconds before a token request is looked at

const signingKey = {
  ...generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'jwk' }),
  alg: 'RS256', use: 'sig', kid: randomBytes(8).toString('hex'),
};

// checkAssertion is stricter than the library: the audience is the issuer as a
// single string, whatever the endpoint; the type says what it is; a minute is enough.
function checkAssertion(ctx, claims, header) {
  const now = Date.now() / 1000;
  const wrong = claims.aud !== ctx.oidc.issuer ? 'aud'
    : header.typ !== 'client-authentication+jwt' ? 'typ'
      : claims.exp > now + 60 || !(claims.iat <= now) ? 'exp or iat'
        : claims.sub !== claims.iss ? 'sub' : undefined;
  if (wrong) throw new errors.InvalidClientAuth(`client assertion: ${wrong}`);
  stats.assertions += 1;
}

// certificate gives that of the client in PEM.
function certificate(ctx) {
  const { raw } = ctx.req.socket.getPeerCertificate?.() ?? {};
  return raw && `-----BEGIN CERTIFICATE-----\n${raw.toString('base64')}\n-----END CERTIFICATE-----\n`;
}

function mutualTLS(aliases) {
  if (!aliases) return {};
  return {
    mTLS: {
      enabled: true,
      certificateBoundAccessTokens: true,
      tlsClientAuth: true,
      selfSignedTlsClientAuth: true,
      getCertificate: certificate,
      certificateAuthorized: (ctx) => ctx.req.socket.authorized,
      certificateSubjectMatches: (ctx, property, expected) => property === 'tls_client_auth_subject_dn'
        && expected === `CN=${ctx.req.socket.getPeerCertificate().subject.CN}`,
    },
  };
}

function configuration(aliases) {
  return {
    adapter: Adapter,
    clientAuthMethods: [
      'client_secret_basic', 'client_secret_jwt', 'private_key_jwt', 'none',
      ...(aliases ? ['tls_client_auth', 'self_signed_tls_client_auth'] : []),
    ],
    assertJwtClientAuthClaimsAndHeader: checkAssertion,
    // The library refuses to fetch from loopback, by a dispatcher of its own.
    fetch: (url, { dispatcher, ...options }) => globalThis.fetch(url, options),
    ...(aliases && {
      discovery: {
        mtls_endpoint_aliases: {
          token_endpoint: `${aliases}/token`,
          revocation_endpoint: `${aliases}/token/revocation`,
          pushed_authorization_request_endpoint: `${aliases}/request`,
        },
      },
    }),
    clients: [{
      client_id: settings.clientId,
      token_endpoint_auth_method: settings.clientAuthMethod,
      ...(settings.clientAuthMethod.startsWith('client_secret') && { client_secret: settings.clientSecret }),
      ...(settings.jwksUri && { jwks_uri: settings.jwksUri }),
      ...(settings.clientAuthMethod === 'tls_client_auth' && { tls_client_auth_subject_dn: `CN=${settings.clientId}` }),
      ...(aliases && { tls_client_certificate_bound_access_tokens: true }),
      grant_types: ['authorization_code', 'refresh_token'],
      response_types: ['code'],
      redirect_uris: [settings.redirectUri],
      post_logout_redirect_uris: [settings.postLogoutRedirectUri],
      backchannel_logout_uri: settings.backchannelLogoutUri,
      backchannel_logout_session_required: true,
    }],
    // Its own way out is guarded and tells nobody on loopback of a logout.
    fetch: (url, { dispatcher, ...options }) => globalThis.fetch(url, options),
    jwks: { keys: [signingKey] },
    cookies: { keys: [randomBytes(32).toString('hex')] },
    scopes: ['openid', 'profile', 'email', 'offline_access'],
    claims: { openid: ['sub'], profile: ['name', 'preferred_username'], email: ['email'], sid: null, auth_time: null, iss: null },
    conformIdTokenClaims: false, // profile and email in the ID token, too
    findAccount: (ctx, id) => ({
      accountId: id,
      claims: () => ({ sub: id, name: `${id} of the tests`, preferred_username: id, email: `${id}@example.test` }),
    }),
    pkce: { required: () => true },
    rotateRefreshToken: true,
    issueRefreshToken: (ctx, client) => client.grantTypeAllowed('refresh_token'),
    ttl: { AccessToken: settings.accessTokenLife, IdToken: 300, RefreshToken: 3600, Session: 3600, Grant: 3600, Interaction: 60 },
    interactions: { url: (ctx, interaction) => `/test/interaction/${interaction.uid}` },
    features: {
      devInteractions: { enabled: false },
      ...mutualTLS(aliases),
      revocation: { enabled: true },
      rpInitiatedLogout: { enabled: true },
      backchannelLogout: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => settings.audience,
        useGrantedResource: () => true,
        getResourceServerInfo: (ctx, resource) => ({
          scope: 'api',
          audience: resource,
          accessTokenTTL: settings.accessTokenLife,
          accessTokenFormat: 'jwt',
          jwt: { sign: { alg: 'RS256' } },
        }),
      },
    },
  };
}

function watch(provider) {
  provider.on('grant.success', (ctx) => {
    if (ctx.oidc.params.grant_type === 'refresh_token') stats.refreshes += 1;
    else stats.codes += 1;
    for (const kind of ['access_token', 'refresh_token', 'id_token']) {
      if (ctx.body[kind]) issued.push({ kind, value: ctx.body[kind] });
    }
    if (ctx.oidc.params.code) issued.push({ kind: 'code', value: ctx.oidc.params.code });
  });
  provider.on('grant.error', (ctx, error) => {
    const detail = error.error_detail ?? error.error_description ?? '';
    stats.refused.push(`${ctx.oidc?.params?.grant_type}: ${error.error}: ${detail}`);
    if (/used/.test(detail)) stats.reused += 1;
  });
  provider.on('end_session.success', () => { stats.logouts += 1; });
  provider.on('backchannel.success', () => { stats.told += 1; });
  provider.on('backchannel.error', (ctx, error) => { stats.untold.push(error.message); });
  provider.on('server_error', (ctx, error) => { console.error('server_error', error); });
}

// interact signs the user in, as login_hint names or else alice, and consents to
// whatever is asked for.
async function interact(provider, req, res) {
  const { prompt, params, session, grantId } = await provider.interactionDetails(req, res);
  if (prompt.name === 'login') {
    const login = { accountId: String(params.login_hint ?? 'alice') };
    await provider.interactionFinished(req, res, { login }, { mergeWithLastSubmission: false });
    return;
  }
  const grant = grantId
    ? await provider.Grant.find(grantId)
    : new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  const { missingOIDCScope, missingOIDCClaims, missingResourceScopes } = prompt.details;
  if (missingOIDCScope) grant.addOIDCScope(missingOIDCScope.join(' '));
  if (missingOIDCClaims) grant.addOIDCClaims(missingOIDCClaims);
  for (const [resource, scopes] of Object.entries(missingResourceScopes ?? {})) {
    grant.addResourceScope(resource, scopes.join(' '));
  }
  await provider.interactionFinished(req, res, { consent: { grantId: await grant.save() } }, { mergeWithLastSubmission: true });
}

function answer(res, value) {
  res.writeHead(200, { 'content-type': 'application/json' });
  res.end(JSON.stringify(value));
}

const listen = (server) => new Promise((done) => { server.listen(0, '127.0.0.1', () => done(server.address().port)); });

const server = createServer();
const servers = [server];
const issuer = `http://127.0.0.1:${await listen(server)}`;
let aliases;
if (settings.mutualTLS) {
  const { ca, cert, key } = settings.mutualTLS;
  servers.push(createTLSServer({ ca, cert, key, requestCert: true, rejectUnauthorized: false }));
  aliases = `https://127.0.0.1:${await listen(servers[1])}`;
}
const provider = new Provider(issuer, configuration(aliases));
watch(provider);
const serve = provider.callback();
for (const listener of servers) {
  listener.on('request', async (req, res) => {
    const { pathname, searchParams } = new URL(req.url, issuer);
    try {
      if (pathname === '/test/stats') {
        answer(res, stats);
      } else if (pathname === '/test/issued') {
        answer(res, issued);
      } else if (pathname === '/test/token-delay') {
        tokenDelay = Number(searchParams.get('ms'));
        answer(res, tokenDelay);
      } else if (pathname.startsWith('/test/interaction/')) {
        await interact(provider, req, res);
      } else {
        if (pathname === '/token' && tokenDelay > 0) await new Promise((done) => { setTimeout(done, tokenDelay); });
        if (pathname === '/token/revocation') {
          res.on('finish', () => { if (res.statusCode === 200) stats.revocations += 1; });
        }
        await serve(req, res);
      }
    } catch (error) {
      console.error(error);
      if (!res.headersSent) res.writeHead(500);
      res.end();
    }
  });
}
console.log(JSON.stringify({ issuer }));

process.stdin.on('end', () => process.exit(0)).resume();
