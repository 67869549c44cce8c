// What becomes of uploads that are in the bucket: asked for all of them at once, and only while there are any.

import { ask, SignedOut } from "./transfer.js";

const FIRST_S = 0.5;
const LONGEST_S = 5;
const SLOWER = 1.4;
const LONGEST_QUERY = 3000; // characters: gunicorn, which serves the function, takes 4,094 of a request's first line
const GIVE_UP_S = 1800; // without news of any kind

const { status } = document.getElementById("uploads").dataset;
const followed = new Map(); // objects to [generation, whom to tell]
let signedOut = () => {};
let wait = FIRST_S;
let timer = 0;
let asking = false;
let newsAt = 0;

/** Tell of an upload `{object, generation}` until it has ended: `told(its status)`, or `told(null)` at no news. */
export function follow({ object, generation }, told) {
  followed.set(object, [generation, told]);
  goOn();
}

/** Whom to call where nobody is signed in any more; `goOn` asks again. */
export function whenSignedOut(call) {
  signedOut = call;
}

export function goOn() {
  wait = FIRST_S;
  newsAt = Date.now();
  arm();
}

function arm() {
  if (asking || document.hidden || !followed.size) return;
  clearTimeout(timer);
  timer = setTimeout(poll, wait * 1000);
}

async function poll() {
  asking = true;
  try {
    if (await news()) {
      wait = FIRST_S;
      newsAt = Date.now();
    } else {
      wait = Math.min(wait * SLOWER, LONGEST_S);
    }
  } catch (problem) {
    if (problem instanceof SignedOut) return signedOut();
    wait = LONGEST_S;
  } finally {
    asking = false;
  }
  if (Date.now() - newsAt > GIVE_UP_S * 1000) {
    for (const [, told] of followed.values()) told(null);
    followed.clear();
  }
  return arm();
}

/** Ask after as many as an address holds, those that were asked after longest ago; whether any has moved. */
async function news() {
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
    const [, told] = followed.get(upload.object);
    moved = told(upload) || moved;
    const captioned = upload.state === "captioned" && upload.finished;
    if (captioned || upload.state === "rejected") followed.delete(upload.object);
  }
  return moved;
}

document.addEventListener("visibilitychange", () => document.hidden ? clearTimeout(timer) : arm());

/** The way of one upload through the pipeline, in a row of its own. */
export class Way {
  #view = document.getElementById("way").content.firstElementChild.cloneNode(true);
  #steps = [...this.#view.querySelectorAll("li")];
  #meter = this.#view.querySelector("meter");
  #most = this.#view.querySelector(".memory-bar b");
  #shown = "";

  constructor(row) {
    row.append(this.#view);
  }

  /** Show a status; whether it is another than before. */
  show(upload) {
    const now = JSON.stringify([upload.state, upload.stage, upload.attempts, upload.finished]);
    if (now === this.#shown) return false;
    this.#shown = now;
    if (upload.state === "rejected") {
      this.#view.remove(); // where it ended, no step tells; the reason does
      return true;
    }
    const captioned = upload.state === "captioned";
    const at = this.#steps.findIndex((step) => step.dataset.stage === upload.stage);
    const measured = new Map(upload.stages.map((each) => [each.stage, each]));
    if (at < 0 && !captioned) return true; // not begun yet, or on its way to quarantine
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
      else if (done && was !== "done") step.lastElementChild.textContent = "done"; // not the MB of a moment ago
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
