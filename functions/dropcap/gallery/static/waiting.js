// Poll the uploads that were in progress when the page was rendered, until they are done.

import { look } from "./wall.js";

const FIRST_S = 1;
const LONGEST_S = 30;
const SLOWER = 1.5;
const GIVE_UP_S = 1800; // without a change

const wall = document.getElementById("wall");
let wait = FIRST_S;
let timer = 0;
let changedAt = Date.now();

const working = () => [...document.querySelectorAll(".waiting .working")];

function arm() {
  clearTimeout(timer);
  const hopeful = Date.now() - changedAt < GIVE_UP_S * 1000;
  if (hopeful && !document.hidden && working().length) timer = setTimeout(ask, wait * 1000);
}

async function ask() {
  const { page, cards } = await look(location.href);
  const moved = page && show(page, cards);
  if (moved) changedAt = Date.now();
  wait = moved ? FIRST_S : Math.min(wait * SLOWER, LONGEST_S);
  arm();
}

/** Update the uploads and the top of the wall from a new copy of the page. Returns whether anything changed. */
function show(page, cards) {
  let moved = false;
  for (const upload of working()) {
    const now = page.getElementById(upload.id);
    if (now?.textContent === upload.textContent) continue;
    const focused = upload.contains(document.activeElement);
    const section = upload.closest(".waiting");
    if (now) upload.replaceWith(now);
    else upload.remove();
    if (focused) (now ?? wall).querySelector("a")?.focus();
    if (!section.querySelector("li")) section.remove();
    moved = true;
  }
  const known = cards.findIndex((card) => document.getElementById(card.id));
  const fresh = known < 0 ? cards : cards.slice(0, known);
  if (moved) wall.prepend(...fresh);
  return moved;
}

document.addEventListener("visibilitychange", arm);
arm();
