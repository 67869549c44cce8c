"""Encode an animated GIF or WebP as an animated WebP, with ANIMATED=1.

One frame is in memory at a time, in each size: decoded, resized, encoded. Durations, loops and transparency
are kept. An animation that is damaged, or takes too much time or memory, is published as its first frame.
Import this module only for an animation.
"""

import io
import logging
from collections.abc import Callable, Sequence

from PIL import Image

from dropcap.domain.analysis import PictureFacts
from dropcap.domain.naming import ANIMATED_FORMATS, CONTENT_TYPES, Encoded, Side
from dropcap.imaging import colour, decoder_errors, rasters
from dropcap.imaging.headers import properties
from dropcap.runtime.memory import Admit

logger = logging.getLogger(__name__)

MAX_FRAMES = 1000  # a minute and a half at the 12 frames a second that most GIFs have
# Px decoded and encoded for all frames in all sizes: 60 s on one core, and on a slower one still far below
# the LEASE_S that a stage may take. 200 frames of 1080 x 1080 px in three sizes are half of that.
MAX_PX = 2_000_000_000
# Method 4 takes twice the time for 4 % fewer bytes. Pillow's default, a key frame at least every 5 frames,
# takes twice the bytes.
ENCODING = {"method": 2, "kmin": 9, "kmax": 17}
SHORT_MS, DEFAULT_MS = 10, 100  # like browsers, show a frame of 10 ms or less for 100 ms
ALPHA = 0x10  # in the flags of VP8X (RFC 9649, 2.7)
MAX_LOOPS = 65_535  # developers.google.com/speed/webp/docs/riff_container: 16 bits


class Animation:
    """The frames of one upload: `data` are its bytes, `frames` is the number of frames."""

    def __init__(self, data: bytes, kind: str, frames: int) -> None:
        self.frames, self._data, self._kind, self._damaged = frames, data, kind, False

    def encode(self, side: Side, quality: int) -> Encoded | None:
        """Return an animated WebP that fits in `side`, without metadata; None if damaged."""
        if self._damaged:
            return None
        try:
            with decoder_errors.collect_warnings(self._kind):
                return self._encode(side, quality)
        except Exception as broken:  # hostile bytes make parsers raise anything
            decoder_errors.check_instance(broken, self._kind)
            self._damaged = True
            _log_still(f"a frame can't be read: {broken!r}")
            return None

    def _encode(self, side: Side, quality: int) -> Encoded:
        durations: list[int] = []  # ms; Pillow reads a frame's duration after the frame
        with Image.open(io.BytesIO(self._data), formats=(self._kind,)) as image, io.BytesIO() as file:
            canvas, turn = image.size, rasters.orientation(image)
            size = rasters.fit(canvas[::-1] if turn in rasters.SWAPPED_SIDES else canvas, side)
            colours = colour.colour_space(image, self._data)

            def frame(index: int) -> Image.Image:
                image.seek(index)
                if image.size != canvas:
                    raise ValueError(f"frame {index} is larger than the first")
                image.load()
                lasts = int(image.info.get("duration", 0))
                durations.append(lasts if lasts > SHORT_MS else DEFAULT_MS)
                shown = rasters.apply_orientation(_to_srgb(image, colours), turn)
                return shown.resize(size, Image.Resampling.LANCZOS, reducing_gap=rasters.REDUCING_GAP)

            first = frame(0)
            rest = _Frames(frame, self.frames - 1)
            first.save(
                file,
                "WEBP",
                save_all=True,
                append_images=[rest],
                duration=durations,
                loop=_loops(image),
                background=(0, 0, 0, 0),
                quality=quality,
                **ENCODING,
            )
            data = _with_alpha(file.getvalue()) if image.mode == "RGBA" else file.getvalue()
            return Encoded(data, *size, CONTENT_TYPES["webp"])


def _with_alpha(data: bytes) -> bytes:
    """Set the alpha flag of a WebP: libwebp omits it when opaque frames do not cover the canvas."""
    return data[:20] + bytes([data[20] | ALPHA]) + data[21:] if data[12:16] == b"VP8X" else data


class _Frames:
    """The frames after the first, in the form that Pillow's encoder takes; each is made on demand."""

    def __init__(self, frame: Callable[[int], Image.Image], n_frames: int) -> None:
        self.n_frames, self._frame = n_frames, frame

    def seek(self, index: int) -> None:
        self._shown = self._frame(index + 1)
        self.mode, self.getim = self._shown.mode, self._shown.getim


def open_animation(data: bytes, facts: PictureFacts, sizes: Sequence[Side], admit: Admit) -> Animation | None:
    """Return the animation in an upload, or None where only its first frame is published.

    None if its frames take too much time or memory. `sizes` are those that it will be encoded in; `admit`
    decides whether the memory that the frames need is available.
    """
    frames = count_frames(data, facts.format)
    if frames < 2:
        return None
    canvas = (facts.width, facts.height)
    areas = [width * height for width, height in (rasters.fit(canvas, side) for side in sizes)]
    px = frames * (len(areas) * canvas[0] * canvas[1] + sum(areas))
    if frames > MAX_FRAMES or px > MAX_PX:
        _log_still(f"it has {frames:,} frames or more, {px / 1e6:,.0f} megapixels to decode and encode")
        return None
    need = need_mb(canvas, max(areas), frames, len(data))
    index, left_mb = admit([need])
    if index is None:
        _log_still(f"its frames need {need:,.0f} MB of memory, and {max(left_mb, 0):,.0f} MB are left")
        return None
    return Animation(data, facts.format, frames)


def need_mb(canvas: tuple[int, int], px: int, frames: int, size: int) -> float:
    """Return the peak memory of the frames in MB, besides the `size` bytes of the source.

    `px` is the size of a frame in the largest rendition. The encoded file is in memory four times.
    """
    made = size + 0.02 * px * frames
    return (20 * canvas[0] * canvas[1] + 24 * px + 4 * made) / 1e6


def count_frames(data: bytes, kind: str) -> int:
    """Return the number of frames without decoding them; the count stops at a limit.

    Raises Rejected if the file is damaged.
    """
    if kind not in ANIMATED_FORMATS:
        return 1
    if kind == "GIF":
        return properties.count_gif_frames(data, MAX_FRAMES)
    with decoder_errors.translate_errors(kind), decoder_errors.read_header(kind, data) as image:
        return int(getattr(image, "n_frames", 1))


def _to_srgb(image: Image.Image, colours: colour.ColourSpace) -> Image.Image:
    """Return the image in sRGB, as RGB or RGBA."""
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return rasters.convert_to_srgb(image if image.mode == mode else image.convert(mode), colours)


def _loops(image: Image.Image) -> int:
    """Return how often it plays, 0 for endless. A GIF stores the repetitions, or nothing if it plays once."""
    loops = int(image.info.get("loop", 0))
    if image.format == "GIF" and (loops or "loop" not in image.info):
        loops = loops + 1
    return min(loops, MAX_LOOPS)


def _log_still(why: str) -> None:
    logger.warning(
        "the animation is published as its first frame",
        extra={"event": "animation_not_published", "problem": why},
    )
