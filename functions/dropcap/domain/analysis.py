"""What a picture becomes on its way through the pipeline: frozen records, JSON only at the edge."""

import datetime as dt
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

ENGLISH = "en"  # BLIP's language, and Gemini's where no other is asked for
NOTICE = (
    "demonstration captioner: knows {things} drawn objects; "
    "`make model` installs BLIP-base (1 GB download, about 5 minutes)"
)  # of a demonstration model


@dataclass(frozen=True, slots=True)
class Caption:
    """What BLIP says: at most one line of text. `version` is the model card's revision.

    `confidence` is the mean log-probability of its tokens (0 is certain), of a model that can tell less the
    distance of the picture from those it knows (blip.Confidence); None where it was not measured.
    `low_confidence`: it is below the threshold of the model card. `demo`: a demonstration model's.
    `removed`: words that mean nothing and were left out of the text (artefacts.py).
    """

    text: str
    model: str
    version: str
    confidence: float | None = None
    low_confidence: bool = False
    demo: bool = False
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """How fit a picture is to be shown: `level` is none, low, medium, high (moderation.py), or unknown.

    It is the stricter one of what the model says of it (`categories`, `reason`) and of what the ratings of
    Google's own filter say (`rated`, empty without any). `blocked`: that filter gave no answer because of it.
    """

    level: str
    categories: tuple[str, ...] = ()
    reason: str = ""
    rated: str = ""
    blocked: bool = False


@dataclass(frozen=True, slots=True)
class Description:
    """What Gemini says in `language`, already checked against its schema and bounded in length.

    `safety` is read where it was asked for. `prompt` is the hash of what was asked, `at` when it was
    answered, ISO 8601.
    """

    description: str
    alt_text: str
    tags: tuple[str, ...]
    text: str
    model: str
    version: str
    caption: str = ""
    language: str = ENGLISH
    safety: Verdict | None = None
    prompt: str = ""
    at: str = ""


Finding = tuple[str, str, str]
"""What it is about (thing, number, colour, place), what the caption says, and what the description says."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the two models agree: `score` is 0 to 1, or None where there is no verdict."""

    score: float | None
    contradictions: tuple[Finding, ...]
    contradicts: bool


@dataclass(frozen=True, slots=True)
class Source:
    """Whether a model answered; `problem` says why it did not.

    The rest is BLIP's: `confidence`, `low_confidence`, `demo` and `removed` as in Caption, and the `notice`
    of a demonstration model.
    """

    answered: bool
    model: str = ""
    version: str = ""
    problem: str = ""
    confidence: float | None = None
    low_confidence: bool = False
    demo: bool = False
    notice: str = ""
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Provenance:
    """Whose the texts are: the model, the hash of what it was asked (empty: nothing), and when, ISO 8601."""

    texts: tuple[str, ...]
    model: str
    version: str
    prompt: str
    at: str


@dataclass(frozen=True, slots=True)
class Usage:
    """What a picture cost.

    `calls` are requests to Gemini, those that failed too; `usd` is by the prices of the settings, None where
    they are not known. `gb_seconds`: the memory limit, 10^9 bytes, times the seconds of all stages until it
    is recorded. `reused`: the same bytes had been described before, so that Gemini was not asked.
    """

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float | None = None
    gb_seconds: float = 0.0
    reused: bool = False

    def __add__(self, later: "Usage") -> "Usage":
        """Return the total. `usd` is None if the `later` one is, and `reused` is the later one's."""
        return Usage(
            self.calls + later.calls,
            self.input_tokens + later.input_tokens,
            self.output_tokens + later.output_tokens,
            None if later.usd is None else round((self.usd or 0) + later.usd, 6),
            round(self.gb_seconds + later.gb_seconds, 3),
            later.reused,
        )


@dataclass(frozen=True, slots=True)
class PictureFacts:
    """The source as people see it: `width` and `height` in px after EXIF orientation.

    `sha256` is that of the source's bytes, in hexadecimal; it is empty in records written before the field
    existed. `pages` counts the full pages of a TIFF, reduced copies excluded; the largest is published.
    """

    format: str
    bytes: int
    width: int
    height: int
    decoder: str
    sha256: str = ""
    pages: int = 1


@dataclass(frozen=True, slots=True)
class Rendition:
    """One resized picture in the pictures bucket; `object` is empty where nothing was kept."""

    label: str
    object: str
    width: int
    height: int
    bytes: int
    content_type: str
    md5: str  # base64, as Cloud Storage gives it


@dataclass(frozen=True, slots=True)
class Analysis:
    """The result for one upload: recorded in PostgreSQL, answered as JSON.

    `memory` is the resident set in MB at the end of each stage, `timings` seconds by stage.
    """

    id: uuid.UUID
    upload: Mapping[str, Any]
    user: str
    analyzed_at: dt.datetime
    time_zone: str | None
    picture: PictureFacts
    caption: str
    description: str
    alt_text: str
    tags: tuple[str, ...]
    text: str
    sources: Mapping[str, Source]
    pictures: tuple[Rendition, ...]
    agreement: Agreement | None = None  # None where only one model answered
    language: str = ENGLISH  # of the words, as a BCP 47 tag
    captions: Mapping[str, str] = field(default_factory=dict)  # each model's own, of those that answered
    safety: Verdict | None = None  # None where SAFETY=off
    named_language: str | None = None  # that the upload named; None: that of the settings was asked for
    provenance: Mapping[str, Provenance] = field(default_factory=dict)  # by who: blip, gemini
    describe_later: bool = False  # Gemini did not answer, and is asked again by the sweep
    usage: Usage | None = None
    memory: Mapping[str, float] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; instants in ISO 8601 with their offset."""
        return asdict(self) | {"id": str(self.id), "analyzed_at": self.analyzed_at.isoformat()}
