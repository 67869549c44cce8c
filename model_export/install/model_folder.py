"""Pack exported model folders into an archive, and install them from a folder or an archive.

No PyTorch is needed. An archive is a plain tar file (POSIX ustar) of regular files without folders:
model.json, then the files that it lists. It is not compressed: gzip would make BLIP-base 14 % smaller, but
its output differs between versions of zlib.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import IO

from PIL import Image

from dropcap.captioning.blip import Captioner, Card
from dropcap.captioning.graphs import REMEDY, ModelError

from .. import ROOT
from .download import CHUNK, MAX_BYTES, download
from .download import InstallError as InstallError

CARD = "model.json"
LICENCE_FILE = "LICENSE"
MAX_CARD_BYTES = 1_000_000
MAX_FILES = 32
MAX_WHY = 300  # characters of a library's error message
BLOCK = tarfile.BLOCKSIZE
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
PIN = re.compile(r"sha256=([0-9a-f]{64})")


def archive(folder: Path, out: Path | None = None) -> tuple[Path, str]:
    """Write the model of `folder` into one file; return its path and SHA-256.

    The output is reproducible. `out` None is build/NAME-REVISION.tar. Files that
    model.json does not list stay out. Raises ModelError and InstallError.
    """
    card = _card(folder)
    card.verify(folder)
    if LICENCE_FILE not in card.files:
        raise InstallError(f"{folder} has no {LICENCE_FILE}, which belongs to its weights: export it again")
    if out is None:
        out = ROOT / "build" / (re.sub(r"[^A-Za-z0-9._-]", "-", f"{card.name}-{card.revision}") + ".tar")
    with _written(out), NamedTemporaryFile(dir=_made(out.parent), prefix=f".{out.name}-") as made:
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
        Path(made.name).touch()  # the context manager deletes the file of this name
    return out, sha256


def install(source: str, out: Path) -> Card:
    """Replace the folder `out` by the model of `source`; return its card.

    `source` is a folder, an archive, or the https address of one, which may end with #sha256=... to pin it.
    Each file is checked by the SHA-256 of model.json, and the model is loaded once. On failure the
    old model stays. Raises ModelError and InstallError.
    """
    location, _, fragment = source.partition("#")
    if fragment and not PIN.fullmatch(fragment):
        raise InstallError(f"{source}: what follows # must be sha256= and 64 hexadecimal digits")
    pin = fragment.removeprefix("sha256=")
    with _written(out), TemporaryDirectory(dir=_made(out.parent), prefix=f".{out.name}-") as work:
        made = Path(work) / "made"
        made.mkdir()
        with _named(location, made):
            if "://" in location:
                file = download(location)
                try:
                    _unpack(file, made, pin, location)
                finally:
                    file.unlink(missing_ok=True)  # complete, so that there is nothing to resume
            elif is_file(Path(location) / CARD):
                if pin:
                    raise InstallError(
                        f"{source}: a SHA-256 is of an archive, and {location} is a folder: omit it"
                    )
                _copy(Path(location), made)
            elif is_file(Path(location)):
                _unpack(Path(location), made, pin, location)
            else:
                raise InstallError(
                    f"no model in {location}: name a folder with its {CARD}, or an archive of one"
                )
            # Files may match the card and still not fit each other: another input size, another decoder.
            captioner = Captioner(made)
            captioner.caption(Image.new("RGB", (8, 8)), max_tokens=2)
        swap(made, out)
    return captioner.card


@contextmanager
def _named(source: str, folder: Path) -> Iterator[None]:
    """Translate errors about the model in the temporary `folder` to InstallError, naming the source."""
    try:
        yield
    except (ModelError, ValueError, LookupError) as wrong:  # NumPy raises these if shapes do not match
        why = (
            str(wrong)
            .replace(f"{folder}/", "")
            .replace(f"{source}/", "")
            .replace(str(folder), "it")
            .removesuffix(f": {REMEDY}.")
        )
        line = " ".join("".join(c if c.isprintable() else " " for c in why).split())[:MAX_WHY]
        raise InstallError(f"the model of {source} can't be used ({line}): take another") from wrong


def swap(new: Path, out: Path) -> None:
    """Replace `out` by `new` in two renames, so that no partially written model is visible."""
    old = new.with_name("old")
    try:
        if out.exists():
            os.rename(out, old)
        os.rename(new, out)
    except BaseException:  # Ctrl-C between the two, as well
        if old.exists() and not out.exists():
            os.rename(old, out)
        raise


@contextmanager
def _written(out: Path) -> Iterator[None]:
    """Translate system errors about `out` to InstallError: no permission, a full disk, no folder."""
    try:
        yield
    except OSError as failed:
        raise InstallError(
            f"{out} could not be written: {failed}. It is left as it was; see to its folder and its disk"
        ) from failed


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def is_file(path: Path) -> bool:
    """Return whether a file exists; False for a name that is too long, for which `is_file` raises OSError."""
    try:
        return path.is_file()
    except OSError:
        return False


def _card(folder: Path) -> Card:
    """Return the card of a folder, its file names checked. Raises ModelError and InstallError."""
    if is_file(folder / CARD) and (folder / CARD).stat().st_size > MAX_CARD_BYTES:
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


def _unpack(file: Path, folder: Path, pin: str, source: str) -> None:
    """Unpack an archive from `source` into `folder`. Raises InstallError.

    Reads the headers itself, because tarfile would follow links, devices and sparse files.
    """
    with file.open("rb") as packed:
        if pin:
            if hashlib.file_digest(packed, "sha256").hexdigest() != pin:
                raise InstallError(f"{source} is not the file whose SHA-256 was given: nothing is installed")
            packed.seek(0)
        try:
            name, size = _member(packed)
            if name != CARD or size > MAX_CARD_BYTES:
                raise InstallError(f"{source} does not begin with {CARD}: take one of make model-archive")
            _write(packed, folder / name, size)
            sizes = {name: size for name, (size, _) in _card(folder).files.items()}
            while sizes:
                name, size = _member(packed)
                if sizes.pop(name, None) != size:
                    raise InstallError(f"{source} has {name!r}, which is not as {CARD} lists it")
                _write(packed, folder / name, size)
        except tarfile.TarError as wrong:
            raise InstallError(
                f"{source} is cut, or no archive of make model-archive ({wrong}): download it again"
            ) from wrong


def _member(packed: IO[bytes]) -> tuple[str, int]:
    """Return name and size of the next member. Raises InstallError unless it is a regular file."""
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
