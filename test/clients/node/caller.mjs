// A Node program as there are many: it logs in with @azure/msal-node and calls
// the API with fetch. The first line of standard input is its configuration
// {library, auth, scope, api}, each further one a call {method, path, body}.
// Each line of standard output tells what came of a call: the answer
// {status, headers, body}, or {error} where there was none.
import { createInterface } from "node:readline";

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const { library, auth, scope, api } = JSON.parse((await lines.next()).value);
const { ConfidentialClientApplication } = await import(library);
const application = new ConfidentialClientApplication({ auth });

async function call({ method, path, body }) {
  const { accessToken } = await application.acquireTokenByClientCredential({ scopes: [scope] });
  const response = await fetch(api + path, {
    method,
    headers: { Authorization: `Bearer ${accessToken}`, "Content-Type": "application/json" },
    body: body || undefined,
  });
  return { status: response.status, headers: Object.fromEntries(response.headers), body: await response.text() };
}

for await (const line of lines) {
  const outcome = await call(JSON.parse(line)).catch((error) => ({ error: `${error} ${error.cause ?? ""}` }));
  console.log(JSON.stringify(outcome));
}
