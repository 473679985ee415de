// Requests to this server. The token stays in this variable, and is gone when the page is closed.
let token = "";

export function useToken(text) {
  token = text;
}

export class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

// Send a request. `json` or `body` is the body; the answer is a Response whose status is a success.
export async function call(method, path, { json, body, type, keepalive } = {}) {
  const headers = {};
  // A header has no other characters, and no token of lrclr has.
  if (!/^[\x20-\x7e]*$/.test(token)) throw new Problem(401, "The token is wrong.");
  if (token) headers.Authorization = `Bearer ${token}`;
  if (json !== undefined) {
    body = JSON.stringify(json);
    type = "application/json";
  }
  if (type) headers["Content-Type"] = type;
  let response;
  try {
    response = await fetch(path, { method, headers, body, keepalive });
  } catch {
    throw new Problem(0, "The server does not answer. Is lrclr web still running?");
  }
  if (response.ok) return response;
  let detail = `The server answered with status ${response.status}.`;
  try {
    detail = (await response.json()).detail ?? detail;
  } catch {
    // Not a problem of lrclr's: a proxy answered.
  }
  throw new Problem(response.status, detail);
}
