// What the page asks the coordinator. Errors are its own sentences.

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, { credentials: "same-origin", cache: "no-store", ...options });
  } catch {
    throw new Refused(0, "The coordinator does not answer; it is asked again.");
  }
  const text = await response.text();
  if (!response.ok) {
    throw new Refused(response.status, text || `The coordinator answers with ${response.status}.`);
  }
  return text ? JSON.parse(text) : null;
}

export const get = (path) => ask(path, { method: "GET" });

export const post = (path, body = {}) =>
  ask(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

/** The path of something about a job. */
export const of = (job, rest = "") => `/api/jobs/${encodeURIComponent(job)}${rest}`;
