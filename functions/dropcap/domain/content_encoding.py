"""Content-Encoding of uploads: `gcloud storage cp --gzip-local-all` stores a picture as gzip.

Decompression stops at MAX_MB. Bytes that are not gzip, although the metadata says so, are used as they are:
browsers and proxies decompress what they pass on.
"""

import io
import zlib
from http import HTTPStatus

from dropcap.errors import Rejected

GZIP = frozenset({"gzip", "x-gzip"})  # equivalent: RFC 9110, 8.4.1.3
# All other content codings: iana.org/assignments/http-parameters, 2026-11.
OTHERS = frozenset({"aes128gcm", "br", "compress", "dcb", "dcz", "deflate", "exi", "pack200-gzip", "zstd"})
OTHERS |= {"x-compress"}
MAGIC = b"\x1f\x8b"  # RFC 1952, 2.3.1
CHUNK = 64 * 1024  # bytes: zlib copies the rest of a chunk after the end of a member
MEMBERS = 100  # in one file; a long series of empty ones could take hours


def check_supported(encoding: str, gzip: bool) -> None:
    """Raise Rejected for an unsupported Content-Encoding; `gzip` is whether gzip is supported."""
    words = [word.strip().lower() for word in encoding.split(",")]
    zipped = [word for word in words if word in GZIP]
    packed = [word for word in words if word in OTHERS] + zipped[gzip:]  # gzip inside gzip is not supported
    if packed:
        raise Rejected(
            "unsupported_encoding",
            f"The content encoding {packed[0]} is not supported.",
            "Send the picture as it is; an object of the uploads bucket may be gzip, once.",
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            {"Accept-Encoding": "identity"},  # RFC 9110, 15.5.16
        )


def decode(data: bytes, encoding: str, max_mb: int) -> bytes:
    """Return the bytes of an object with its Content-Encoding removed.

    Raises Rejected if they exceed `max_mb` MiB, the gzip is damaged, or the encoding is unsupported.
    """
    check_supported(encoding, gzip=True)
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
                    raise too_large(max_mb)
            at -= len(member.unused_data)
            if not data.startswith(MAGIC, at):  # gzip(1) ignores trailing bytes as well
                return out.getvalue()
    except zlib.error as damaged:
        raise _broken("it is damaged") from damaged
    raise _broken(f"it has more than {MEMBERS} parts")


def too_large(max_mb: int) -> Rejected:
    """Return the rejection of data beyond MAX_MB."""
    return Rejected(
        "too_many_bytes",
        f"The picture is larger than the limit of {max_mb} MiB.",
        "Send a smaller file, or raise MAX_MB.",
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    )


def _broken(why: str) -> Rejected:
    return Rejected(
        "broken_encoding",
        f"The picture's gzip encoding can't be decompressed: {why}.",
        "Upload the picture again, best without compression.",
        HTTPStatus.UNPROCESSABLE_ENTITY,
    )
