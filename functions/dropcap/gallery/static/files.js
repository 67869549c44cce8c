// File sources: dropped anywhere on the page, pasted, or chosen. Detects files that are not pictures.

import { Problem } from "./transfer.js";

export const MOST = 5000; // files in the queue
// Signatures of JPEG, PNG, GIF, WebP, BMP, TIFF, HEIF and AVIF. The function validates the rest.
const PICTURE = /^(\xff\xd8\xff|\x89PNG|GIF8|RIFF....WEBP|BM|II\*\0|MM\0\*|....ftyp)/s;

/** Return the Problem with a file that is visible without reading it, or null. */
export function wrong(file) {
  if (file.problem) return file.problem;
  const most = Number(document.getElementById("uploads").dataset.maxMb);
  if (!file.size) return new Problem("The file is empty.", "Choose another copy.");
  if (file.size > most * 1048576) {
    const mib = (file.size / 1048576).toFixed(1);
    return new Problem(`The picture has ${mib} MiB; the limit is ${most} MiB.`, "Send a smaller file.");
  }
  // The type is "" if the system does not know it, as HEIC on some.
  return file.type && !file.type.startsWith("image/") ? noPicture() : null;
}

export const noPicture = () => new Problem("The file is not a picture that can be processed.", "Send JPEG, PNG, WebP, GIF, TIFF, BMP, HEIF or AVIF.");

/** Return whether the file begins like a picture; true if it can't be read, because the upload reports that better. */
export async function isPicture(file) {
  const head = await file.slice(0, 12).arrayBuffer().catch(() => null);
  return !head || PICTURE.test(String.fromCharCode(...new Uint8Array(head)));
}

let ours = false; // whether the page's own content is dragged
const hasFiles = (event) => !ours && event.dataTransfer?.types.includes("Files");

function over(is) {
  document.documentElement.classList.toggle("over", is);
  document.getElementById("drop-target").hidden = !is;
}

/** Return a placeholder for an entry that can't be uploaded, with its Problem. */
export const noFile = (name, problem) => Object.assign(new File([], name), { problem });

/** Return the files of a dropped entry; of a folder all files below it, except hidden ones. */
async function filesIn(entry) {
  if (entry instanceof File) return [entry];
  const lost = () => [noFile(entry.name, new Problem("The file can't be read.", "Check its permissions."))];
  if (entry.isFile) return new Promise((resolve) => entry.file((file) => resolve([file]), () => resolve(lost())));
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((resolve) => reader.readEntries(resolve, () => resolve(null)));
    if (!some) return [...found, ...lost()];
    if (!some.length || found.length > MOST) return found;
    for (const each of some.filter(visible)) found.push(...await filesIn(each));
  }
}

const visible = ({ name }) => !/^(\.|Thumbs\.db$|desktop\.ini$)/i.test(name);

/** Call `add` with the files of each drop, paste and choice. */
export function sources(add) {
  document.addEventListener("dragstart", () => { ours = true; });
  document.addEventListener("dragend", () => { ours = false; });
  document.addEventListener("dragenter", (event) => hasFiles(event) && over(true));
  document.addEventListener("dragleave", (event) => event.relatedTarget ?? over(false));
  document.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault(); // else the browser would open the file
    event.dataTransfer.dropEffect = "copy";
  });
  document.addEventListener("drop", async (event) => {
    over(false);
    if (!hasFiles(event)) return;
    event.preventDefault();
    const items = [...event.dataTransfer.items].filter((item) => item.kind === "file");
    const entries = items.map((item) => item.webkitGetAsEntry() ?? item.getAsFile()); // gone after the first await
    add((await Promise.all(entries.map(filesIn))).flat());
  });
  document.addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    if (!files.length || event.target.closest?.("input, textarea")) return;
    event.preventDefault();
    add(files);
  });
  for (const input of document.querySelectorAll("#files, #folder, #camera")) {
    input.addEventListener("change", () => {
      add(input.id === "folder" ? [...input.files].filter(visible) : [...input.files]);
      input.value = ""; // so that the same file can be chosen again
    });
  }
}
