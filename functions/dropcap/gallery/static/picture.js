// The page of one picture: its neighbours, its full size, and words that are not saved yet.

const SWIPE_PX = 60;
const ZOOM = 1.5;
const large = document.getElementById("large");
const beside = (rel) => document.querySelector(`.along [rel=${rel}]`);

// Neighbours replace the page in the history: one step back leads to the wall, to the place that was left.
for (const link of document.querySelectorAll(".along [rel]")) {
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    location.replace(link.href);
  });
}

const back = document.getElementById("back");
back?.addEventListener("click", (event) => {
  const at = window.navigation?.currentEntry?.index; // Safari before 26.2 and Firefox before 147: follow the link
  const before = at > 0 && window.navigation.entries()[at - 1]?.url;
  if (!before || new URL(before).pathname !== new URL(back.href).pathname) return;
  event.preventDefault();
  history.back();
});

let start = null;
large?.addEventListener("touchstart", ({ touches }) => {
  start = touches.length === 1 && visualViewport.scale === 1 ? touches[0] : null;
}, { passive: true });
large?.addEventListener("touchend", ({ changedTouches: [end] }) => {
  const across = start ? end.clientX - start.clientX : 0;
  if (Math.abs(across) < SWIPE_PX || Math.abs(across) < 2 * Math.abs(end.clientY - start.clientY)) return;
  beside(across < 0 ? "next" : "prev")?.click();
}, { passive: true });

// The full size in a dialog. Without JavaScript the link opens the file, which browsers can zoom.
function view(link) {
  const dialog = document.createElement("dialog");
  dialog.className = "view";
  dialog.setAttribute("aria-label", "The picture in full size");
  const image = new Image();
  image.alt = link.querySelector("img").alt;
  const pan = document.createElement("div");
  pan.className = "pan";
  pan.tabIndex = 0; // so that arrow keys scroll
  pan.setAttribute("role", "region");
  pan.setAttribute("aria-label", "Picture");
  pan.append(image);
  let zoom = 1;
  /** Show the picture `to` times as large as it fits; `x`, `y` (0 to 1) is the point that stays in the middle. */
  const show = (to, x = (pan.scrollLeft + pan.clientWidth / 2) / pan.scrollWidth,
    y = (pan.scrollTop + pan.clientHeight / 2) / pan.scrollHeight) => {
    const fit = Math.min(pan.clientWidth / image.naturalWidth, pan.clientHeight / image.naturalHeight);
    zoom = Math.max(1, Math.min(to, Math.max(8, 2 / fit)));
    image.style.width = `${image.naturalWidth * fit * zoom}px`;
    image.classList.toggle("zoomed", zoom > 1);
    pan.scrollTo(x * pan.scrollWidth - pan.clientWidth / 2, y * pan.scrollHeight - pan.clientHeight / 2);
  };
  const controls = document.createElement("p");
  controls.className = "controls";
  for (const [name, act] of [["Smaller", () => show(zoom / ZOOM)], ["Larger", () => show(zoom * ZOOM)],
    ["Fit", () => show(1)], ["Close", () => dialog.close()]]) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "quiet";
    button.textContent = name;
    button.addEventListener("click", act);
    controls.append(button);
  }
  image.addEventListener("load", () => show(1));
  image.addEventListener("click", ({ offsetX, offsetY }) => {
    const fit = image.width / image.naturalWidth / zoom;
    show(zoom > 1 ? 1 : Math.max(2, 1 / fit), offsetX / image.width, offsetY / image.height);
  });
  addEventListener("resize", () => dialog.open && show(zoom));
  dialog.append(controls, pan);
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    if (!dialog.isConnected) document.body.append(dialog);
    dialog.showModal();
    if (image.src) show(1);
    else image.src = link.href;
  });
}

const full = large?.querySelector("a");
if (full) view(full);

// Unsaved words.
const fields = [...document.querySelectorAll("#words textarea")];
let saving = false;
for (const form of document.querySelectorAll("#words form, .delete form, dialog form")) {
  form.addEventListener("submit", () => { saving = true; });
}
addEventListener("beforeunload", (event) => {
  if (!saving && fields.some((each) => each.value !== each.defaultValue)) event.preventDefault();
});
