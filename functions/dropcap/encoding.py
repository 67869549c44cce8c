"""Content-Encoding of uploads: `gcloud storage cp --gzip-local-all` stores a picture as gzip.

What is unpacked is held to MAX_MB, too, and nothing is unpacked beyond. Where the bytes are no gzip although
the object says so, they may be the picture itself: browsers and proxies unpack what they pass on.
"""

import io
import zlib
from http import HTTPStatus

from dropcap.errors import Rejected

GZIP = frozenset({"gzip", "x-gzip"})  # the same: RFC 9110, 8.4.1.3
# All others that pack: iana.org/assignments/http-parameters, content codings, of 2026-11.
OTHERS = frozenset({"aes128gcm", "br", "compress", "dcb", "dcz", "deflate", "exi", "pack200-gzip", "zstd"})
OTHERS |= {"x-compress"}
MAGIC = b"\x1f\x8b"  # RFC 1952, 2.3.1
CHUNK = 64 * 1024  # bytes: of the rest behind a member zlib makes a copy
MEMBERS = 100  # of a file that many tools wrote one after the other; empty ones could go on for hours


def refuse(encoding: str, gzip: bool) -> None:
    """Raise Rejected where this is a Content-Encoding that we do not unpack; `gzip` says if that is one."""
    words = [word.strip().lower() for word in encoding.split(",")]
    zipped = [word for word in words if word in GZIP]
    packed = [word for word in words if word in OTHERS] + zipped[gzip:]  # gzip of gzip is none that we take
    if packed:
        raise Rejected(
            "unsupported_encoding",
            f"The content encoding {packed[0]} is not supported.",
            "Send the picture as it is; an object of the uploads bucket may be gzip, once.",
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            {"Accept-Encoding": "identity"},  # RFC 9110, 15.5.16
        )


def unpacked(data: bytes, encoding: str, max_mb: int) -> bytes:
    """Return the bytes of an object as they were before its Content-Encoding.

    Raises Rejected where they are more than `max_mb` MiB, no whole gzip, or packed otherwise.
    """
    refuse(encoding, gzip=True)
    if not GZIP & {word.strip().lower() for word in encoding.split(",")} or not data.startswith(MAGIC):
        return data
    out, most, at = io.BytesIO(), max_mb * 1024 * 1024, 0
    try:
        for _ in range(MEMBERS):
            member = zlib.decompressobj(16 + zlib.MAX_WBITS)
            while not member.eof:
                packed = member.unconsumed_tail
                if not packed:
                    packed = data[at : at + CHUNK]
                    at += len(packed)
                if not out.write(member.decompress(packed, CHUNK)) and not packed:
                    raise _broken("it is truncated")
                if out.tell() > most:
                    raise too_much(max_mb)
            at -= len(member.unused_data)
            if not data.startswith(MAGIC, at):  # what may be behind it gzip(1) leaves out as well
                return out.getvalue()
    except zlib.error as damaged:
        raise _broken("it is damaged") from damaged
    raise _broken(f"it has more than {MEMBERS} parts")


def too_much(max_mb: int) -> Rejected:
    """The refusal of what goes on when MAX_MB have come."""
    return Rejected(
        "too_many_bytes",
        f"The picture is larger than the {max_mb} MiB that are allowed.",
        "Send a smaller file, or raise MAX_MB.",
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    )


def _broken(why: str) -> Rejected:
    return Rejected(
        "broken_encoding",
        f"The picture's gzip encoding can't be decompressed: {why}.",
        "Upload the picture again, best as it is.",
        HTTPStatus.UNPROCESSABLE_ENTITY,
    )
