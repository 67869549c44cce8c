// Progressive enhancement: except for the copy buttons, everything also works without this script.

import { look } from "./wall.js";

const announcement = document.getElementById("announcement");

function say(text) {
  announcement.textContent = "";
  requestAnimationFrame(() => { announcement.textContent = text; }); // so that a repeated text is announced again
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

// A confirmation in a dialog; without JavaScript it opens in place.
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

// Append the next page when its link comes near, the first BY_ITSELF times without a click.
const AHEAD = "1200px";
const BY_ITSELF = 4;
let hung = 0;

/** Append the next page. `asked`: by a click, so an error opens the page; otherwise the link stays. */
async function load(link, asked) {
  link.setAttribute("aria-disabled", "true");
  const { status, page, cards } = await look(link.href);
  link.removeAttribute("aria-disabled");
  if (!cards.length) {
    if (asked && status) location.assign(link.href); // the page shows the error, such as a lost session
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

// Single-key shortcuts must have a switch (WCAG 2.1.4).
const keys = document.getElementById("keys");

function stored(value) {
  try {
    if (value) localStorage.setItem("keys", value);
    return localStorage.getItem("keys");
  } catch { // storage is not allowed
    return null;
  }
}

function press(event) {
  if (!keys?.checked || !keys.offsetParent || event.ctrlKey || event.metaKey || event.altKey) return;
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
