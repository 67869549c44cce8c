// The wall as it is now: pages that hang cards on theirs take them from here.

/** What a page shows now: its `status` (0: no answer), the `page`, null but for 200, and its `cards`, newest first. */
export function look(address) {
  return new Promise((resolve) => {
    const request = new XMLHttpRequest(); // which makes a document of it; a card that moves from there is ours
    request.responseType = "document";
    request.onloadend = () => {
      const page = request.status === 200 ? request.response : null;
      const notice = page?.getElementById("demonstration"); // of cards that this page gets, too
      if (notice && !document.getElementById("demonstration")) document.getElementById("wall")?.before(notice);
      resolve({ status: request.status, page, cards: [...(page?.querySelectorAll("#wall > li") ?? [])] });
    };
    request.open("GET", address);
    request.send();
  });
}
