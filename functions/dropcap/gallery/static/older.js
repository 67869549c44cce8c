// Append older pictures to the wall, and keep the place on it for whoever comes back.

import { say } from "./announce.js";
import { look } from "./wall.js";

const AHEAD = "1200px"; // how far before its link comes into view a page is appended
const BY_ITSELF = 4; // pages that are appended without a click
const SAVE_MS = 300; // after the last scroll; Safari allows 100 changes of the history in 30 s
let appended = 0;

/** Append the next page. `asked`: by a click, so an error opens the page; otherwise the link stays. */
async function load(link, asked) {
  link.setAttribute("aria-disabled", "true");
  const { status, page, cards } = await look(link.href);
  link.removeAttribute("aria-disabled");
  if (!cards.length) {
    if (asked && status) location.assign(link.href); // the page shows the error, such as a lost session
    return null;
  }
  const focused = link === document.activeElement;
  document.getElementById("wall").append(...cards);
  appended += 1;
  const next = page.getElementById("next");
  if (next) link.replaceWith(next);
  else link.parentElement.remove();
  if (focused) cards[0].querySelector("h2 a").focus();
  return { next, cards };
}

async function more(link, asked) {
  if (link.ariaDisabled) return;
  const loaded = await load(link, asked);
  if (!loaded) return;
  say(`${loaded.cards.length} older pictures.`);
  save();
  if (loaded.next) follow(loaded.next);
}

function follow(link) {
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    more(link, true);
  });
  if (appended >= BY_ITSELF) return;
  const observer = new IntersectionObserver(([entry]) => {
    if (!entry.isIntersecting) return;
    observer.disconnect();
    more(link, false);
  }, { rootMargin: AHEAD });
  observer.observe(link);
}

/** Save the place in the history: the appended pages, the first visible card, and its distance from the top. */
function save() {
  const card = [...document.querySelectorAll("#wall > li")].find((each) => each.getBoundingClientRect().bottom > 0);
  const focused = document.activeElement?.closest("#wall > li")?.id;
  const position = { appended, card: card?.id, top: card?.getBoundingClientRect().top, y: scrollY, focused };
  history.replaceState({ ...history.state, position }, "");
}

/** Append the pages that were there, and scroll to the place, unless the reader scrolls first. */
async function restore({ appended: pages, card, top, y, focused }) {
  let moved = false;
  const move = () => { moved = true; };
  for (const kind of ["wheel", "touchmove", "keydown"]) addEventListener(kind, move, { once: true, passive: true });
  for (let next = document.getElementById("next"); next && appended < pages;) {
    next = (await load(next, false))?.next;
  }
  if (moved) return;
  document.getElementById(focused)?.querySelector("h2 a").focus({ preventScroll: true });
  const anchor = y > 0 && document.getElementById(card);
  const to = anchor ? scrollY + anchor.getBoundingClientRect().top - top : y;
  scrollTo({ top: to, behavior: "instant" });
}

history.scrollRestoration = "manual"; // the browser would restore before the pages are there
if (history.state?.position) await restore(history.state.position);
const next = document.getElementById("next");
if (next) follow(next);
let timer = 0;
addEventListener("scroll", () => {
  clearTimeout(timer);
  timer = setTimeout(save, SAVE_MS);
}, { passive: true });
document.addEventListener("click", save); // before a link is followed; Enter clicks it, too
