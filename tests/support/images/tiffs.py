"""TIFFs written by hand from known values: every layout of samples that no library writes (TIFF 6.0)."""

import struct
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

WHITE_IS_ZERO, GREY, RGB, PALETTE, CMYK, LAB = 0, 1, 2, 3, 5, 8  # PhotometricInterpretation
UNSIGNED, SIGNED, FLOAT = 1, 2, 3  # SampleFormat
SHORT, LONG, UNDEFINED = 3, 4, 7  # field types


def tiff(
    samples: npt.NDArray[np.generic],
    photometric: int,
    bits: int,
    kind: int = UNSIGNED,
    extra: Sequence[int] = (),
    *,
    big: bool = False,
    planar: bool = False,
    tags: Iterable[tuple[int, int, Sequence[int]]] = (),
) -> bytes:
    """Return an uncompressed TIFF of `samples` (height, width, channels), stored as they are.

    `extra` are the kinds of the channels after those of the colour; `tags` are further (tag, type, values).
    """
    order, (height, width, channels) = ">" if big else "<", samples.shape
    planes = [samples[:, :, at] for at in range(channels)] if planar else [samples.reshape(height, -1)]
    strips = [_packed(plane, bits, kind, order) for plane in planes]
    fields: list[tuple[int, int, Sequence[int]]] = [
        (256, LONG, (width,)),
        (257, LONG, (height,)),
        (258, SHORT, (bits,) * channels),
        (259, SHORT, (1,)),
        (262, SHORT, (photometric,)),
        (277, SHORT, (channels,)),
        (278, LONG, (height,)),
        (279, LONG, [len(strip) for strip in strips]),
        (284, SHORT, (2 if planar else 1,)),
        (339, SHORT, (kind,) * channels),
        *([(338, SHORT, extra)] if extra else []),
        *tags,
    ]
    offsets = np.cumsum([8, *map(len, strips)]).tolist()
    fields.append((273, LONG, offsets[:-1]))
    ifd, tail, end = b"", b"", offsets[-1] + 2 + 12 * len(fields) + 4
    for tag, form, values in sorted(fields):
        body = struct.pack(f"{order}{len(values)}{ {SHORT: 'H', LONG: 'I', UNDEFINED: 'B'}[form] }", *values)
        ifd += struct.pack(f"{order}HHI", tag, form, len(values))
        if len(body) <= 4:
            ifd += body.ljust(4, b"\0")
        else:
            ifd += struct.pack(f"{order}I", end + len(tail))
            tail += body + b"\0" * (len(body) % 2)
    head = (b"MM" if big else b"II") + struct.pack(f"{order}HI", 42, offsets[-1])
    return head + b"".join(strips) + struct.pack(f"{order}H", len(fields)) + ifd + b"\0\0\0\0" + tail


def _packed(plane: npt.NDArray[np.generic], bits: int, kind: int, order: str) -> bytes:
    """Return the rows of a strip; samples that are no whole bytes lie bit by bit, rows end at a byte."""
    if kind == FLOAT or bits in (8, 16, 32, 64):
        form = {UNSIGNED: "u", SIGNED: "i", FLOAT: "f"}[kind]
        return plane.astype(f"{order}{form}{bits // 8}").tobytes()
    spread = (plane.astype(np.int64)[:, :, None] >> np.arange(bits)[::-1]) & 1
    body = np.packbits(spread.reshape(len(plane), -1).astype(np.uint8), axis=1).tobytes()
    return body if len(body) % 2 == 0 else body + b"\0"
