// A Node program as there are many: it logs in with @azure/msal-node, of the
// version that the argument names, and calls the API with fetch. Each line of
// standard input is a call {auth, scope, method, url, body}, each line of standard
// output tells what came of it: the answer {status, headers, body}, or {error}
// where there was none.
import { createInterface } from "node:readline";

const { ConfidentialClientApplication } = await import(process.argv[2]);
const applications = new Map();

function application(auth) {
  const key = JSON.stringify(auth);
  if (!applications.has(key)) {
    applications.set(key, new ConfidentialClientApplication({ auth }));
  }
  return applications.get(key);
}

async function call({ auth, scope, method, url, body }) {
  const { accessToken } = await application(auth).acquireTokenByClientCredential({ scopes: [scope] });
  const headers = { Authorization: `Bearer ${accessToken}`, "Content-Type": "application/json" };
  const response = await fetch(url, { method, headers, body: body || undefined });
  return { status: response.status, headers: Object.fromEntries(response.headers), body: await response.text() };
}

for await (const line of createInterface({ input: process.stdin })) {
  const outcome = await call(JSON.parse(line)).catch((error) => ({ error: `${error} ${error.cause ?? ""}` }));
  console.log(JSON.stringify(outcome));
}
