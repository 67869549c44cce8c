"""Select which texts are shown of a picture, and record which model wrote them.

    texts.select(description, caption)            from what both models say, or the one that answered
    texts.select(description, trusted(caption))   the same for a published file, which cannot name the model

Only this module decides what BLIP's caption may be used for:

    low confidence        nothing, as if BLIP had not answered; `sources` says so
    demonstration model   shown with its notice where Gemini did not answer; it is not `trusted`
    any other             shown, the alt text where Gemini has none, embedded, compared with Gemini's texts
"""

import datetime as dt
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from dropcap.domain.analysis import ENGLISH, NOTICE, Caption, Description, Provenance, Source

# "An image of a dog" tells a person with a screen reader twice that it is one. What kind of picture it is, as
# in "a family photo of", may be what matters, and stays.
KIND = "(image|picture|photo|photograph|snapshot)"
PREAMBLE = re.compile(
    rf"((this|it|here) is )?(an? )?{KIND} (of|showing|depicting|that shows) "
    rf"|(this|the) {KIND} (shows|depicts) ",
    re.IGNORECASE,
)
DEMONSTRATION, THINGS = "dropcap-scenes", 60  # the model that ships, and how many things it knows


@dataclass(frozen=True, slots=True)
class Texts:
    """What is shown of a picture, in `language`; `text` is what is written in the picture."""

    caption: str
    description: str
    alt_text: str
    tags: tuple[str, ...]
    text: str
    language: str


def usable(caption: Caption | None) -> Caption | None:
    """Return the caption if it says something with enough confidence to be shown."""
    return caption if caption and caption.text and not caption.low_confidence else None


def trusted(caption: Caption | None) -> Caption | None:
    """Return the caption if it may stand in for Gemini's texts, and be compared with them."""
    caption = usable(caption)
    return None if caption is None or caption.demo else caption


def select(description: Description | None, caption: Caption | None) -> Texts:
    """Return Gemini's texts with BLIP's caption, which is also the alt text where Gemini did not answer.

    BLIP speaks English alone: in any other language the caption is Gemini's.
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
    """Return each model's own caption, where it has one; one of the two is shown."""
    blip = usable(caption)
    said = {"blip": blip.text if blip else "", "gemini": description.caption if description else ""}
    return {model: text for model, text in said.items() if text}


def provenance(
    description: Description | None, caption: Caption | None, at: dt.datetime, begun: str
) -> dict[str, Provenance]:
    """Return by model which of the shown texts it wrote, when, and with which prompt.

    BLIP's caption was made at `at`, and begins with the text `begun`.
    """
    said, theirs = {}, ("description", "alt_text", "tags", "text")
    blips = _shown_caption(description, caption)
    if caption := usable(caption):
        texts: tuple[str, ...] = ("caption",) if blips else ()
        if not description and trusted(caption):
            texts = ("caption", "alt_text")
        asked = hashlib.sha256(begun.encode()).hexdigest()[:12] if begun else ""
        said["blip"] = Provenance(texts, caption.model, caption.version, asked, at.isoformat())
    if description:
        texts = theirs if blips else ("caption", *theirs)
        model, version = description.model, description.version
        said["gemini"] = Provenance(texts, model, version, description.prompt, description.at)
    return said


def marked_sources(recorded: Mapping[str, Source]) -> Mapping[str, Source]:
    """Return a record's sources, marked as a demonstration model's where an older revision did not do so.

    Older revisions used a demonstration's caption like any other, also as alt text and for `agreement`.
    """
    blip = recorded.get("blip")
    if blip is None or blip.demo or blip.model != DEMONSTRATION:
        return recorded
    return {**recorded, "blip": replace(blip, demo=True, notice=NOTICE.format(things=THINGS))}


def notice(sources: Mapping[str, Source], provenance: Mapping[str, Provenance]) -> str:
    """Return the notice of a demonstration model if the caption that is shown is its; else nothing."""
    said = provenance.get("blip")
    return sources["blip"].notice if said and "caption" in said.texts and "blip" in sources else ""


def _shown_caption(description: Description | None, caption: Caption | None) -> Caption | None:
    """Return BLIP's caption if it is the one that is shown."""
    if description is None:
        return usable(caption)
    return trusted(caption) if description.language.partition("-")[0] == ENGLISH else None


def without_preamble(alt_text: str) -> str:
    """Return an alt text without "an image of" and the like before it."""
    said = alt_text[found.end() :] if (found := PREAMBLE.match(alt_text)) else ""
    return said[:1].upper() + said[1:] or alt_text
