"""A zip archive that is sent while it is made: only its directory stays in memory, in a compact form."""

import datetime as dt
import io
import json
from collections.abc import Iterator
from typing import IO, Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo


class Archive:
    """A zip archive with entries of any size and number (ZIP64 where needed); each name is used once.

    `take` returns the bytes made since its last call, and the rest of the archive after `close`.
    """

    def __init__(self) -> None:
        self._output = _Output()
        self._zip = ZipFile(self._output, "w")
        self._zip.filelist = _Directory()

    def entry(self, name: str, at: dt.datetime, size: int, compressed: bool = False) -> IO[bytes]:
        """Begin an entry of about `size` bytes: write them, then close it."""
        info = ZipInfo(name, at.timetuple()[:6])
        info.compress_type = ZIP_DEFLATED if compressed else ZIP_STORED
        info.file_size = size
        self._zip.NameToInfo.clear()  # zipfile's index of all entries by name
        return self._zip.open(info, "w")

    def take(self) -> bytes:
        made = bytes(self._output.made)
        self._output.made.clear()
        return made

    def close(self) -> None:
        self._zip.close()


class _Output(io.RawIOBase):
    """An output that can't be sought, like a connection."""

    def __init__(self) -> None:
        super().__init__()
        self.made = bytearray()

    def write(self, data: Any) -> int:
        self.made += data
        return len(data)


class _Directory(list[ZipInfo]):
    """zipfile's list of entries as lines of JSON: about 140 bytes each instead of 460."""

    FIELDS = (
        *("filename", "date_time", "header_offset", "CRC", "file_size", "compress_size", "external_attr"),
        *("compress_type", "flag_bits"),
    )

    def __init__(self) -> None:
        super().__init__()
        self._lines = bytearray()
        self._count = 0

    def append(self, info: ZipInfo) -> None:
        self._lines += json.dumps([getattr(info, name) for name in self.FIELDS]).encode() + b"\n"
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[ZipInfo]:
        for line in io.BytesIO(self._lines):
            info = ZipInfo()
            for name, value in zip(self.FIELDS, json.loads(line), strict=True):
                setattr(info, name, value)
            yield info
