// Load the current wall, from which other scripts take cards.

/** Load a page; return its `status` (0: no response), the `page` (null unless 200) and its `cards`, newest first. */
export function look(address) {
  return new Promise((resolve) => {
    const request = new XMLHttpRequest(); // it parses the page into a document, whose cards can be moved into this one
    request.responseType = "document";
    request.onloadend = () => {
      const page = request.status === 200 ? request.response : null;
      const notice = page?.getElementById("setup"); // also applies to the cards added to this page
      if (notice && !document.getElementById("setup")) document.getElementById("wall")?.before(notice);
      resolve({ status: request.status, page, cards: [...(page?.querySelectorAll("#wall > li") ?? [])] });
    };
    request.open("GET", address);
    request.send();
  });
}
