"""Records of an analysis: outputs of the models, provenance, usage, renditions. All are frozen."""

import datetime as dt
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

ENGLISH = "en"  # BLIP's language, and the default of Gemini
NOTICE = (
    "demonstration captioner: knows {things} drawn objects; "
    "`make model` installs BLIP-base (1 GB download, about 5 minutes)"
)  # shown with the caption of a demonstration model
NO_KEY = "GEMINI_API_KEY is not set"  # the problem of a source that is not connected

# In the pipeline's order, which JSON in PostgreSQL does not keep.
STAGES = ("claim", "read", "open", "resize", "encode", "caption", "describe", "publish", "record")


def stage_order(stage: str) -> tuple[int, str]:
    """Return the sort key of a stage: the pipeline's order, then unknown stages by name."""
    return STAGES.index(stage) if stage in STAGES else len(STAGES), stage


@dataclass(frozen=True, slots=True)
class Caption:
    """BLIP's caption: at most one line of text. `version` is the revision in the model card.

    confidence        mean log-probability of the tokens (0 is certain), for some models less the distance of
                      the picture from those that the model knows (blip.Confidence); None: not measured
    low_confidence    the confidence is below the threshold in the model card
    demo              a demonstration model wrote it
    removed           meaningless words that were removed from the text (artefacts.py)
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
    """The safety verdict on a picture: `level` is none, low, medium, high (moderation.py), or unknown.

    The level is the stricter one of the model's own (with `categories` and `reason`) and of the ratings of
    Google's filter (`rated`, empty if there are none). `blocked`: that filter blocked the response.
    """

    level: str
    categories: tuple[str, ...] = ()
    reason: str = ""
    rated: str = ""
    blocked: bool = False


@dataclass(frozen=True, slots=True)
class Description:
    """Gemini's texts in `language`, validated against the schema and limited in length.

    `safety` is None unless a verdict was requested. `prompt` is the hash of the prompt, and `at` the time of
    the response, ISO 8601.
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
"""The aspect (thing, number, colour, place), what the caption says, and what the description says."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the two models agree: `score` is 0 to 1, or None if it can't be compared."""

    score: float | None
    contradictions: tuple[Finding, ...]
    contradicts: bool


@dataclass(frozen=True, slots=True)
class Source:
    """Whether a model answered, and if not, the `problem`.

    Only BLIP has `confidence`, `low_confidence`, `demo` and `removed`, as in Caption, and the `notice` of a
    demonstration model.
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
    """The model that wrote the `texts`, the hash of its prompt (empty: none), and the time, ISO 8601."""

    texts: tuple[str, ...]
    model: str
    version: str
    prompt: str
    at: str


@dataclass(frozen=True, slots=True)
class Usage:
    """What a picture cost.

    calls         requests to Gemini, including failed ones
    usd           cost at the prices in the settings; None if the prices are unknown
    gb_seconds    memory limit (GB of 10^9 bytes) times the seconds of all stages before the record
    reused        the description came from the response cache
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
    """Facts about the source; `width` and `height` are in px after EXIF orientation.

    `sha256` is of the source's bytes, hexadecimal; empty in records from before the field existed. `pages`
    counts the full pages of a TIFF, reduced copies excluded; the largest is published.
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
    """One resized picture in the pictures bucket; `object` is empty if the picture was not kept."""

    label: str
    object: str
    width: int
    height: int
    bytes: int
    content_type: str
    md5: str  # base64, as in Cloud Storage


@dataclass(frozen=True, slots=True)
class Analysis:
    """The result of one upload, which is stored in PostgreSQL and returned as JSON.

    `memory` is the resident set in MB at the end of each stage, `timings` the seconds of each stage.
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
    agreement: Agreement | None = None  # None if only one model answered
    language: str = ENGLISH  # of the texts, as a BCP 47 tag
    captions: Mapping[str, str] = field(default_factory=dict)  # the caption of each model that answered
    safety: Verdict | None = None  # None if SAFETY=off
    named_language: str | None = None  # in the upload's metadata; None: LANGUAGE applies
    provenance: Mapping[str, Provenance] = field(default_factory=dict)  # by model: blip, gemini
    describe_later: bool = False  # reconcile will describe the picture
    usage: Usage | None = None
    memory: Mapping[str, float] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the analysis in plain JSON types; times are in ISO 8601 with their offset."""
        return asdict(self) | {"id": str(self.id), "analyzed_at": self.analyzed_at.isoformat()}
