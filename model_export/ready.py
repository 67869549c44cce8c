"""Ready model folders, as `export` writes them: packed into an archive, installed from a folder or archive.

No PyTorch is needed. An archive is a plain tar file (POSIX ustar) of regular files without folders:
model.json, then the files that it lists. It is not compressed: gzip makes BLIP-base 14 % smaller, but each
version of zlib writes other bytes.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tarfile
import tempfile
import urllib.request
from http import HTTPStatus
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from dropcap.blip import Captioner, Card

from . import ROOT

DOWNLOADS = ROOT / "build" / "downloads"

CARD = "model.json"
MAX_BYTES = 4_000_000_000  # of all files; BLIP-large in fp32 has 1.9 GB
MAX_CARD_BYTES = 1_000_000
MAX_FILES = 32
TIMEOUT_S = 60  # without a byte
BLOCK = tarfile.BLOCKSIZE
CHUNK = 1 << 20
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
PIN = re.compile(r"sha256=([0-9a-f]{64})")
LOCAL = ("localhost", "127.0.0.1", "::1")


class InstallError(Exception):
    """The model cannot be packed or installed; the message says what to do."""


def archive(folder: Path, out: Path | None = None) -> tuple[Path, str]:
    """Write the model of `folder` into one file; return its path and SHA-256.

    The same files make the same bytes, everywhere. `out` None is build/NAME-REVISION.tar. Files that
    model.json does not list stay out. Raises ModelError and InstallError.
    """
    card = _card(folder)
    card.verify(folder)
    if out is None:
        out = ROOT / "build" / f"{re.sub(r'[^A-Za-z0-9._-]', '-', card.name)}-{card.revision}.tar"
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=out.parent, prefix=f".{out.name}-") as made:
        with tarfile.open(fileobj=made, mode="w", format=tarfile.USTAR_FORMAT) as packed:
            for name in (CARD, *sorted(card.files)):
                member = tarfile.TarInfo(name)  # mode 644, owner 0, time 0
                member.size = (folder / name).stat().st_size
                with (folder / name).open("rb") as file:
                    packed.addfile(member, file)
        made.seek(0)
        sha256 = hashlib.file_digest(made, "sha256").hexdigest()
        os.chmod(made.name, 0o644)
        os.replace(made.name, out)
        Path(made.name).touch()  # the context manager removes what has this name
    return out, sha256


def install(source: str, out: Path) -> Card:
    """Put the ready model of `source` in the place of the folder `out`; return its card.

    `source` is a folder, an archive, or the https address of one, which may end with #sha256=... to pin it.
    Each file is checked by the SHA-256 of model.json, and the model is loaded once. Any failure leaves what
    was there before. Raises ModelError and InstallError.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    place, _, fragment = source.partition("#")
    if fragment and not PIN.fullmatch(fragment):
        raise InstallError(f"{source}: what follows # must be sha256= and 64 hexadecimal digits")
    pin = fragment.removeprefix("sha256=")
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as work:
        made = Path(work) / "made"
        made.mkdir()
        if "://" in place:
            file = _download(place)
            try:
                _unpack(file, made, pin)
            finally:
                file.unlink()  # whole, so there is nothing to go on with
        elif (Path(place) / CARD).is_file():
            _copy(Path(place), made)
        elif Path(place).is_file():
            _unpack(Path(place), made, pin)
        else:
            raise InstallError(f"no model in {place}: name a folder with its {CARD}, or an archive of one")
        card = Card.read(made)
        card.verify(made)
        Captioner(made)  # what cannot be loaded must not be installed
        swap(made, out)
    return card


def swap(new: Path, out: Path) -> None:
    """Put `new` in the place of `out`: two renames, so that no half-written model is ever seen."""
    old = new.with_name("old")
    if out.exists():
        os.rename(out, old)
    try:
        os.rename(new, out)
    except OSError:
        if old.exists():
            os.rename(old, out)
        raise


def _card(folder: Path) -> Card:
    """The card of a folder whose file names are safe to read and write; raises ModelError, InstallError."""
    if (folder / CARD).stat().st_size > MAX_CARD_BYTES:
        raise InstallError(f"{folder / CARD} is larger than {MAX_CARD_BYTES:,} bytes: it is no model's")
    card = Card.read(folder)
    odd = next((name for name in card.files if not FILE_NAME.fullmatch(name) or name == CARD), None)
    if odd is not None:
        raise InstallError(f"{CARD} lists {odd!r}, which is no name of a model's file: nothing is installed")
    sizes = [size for size, _ in card.files.values()]
    if len(sizes) > MAX_FILES or min(sizes, default=-1) < 0 or sum(sizes) > MAX_BYTES:
        raise InstallError(
            f"{CARD} lists {len(sizes)} files of {sum(sizes):,} bytes: a model has at most {MAX_FILES} of"
            f" {MAX_BYTES:,}"
        )
    if sum(sizes) > (free := shutil.disk_usage(folder).free):
        raise InstallError(f"the disk has {free / 1e9:.1f} GB free, and {sum(sizes) / 1e9:.1f} are needed")
    return card


def _copy(source: Path, folder: Path) -> None:
    card = _card(source)
    for name in (CARD, *card.files):
        if not (source / name).is_file():
            raise InstallError(f"{source / name} is missing: export the model again")
        shutil.copyfile(source / name, folder / name)


def _unpack(file: Path, folder: Path, pin: str) -> None:
    """Write the files of an archive into `folder`, and nothing anywhere else; raises InstallError.

    It reads the headers itself, as tarfile would follow those of links, devices and sparse files.
    """
    with file.open("rb") as packed:
        if pin:
            if hashlib.file_digest(packed, "sha256").hexdigest() != pin:
                raise InstallError(
                    f"{file.name} is not the file whose SHA-256 was given: nothing is installed"
                )
            packed.seek(0)
        try:
            name, size = _member(packed)
            if name != CARD or size > MAX_CARD_BYTES:
                raise InstallError(f"{file.name} does not begin with {CARD}: take one of make model-archive")
            _write(packed, folder / name, size)
            sizes = {name: size for name, (size, _) in _card(folder).files.items()}
            while sizes:
                name, size = _member(packed)
                if sizes.pop(name, None) != size:
                    raise InstallError(f"{file.name} has {name!r}, which is not as {CARD} lists it")
                _write(packed, folder / name, size)
        except tarfile.TarError as wrong:
            raise InstallError(
                f"{file.name} is cut, or no archive of make model-archive ({wrong}): download it again"
            ) from wrong


def _member(packed: IO[bytes]) -> tuple[str, int]:
    """Name and size of the next file; anything that is no regular file raises InstallError."""
    member = tarfile.TarInfo.frombuf(packed.read(BLOCK), "utf-8", "surrogateescape")
    if member.type != tarfile.REGTYPE or member.size < 0:
        raise InstallError(f"the archive has {member.name!r}, which is no regular file: nothing is installed")
    return member.name, member.size


def _write(packed: IO[bytes], path: Path, size: int) -> None:
    with path.open("xb") as file:
        left = size
        while left:
            if not (chunk := packed.read(min(CHUNK, left))):
                raise tarfile.ReadError(f"{path.name} ends early")
            file.write(chunk)
            left -= len(chunk)
    packed.seek(-size % BLOCK, os.SEEK_CUR)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only to where a download may come from."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        _check_address(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_address(address: str) -> None:
    parts = urlsplit(address)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOCAL):
        raise InstallError(f"{address} is not encrypted: take an https:// address")


def _download(address: str) -> Path:
    """Return the file of an address; a download that broke off is resumed. Raises InstallError."""
    _check_address(address)
    DOWNLOADS.mkdir(parents=True, exist_ok=True)
    part = DOWNLOADS / (hashlib.sha256(address.encode()).hexdigest()[:16] + ".part")
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(address, headers={"User-Agent": "dropcap"})  # noqa: S310  checked above
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        # Honours HTTPS_PROXY and NO_PROXY.
        with urllib.request.build_opener(_Redirects).open(request, timeout=TIMEOUT_S) as answer:
            _receive(answer, part, have if answer.status == HTTPStatus.PARTIAL_CONTENT else 0)
    except HTTPError as refused:
        if refused.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink()  # of another file than is there now
        raise InstallError(
            f"{address} could not be downloaded: HTTP {refused.code}. Is the address right? Then try again."
        ) from refused
    except (OSError, HTTPException) as failed:
        raise InstallError(
            f"{address} could not be downloaded: {failed}. The same command goes on where it stopped."
        ) from failed
    return part


def _receive(answer: HTTPResponse, part: Path, have: int) -> None:
    length = answer.headers["Content-Length"]
    total = have + int(length) if length else None
    columns = TextColumn("downloading"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress, part.open("ab") as file:
        file.truncate(have)
        task = progress.add_task("", total=total, completed=have)
        while have <= MAX_BYTES and (chunk := answer.read(CHUNK)):
            file.write(chunk)
            have += len(chunk)
            progress.update(task, completed=have)
    if have > MAX_BYTES:
        part.unlink()
        raise InstallError(f"the archive has more than {MAX_BYTES / 1e9:.0f} GB: it is no model's")
    if total is not None and have < total:
        raise ConnectionError(f"it ended after {have:,} of {total:,} bytes")
