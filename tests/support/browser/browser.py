"""Fixtures: a real browser, a real local stack, and a user of its gallery."""

import asyncio
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Playwright, Request, WebError, sync_playwright

from dropcap.settings import Settings
from infra.local.stack import STAND_IN, Stack
from tests.support.browser.chromium import MISSING, found, launched

WAIT_MS = 60_000  # for what takes a second where nothing else runs
INSTALL_S = 200
ARGUMENTS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """One browser for each test worker: the system's, else playwright's own, which is installed if it can be.

    Without one, what needs it is skipped by name; with CHROMIUM=required, as in CI, it fails.
    """
    with sync_playwright() as playwright:
        loop = asyncio.get_running_loop()
        program = found(playwright) or _installed(playwright)
        if not program:
            (pytest.fail if os.environ.get("CHROMIUM") == "required" else pytest.skip)(MISSING)
        browser = launched(playwright, program, *ARGUMENTS)
        asyncio._set_running_loop(None)
        yield browser
        asyncio._set_running_loop(loop)
        browser.close()


def _installed(playwright: Playwright) -> Path | None:
    """Return playwright's own browser, installed now; None if it can't be installed."""
    command = [sys.executable, "-m", "playwright", "install", "chromium"]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=INSTALL_S)
    except subprocess.SubprocessError:
        return None
    return found(playwright)


@contextmanager
def looping(browser: Browser) -> Iterator[None]:
    """Hide playwright's event loop, which it leaves as this thread's, so that others can run their own."""
    asyncio._set_running_loop(browser._loop)
    try:
        yield
    finally:
        asyncio._set_running_loop(None)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One local stack with the stand-in for Gemini, for each test worker that looks at the gallery.

    Its other settings are the defaults, whatever is in the environment of the tests, such as a Gemini key.
    """
    ours = {item.name.upper() for item in fields(Settings)}
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    environment["GEMINI_API_KEY"] = STAND_IN
    with Stack(tmp_path_factory.mktemp("site") / "state", environment=environment) as stack:
        yield stack


@dataclass
class Guest:
    """Somebody at the gallery, whose name nobody else has.

    `problems` are what a browser should never have to say: errors of a script or on the console, violations
    of the content security policy, requests to an address that is neither the site's nor its storage's. A
    test fails on them, but for those that match one of the patterns in `expected`.
    """

    page: Page
    site: Stack
    user: str
    expected: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        context = self.page.context
        context.on("console", self._console)
        context.on("weberror", self._error)
        context.on("request", self._request)

    def address(self, path: str = "/", **query: str) -> str:
        """Return the URL of a page of the gallery, for this user."""
        return f"{self.site.url}/gallery{path}?{urlencode({'user': self.user} | query)}"

    def open(self, path: str = "/", **query: str) -> Page:
        """Go to a page of the gallery."""
        answer = self.page.goto(self.address(path, **query))
        assert answer is not None
        assert answer.ok, f"{answer.status} {answer.text()}"
        return self.page

    def check(self) -> None:
        """Fail on what should never have been."""
        unexpected = [each for each in self.problems if not any(re.search(p, each) for p in self.expected)]
        assert not unexpected, "\n".join(unexpected)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.problems.append(f"console: {message.text} ({message.location['url']})")

    def _error(self, error: WebError) -> None:
        self.problems.append(f"script: {error.error}")

    def _request(self, request: Request) -> None:
        if not request.url.startswith((f"{self.site.url}/", f"{self.site.storage_url}/", "blob:", "data:")):
            self.problems.append(f"request to another address: {request.url}")


@pytest.fixture
def guest(chromium: Browser, site: Stack) -> Iterator[Callable[..., Guest]]:
    """Start a browser of one's own for a new user; keywords are options of playwright's `new_context`."""
    usual = {"locale": "en-GB", "timezone_id": "Europe/Madrid", "reduced_motion": "reduce"}
    with looping(chromium), ExitStack() as open_contexts:
        guests = []

        def start(**options: object) -> Guest:
            context = chromium.new_context(**usual | options)  # type: ignore[arg-type]
            open_contexts.callback(context.close)
            context.set_default_timeout(WAIT_MS)
            guests.append(Guest(context.new_page(), site, f"guest-{uuid.uuid4().hex[:12]}"))
            return guests[-1]

        yield start
        for each in guests:
            each.check()


@pytest.fixture
def visitor(guest: Callable[..., Guest]) -> Guest:
    """Return a new user with a browser of the usual size."""
    return guest()
