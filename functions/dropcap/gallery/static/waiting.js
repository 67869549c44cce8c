// What was in work when the page was made, dropped before or elsewhere, is looked after until it is done.

const FIRST_S = 1;
const LONGEST_S = 30;
const SLOWER = 1.5;
const GIVE_UP_S = 1800; // without news

const wall = document.getElementById("wall");
let wait = FIRST_S;
let timer = 0;
let newsAt = Date.now();

const working = () => [...document.querySelectorAll(".waiting .working")];

function arm() {
  clearTimeout(timer);
  const hopeful = Date.now() - newsAt < GIVE_UP_S * 1000;
  if (hopeful && !document.hidden && working().length) timer = setTimeout(look, wait * 1000);
}

function look() {
  const request = new XMLHttpRequest();
  request.responseType = "document";
  request.addEventListener("loadend", () => {
    const moved = request.status === 200 && request.response && show(request.response);
    if (moved) newsAt = Date.now();
    wait = moved ? FIRST_S : Math.min(wait * SLOWER, LONGEST_S);
    arm();
  });
  request.open("GET", location.href);
  request.send();
}

/** Bring the uploads, and the top of the wall, to what the page would show now; whether any has moved. */
function show(page) {
  let moved = false;
  for (const upload of working()) {
    const now = page.getElementById(upload.id);
    if (now?.textContent === upload.textContent) continue;
    const focused = upload.contains(document.activeElement);
    const section = upload.closest(".waiting");
    if (now) upload.replaceWith(document.adoptNode(now));
    else upload.remove();
    if (focused) (now ?? wall).querySelector("a")?.focus();
    if (!section.querySelector("li")) section.remove();
    moved = true;
  }
  const cards = [...page.querySelectorAll("#wall > li")];
  const known = cards.findIndex((card) => document.getElementById(card.id));
  const fresh = known < 0 ? cards : cards.slice(0, known);
  if (moved) wall.prepend(...fresh.map((card) => document.adoptNode(card)));
  return moved;
}

document.addEventListener("visibilitychange", arm);
arm();
