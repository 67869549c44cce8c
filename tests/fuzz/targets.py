"""The targets that are guided by coverage: a check, files to begin with, and words to insert."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tests.fuzz import answers, corpus, inputs, parsers
from tests.fuzz.corpus import json_lines
from tests.fuzz.inputs import FIELD
from tests.support.images.pictures import FORMATS, exif

EVENT = {
    "bucket": "uploads",
    "name": "ana/a.jpg",
    "generation": "17",
    "size": "9",
    "contentType": "image/jpeg",
}
EVENT_WITH_METADATA = EVENT | {"metadata": {"tz": "Europe/Madrid", "language": "pt-br", "x": "y"}}
STRUCTURED = {"specversion": "1.0", "id": "1", "source": "//s", "type": "t", "data": EVENT}
PACKED = {"specversion": "1.0", "id": "1", "source": "//s", "type": "t", "data_base64": "e30="}
FORM = (
    b'--x\r\nContent-Disposition: form-data; name="user"\r\n\r\nana\r\n'
    b'--x\r\nContent-Disposition: form-data; name="picture"; filename="a.jpg"\r\n'
    b"Content-Type: image/jpeg\r\n\r\n\xff\xd8\xff\r\n--x--\r\n"
)
URLS = (
    "postgresql://dropcap:verySecret7391@db.example.com:5432/app?sslmode=verify-full&connect_timeout=5",
    "postgres://a%40b:verySecret7391@[::1]/x?options=-c%20work_mem%3D4MB&application_name=a",
    "postgresql://u@%2Fvar%2Frun/x?iam=true&role=r&ssl=true&channel_binding=require",
)
FACTS = {"format": "PNG", "width": 9, "height": 9, "pages": 1, "decoder": "pillow"}
LOG: list[dict[str, object]] = [
    {"event": "decoder_problems", "kind": "PNG", "said": ["a"], "times": 2},
    {"event": "animation_not_published", "problem": "x"},
]
REASON = {"code": "broken_picture", "problem": "It is damaged.", "remedy": "Save it.", "status": 422}
PARTS = (
    b'{"',
    b'":',
    b"1e999",
    b"true",
    b"null",
    b"[]",
    b"{}",
    b"\\ud800",
    b'"',
    b"9" * 20,
    b"-1",
    FIELD,
    b"\n",
)


@dataclass(frozen=True, slots=True)
class Target:
    """What to fuzz."""

    check: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    words: Callable[[], Iterable[bytes]] = corpus.words
    most: int = 4096  # bytes of an input
    json: bool = False  # whether inputs are mostly JSON


def _of(*kinds: str) -> Callable[[], Iterable[bytes]]:
    return lambda: [data for kind in kinds for data in corpus.small()[kind]]


def _fields(*parts: bytes) -> bytes:
    return FIELD.join(parts)


def _messages(*messages: tuple[object, bytes]) -> bytes:
    return FIELD.join(json_lines(message) + b"\n" + body for message, body in messages)


def _answers() -> list[bytes]:
    size, webp = {"size": [9, 9]}, b"RIFF"
    opened = ({"facts": FACTS, "log": LOG}, b"")
    return [
        _messages(opened, (size, bytes(243)), (size, webp), ({"frames": 3}, b""), (size, webp)),
        _messages(
            ({"needs": [9.0, 1e9]}, b""), opened, ({"exhausted": True}, b""), opened, (size, bytes(243))
        ),
        _messages(({"rejected": REASON, "cause": "OSError: x"}, b"")),
        _messages(({"failed": "ImportError: x", "unconfined": "no filter"}, b"")),
        _messages(({"exhausted": True}, b""), ({"exhausted": True}, b"")),
    ]


def _events() -> list[bytes]:
    plain = [_fields(b"", json_lines(each)) for each in (EVENT, EVENT_WITH_METADATA)]
    return [*plain, *(_fields(b"s", json_lines(each)) for each in (STRUCTURED, PACKED))]


def _requests() -> list[bytes]:
    asked = json_lines({"bucket": "b", "name": "n", "user": "ana", "keep": True})
    return [
        _fields(b"j", b"user=ana&keep=1", asked),
        _fields(b"fx", b"tz=UTC", FORM),
        _fields(b'f"x y"', b"", FORM),
    ]


def _texts() -> list[bytes]:
    words = (
        "A dog",
        "A dog runs <far> & away]]>\r\n",
        "Dog",
        "dog\nsand",
        "STOP\t\u202e\ud7ff\U0001f600",
        "pt-BR",
    )
    return [_fields(*(word.encode() for word in words)), _fields(*[b"a"] * 6), _fields(b"\xed\xa0\x80" * 9)]


def _settings() -> list[bytes]:
    named = [bytes([255 - number % 100]) + b"1" for number in range(100)]
    return [*(b"\0" + url.encode() for url in URLS), *named]


def _exif() -> list[bytes]:
    blocks = [exif(turn).tobytes() for turn in (1, 6)]
    return [*blocks, *(block.removeprefix(b"Exif\0\0") for block in blocks)]


def _colours() -> list[bytes]:
    parts = (
        (b"\x0c\x0d\0\1", 1),
        (bytes(4) + b"\0\0\x27\x10", 1),
        (b"\0\0\xb1\x8f", 1),
        (bytes(32), 0),
        (b"\0", 0),
    )
    made = b"".join((b"\xff" if there else b"\0") + body for body, there in parts)
    hdr = b"\xff\x09\x10\0\1\xff\0\xf4\x24\0" + bytes(4)
    xy = b"".join(
        round(value * 1e5).to_bytes(4) for value in (0.31, 0.33, 0.68, 0.32, 0.26, 0.69, 0.15, 0.06)
    )
    chromatic = bytes(5) + bytes(9) + b"\xff\0\1\x86\xa0" + b"\xff" + xy + bytes(2)
    return [made, hdr, chromatic, *corpus.small()["AVIF"]]


def _json() -> Iterable[bytes]:
    names = {
        *EVENT_WITH_METADATA,
        *STRUCTURED,
        *PACKED,
        *FACTS,
        *REASON,
        *LOG[0],
        *LOG[1],
        "needs",
        "log",
        "cause",
    }
    names |= {
        "rejected",
        "failed",
        "exhausted",
        "unconfined",
        "frames",
        "facts",
        "size",
        "broken_picture",
        "libvips",
    }
    return [*PARTS, *(b'"' + name.encode() + b'"' for name in sorted(names))]


def _markup() -> Iterable[bytes]:
    return [
        FIELD,
        b"]]>",
        b"&amp;",
        b"<!--",
        b"\xef\xbf\xbe",
        b"\xed\xa0\x80",
        b"\r\n",
        b"\0",
        b"\xf0\x9f\x98\x80",
    ]


def _options() -> Iterable[bytes]:
    options = b"sslmode host port user password dbname options iam role require %00 %2F search_path -c"
    return [*options.split(), b"verySecret7391", b"&", b"=", b"://", b"@", b"[", b"]", b"?", b"+"]


TARGETS: dict[str, Target] = {
    **{
        f"headers of {kind}": Target(parsers.check_headers, _of(kind), lambda kind=kind: _words(kind))  # type: ignore[misc]
        for kind in FORMATS
    },
    "sizes": Target(parsers.check_sizes, _of(*(each for each in FORMATS if each not in ("HEIF", "AVIF")))),
    "repairs": Target(parsers.check_repairs, _of("JPEG", "PNG"), lambda: _words("JPEG", "PNG")),
    "pages": Target(parsers.check_tiff, _of("TIFF"), lambda: _words("TIFF")),
    "orientation": Target(parsers.check_orientation, _exif, lambda: _words("TIFF"), 300),
    "colours": Target(parsers.check_colours, _colours, lambda: _words("AVIF"), 1000),
    "events": Target(inputs.check_event, _events, _json, json=True),
    "requests": Target(inputs.check_request, _requests, _json, json=True),
    "settings": Target(inputs.check_settings, _settings, _options, 300),
    "xmp": Target(inputs.check_xmp, _texts, _markup),
    "published": Target(inputs.check_published, _texts, _markup, 70_000),
    "messages": Target(answers.check_messages, lambda: map(answers.framed, _answers()), _json),
    "answers": Target(answers.check_answers, _answers, _json, json=True),
    "small answers": Target(answers.check_small_answers, _answers, _json, json=True),
}


def _words(*kinds: str) -> Iterable[bytes]:
    return [word for kind in kinds for word in (*corpus.WORDS[kind], *corpus.NUMBERS)]
