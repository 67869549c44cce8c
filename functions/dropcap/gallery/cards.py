# ruff: noqa: S608  what is put into the SQL is this project's own
"""Pictures, and uploads without an analysis, as the gallery shows them, read from database rows."""

import datetime as dt
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dropcap.database.leases import ABANDONED, not_finished
from dropcap.domain import texts
from dropcap.domain.analysis import (
    ENGLISH,
    NO_KEY,
    Agreement,
    PictureFacts,
    Provenance,
    Rendition,
    Source,
    stage_order,
)
from dropcap.domain.records import read
from dropcap.domain.upload import Upload

COLUMNS = """
id, analyzed_at, caption, description, alt_text, own_caption, own_alt_text, edited_at, tags, picture_text,
format, bytes, width, height, result
"""
NOBODY = Provenance((), "", "", "", "")
UPLOADS = f"""
SELECT id, bucket, name, created_at, CASE WHEN {ABANDONED} THEN 'abandoned' ELSE state END, stage, stage_at,
       rss_mb, attempts, jsonb_array_length(deaths), reason_code, reason
FROM uploads WHERE user_id = :user
"""


@dataclass(frozen=True, slots=True)
class Card:
    """A picture with everything known about it. `caption` and `alt_text` are those shown.

    They are the user's own if there are any, otherwise the model's. `name` is the base name of the upload,
    empty for a posted picture. `pictures` are the renditions, largest first; `picture` describes the source.
    `memory` is in MB and `timings` in seconds, by stage, in the order of the stages. `language` is that of
    the model's texts, as a BCP 47 tag. `receipt` is set on request, if there is one.
    """

    id: uuid.UUID
    name: str
    at: dt.datetime
    caption: str
    description: str
    alt_text: str
    model_caption: str
    model_alt_text: str
    own_caption: str | None
    own_alt_text: str | None
    edited_at: dt.datetime | None
    tags: tuple[str, ...]
    text: str
    pictures: tuple[Rendition, ...]
    picture: PictureFacts
    memory: Mapping[str, float]
    timings: Mapping[str, float]
    sources: Mapping[str, Source]
    provenance: Mapping[str, Provenance]  # empty in older results
    language: str
    agreement: Agreement | None
    receipt: Mapping[str, Any] | None = None

    @property
    def blip(self) -> Source:
        return self.sources.get("blip", Source(False))

    @property
    def without_gemini(self) -> bool:
        """Return whether Gemini was not connected when the picture was analyzed."""
        return self.sources.get("gemini", Source(False)).problem == NO_KEY

    @property
    def notice(self) -> str:
        """Return the notice of the demonstration model if its caption is shown; otherwise empty."""
        return "" if self.own_caption is not None else texts.notice(self.sources, self.provenance)

    @property
    def alternative(self) -> str:
        """Return the text alternative: the alt text, or a caption that may serve as one."""
        return self.alt_text or ("" if self.notice else self.caption)


@dataclass(frozen=True, slots=True)
class Pending:
    """An upload without a card. `state` is working, held or rejected; `code` and `reason` say why.

    `stage` began at the instant `since`, with `rss_mb` MB resident.
    """

    id: uuid.UUID
    name: str
    at: dt.datetime
    state: str
    stage: str
    since: dt.datetime
    rss_mb: int
    attempts: int
    deaths: int
    code: str
    reason: str


def card_of(*row: Any) -> Card:
    """Return a Card from a row of COLUMNS."""
    id, at, caption, description, alt_text, own_caption, own_alt_text, edited_at, tags, text = row[:10]
    format, bytes, width, height, result = row[10:]
    recorded = read(dict[str, Source], result.get("sources"))
    sources = texts.marked_sources(recorded)
    provenance = read(dict[str, Provenance], result.get("provenance"))
    agreement = result.get("agreement")
    if (
        sources is not recorded
    ):  # by a demonstration model of an older revision, which also used it as alt text
        agreement = None
        if "alt_text" in provenance.get("blip", NOBODY).texts:
            alt_text = ""
    published = read(tuple[Rendition, ...], result.get("pictures"))
    upload = read(Upload, result.get("upload"))
    return Card(
        id=id,
        name=_name(upload.bucket, upload.name),
        at=at,
        caption=caption if own_caption is None else own_caption,
        description=description,
        alt_text=alt_text if own_alt_text is None else own_alt_text,
        model_caption=caption,
        model_alt_text=alt_text,
        own_caption=own_caption,
        own_alt_text=own_alt_text,
        edited_at=edited_at,
        tags=tuple(tag or "null" for tag in tags),  # older revisions stored the tag "null" as NULL
        text=text,
        pictures=tuple(sorted(published, key=lambda each: -each.width * each.height)),
        picture=replace(
            read(PictureFacts, result.get("picture")), format=format, bytes=bytes, width=width, height=height
        ),
        memory=_by_stage(read(dict[str, float], result.get("memory"))),
        timings=_by_stage(read(dict[str, float], result.get("timings"))),
        sources=sources,
        language=read(str, result.get("language")) or ENGLISH,
        agreement=read(Agreement, agreement) if agreement else None,
        provenance=provenance,
    )


def pending_of(id: uuid.UUID, bucket: str, name: str, at: dt.datetime, state: str, *rest: Any) -> Pending:
    """Return a Pending from a row of UPLOADS."""
    shown = {"claimed": "working", "held": "held"}.get(state, "rejected")
    found = Pending(id, _name(bucket, name), at, shown, *rest)
    if state == "abandoned":
        why = not_finished()
        return replace(found, code=why.code, reason=str(why))
    return found


def _name(bucket: str, name: str) -> str:
    """Return the name of the user's file; empty for a posted picture, whose name is a hash."""
    return name.rpartition("/")[2] if bucket else ""


def _by_stage(measured: Mapping[str, float]) -> dict[str, float]:
    return {stage: measured[stage] for stage in sorted(measured, key=stage_order)}
