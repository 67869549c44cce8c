"""Download a model archive by https, with a size limit; an interrupted download is resumed."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import urllib.request
from http import HTTPStatus
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from .. import ROOT

DOWNLOADS = ROOT / "build" / "downloads"
MAX_BYTES = 4_000_000_000  # of all files of a model; BLIP-large in fp32 has 1.9 GB
TIMEOUT_S = 60  # without receiving a byte
CHUNK = 1 << 20
LOCAL = ("localhost", "127.0.0.1", "::1")


class InstallError(Exception):
    """The model cannot be packed or installed; the message says what to do."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow a redirect only to an allowed address."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        _check_address(newurl, local=_is_local(req.full_url))  # no remote page may redirect to a local server
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_address(address: str, local: bool = True) -> None:
    """Raise InstallError unless the address is https, or, with `local`, on this machine."""
    if urlsplit(address).scheme != "https" and not (local and _is_local(address)):
        raise InstallError(f"{address} is not encrypted: take an https:// address")


def _is_local(address: str) -> bool:
    parts = urlsplit(address)
    return parts.scheme == "http" and parts.hostname in LOCAL


def download(address: str) -> Path:
    """Download an address and return the file, which the caller removes. Raises InstallError.

    An interrupted download is resumed.
    """
    try:
        _check_address(address)
        address.encode("ascii")
    except ValueError as odd:
        raise InstallError(f"{address!r} is no address ({odd}): write it as a browser copies it") from odd
    DOWNLOADS.mkdir(parents=True, exist_ok=True)
    part = DOWNLOADS / (hashlib.sha256(address.encode()).hexdigest()[:16] + ".part")
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(address, headers={"User-Agent": "dropcap"})  # noqa: S310  checked above
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        # Uses HTTPS_PROXY and NO_PROXY.
        with urllib.request.build_opener(_Redirects).open(request, timeout=TIMEOUT_S) as answer:
            _receive(answer, part, have if answer.status == HTTPStatus.PARTIAL_CONTENT else 0)
    except HTTPError as refused:
        if refused.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink()  # the file on the server has changed
        raise InstallError(
            f"{address} could not be downloaded: HTTP {refused.code}. Is the address right? Then try again."
        ) from refused
    except (OSError, HTTPException) as failed:
        raise InstallError(
            f"{address} could not be downloaded: {failed}. The same command goes on where it stopped."
        ) from failed
    return part


def _receive(answer: HTTPResponse, part: Path, have: int) -> None:
    total = None if answer.length is None else have + answer.length
    if total and total - have > (free := shutil.disk_usage(part.parent).free):
        raise InstallError(f"the disk has {free / 1e9:.1f} GB free, and {total / 1e9:.1f} are needed")
    columns = TextColumn("downloading"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress, part.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as taken:
            raise InstallError(f"{part} is being downloaded by another make model: wait for it") from taken
        file.truncate(have)
        task = progress.add_task("", total=total, completed=have)
        while have <= MAX_BYTES and (chunk := answer.read1(CHUNK)):  # what is there
            file.write(chunk)
            have += len(chunk)
            progress.update(task, completed=have)
    if have > MAX_BYTES:
        part.unlink()
        raise InstallError(f"the archive has more than {MAX_BYTES / 1e9:.0f} GB: it is no model's")
    if total is not None and have < total:
        raise ConnectionError(f"it ended after {have:,} of {total:,} bytes")
