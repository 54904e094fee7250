// The identity provider of the tests: npm's oidc-provider, a certified one, on loopback over TLS.
//
// Environment: OIDC_MODULE (path of the package), OIDC_PORT (0: any), OIDC_TTL (life of an ID
// token in seconds), OIDC_KEYS (prefix of its keys' names), OIDC_CERT and OIDC_KEY (PEM files).
// Prints its issuer URL in one line when it listens, and ends when its standard input does: so it
// never outlives the test.

import { generateKeyPairSync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const env = process.env;
const entry = createRequire(import.meta.url).resolve(env.OIDC_MODULE);
const { Provider } = await import(pathToFileURL(entry));

const key = (alg, type, options) => ({
  ...generateKeyPairSync(type, options).privateKey.export({ format: 'jwk' }),
  alg, use: 'sig', kid: `${env.OIDC_KEYS ?? 'first'}-${alg}`,
});
const client = (client_id, id_token_signed_response_alg) => ({
  client_id, id_token_signed_response_alg,
  application_type: 'native',
  grant_types: ['authorization_code'],
  redirect_uris: ['http://127.0.0.1/callback'],
  response_types: ['code'],
  token_endpoint_auth_method: 'none',
});

let serve = (request, answer) => answer.writeHead(503).end();
const server = createServer(
  { cert: readFileSync(env.OIDC_CERT), key: readFileSync(env.OIDC_KEY) },
  (request, answer) => serve(request, answer),
);
server.listen(Number(env.OIDC_PORT ?? 0), '127.0.0.1', () => {
  const issuer = `https://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    claims: { openid: ['sub'], profile: ['preferred_username', 'name', 'employee'] },
    clients: [client('kapok', 'RS256'), client('kapok-es', 'ES256'), client('kapok-ps', 'PS256'),
      client('other', 'RS256')],
    // Claims go into the ID token itself, as those of most sites do.
    conformIdTokenClaims: false,
    cookies: { keys: ['a test has no secrets'] },
    findAccount: (_, id) => ({
      accountId: id,
      claims: () => ({ sub: id, preferred_username: `${id}.chen`, name: '陈', employee: `e-${id}` }),
    }),
    jwks: { keys: [
      key('RS256', 'rsa', { modulusLength: 2048 }),
      key('PS256', 'rsa', { modulusLength: 2048 }),
      key('ES256', 'ec', { namedCurve: 'P-256' }),
    ] },
    enabledJWA: { idTokenSigningAlgValues: ['RS256', 'PS256', 'ES256'] },
    pkce: { required: () => true },
    ttl: { IdToken: Number(env.OIDC_TTL ?? 3600) },
  });
  serve = provider.callback();
  console.log(`issuer ${issuer}`);
  // Nobody reads on.
  console.log = console.info = console.warn = () => {};
});

process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
