"""The drop folder of `make run`: which files are uploaded, under which names, and where they lie afterwards.

drop/           files and folders that are to be uploaded
drop/done/      files that were uploaded
drop/refused/   files that were refused or rejected, each beside its reason: photo.jpg, photo.jpg.txt

A person drops anything here: names that are not UTF-8, pipes, links, files that are still being written. No
file blocks the others; each is uploaded or refused.
"""

import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import BinaryIO, NamedTuple

DONE, REFUSED = "done", "refused"
SETTLED_S = 1.0  # a file that has not changed for this long is complete
EMPTY_S = 10.0  # an empty one may be about to be written: Firefox makes it when a download begins
# Left alone: what the gallery leaves out of a folder, too (`visible` in static/files.js), and what Firefox,
# Chrome and Safari call a download until it is complete.
HIDDEN = re.compile(
    r"\.|(Thumbs\.db|desktop\.ini|.*\.(part|crdownload|download))\Z", re.IGNORECASE | re.DOTALL
)
KINDS = {
    stat.S_IFDIR: "a link to a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# fake-gcs-server writes to a file with a longer name first, and refuses from about 245 bytes on.
LONGEST_OBJECT = 200  # bytes
LONGEST_FILE = 255 - len(".txt")  # bytes: one path component, with room for its reason's ending
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # no object that is analyzed has a line break in its name


class Refused(Exception):
    """A file is not uploaded; the message says why."""


class Facts(NamedTuple):
    """What changes when a file does: its kind, its size in bytes, and when it was written."""

    mode: int
    size: int
    modified_ns: int

    @property
    def settles_s(self) -> float:
        """Return for how long it must not have changed."""
        return EMPTY_S if stat.S_ISREG(self.mode) and not self.size else SETTLED_S


class DropFolder:
    """The files that lie in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._unchanged: dict[Path, tuple[Facts, float]] = {}  # since when
        self._ignored: dict[Path, Facts] = {}
        self._emptied: set[Path] = set()

    def create(self) -> None:
        """Create it with its two areas. Raises OSError."""
        for area in (DONE, REFUSED):
            path = self.folder / area
            if os.path.lexists(path) and not path.is_dir():  # a file of that name is one to upload
                path.rename(_free(self.folder, f"{area} (file)"))
            path.mkdir(parents=True, exist_ok=True)

    def settled(self) -> list[Path]:
        """Return the files that have not changed for SETTLED_S, by name. Raises OSError."""
        self.create()
        found = []
        now, before, self._unchanged = time.monotonic(), self._unchanged, {}
        areas = (self.folder / DONE, self.folder / REFUSED)
        for path in files_in(self.folder, areas):
            facts = facts_of(path)
            if facts is None or self._ignored.get(path) == facts:
                continue
            known, since = before.get(path, (None, now))
            since = since if known == facts else now
            self._unchanged[path] = facts, since
            if now - since >= facts.settles_s:
                found.append(path)
        return found

    def ignore(self, path: Path) -> None:
        """Leave out a file, which can't be moved away, until it changes."""
        if facts := facts_of(path):
            self._ignored[path] = facts

    def move(self, path: Path, area: str) -> Path:
        """Move a file with its folders to an area, beside any that has its name; return its new path.

        Raises OSError.
        """
        done = self.folder / DONE
        *folders, name = path.relative_to(done if path.is_relative_to(done) else self.folder).parts
        target = self.folder / area
        for each in folders:
            target = _free(target, each, for_folder=True)
            target.mkdir(exist_ok=True)
        target = _free(target, name)
        shutil.move(path, target)
        self._emptied.add(path.parent)
        return target

    def refuse(self, path: Path, reason: str) -> Path:
        """Move a file to `refused`, with the reason beside it; return its new path. Raises OSError."""
        target = self.move(path, REFUSED)
        with suppress(OSError):  # a full disk: the terminal shows the reason, too
            _free(target.parent, f"{target.name}.txt").write_text(f"{reason}\n", encoding="utf-8")
        return target

    def tidy(self) -> None:
        """Delete the folders that are empty because all their files were moved away."""
        for folder in self._emptied:
            with suppress(OSError):  # there is more in it
                os.removedirs(folder)


def files_in(folder: Path, areas: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Yield what is below a folder, by name; not hidden files, folders, and what is in the `areas`.

    A folder that can't be read is yielded itself.
    """
    waiting = [(folder, True)]
    while waiting:  # not recursive: folders may be nested deeper than Python's stack
        path, is_folder = waiting.pop()
        try:
            found = sorted(_visible(path), reverse=True) if is_folder else []
        except OSError:
            if path == folder:
                raise
            is_folder = False
        if is_folder:
            waiting += [(path / name, below) for name, below in found if path / name not in areas]
        else:
            yield path


def _visible(folder: Path) -> Iterator[tuple[str, bool]]:
    """Yield the name of each entry that is not hidden, and whether it is a folder. Raises OSError."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if not HIDDEN.match(entry.name):
                yield entry.name, entry.is_dir(follow_symlinks=False)


def facts_of(path: Path) -> Facts | None:
    """Return the facts of a file; None if there is none any more."""
    for look in (path.stat, path.lstat):
        with suppress(OSError):
            found = look()
            return Facts(found.st_mode, found.st_size, found.st_mtime_ns)
    return None


@contextmanager
def opened(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """Open a file, or what a link leads to, with its size in bytes. Raises Refused if it can't be read."""
    try:
        if stat.S_ISDIR(path.lstat().st_mode):
            raise Refused("It is a folder that can't be read.")
        _check_kind(path.stat())  # before it is opened, which a device may notice
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # if it is a pipe by now, this does not wait
    except OSError as error:
        raise Refused(f"It can't be read: {error.strerror}.") from error
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        _check_kind(found)
        yield file, found.st_size


def _check_kind(found: os.stat_result) -> None:
    """Raise Refused for anything but a file."""
    if not stat.S_ISREG(found.st_mode):
        raise Refused(f"It is {KINDS.get(stat.S_IFMT(found.st_mode), 'something else')}, not a file.")


def object_names(path: Path) -> Iterator[str]:
    """Yield names for the object of a file: its own, then with numbers.

    A name that is not UTF-8 is read as Latin-1, the usual encoding before it.
    """
    data = os.fsencode(path.name)
    try:
        name = data.decode()
    except UnicodeDecodeError:
        name = data.decode("latin-1")
    return _numbered(CONTROL.sub("_", name), LONGEST_OBJECT)


def _numbered(name: str, longest: int) -> Iterator[str]:
    """Yield `a.jpg`, `a (2).jpg`, `a (3).jpg`, ..., each cut to `longest` bytes before its ending."""
    stem, ending = os.path.splitext(name)
    if len(ending) > len(".jpegxl"):
        stem, ending = name, ""
    head = stem.encode(errors="surrogateescape")
    for number in count(1):
        tail = ending if number == 1 else f" ({number}){ending}"
        room = longest - len(tail.encode(errors="surrogateescape"))
        yield (stem if len(head) <= room else head[:room].decode(errors="ignore")) + tail


def _free(folder: Path, name: str, for_folder: bool = False) -> Path:
    """Return a path for a new file, or for a folder that may be there already."""
    paths = (folder / each for each in _numbered(name, LONGEST_FILE))
    return next(
        path
        for path in paths
        if not os.path.lexists(path) or (for_folder and path.is_dir() and not path.is_symlink())
    )
