// The upload queue: a row for each file that is dropped, pasted or chosen, and a card on the wall when it is done.

import { isPicture, MOST, noFile, noPicture, sources, wrong } from "./files.js";
import { follow, resume, Stages, whenSignedOut } from "./stages.js";
import { Problem, SignedOut, upload } from "./transfer.js";
import { look } from "./wall.js";

const AT_ONCE = 3;
const LINGER_MS = 4000; // for which the row of a finished upload stays
const SAY_MS = 1000; // in which announcements are joined into one
const BUTTONS = { waiting: ["cancel"], sending: ["cancel"], failed: ["retry", "dismiss"], refused: ["dismiss"], way: [], done: ["dismiss"] };

const byId = (id) => document.getElementById(id);
const section = byId("uploads");
const list = section.querySelector("ol");
const wall = byId("wall");
const rows = new Map(); // by their views
const waiting = []; // rows
let sending = 0;
let signedOut = false;

class Row {
  #view = byId("upload").content.firstElementChild.cloneNode(true);
  #state = this.#view.querySelector(".state");
  #progress = this.#view.querySelector("progress");
  #stages = null;
  #hanging = false;
  #controller = new AbortController();

  constructor(file) {
    this.file = file;
    this.#view.querySelector("b").textContent = file.name;
    this.#view.querySelector(".facts").textContent = size(file.size);
    this.#progress.setAttribute("aria-label", `Uploaded of ${file.name}`);
    for (const button of this.#view.querySelectorAll("button")) {
      button.setAttribute("aria-label", `${button.textContent} ${file.name}`);
    }
    rows.set(this.#view, this);
  }

  get view() {
    return this.#view;
  }

  get state() {
    return this.#view.dataset.state;
  }

  show(state, text) {
    const focused = this.#view.contains(document.activeElement);
    this.#view.dataset.state = state;
    this.#state.textContent = text;
    this.#progress.hidden = state !== "sending";
    for (const button of this.#view.querySelectorAll("button")) {
      button.hidden = !BUTTONS[state].includes(button.dataset.do);
    }
    if (focused && !this.#view.contains(document.activeElement)) this.focus();
    count();
  }

  fail(state, text) {
    this.show(state, text);
    say(`${this.file.name}: ${text}`);
  }

  focus() {
    const button = this.#view.querySelector("button:not([hidden])");
    if (!button) this.#view.tabIndex = -1;
    (button ?? this.#view).focus();
  }

  /** Upload the file and follow its stages. Resolves when the next upload may start. */
  async send() {
    const { signal } = (this.#controller = new AbortController());
    try {
      if (!await isPicture(this.file)) throw noPicture();
      this.#picture();
      this.#progress.value = 0;
      this.show("sending", "Uploading");
      const report = (bytes, text) => {
        this.#progress.value = bytes / this.file.size;
        if (text) this.#state.textContent = text;
      };
      const sent = await upload(this.file, section.dataset.begin, signal, report);
      if (!sent.generation) return this.show("done", "Uploaded. Reload the page to see the result.");
      this.show("way", "Uploaded, waiting to be processed");
      follow(sent, (status) => this.#update(status));
    } catch (problem) {
      if (signal.aborted) return;
      if (problem instanceof SignedOut) {
        this.show("waiting", "Waiting");
        waiting.unshift(this);
        pause();
      } else {
        const known = problem instanceof Problem;
        this.fail(known && !problem.again ? "refused" : "failed", known ? problem.message : "The upload failed.");
        if (!known) throw problem;
      }
    }
  }

  /** Cancel the upload at any point before the object exists. */
  cancel() {
    const index = waiting.indexOf(this);
    if (index >= 0) waiting.splice(index, 1);
    this.#controller.abort();
    this.leave();
    say(`${this.file.name}: cancelled.`);
  }

  leave() {
    const next = this.#view.nextElementSibling ?? this.#view.previousElementSibling;
    const focused = this.#view.contains(document.activeElement);
    this.#view.remove();
    rows.delete(this.#view);
    if (focused) next ? rows.get(next).focus() : byId("files")?.focus();
    count();
  }

  /** Show that it is done. `card` is its card on the wall, or null. */
  done(card, address) {
    const words = [...(card?.querySelectorAll(".caption, .demo") ?? [])].map((each) => each.textContent.trim());
    const caption = words.length ? words.join(". ") : undefined;
    this.show("done", caption ?? "Captioned. ");
    if (!card) {
      const link = document.createElement("a");
      link.href = address;
      link.textContent = "View the picture";
      this.#state.append(link);
    }
    say(`${this.file.name}: ${caption ?? "captioned."}`);
  }

  /** Show a status of the pipeline; null if there was none for too long. Returns whether it is new. */
  #update(status) {
    if (!status) {
      this.show("done", "There is no status yet. The picture will appear on the wall when it is done.");
      return false;
    }
    if (status.state === "waiting") return false;
    this.#stages ??= new Stages(this.#view);
    if (!this.#stages.show(status)) return false;
    if (status.state === "working") {
      const crashes = status.deaths ? `; ${status.deaths} of them crashed the instance` : "";
      this.show("way", status.attempts > 1 ? `Processing, attempt ${status.attempts}${crashes}` : "Processing");
    } else if (status.state === "rejected") {
      this.fail("refused", status.reason);
    } else if (!this.#hanging) {
      this.#hanging = true;
      hang(this, status);
    }
    if (status.finished && status.state === "captioned" && wall) setTimeout(() => this.#linger(), LINGER_MS);
    return true;
  }

  #linger() {
    if (this.#view.matches(":hover, :focus-within")) setTimeout(() => this.#linger(), LINGER_MS);
    else if (!this.#state.querySelector("a")) this.leave();
  }

  /** Show a thumbnail; only now, because the browser decodes the whole picture for it. */
  #picture() {
    const frame = this.#view.querySelector(".thumb");
    if (frame.firstChild) return;
    const image = new Image();
    image.alt = "";
    image.decoding = "async";
    image.src = URL.createObjectURL(this.file);
    image.onload = image.onerror = (event) => {
      URL.revokeObjectURL(image.src);
      if (event.type === "error") image.remove(); // HEIC and TIFF, in most browsers
    };
    frame.append(image);
  }
}

/** Add files to the queue; show at once why a file is rejected. */
function add(files) {
  const room = Math.max(0, MOST - rows.size);
  const more = files.length - room;
  if (more > 0) {
    const problem = new Problem(`At most ${MOST} files can wait.`, "Drop them again when the others are done.");
    files = [...files.slice(0, room), noFile(`${more} more files`, problem)];
  }
  const added = files.map((file) => {
    const row = new Row(file);
    const problem = wrong(file);
    if (problem) {
      row.fail("refused", problem.message);
    } else {
      row.show("waiting", "Waiting");
      waiting.push(row);
    }
    return row.view;
  });
  list.append(...added);
  if (added.length) say(`${added.length} ${added.length === 1 ? "file" : "files"} added.`);
  next();
}

function next() {
  while (sending < AT_ONCE && waiting.length && !signedOut) {
    sending += 1;
    waiting.shift().send().finally(() => {
      sending -= 1;
      next();
    });
  }
  count();
}

const size = (bytes) => bytes < 1e5 ? `${Math.ceil(bytes / 1000)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;

// Uploads that finish together are added to the wall together, with one request.
const ended = new Map(); // ids of cards to [row, address]

function hang(row, { id, card }) {
  if (!ended.size) setTimeout(hangAll);
  ended.set(`p-${id}`, [row, card]);
}

async function hangAll() {
  const all = new Map(ended);
  ended.clear();
  const whole = [...new URLSearchParams(location.search).keys()].every((key) => key === "user");
  const { cards } = wall && whole ? await look(section.dataset.wall) : { cards: [] };
  for (const card of cards.filter((each) => all.has(each.id)).reverse()) {
    byId(card.id)?.remove();
    wall.prepend(card);
    byId("drop").classList.remove("alone");
    all.get(card.id)[0].done(card);
    all.delete(card.id);
  }
  for (const [row, address] of all.values()) row.done(null, address);
}

// The state of the queue: a line on the page, and short announcements for screen readers.
let counting = 0;

function count() {
  counting ||= requestAnimationFrame(() => {
    counting = 0;
    const inState = (state) => [...rows.values()].filter((row) => row.state === state).length;
    const sums = [[inState("sending"), "uploading"], [waiting.length, "waiting"], [inState("way"), "processing"]];
    byId("uploads-sum").textContent = sums.filter(([sum]) => sum).map((words) => words.join(" ")).join(", ");
    byId("uploads-cancel").hidden = waiting.length < 2;
    section.hidden = !rows.size;
  });
  window.onbeforeunload = sending || waiting.length ? (event) => event.preventDefault() : null;
}

const announcements = [];

function say(text) {
  if (!announcements.length) setTimeout(announce, SAY_MS);
  announcements.push(text);
}

function announce() {
  const more = announcements.length > 3 ? ` And ${announcements.length - 2} more.` : "";
  byId("announcement").textContent = (more ? announcements.slice(0, 2) : announcements).join(" ") + more;
  announcements.length = 0;
}

// The queue survives signing out and in again.
function pause() {
  if (signedOut) return;
  signedOut = true;
  byId("signed-out").replaceChildren(byId("signed-out-text").content.cloneNode(true));
  byId("signed-out").hidden = false;
}

function unpause() {
  if (!signedOut || document.hidden) return;
  signedOut = false;
  byId("signed-out").hidden = true;
  resume();
  next();
}

sources(add);
whenSignedOut(pause);
document.addEventListener("visibilitychange", unpause);
window.addEventListener("focus", unpause);

list.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const row = rows.get(button.closest("li"));
  if (button.dataset.do === "cancel") row.cancel();
  if (button.dataset.do === "dismiss") row.leave();
  if (button.dataset.do === "retry") {
    row.show("waiting", "Waiting");
    waiting.unshift(row);
    next();
  }
});
byId("uploads-cancel").addEventListener("click", () => {
  for (const row of waiting.splice(0)) row.leave();
  say("Waiting uploads cancelled.");
});
