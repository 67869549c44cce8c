"""A Chromium to look at the gallery with."""

import os
import shutil
import sys
from pathlib import Path

from playwright.sync_api import Browser, Playwright

SYSTEMS = ("chromium", "chromium-browser", "google-chrome")
MISSING = (
    "There is no Chromium: install Debian's (apt install chromium), or playwright's "
    f"({sys.executable} -m playwright install --with-deps chromium)."
)


def found(playwright: Playwright) -> Path | None:
    """Return the system's browser, else playwright's own if it is installed, else None."""
    candidates = [*map(shutil.which, SYSTEMS), playwright.chromium.executable_path]
    return next((Path(candidate) for candidate in candidates if candidate and Path(candidate).exists()), None)


def launched(playwright: Playwright, program: Path, *arguments: str) -> Browser:
    sandbox = os.geteuid() != 0  # root has none
    return playwright.chromium.launch(executable_path=program, args=arguments, chromium_sandbox=sandbox)
