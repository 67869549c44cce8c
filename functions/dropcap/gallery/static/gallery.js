// Progressive enhancement: except for the copy buttons, everything also works without this script.

import { say } from "./announce.js";

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
  dialog.append(...question.childNodes);
  dialog.querySelector(".answers").append(cancel);
  dialog.setAttribute("aria-label", details.querySelector("summary").textContent);
  details.after(dialog);
  details.querySelector("summary").addEventListener("click", (event) => {
    event.preventDefault();
    dialog.showModal();
  });
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
  if (event.target.closest("input, textarea, select, pre")) return;
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
  const beside = { ArrowRight: "next", ArrowLeft: "prev" }[event.key];
  if (beside && !document.querySelector("dialog[open]")) document.querySelector(`.along [rel=${beside}]`)?.click();
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
const done = document.getElementById("done");
if (done) {
  say(done.textContent);
  const address = new URL(location);
  address.searchParams.delete("done"); // so that it is not said again
  history.replaceState(history.state, "", address);
}
