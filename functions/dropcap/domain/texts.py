"""Select the texts that are shown with a picture, and record which model wrote them.

    texts.select(description, caption)            of both models, or of the one that answered
    texts.select(description, trusted(caption))   the same for a published file, which cannot name the model

Only this module decides what BLIP's caption is used for:

    low confidence        nothing, as if BLIP had not answered; `sources` says so
    demonstration model   shown with its notice if Gemini did not answer; it is not `trusted`
    any other             shown, embedded, compared with Gemini's texts; alt text if Gemini did not answer
"""

import datetime as dt
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from dropcap.domain.analysis import ENGLISH, NOTICE, Caption, Description, Provenance, Source

# A screen reader announces an image already, so "an image of a dog" says it twice. A specific kind, as in "a
# family photo of", may matter, and stays.
KIND = "(image|picture|photo|photograph|snapshot)"
PREAMBLE = re.compile(
    rf"((this|it|here) is )?(an? )?{KIND} (of|showing|depicting|that shows) "
    rf"|(this|the) {KIND} (shows|depicts) ",
    re.IGNORECASE,
)
DEMONSTRATION, THINGS = "dropcap-scenes", 60  # the model in the repository, and the number of things it knows


@dataclass(frozen=True, slots=True)
class Texts:
    """The texts that are shown with a picture, in `language`; `text` is what is written in the picture."""

    caption: str
    description: str
    alt_text: str
    tags: tuple[str, ...]
    text: str
    language: str


def usable(caption: Caption | None) -> Caption | None:
    """Return the caption if it is not empty and its confidence is high enough to show it."""
    return caption if caption and caption.text and not caption.low_confidence else None


def trusted(caption: Caption | None) -> Caption | None:
    """Return the caption if it may replace Gemini's texts and be compared with them."""
    caption = usable(caption)
    return None if caption is None or caption.demo else caption


def select(description: Description | None, caption: Caption | None) -> Texts:
    """Return Gemini's texts with BLIP's caption, which is also the alt text if Gemini did not answer.

    BLIP writes English only: in any other language, the caption is Gemini's.
    """
    blip = _shown_caption(description, caption)
    if description is None:
        alt_text = without_preamble(blip.text) if blip and trusted(blip) else ""
        return Texts(blip.text if blip else "", "", alt_text, (), "", ENGLISH)
    return Texts(
        caption=blip.text if blip else description.caption or description.alt_text,
        description=description.description,
        alt_text=description.alt_text,
        tags=description.tags,
        text=description.text,
        language=description.language,
    )


def captions(description: Description | None, caption: Caption | None) -> dict[str, str]:
    """Return the caption of each model that has one; one of the two is shown."""
    blip = usable(caption)
    by_model = {"blip": blip.text if blip else "", "gemini": description.caption if description else ""}
    return {model: text for model, text in by_model.items() if text}


def provenance(
    description: Description | None, caption: Caption | None, at: dt.datetime, caption_prompt: str
) -> dict[str, Provenance]:
    """Return by model which of the shown texts it wrote, when, and with which prompt.

    BLIP wrote its caption at the time `at`, continuing the text `caption_prompt`.
    """
    found, described = {}, ("description", "alt_text", "tags", "text")
    shows_blip = _shown_caption(description, caption) is not None
    if caption := usable(caption):
        texts: tuple[str, ...] = ("caption",) if shows_blip else ()
        if not description and trusted(caption):
            texts = ("caption", "alt_text")
        prompt = hashlib.sha256(caption_prompt.encode()).hexdigest()[:12] if caption_prompt else ""
        found["blip"] = Provenance(texts, caption.model, caption.version, prompt, at.isoformat())
    if description:
        texts = described if shows_blip else ("caption", *described)
        model, version = description.model, description.version
        found["gemini"] = Provenance(texts, model, version, description.prompt, description.at)
    return found


def marked_sources(recorded: Mapping[str, Source]) -> Mapping[str, Source]:
    """Return the sources of a record, with a demonstration model marked, which older revisions did not do.

    Older revisions used a demonstration's caption like any other, also as alt text and for `agreement`.
    """
    blip = recorded.get("blip")
    if blip is None or blip.demo or blip.model != DEMONSTRATION:
        return recorded
    return {**recorded, "blip": replace(blip, demo=True, notice=NOTICE.format(things=THINGS))}


def notice(sources: Mapping[str, Source], provenance: Mapping[str, Provenance]) -> str:
    """Return the notice of a demonstration model if it wrote the caption that is shown; else empty."""
    blip = provenance.get("blip")
    return sources["blip"].notice if blip and "caption" in blip.texts and "blip" in sources else ""


def _shown_caption(description: Description | None, caption: Caption | None) -> Caption | None:
    """Return BLIP's caption if it is the one that is shown."""
    if description is None:
        return usable(caption)
    return trusted(caption) if description.language.partition("-")[0] == ENGLISH else None


def without_preamble(alt_text: str) -> str:
    """Return an alt text without "an image of" and the like before it."""
    rest = alt_text[found.end() :] if (found := PREAMBLE.match(alt_text)) else ""
    return rest[:1].upper() + rest[1:] or alt_text
