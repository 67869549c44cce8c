"""Classify decoder errors, and limit what libraries log.

An error about the bytes is permanent. A missing library, and an instance that is out of threads, files, disk
or memory, are transient: the upload stays.
"""

import errno
import io
import logging
import mmap
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus

from PIL import Image, features

from dropcap.errors import NotDecoded, Rejected, causes
from dropcap.runtime.timeouts import submit

logger = logging.getLogger(__name__)

# Modules without which Pillow says that a picture can't be identified, or that a decoder is not available.
LIBRARIES = {"JPEG": "jpg", "PNG": "zlib", "TIFF": "libtiff", "WEBP": "webp", "AVIF": "avif"}
# Texts of system errors, which pyvips and pillow-heif pass on only as text.
EXHAUSTED = (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
OUT_OF_MEMORY = ("out of memory", "decoder error -9")  # libvips; Pillow's IMAGING_CODEC_MEMORY
NO_THREAD = ("can't start new thread", "unable to create thread", "error creating thread")
MIN_MB = 8.0  # must still be available if a picture's need is not known yet
read_stderr: Callable[[], Iterable[str]] = tuple
"""Returns the lines that libraries wrote to standard error since the last call; set in the sandbox."""
LOGGERS = ("PIL", "pyvips")  # loggers of the decoding libraries
MAX_LINES, MAX_LINE = 5, 200  # logged for one picture


class OutOfMemory(Rejected):
    """Permanent error: the picture needs more memory than its process may have."""

    def __init__(self, kind: str) -> None:
        super().__init__(
            "needs_too_much_memory",
            f"The {kind} picture needs more memory than the system gives.",
            "Upload a smaller picture, or raise the function's memory.",
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        )


@contextmanager
def translate_errors(kind: str, need_mb: float = MIN_MB) -> Iterator[None]:
    """Translate decoder errors: Rejected if the picture is the cause, NotDecoded if the instance is.

    `need_mb` is the memory that the picture was estimated to need.
    """
    try:
        yield
    except Rejected:
        raise
    except Exception as error:  # hostile bytes can make parsers raise anything, even KeyError
        check_instance(error, kind, need_mb)
        if isinstance(error, MemoryError) or any(word in str(error) for word in OUT_OF_MEMORY):
            raise OutOfMemory(kind) from error
        raise broken(kind) from error


def read_header(kind: str, data: bytes) -> Image.Image:
    """Open a picture without decoding it. Image.open would hide the cause of a failure.

    Raises whatever the reader raises.
    """
    if kind not in Image.OPEN:
        Image.init()
    reader, _ = Image.OPEN[kind]
    return reader(io.BytesIO(data), "")


def broken(kind: str) -> Rejected:
    """Return the rejection of bytes that no decoder understands."""
    return Rejected(
        "broken_picture",
        f"The {kind} picture is damaged or incomplete.",
        "Open the original in a picture editor, save it again and upload that.",
        HTTPStatus.UNPROCESSABLE_ENTITY,
    )


def check_instance(error: Exception, kind: str, need_mb: float = MIN_MB) -> None:
    """Raise NotDecoded if the error, or the state of this instance, shows that bytes are not the cause."""
    found = next(filter(None, map(_reported_shortage, causes(error))), "") or _shortage(kind, need_mb)
    if found:
        raise NotDecoded(
            f"The {kind} picture could not be decoded here, and will be tried again: {found}."
        ) from error


def _reported_shortage(error: BaseException) -> str:
    """Return the shortage that an error reports; empty if the error may be about the bytes."""
    text = str(error) if _is_text_of_library(error) else ""
    of_system = isinstance(error, OSError) and error.errno is not None  # Pillow's own errors have no number
    by_text = any(os.strerror(number) in text for number in EXHAUSTED) or any(
        word in text for word in NO_THREAD
    )
    is_instance = isinstance(error, ImportError) or of_system or by_text
    return f"{type(error).__name__}: {error}" if is_instance else ""


def _is_text_of_library(error: BaseException) -> bool:
    """Return whether its text may report a shortage; ValueError and the like quote the bytes of the file."""
    return isinstance(error, OSError | RuntimeError | MemoryError) or type(error).__module__ == "pyvips.error"


def _shortage(kind: str, need_mb: float) -> str:
    """Return what this instance lacks, by trying: libraries hide why they failed."""
    library = LIBRARIES.get(kind)
    if kind not in Image.OPEN:
        Image.init()
    if kind not in Image.OPEN or (library and not features.check(library)):
        return f"the library for {kind} is missing"
    try:
        mmap.mmap(-1, int(max(need_mb, MIN_MB) * 1e6)).close()  # address space only
        with suppress(PermissionError):  # in the sandbox nothing can be opened
            os.close(os.open(os.devnull, os.O_RDONLY))
        submit(lambda: None, "probe").result()
    except (OSError, RuntimeError, MemoryError) as none_left:
        return f"{type(none_left).__name__}: {none_left}"
    return ""


class _WarningCollector(logging.Handler):
    """Keep the first distinct lines, and count all."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.times = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.note(record.getMessage())

    def note(self, text: str) -> None:
        self.times += 1
        line = " ".join(text.split())[:MAX_LINE]
        if len(self.lines) < MAX_LINES and line not in self.lines:
            self.lines.append(line)


@contextmanager
def collect_warnings(kind: str) -> Iterator[None]:
    """Log the warnings of libraries about a picture in one line: the first distinct ones, and their number.

    65 KB of overlapping tags caused 1.1 MB of warnings. Covers Python warnings, log lines, and in the sandbox
    what libtiff writes to standard error.
    """
    collector = _WarningCollector()
    libraries = [logging.getLogger(name) for name in LOGGERS]
    with warnings.catch_warnings():
        warnings.simplefilter("always")  # also repeated ones
        warnings.showwarning = lambda message, *where, **more: collector.note(str(message))
        before = [library.propagate for library in libraries]
        for library in libraries:
            library.addHandler(collector)
            library.propagate = False
        try:
            yield
        finally:
            for library, propagated in zip(libraries, before, strict=True):
                library.removeHandler(collector)
                library.propagate = propagated
            for line in read_stderr():
                collector.note(line)
            if collector.times:
                logger.info(
                    "decoders reported problems in the file",
                    extra={
                        "event": "decoder_problems",
                        "kind": kind,
                        "said": collector.lines,
                        "times": collector.times,
                    },
                )
