// Where files come from: dropped anywhere on the page, pasted, or chosen; and which of them are no pictures.

import { Problem } from "./transfer.js";

export const MOST = 5000; // that can wait
// JPEG, PNG, GIF, WebP, BMP, TIFF, HEIF and AVIF. What is behind that is the function's to judge.
const PICTURE = /^(\xff\xd8\xff|\x89PNG|GIF8|RIFF....WEBP|BM|II\*\0|MM\0\*|....ftyp)/s;

/** The Problem with a file that shows before a byte of it is read, or null. */
export function wrong(file) {
  if (file.problem) return file.problem;
  const most = Number(document.getElementById("uploads").dataset.maxMb);
  if (!file.size) return new Problem("The file is empty.", "Look for another copy of it.");
  if (file.size > most * 1048576) {
    const mib = (file.size / 1048576).toFixed(1);
    return new Problem(`The picture has ${mib} MiB; the limit is ${most} MiB.`, "Send a smaller file.");
  }
  // A type that nobody knows is "": a system that knows no HEIC, say.
  return file.type && !file.type.startsWith("image/") ? noPicture() : null;
}

export const noPicture = () => new Problem("The file is not a picture that can be processed.", "Send JPEG, PNG, WebP, GIF, TIFF, BMP, HEIF or AVIF.");

/** Whether its first bytes are those of a picture; true where they can't be read, which the upload says better. */
export async function isPicture(file) {
  const head = await file.slice(0, 12).arrayBuffer().catch(() => null);
  return !head || PICTURE.test(String.fromCharCode(...new Uint8Array(head)));
}

let ours = false; // what is dragged from the page itself
const brings = (event) => !ours && event.dataTransfer?.types.includes("Files");

function over(is) {
  document.documentElement.classList.toggle("over", is);
  document.getElementById("drop-target").hidden = !is;
}

/** What stands in the list for what is no file: it says why. */
export const noFile = (name, problem) => Object.assign(new File([], name), { problem });

/** The files in what was dropped: a folder's too, but for hidden ones, and those of its folders. */
async function filesIn(entry) {
  if (entry instanceof File) return [entry];
  const lost = () => [noFile(entry.name, new Problem("It can't be read.", "Look whether you may read it."))];
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

/** Hand on files as they come. */
export function sources(add) {
  document.addEventListener("dragstart", () => { ours = true; });
  document.addEventListener("dragend", () => { ours = false; });
  document.addEventListener("dragenter", (event) => brings(event) && over(true));
  document.addEventListener("dragleave", (event) => event.relatedTarget ?? over(false));
  document.addEventListener("dragover", (event) => {
    if (!brings(event)) return;
    event.preventDefault(); // or the page would leave for the file, wherever it is dropped
    event.dataTransfer.dropEffect = "copy";
  });
  document.addEventListener("drop", async (event) => {
    over(false);
    if (!brings(event)) return;
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
