"""A zip that leaves while it is made: what stays in memory is its directory, in a small form."""

import datetime as dt
import io
import struct
from collections.abc import Iterator
from typing import IO, Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

# Of an entry: place, CRC, size, compressed size, time, permissions, method, flags, and the name's length.
PACKED = struct.Struct("<QIQQ6HIHHH")


class Archive:
    """Entries of any size and number (ZIP64 where it must be) under names that the caller gives once each.

    `take` has what was made since it was last asked; after `close` that is the end.
    """

    def __init__(self) -> None:
        self._made = _Made()
        self._zip = ZipFile(self._made, "w")
        self._zip.filelist = _Directory()

    def entry(self, name: str, at: dt.datetime, size: int, compressed: bool = False) -> IO[bytes]:
        """A file to write about `size` bytes to, and to close."""
        info = ZipInfo(name, at.timetuple()[:6])
        info.compress_type = ZIP_DEFLATED if compressed else ZIP_STORED
        info.file_size = size
        self._zip.NameToInfo.clear()  # zipfile's other list of all entries
        return self._zip.open(info, "w")

    def take(self) -> bytes:
        made = bytes(self._made.bytes)
        self._made.bytes.clear()
        return made

    def close(self) -> None:
        self._zip.close()


class _Made(io.RawIOBase):
    """What zipfile writes to: like a connection, it has no place to go back to."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = bytearray()

    def write(self, data: Any) -> int:
        self.bytes += data
        return len(data)


class _Directory(list[ZipInfo]):
    """zipfile's list of entries in 100 bytes each, where its own objects take 460."""

    def __init__(self) -> None:
        super().__init__()
        self._packed = bytearray()
        self._count = 0

    def append(self, info: ZipInfo) -> None:
        name = info.filename.encode()
        self._packed += PACKED.pack(
            info.header_offset,
            info.CRC,
            info.file_size,
            info.compress_size,
            *info.date_time,
            info.external_attr >> 16,
            info.compress_type,
            info.flag_bits,
            len(name),
        )
        self._packed += name
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[ZipInfo]:
        at = 0
        while at < len(self._packed):
            place, crc, size, packed, *time, mode, method, flags, length = PACKED.unpack_from(
                self._packed, at
            )
            at += PACKED.size + length
            info = ZipInfo(self._packed[at - length : at].decode(), tuple(time))
            info.header_offset, info.CRC, info.file_size, info.compress_size = place, crc, size, packed
            info.external_attr, info.compress_type, info.flag_bits = mode << 16, method, flags
            yield info
