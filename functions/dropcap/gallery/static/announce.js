const announcement = document.getElementById("announcement");

/** Have screen readers announce a text. */
export function say(text) {
  announcement.textContent = "";
  requestAnimationFrame(() => { announcement.textContent = text; }); // so that a repeated text is announced again
}
