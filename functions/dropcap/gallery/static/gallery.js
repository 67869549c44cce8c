// What a page does beyond its HTML: everything here is a convenience, and works without it, but for copying.

import { look } from "./wall.js";

const said = document.getElementById("said");

function say(text) {
  said.textContent = "";
  requestAnimationFrame(() => { said.textContent = text; }); // the same words twice are news, too
}

async function copy(button) {
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
  } catch { // no permission, or no HTTPS
    say("The browser does not allow copying: select the text on the picture's page.");
    return;
  }
  say(`${button.dataset.what} copied.`);
  if (button.textContent === "Copied") return;
  const label = [...button.childNodes];
  button.replaceChildren("Copied");
  setTimeout(() => button.replaceChildren(...label), 1500);
}

// A confirmation, opened where it stands without JavaScript, and here above the page.
function ask(details) {
  const dialog = document.createElement("dialog");
  const cancel = document.createElement("button");
  cancel.type = "button";
  cancel.className = "quiet";
  cancel.textContent = "Keep it";
  cancel.autofocus = true;
  cancel.addEventListener("click", () => dialog.close());
  const question = details.querySelector("summary + div");
  dialog.append(...question.childNodes, " ", cancel);
  dialog.setAttribute("aria-label", details.querySelector("summary").textContent);
  details.after(dialog);
  details.querySelector("summary").addEventListener("click", (event) => {
    event.preventDefault();
    dialog.showModal();
  });
}

// The next page is hung below this one when its link comes near, a few times by itself, then when asked.
const AHEAD = "1200px";
const BY_ITSELF = 4;
let hung = 0;

/** `asked`: by a person, who is to see why where there are none; else the link stays, to be pressed. */
async function load(link, asked) {
  link.setAttribute("aria-disabled", "true");
  const { status, page, cards } = await look(link.href);
  link.removeAttribute("aria-disabled");
  if (!cards.length) {
    if (asked && status) location.assign(link.href); // signed out, perhaps: the page says so
    return;
  }
  const focused = link === document.activeElement;
  document.getElementById("wall").append(...cards);
  const next = page.getElementById("next");
  if (next) {
    link.replaceWith(next);
    follow(next);
  } else {
    link.parentElement.remove();
  }
  if (focused) cards[0].querySelector("h2 a").focus();
  say(`${cards.length} older pictures.`);
}

function follow(link) {
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    if (!link.ariaDisabled) load(link, true);
  });
  if (++hung > BY_ITSELF) return;
  const observer = new IntersectionObserver(([entry]) => {
    if (!entry.isIntersecting) return;
    observer.disconnect();
    if (!link.ariaDisabled) load(link, false);
  }, { rootMargin: AHEAD });
  observer.observe(link);
}

// A key alone must be possible to switch off (WCAG 2.1.4).
const keys = document.getElementById("keys");

function stored(value) {
  try {
    if (value) localStorage.setItem("keys", value);
    return localStorage.getItem("keys");
  } catch { // storage is forbidden
    return null;
  }
}

function press(event) {
  if (!keys?.checked || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, textarea, select")) return;
  const search = document.getElementById("q");
  if (event.key === "/" && search) {
    event.preventDefault();
    search.select();
    search.focus();
  }
  const step = { ArrowRight: "nextElementSibling", ArrowLeft: "previousElementSibling" }[event.key];
  const card = event.target.closest(".hung");
  if (step && card?.[step]) {
    event.preventDefault();
    card[step].querySelector("h2 a").focus();
  }
}

if (keys) {
  keys.checked = stored() !== "off";
  keys.addEventListener("change", () => stored(keys.checked ? "on" : "off"));
  document.addEventListener("keydown", press);
}
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy]");
  if (button) copy(button);
});
document.querySelectorAll("details.delete").forEach(ask);
const next = document.getElementById("next");
if (next) follow(next);
