// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

// An authorization server on loopback with everything that npm oidc-provider can
// do switched on, for many clients, each of which is registered for a part of it:
// what a client does not do as it is registered is refused. Every request that
// came from a client, and what became of it, is in a journal.
//
// Settings are one JSON object in the first argument. When the server listens
// it prints one line of JSON with its issuer. It ends when its standard input
// does, so that it never outlives the test that started it.

import { createHash, generateKeyPairSync, randomBytes } from 'node:crypto';
import { createServer } from 'node:http';
import { createServer as createTLSServer } from 'node:https';
import { Provider, errors, interactionPolicy } from 'oidc-provider';
import { Adapter } from './adapter.mjs';

const settings = {
  accessTokenLife: 3, // seconds
  clients: [], // metadata, RFC 7591
  jwtAudience: '', // the resource whose access tokens are JWTs; others are opaque
  mutualTLS: undefined, // { ca, cert, key } in PEM, of the second listener
  ...JSON.parse(process.argv[2] ?? '{}'),
};

const journal = [];
const issued = []; // every code and token that was handed out, with its kind: nothing of it may be in a log

const keys = [['rsa', { modulusLength: 2048 }, 'RS256'], ['rsa', { modulusLength: 2048 }, 'PS256'],
  ['ec', { namedCurve: 'P-256' }, 'ES256'], ['ed25519', {}, 'EdDSA']].map(([type, options, alg]) => ({
  ...generateKeyPairSync(type, options).privateKey.export({ format: 'jwk' }), alg, use: 'sig', kid: randomBytes(8).toString('hex'),
}));

// checkAssertion is stricter than the library: the audience is the issuer as a
// single string, whatever the endpoint, and the type says what it is.
function checkAssertion(ctx, claims, header) {
  if (claims.aud !== ctx.oidc.issuer) throw new errors.InvalidClientAuth('client assertion: aud');
  if (header.typ !== 'client-authentication+jwt') throw new errors.InvalidClientAuth('client assertion: typ');
}

// checkRequestObject is what RFC 9101 and FAPI 2.0 Message Signing ask for, beyond
// the library, which makes an object of its own of each pushed request.
function checkRequestObject(ctx, claims, header) {
  if (!(ctx.oidc.body ?? ctx.query).request) return;
  const wrong = claims.aud !== ctx.oidc.issuer ? 'aud'
    : header.typ !== 'oauth-authz-req+jwt' ? 'typ'
      : !(claims.exp - claims.nbf <= 3600) ? 'exp or nbf'
        : claims.sub !== undefined ? 'sub' : undefined;
  if (wrong) throw new errors.InvalidRequestObject(`request object: ${wrong}`);
}

const peer = (ctx) => ctx.req.socket.getPeerCertificate?.()?.raw;
const thumbprint = (raw) => raw && createHash('sha256').update(raw).digest('base64url');

// policy has a user sign in again when the session is not of a class that acr_values asks for.
const { base, Check } = interactionPolicy;
const policy = base();
policy.get('login').checks.add(new Check('acr', 'another authentication is asked for', (ctx) => {
  const wanted = ctx.oidc.params.acr_values?.split(' ');
  return wanted && !wanted.includes(ctx.oidc.session.acr) && !ctx.oidc.result?.login ? Check.REQUEST_PROMPT : Check.NO_NEED_TO_PROMPT;
}));

// What a user of these tests can do at most.
const classes = ['silver', 'gold'];

function configuration(aliases) {
  return {
    adapter: Adapter,
    clients: settings.clients,
    clientAuthMethods: [
      'client_secret_basic', 'client_secret_post', 'client_secret_jwt', 'private_key_jwt', 'none',
      'tls_client_auth', 'self_signed_tls_client_auth',
    ],
    assertJwtClientAuthClaimsAndHeader: checkAssertion,
    // The library refuses to fetch from loopback, by a dispatcher of its own.
    fetch: (url, { dispatcher, ...options }) => globalThis.fetch(url, options),
    discovery: {
      mtls_endpoint_aliases: {
        token_endpoint: `${aliases}/token`,
        revocation_endpoint: `${aliases}/token/revocation`,
        introspection_endpoint: `${aliases}/token/introspection`,
        pushed_authorization_request_endpoint: `${aliases}/request`,
        userinfo_endpoint: `${aliases}/me`,
      },
    },
    jwks: { keys },
    cookies: { keys: [randomBytes(32).toString('hex')] },
    acrValues: classes,
    scopes: ['openid', 'profile', 'email', 'offline_access'],
    claims: { openid: ['sub'], profile: ['name', 'preferred_username'], email: ['email'], acr: null, sid: null, auth_time: null, iss: null },
    findAccount: (ctx, id) => ({
      accountId: id,
      claims: () => ({ sub: id, name: `${id} of the tests`, preferred_username: id, email: `${id}@example.test` }),
    }),
    pkce: { required: () => true },
    rotateRefreshToken: true,
    issueRefreshToken: (ctx, client) => client.grantTypeAllowed('refresh_token'),
    ttl: { AccessToken: settings.accessTokenLife, IdToken: 300, RefreshToken: 3600, Session: 3600, Grant: 3600, Interaction: 60 },
    // What resource servers go by, RFC 9470 section 6.
    extraTokenClaims: (ctx) => ({ acr: (ctx.oidc.entities.AuthorizationCode ?? ctx.oidc.entities.RefreshToken)?.acr }),
    interactions: { url: (ctx, interaction) => `/test/interaction/${interaction.uid}`, policy },
    features: {
      devInteractions: { enabled: false },
      backchannelLogout: { enabled: true },
      claimsParameter: { enabled: true },
      dPoP: { enabled: true, nonceSecret: randomBytes(32), requireNonce: () => true },
      introspection: { enabled: true, allowedPolicy: () => true },
      jwtIntrospection: { enabled: true },
      jwtResponseModes: { enabled: true },
      jwtUserinfo: { enabled: true },
      mTLS: {
        enabled: true,
        certificateBoundAccessTokens: true,
        tlsClientAuth: true,
        selfSignedTlsClientAuth: true,
        getCertificate: (ctx) => peer(ctx) && `-----BEGIN CERTIFICATE-----\n${peer(ctx).toString('base64')}\n-----END CERTIFICATE-----\n`,
        certificateAuthorized: (ctx) => ctx.req.socket.authorized,
        certificateSubjectMatches: (ctx, property, expected) => property === 'tls_client_auth_subject_dn'
          && expected === `CN=${ctx.req.socket.getPeerCertificate().subject.CN}`,
      },
      pushedAuthorizationRequests: { enabled: true },
      requestObjects: { enabled: true, assertJwtClaimsAndHeader: checkRequestObject },
      resourceIndicators: {
        enabled: true,
        defaultResource: (ctx, client, oneOf) => oneOf?.[0],
        useGrantedResource: () => false,
        getResourceServerInfo: (ctx, resource) => ({
          scope: 'api',
          audience: resource,
          accessTokenTTL: settings.accessTokenLife,
          accessTokenFormat: resource === settings.jwtAudience ? 'jwt' : 'opaque',
          jwt: { sign: { alg: 'RS256' } },
        }),
      },
      revocation: { enabled: true },
      rpInitiatedLogout: { enabled: true },
    },
  };
}

const part = (jwt, n) => (jwt ? JSON.parse(Buffer.from(jwt.split('.')[n], 'base64url')) : undefined);
const header = (jwt) => part(jwt, 0);

// write adds to the journal what came from a client, and what became of it.
async function write(ctx, next) {
  await next();
  const { oidc } = ctx;
  const client = oidc?.client?.clientId;
  if (!client || !['authorization', 'pushed_authorization_request', 'token', 'introspection', 'revocation', 'userinfo'].includes(oidc.route)) return;
  const sent = oidc.body ?? ctx.query;
  const token = oidc.entities.AccessToken ?? oidc.entities.RotatedAccessToken;
  journal.push({
    client,
    route: oidc.route,
    status: ctx.status,
    error: ctx.body?.error && `${ctx.body.error}: ${ctx.body.error_description}`,
    sent: Object.keys(sent),
    request: header(sent.request),
    assertion: header(sent.client_assertion),
    certificate: thumbprint(peer(ctx)),
    params: { ...oidc.params, request: undefined, client_assertion: undefined, client_secret: undefined, token: undefined, code: undefined, refresh_token: undefined },
    type: ctx.type,
    rotated: sent.refresh_token !== undefined && ctx.body?.refresh_token !== undefined && ctx.body.refresh_token !== sent.refresh_token,
    bound: token?.['x5t#S256'],
    proof: part(ctx.get('DPoP'), 1),
    jkt: token?.jkt,
    audience: token?.aud,
    format: token?.format,
    active: ctx.body?.active,
    hint: sent.token_type_hint,
  });
}

// sign has introspection answered in a JWT to those alone who are registered for it;
// the library does it for everybody who takes one.
async function sign(ctx, next) {
  const accepts = ctx.accepts.bind(ctx);
  ctx.accepts = (...types) => {
    const client = settings.clients.find((c) => c.client_id === ctx.oidc?.client?.clientId);
    const plain = types.includes('application/token-introspection+jwt') && !client?.introspection_signed_response_alg;
    return plain ? 'json' : accepts(...types);
  };
  await next();
}

function watch(provider) {
  provider.use(write);
  provider.use(sign);
  provider.on('grant.success', (ctx) => {
    for (const kind of ['access_token', 'refresh_token', 'id_token']) {
      if (ctx.body[kind]) issued.push({ kind, value: ctx.body[kind], client: ctx.oidc.client.clientId });
    }
    if (ctx.oidc.params.code) issued.push({ kind: 'code', value: ctx.oidc.params.code });
  });
  provider.on('authorization.success', (ctx, out) => {
    journal.push({
      client: ctx.oidc.client.clientId, route: 'response', status: 200, sent: Object.keys(out), params: { response_mode: ctx.oidc.params.response_mode },
    });
  });
  const fault = (route) => (ctx, error) => {
    journal.push({
      client: ctx.oidc?.client?.clientId ?? ctx.oidc?.params?.client_id, route, status: error.statusCode, error: `${error.error}: ${error.error_detail ?? error.error_description}`,
    });
  };
  for (const event of ['authorization', 'grant', 'pushed_authorization_request', 'introspection', 'revocation', 'userinfo', 'end_session']) {
    provider.on(`${event}.error`, fault(`${event}.error`));
  }
  provider.on('grant.revoked', (ctx) => { journal.push({ client: ctx.oidc.client?.clientId, route: 'grant.revoked' }); });
  provider.on('end_session.success', (ctx) => { journal.push({ client: ctx.oidc.client?.clientId, route: 'end_session', sent: Object.keys(ctx.oidc.params) }); });
  provider.on('backchannel.success', (ctx, client) => { journal.push({ client: client.clientId, route: 'backchannel', status: 200 }); });
  provider.on('backchannel.error', (ctx, error, client) => { journal.push({ client: client.clientId, route: 'backchannel', error: error.message }); });
  provider.on('server_error', (ctx, error) => {
    journal.push({ client: ctx.oidc?.client?.clientId, route: 'server_error', error: String(error) });
    console.error('server_error', error);
  });
}

// interact signs the user in, in the best of the ways that acr_values or claims
// ask
// for and these users have, and consents to whatever is asked for.
async function interact(provider, req, res) {
  const { prompt, params, session, grantId } = await provider.interactionDetails(req, res);
  if (prompt.name === 'login') {
    const wanted = prompt.details.acr?.values ?? params.acr_values?.split(' ') ?? [];
    const acr = classes.find((c) => wanted.includes(c)) ?? classes[0];
    await provider.interactionFinished(req, res, { login: { accountId: 'alice', acr, amr: ['pwd'] } }, { mergeWithLastSubmission: false });
    return;
  }
  const grant = grantId
    ? await provider.Grant.find(grantId)
    : new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  const { missingOIDCScope, missingOIDCClaims, missingResourceScopes } = prompt.details;
  if (missingOIDCScope) grant.addOIDCScope(missingOIDCScope.join(' '));
  if (missingOIDCClaims) grant.addOIDCClaims(missingOIDCClaims);
  for (const [resource, scopes] of Object.entries(missingResourceScopes ?? {})) grant.addResourceScope(resource, scopes.join(' '));
  await provider.interactionFinished(req, res, { consent: { grantId: await grant.save() } }, { mergeWithLastSubmission: true });
}

function answer(res, value) {
  res.writeHead(200, { 'content-type': 'application/json' });
  res.end(JSON.stringify(value));
}

const listen = (server) => new Promise((done) => { server.listen(0, '127.0.0.1', () => done(server.address().port)); });

const server = createServer();
const { ca, cert, key } = settings.mutualTLS;
const tlsServer = createTLSServer({ ca, cert, key, requestCert: true, rejectUnauthorized: false });
const issuer = `http://127.0.0.1:${await listen(server)}`;
const aliases = `https://127.0.0.1:${await listen(tlsServer)}`;
const provider = new Provider(issuer, configuration(aliases));
watch(provider);
const serve = provider.callback();
for (const listener of [server, tlsServer]) {
  listener.on('request', async (req, res) => {
    const { pathname, searchParams } = new URL(req.url, issuer);
    try {
      if (pathname === '/test/journal') {
        answer(res, journal.filter((entry) => entry.client === searchParams.get('client')));
      } else if (pathname === '/test/issued') {
        answer(res, issued.filter((entry) => !searchParams.has('client') || entry.client === searchParams.get('client')));
      } else if (pathname.startsWith('/test/interaction/')) {
        await interact(provider, req, res);
      } else {
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
