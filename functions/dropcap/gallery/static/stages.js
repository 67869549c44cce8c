// The status of uploads in the bucket: polled for all at once, while there are any.

import { ask, SignedOut } from "./transfer.js";

const FIRST_S = 0.5;
const LONGEST_S = 5;
const SLOWER = 1.4;
const LONGEST_QUERY = 3000; // characters; gunicorn allows 4,094 in a request line
const GIVE_UP_S = 1800; // without any change

const { status } = document.getElementById("uploads").dataset;
const followed = new Map(); // by object: [generation, callback]
let signedOut = () => {};
let wait = FIRST_S;
let timer = 0;
let polling = false;
let changedAt = 0;

/** Poll an upload until it ends: calls `update(status)`, or `update(null)` after GIVE_UP_S without a change. */
export function follow({ object, generation }, update) {
  followed.set(object, [generation, update]);
  resume();
}

/** Set the function to call when the session has ended; `resume` polls again. */
export function whenSignedOut(call) {
  signedOut = call;
}

export function resume() {
  wait = FIRST_S;
  changedAt = Date.now();
  arm();
}

function arm() {
  if (polling || document.hidden || !followed.size) return;
  clearTimeout(timer);
  timer = setTimeout(poll, wait * 1000);
}

async function poll() {
  polling = true;
  try {
    if (await changed()) {
      wait = FIRST_S;
      changedAt = Date.now();
    } else {
      wait = Math.min(wait * SLOWER, LONGEST_S);
    }
  } catch (problem) {
    if (problem instanceof SignedOut) return signedOut();
    wait = LONGEST_S;
  } finally {
    polling = false;
  }
  if (Date.now() - changedAt > GIVE_UP_S * 1000) {
    for (const [, update] of followed.values()) update(null);
    followed.clear();
  }
  return arm();
}

/** Poll as many uploads as fit in a URL, least recently polled first. Returns whether any has changed. */
async function changed() {
  const objects = [];
  let query = "";
  for (const [object, [generation]] of followed) {
    const more = `&upload=${encodeURIComponent(`${generation}:${object}`)}`;
    if (objects.length && query.length + more.length > LONGEST_QUERY) break;
    objects.push(object);
    query += more;
  }
  const { uploads } = await ask(`${status}${status.includes("?") ? query : query.replace("&", "?")}`);
  let moved = false;
  for (const object of objects) {
    const each = followed.get(object);
    followed.delete(object);
    followed.set(object, each); // to the end of the queue
  }
  for (const upload of uploads) {
    const [, update] = followed.get(upload.object);
    moved = update(upload) || moved;
    const captioned = upload.state === "captioned" && upload.finished;
    if (captioned || upload.state === "rejected") followed.delete(upload.object);
  }
  return moved;
}

document.addEventListener("visibilitychange", () => document.hidden ? clearTimeout(timer) : arm());

/** The stages of one upload in the pipeline, in its row. */
export class Stages {
  #view = document.getElementById("way").content.firstElementChild.cloneNode(true);
  #steps = [...this.#view.querySelectorAll("li")];
  #meter = this.#view.querySelector("meter");
  #most = this.#view.querySelector(".memory-bar b");
  #shown = "";

  constructor(row) {
    row.append(this.#view);
  }

  /** Show a status. Returns whether it differs from the last one. */
  show(upload) {
    const now = JSON.stringify([upload.state, upload.stage, upload.attempts, upload.finished]);
    if (now === this.#shown) return false;
    this.#shown = now;
    if (upload.state === "rejected") {
      this.#view.remove(); // the reason says more than a stage
      return true;
    }
    const captioned = upload.state === "captioned";
    const at = this.#steps.findIndex((step) => step.dataset.stage === upload.stage);
    const measured = new Map(upload.stages.map((each) => [each.stage, each]));
    if (at < 0 && !captioned) return true; // not started, or being quarantined
    this.#steps.forEach((step, index) => {
      const last = index === this.#steps.length - 1;
      const done = captioned ? !last || upload.finished : index < at;
      const doing = captioned ? last && !done : index === at;
      const was = step.dataset.is;
      step.dataset.is = done ? "done" : doing ? "doing" : "ahead";
      if (doing) step.setAttribute("aria-current", "step");
      else step.removeAttribute("aria-current");
      const facts = measured.get(step.dataset.stage);
      if (facts) step.lastElementChild.textContent = `${time(facts.seconds)}, ${mb(facts.mb)}`;
      else if (done && was !== "done") step.lastElementChild.textContent = "done"; // the MB shown are of an earlier moment
      else if (doing && !captioned) step.lastElementChild.textContent = mb(upload.rss_mb);
    });
    const most = Math.max(this.#meter.value, upload.rss_mb ?? 0, ...upload.stages.map((each) => each.mb));
    this.#meter.value = most;
    this.#most.textContent = mb(most);
    return true;
  }
}

// Number and unit stay on one line.
const time = (seconds) => seconds < 0.0995 ? `${Math.round(seconds * 1000)}\xa0ms` : `${seconds.toFixed(1)}\xa0s`;
const mb = (megabytes) => `${Math.round(megabytes)}\xa0MB`;
