"""Open pictures in confined child processes: the function's side of the sandbox.

    with client.open_picture(body, settings, services.make_room) as picture:
        picture.facts                             format, size and pages
        picture.raster(BLIP_SIDE)                 a raster for a model
        picture.encode(800, "webp", 80)           a rendition

A child that dies gives an answer at once: Rejected if the picture is the cause, NotDecoded if the instance
is. Either way the function, and the next picture, are unharmed. What a child answers is checked: a crafted
picture may have taken it over.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from http import HTTPStatus
from math import ceil
from types import TracebackType
from typing import Any, Self

from PIL import Image

from dropcap.domain.body import Body
from dropcap.domain.naming import Encoded, Side, longest
from dropcap.errors import Rejected
from dropcap.runtime import memory
from dropcap.sandbox import answers
from dropcap.sandbox.processes import Child, Exhausted, NumPyNeeded, nonsense
from dropcap.settings import GEMINI_SIDE, Settings

GEMINI_SIDE_SHORT = 512  # px; instead of GEMINI_SIDE when memory is short
GEMINI_QUALITY = 85
SHORT_MB = 48.0  # below this, memory is short; a choice, not a measurement
RESERVE_MB = 16.0  # kept free while decoding, for other threads; a choice, not a measurement
# Of LEASE_S, which a stage may take: a child ends before the watchdog ends this process. One that works is
# killed by the kernel at half of it; one that waits, at nine tenths.
CPU, TIMEOUT = 0.5, 0.9
ENCODED_PX, OVERHEAD = 4, 2**20  # bytes of an encoded picture: a px, more than any format takes; the rest
MAX_ANIMATION = 64 * 2**20  # bytes


class Picture:
    """An upload that a child process has decoded, and can encode. Close it after use."""

    def __init__(self, body: Body, settings: Settings, make_room: Callable[[], None]) -> None:
        self._body, self._settings, self._make_room = body, settings, make_room
        self._admit = admission(settings, make_room)
        self._child: Child | None = None
        self._animated: Child | None = None  # the child that has opened the animation
        try:
            try:
                self._open()
            except Exhausted:
                self._open_with_room()
        except BaseException:
            self.close()
            raise

    def raster(self, side: int) -> Image.Image:
        """Return a new RGB raster that fits in `side` px, never enlarged."""
        answer, pixels = self._ask({"op": "raster", "side": side})
        size = answers.read_size(answer, (side, side))
        if len(pixels) != 3 * size[0] * size[1]:
            raise nonsense()
        return Image.frombytes("RGB", size, pixels)

    def encode(self, side: Side, kind: str, quality: int) -> Encoded:
        """Return an encoded sRGB copy without metadata.

        `kind` is webp, jpeg, png or avif; `quality` 1 to 100.
        """
        answer, data = self._ask({"op": "encode", "side": side, "kind": kind, "quality": quality})
        return answers.read_encoded(answer, data, side, kind)

    def for_gemini(self) -> Encoded:
        """Return a JPEG for Gemini: at most 800 px, or 512 px when memory is short."""
        short = memory.left_mb(self._settings.memory_limit_mb) < SHORT_MB
        return self.encode(GEMINI_SIDE_SHORT if short else GEMINI_SIDE, "jpeg", GEMINI_QUALITY)

    def open_animation(self) -> bool:
        """Return whether the picture is an animation that can be published as one."""
        answer, _ = self._ask({"op": "open_animation", "sizes": self._settings.sizes})
        self._animated = self._child if answer.get("frames") else None
        return self._animated is not None

    def encode_animation(self, side: Side, quality: int) -> Encoded | None:
        """Return an animated WebP that fits in `side`. Call `open_animation` first.

        Returns None if a frame is damaged, or if the frames need more memory than estimated.
        """
        if self._child is not self._animated:  # another child had to decode the picture again
            return None
        try:
            request = {"op": "encode_animation", "side": side, "quality": quality}
            answer, data = self._ask_child(request)
        except Exhausted:
            answers.log_still("its frames need more memory than estimated")
            self._animated = None
            return None
        return answers.read_encoded(answer, data, side, "webp") if data else None

    def close(self) -> None:
        """End the child process; its memory is free when this returns."""
        if self._child:
            self._child.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> None:
        """Decode the picture in a new child."""
        self.close()
        self._child = new_child(self._settings)
        request = {"op": "open", "limits": _limits(self._settings)}
        try:
            answer, _ = self._ask_child(request, self._body.take)
        except NumPyNeeded:
            self._child.load_numpy()
            self.close()
            self._child = new_child(self._settings)
            answer, _ = self._ask_child(request, self._body.take)
        self.facts = answers.read_facts(answer, self._body)

    def _open_with_room(self) -> None:
        self._make_room()
        try:
            self._open()
        except Exhausted as short:
            self.close()
            raise _too_much_memory(_left_mb(self._settings)) from short

    def _ask(self, request: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
        """Return the child's answer; decode again, with more memory, if what it has is not enough."""
        assert self._child
        try:
            if self._child.ended:
                self._open()
            return self._ask_child(request)
        except Exhausted:
            self._open_with_room()
        try:
            return self._ask_child(request)
        except Exhausted as short:
            raise _too_much_memory(_left_mb(self._settings)) from short

    def _ask_child(
        self, request: Mapping[str, Any], body: Callable[[], bytes] = bytes
    ) -> tuple[dict[str, Any], bytes]:
        assert self._child
        self._child.limit_memory(_left_mb(self._settings))
        return ask(self._child, request, body, self._admit)


def admission(settings: Settings, make_room: Callable[[], None]) -> memory.Admit:
    """Return the policy by which a way to decode a picture is chosen.

    Its need should fit below the warning level, else below the memory limit. Memory that was freed but not
    returned to the system counts as used: it is returned, then `make_room` is called.
    """

    def admit(needs: Sequence[float]) -> tuple[int | None, float]:
        for more in (memory.release, make_room, None):
            left = _left_mb(settings)
            calm = settings.memory_warning_mb - memory.rss_mb() if more else left
            for index, need in enumerate(needs):
                if need <= min(left, calm):
                    return index, left
            if more:
                more()
        return None, left

    return admit


def _left_mb(settings: Settings) -> float:
    return memory.left_mb(settings.memory_limit_mb) - RESERVE_MB


def open_picture(body: Body, settings: Settings, make_room: Callable[[], None] = memory.release) -> Picture:
    """Decode an upload in a child process. Close the picture after use, preferably by `with`.

    `make_room` frees memory that can be allocated again later; it is called before a picture exceeds the
    warning level or is rejected. Raises Rejected if it is not a picture, has an unsupported format, is
    damaged or too large, needs more memory or time than there is, or crashes a decoder; NotDecoded and
    DecoderHung if the instance is the cause.
    """
    return Picture(body, settings, make_room)


def check_head(head: bytes, settings: Settings) -> None:
    """Raise Rejected if the first bytes already show that the file can't be accepted.

    Only certain cases count: not a picture, an unsupported format, or too large a size.
    """
    _ask_once({"op": "check_head", "limits": _limits(settings)}, head, settings)


def is_animated(data: bytes, settings: Settings) -> bool:
    """Return whether a WebP has more than one frame."""
    answer = _ask_once({"op": "count_frames", "format": "WEBP"}, data, settings)
    return bool(answer.get("frames") != 1)


def new_child(settings: Settings) -> Child:
    """Start a child. Raises NotDecoded."""
    return Child(settings.lease_s * TIMEOUT, ceil(settings.lease_s * CPU))


def _ask_once(request: Mapping[str, Any], body: bytes, settings: Settings) -> dict[str, Any]:
    left_mb = _left_mb(settings)
    with closing(new_child(settings)) as child:
        child.limit_memory(left_mb)
        try:
            return ask(child, request, lambda: body)[0]
        except Exhausted as short:
            raise _too_much_memory(left_mb) from short


def ask(
    child: Child, request: Mapping[str, Any], body: Callable[[], bytes], admit: memory.Admit | None = None
) -> tuple[dict[str, Any], bytes]:
    """Return a child's answer and its body; log what decoders logged.

    Raises Rejected, Exhausted or NotDecoded, by what the child answers or how it ends.
    """
    answer, result = child.ask(request, body, _largest_answer(request), admit)
    if "lacks_numpy" in answer:
        raise nonsense() if child.has_numpy or request["op"] != "open" else NumPyNeeded
    try:
        answers.check(answer)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as wrong:
        raise nonsense() from wrong
    return answer, result


def _too_much_memory(left_mb: float) -> Rejected:
    return Rejected(
        "needs_too_much_memory",
        f"Decoding the picture needs more than the {max(0.0, left_mb):,.0f} MB of memory that are left.",
        "Upload a smaller copy, or raise the function's memory.",
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    )


def _largest_answer(request: Mapping[str, Any]) -> int:
    """Return how many bytes the answer to a request may have."""
    match request:
        case {"op": "raster", "side": side}:
            return int(3 * side**2)
        case {"op": "encode", "side": side}:
            return int(ENCODED_PX * longest(side) ** 2) + OVERHEAD
        case {"op": "encode_animation"}:
            return MAX_ANIMATION
    return 0


def _limits(settings: Settings) -> dict[str, int]:
    return {name: getattr(settings, name) for name in ("max_side", "max_megapixels", "largest_side")}
