// Resumable upload of a file: the function creates a session, and the bytes go directly to Cloud Storage.
// cloud.google.com/storage/docs/performing-resumable-uploads

const CHUNK = 8 * 1024 * 1024; // bytes, a multiple of 256 KiB; a smaller file is one request
const HEAD = 64 * 1024; // bytes by which the function detects a picture
const SESSIONS = 3; // for one file, as sessions expire
const TRIES = 8; // without progress, before the upload fails
const LONGEST_WAIT_S = 30;
const STALLED_S = 60; // without progress

/** An error to show; `again` if a retry may succeed. */
export class Problem extends Error {
  constructor(problem, remedy, again = false) {
    super(`${problem} ${remedy}`.trim());
    this.again = again;
  }
}

/** The session has ended. */
export class SignedOut extends Error {}

/** A transient error: no response, or one with this status; `wait` is its Retry-After in seconds. */
class Transient extends Error {
  constructor(status, wait) {
    super(status === 429 ? "Too many requests" : status ? "The server is overloaded" : "The connection was lost");
    this.wait = wait;
  }
}

class Expired extends Error {}

/** Send a request to the function; return the JSON. Throws SignedOut, Transient or Problem. */
export async function ask(address, options = {}) {
  let answer;
  try {
    // With X-Requested-With, Identity-Aware Proxy answers 401 when a session has ended, not with its sign-in page:
    // docs.cloud.google.com/iap/docs/sessions-howto (2026-11).
    const usual = { Accept: "application/json", "X-Requested-With": "XMLHttpRequest" };
    answer = await fetch(address, { ...options, headers: { ...usual, ...options.headers } });
  } catch {
    throw new Transient();
  }
  if (answer.ok) {
    return answer.json().catch(() => {
      throw new Transient();
    });
  }
  if (answer.status === 401) throw new SignedOut();
  if (isTransient(answer.status)) {
    throw new Transient(answer.status, Number(answer.headers.get("Retry-After")) || undefined);
  }
  const problem = await answer.json().catch(() => ({}));
  throw new Problem(problem.detail ?? `The request failed (${answer.status}).`, problem.remedy ?? "");
}

/** Upload a file; return the object's name and generation. Calls `report(bytes, text)` on progress. */
export async function upload(file, address, signal, report) {
  const body = JSON.stringify({
    name: file.name,
    size: file.size,
    type: file.type,
    tz: Intl.DateTimeFormat().resolvedOptions().timeZone,
    head: await base64(file.slice(0, HEAD)),
  });
  const headers = { "Content-Type": "application/json" };
  // Not aborted: once the session exists, it must be known here to be deleted.
  const begin = () => ask(address, { method: "POST", body, headers });
  for (let sessions = 1; ; sessions++) {
    const { object, session } = await persist(begin, signal, (text) => report(0, text));
    try {
      const { generation } = await send(session, file, signal, report);
      return { object, generation };
    } catch (problem) {
      if (problem instanceof Expired && sessions < SESSIONS) continue;
      // Discard the uploaded part now, not in a week. The expected status is 499, which is ignored.
      fetch(session, { method: "DELETE" }).catch(() => {});
      throw problem instanceof Expired ? failed() : problem;
    }
  }
}

/** Send a file to its session; after an error, resume after the last byte that is stored. */
function send(session, file, signal, report) {
  let at = 0;
  let most = CHUNK;
  let unknown = false; // how much is stored
  const step = async () => {
    if (unknown) {
      await file.slice(0, 1).arrayBuffer().catch(unreadable);
      const answer = await put(session, null, `bytes */${file.size}`, signal);
      if (answer.status !== 308) return resource(answer);
      const before = at;
      at = stored(answer);
      if (at > before) {
        unknown = false;
        return undefined;
      }
    }
    unknown = true; // until the response
    const end = Math.min(at + most, file.size);
    const range = `bytes ${at}-${end - 1}/${file.size}`;
    const answer = await put(session, file.slice(at, end), range, signal, (sent) => report(at + sent));
    if (answer.status !== 308) return resource(answer);
    if (stored(answer) <= at) {
      most = Infinity; // if CORS hides the Range header: send the rest at once, the server skips what it has
      throw new Transient();
    }
    at = stored(answer);
    unknown = false;
    return undefined;
  };
  return persist(step, signal, (text) => report(at, text));
}

/** Repeat a step until it returns a result; retry transient errors with exponential backoff, TRIES times. */
async function persist(step, signal, report) {
  for (let failures = 0; ; ) {
    try {
      const result = await step();
      if (result) return result;
      failures = 0;
    } catch (problem) {
      if (!(problem instanceof Transient)) throw problem;
      failures += 1;
      if (failures > TRIES) throw failed();
      const seconds = problem.wait ?? Math.min(2 ** (failures - 2), LONGEST_WAIT_S);
      const at = new Date(Date.now() + seconds * 1000).toLocaleTimeString("en-GB"); // 24 hours, as all times on the page
      report(`${problem.message}: retrying at ${at}`);
      await pause(seconds, signal);
      report("Uploading");
    }
  }
}

/** PUT to a session; resolve with the request on 200, 201 or 308. `body` null sends nothing. */
function put(session, body, range, signal, sent = () => {}) {
  const request = new XMLHttpRequest(); // fetch reports no upload progress
  let stalled;
  const abort = () => request.abort();
  const alive = () => {
    clearTimeout(stalled);
    stalled = setTimeout(abort, STALLED_S * 1000);
  };
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    signal.addEventListener("abort", abort);
    request.upload.onprogress = (event) => {
      alive();
      sent(event.loaded);
    };
    request.onload = () => {
      const { status } = request;
      if (status === 308 || status === 200 || status === 201) resolve(request);
      else if (status === 404 || status === 410) reject(new Expired());
      else if (isTransient(status)) reject(new Transient(status)); // CORS hides its headers
      else reject(new Problem(`Cloud Storage rejected the upload (${status}).`, "Try again.", true));
    };
    request.onerror = () => reject(new Transient());
    request.onabort = () => reject(signal.aborted ? signal.reason : new Transient());
    request.open("PUT", session);
    request.setRequestHeader("Content-Range", range);
    alive();
    request.send(body);
  }).finally(() => {
    clearTimeout(stalled);
    signal.removeEventListener("abort", abort);
  });
}

const isTransient = (status) => status === 408 || status === 429 || status >= 500;

const failed = () => new Problem("The upload failed.", "Check your connection and try again.", true);

const unreadable = () => {
  throw new Problem("The file can no longer be read: it was moved or changed.", "Choose it again.");
};

/** Return the number of stored bytes; a 308 has no Range header if there are none. */
function stored(answer) {
  const [, last] = /bytes=0-(\d+)/.exec(answer.getResponseHeader("Range") ?? "") ?? [];
  return last === undefined ? 0 : Number(last) + 1;
}

const resource = (answer) => JSON.parse(answer.responseText || "{}");

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, seconds * 1000);
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    signal.addEventListener("abort", stop, { once: true });
  });
}

function base64(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => {
      try {
        unreadable();
      } catch (problem) {
        reject(problem);
      }
    };
    reader.readAsDataURL(blob);
  });
}
