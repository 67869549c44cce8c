// One file's way into the bucket: a session from the function, then its bytes, straight to Cloud Storage.
// developers: cloud.google.com/storage/docs/performing-resumable-uploads

const CHUNK = 8 * 1024 * 1024; // bytes, a multiple of 256 KiB; what is smaller goes in one request
const HEAD = 64 * 1024; // bytes by which the function can tell a picture from what is none
const SESSIONS = 3; // for one file, where they expire
const TRIES = 8; // without a byte more, before a person is asked
const LONGEST_WAIT_S = 30;
const STALLED_S = 60; // without progress

/** What a person is told; `again` where a new try may end better. */
export class Problem extends Error {
  constructor(problem, remedy, again = false) {
    super(`${problem} ${remedy}`.trim());
    this.again = again;
  }
}

/** Nobody is signed in any more. */
export class SignedOut extends Error {}

/** A passing fault: no answer, or one of this status; `wait` are the seconds that it asks for. */
class Broken extends Error {
  constructor(status, wait) {
    super(status === 429 ? "Too many at once" : status ? "The site is too busy" : "The connection broke");
    this.wait = wait;
  }
}

class Expired extends Error {}

/** Ask the function; its answer, or a raised SignedOut, Problem or, where it passes, Broken. */
export async function ask(address, options = {}) {
  let answer;
  try {
    // With this name Identity-Aware Proxy answers 401 where a session has ended, and not with its page to sign in
    // at: docs.cloud.google.com/iap/docs/sessions-howto (2026-11).
    const usual = { Accept: "application/json", "X-Requested-With": "XMLHttpRequest" };
    answer = await fetch(address, { ...options, headers: { ...usual, ...options.headers } });
  } catch {
    throw new Broken();
  }
  if (answer.ok) {
    return answer.json().catch(() => {
      throw new Broken();
    });
  }
  if (answer.status === 401) throw new SignedOut();
  if (passes(answer.status)) {
    throw new Broken(answer.status, Number(answer.headers.get("Retry-After")) || undefined);
  }
  const said = await answer.json().catch(() => ({}));
  throw new Problem(said.detail ?? `The site refused it (${answer.status}).`, said.remedy ?? "");
}

/** Upload a file, and answer with the object's name and generation. `told(bytes, text)` hears how it goes. */
export async function upload(file, address, signal, told) {
  const body = JSON.stringify({
    name: file.name,
    size: file.size,
    type: file.type,
    tz: Intl.DateTimeFormat().resolvedOptions().timeZone,
    head: await base64(file.slice(0, HEAD)),
  });
  const headers = { "Content-Type": "application/json" };
  // Not to be aborted: its session, once there, has to be known to be ended.
  const begin = () => ask(address, { method: "POST", body, headers });
  for (let sessions = 1; ; sessions++) {
    const { object, session } = await persist(begin, signal, (text) => told(0, text));
    try {
      const { generation } = await send(session, file, signal, told);
      return { object, generation };
    } catch (problem) {
      if (problem instanceof Expired && sessions < SESSIONS) continue;
      // What it holds is thrown away now, not in a week. 499 is its good answer, which is no news here.
      fetch(session, { method: "DELETE" }).catch(() => {});
      throw problem instanceof Expired ? gaveUp() : problem;
    }
  }
}

/** Send all of a file to its session; what broke goes on from the byte to which the bucket has it. */
function send(session, file, signal, told) {
  let at = 0;
  let most = CHUNK;
  let asking = false;
  const step = async () => {
    if (asking) {
      await file.slice(0, 1).arrayBuffer().catch(unreadable);
      const answer = await put(session, null, `bytes */${file.size}`, signal);
      if (answer.status !== 308) return resource(answer);
      const before = at;
      at = kept(answer);
      if (at > before) {
        asking = false;
        return undefined;
      }
    }
    asking = true; // until its answer is there
    const end = Math.min(at + most, file.size);
    const range = `bytes ${at}-${end - 1}/${file.size}`;
    const answer = await put(session, file.slice(at, end), range, signal, (sent) => told(at + sent));
    if (answer.status !== 308) return resource(answer);
    if (kept(answer) <= at) {
      most = Infinity; // a page may not be let to read how far it is: what is there already is skipped there
      throw new Broken();
    }
    at = kept(answer);
    asking = false;
    return undefined;
  };
  return persist(step, signal, (text) => told(at, text));
}

/** Repeat a step until it gives something; one that breaks waits longer each time, and not for ever. */
async function persist(step, signal, told) {
  for (let failures = 0; ; ) {
    try {
      const result = await step();
      if (result) return result;
      failures = 0;
    } catch (problem) {
      if (!(problem instanceof Broken)) throw problem;
      failures += 1;
      if (failures > TRIES) throw gaveUp();
      const seconds = problem.wait ?? Math.min(2 ** (failures - 2), LONGEST_WAIT_S);
      const at = new Date(Date.now() + seconds * 1000).toLocaleTimeString();
      told(`${problem.message}: goes on at ${at}`);
      await pause(seconds, signal);
      told("Uploading");
    }
  }
}

/** PUT to a session; the request when it is answered with 200, 201 or 308. `body` null sends nothing. */
function put(session, body, range, signal, sent = () => {}) {
  const request = new XMLHttpRequest(); // fetch tells no progress of what it sends
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
      else if (passes(status)) reject(new Broken(status)); // its headers are not ours to read
      else reject(new Problem(`Cloud Storage refused it (${status}).`, "Try again.", true));
    };
    request.onerror = () => reject(new Broken());
    request.onabort = () => reject(signal.aborted ? signal.reason : new Broken());
    request.open("PUT", session);
    request.setRequestHeader("Content-Range", range);
    alive();
    request.send(body);
  }).finally(() => {
    clearTimeout(stalled);
    signal.removeEventListener("abort", abort);
  });
}

const passes = (status) => status === 408 || status === 429 || status >= 500;

const gaveUp = () => new Problem("The upload did not get through.", "Look whether you are online, and try again.", true);

const unreadable = () => {
  throw new Problem("The file can't be read any more: it was moved or changed.", "Choose it again.");
};

/** The bytes that the bucket has: a 308 says their range, and none where it has none. */
function kept(answer) {
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
