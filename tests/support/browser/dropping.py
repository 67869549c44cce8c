"""Drop pictures on the gallery as a user does, and observe the uploads."""

import re
from pathlib import Path
from typing import Any

from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client
from playwright.sync_api import Locator, Page, Request, Route, expect

from tests.support.browser.browser import WAIT_MS, Guest
from tests.support.images.pictures import encoded, quadrants

SESSIONS = re.compile(r"upload_id=")  # in the address of each
UPLOADS = re.compile(r"/gallery/uploads\?")
SHARED = {"Access-Control-Allow-Origin": "*"}

expect.set_options(timeout=WAIT_MS)


def picture(width: int = 64) -> bytes:
    return encoded(quadrants(width, 48))


def file(name: str = "one.png", data: bytes | None = None, kind: str = "image/png") -> Any:
    """Return a file as a file chooser gives it."""
    return {"name": name, "mimeType": kind, "buffer": picture() if data is None else data}


def choose(page: Page, *files: Any) -> None:
    page.set_input_files("#files", list(files))


def drag(page: Page, *paths: Path, drop: bool = True) -> None:
    """Drag files from outside over the foot of the page, and let go."""
    box = page.locator("footer").bounding_box()
    assert box
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    client = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop")[: 3 if drop else 2]:
        at = {"x": box["x"] + 5, "y": box["y"] + 5}
        client.send("Input.dispatchDragEvent", {"type": kind, "data": data} | at)


def row(page: Page, name: str) -> Locator:
    return page.locator("#uploads li.upload").filter(has=page.get_by_text(name, exact=True))


def cards(page: Page) -> Locator:
    return page.locator("#wall article.card")


def requests_of(page: Page, method: str, part: str) -> list[Request]:
    """Return a list to which the page's future requests are appended."""
    requests: list[Request] = []
    page.on(
        "request", lambda each: requests.append(each) if each.method == method and part in each.url else None
    )
    return requests


def ranges(puts: list[Request]) -> list[str]:
    return [each.headers["content-range"] for each in puts]


class Held:
    """Requests to the bucket that wait until they are let go."""

    def __init__(self, page: Page) -> None:
        self.waiting: list[Route] = []
        self.on = True
        page.route(SESSIONS, self._take)

    def _take(self, route: Route) -> None:
        if self.on and route.request.method == "PUT":
            self.waiting.append(route)
        else:
            route.continue_()

    def go(self) -> None:
        """Let them go, and all that come."""
        self.on = False
        for route in self.waiting:
            route.continue_()


def objects(visitor: Guest, bucket: str = "dropcap-uploads") -> list[str]:
    """Return the names of this user's objects, listed with the real client."""
    client = Client(
        "dropcap",
        AnonymousCredentials(),
        client_options={"api_endpoint": visitor.site.storage_url},
    )
    return [blob.name for blob in client.list_blobs(bucket, prefix=f"{visitor.user}/")]
