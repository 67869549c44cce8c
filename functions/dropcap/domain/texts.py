"""A picture's words, for people who can't see it: which are shown, and how they travel in its file.

    words.of(description, caption)            of what both models say, or the one that answered
    words.of(description, trusted(caption))   the same for a published picture, which can't say whose they are
    words.packet(said)                        as XMP, which is written into each published picture

In the file are the two accessibility fields of the IPTC Photo Metadata Standard, the caption
(dc:description) and the tags (dc:subject). A published file never changes, so it has the words of its
analysis: what a person edits, or what is described later, is in the record alone. What models say is hostile:
it is escaped, and what XML can't hold is left out.

What a caption of BLIP's may be used for, this module alone decides:

    low confidence        nothing, as if BLIP had not answered; `sources` says so
    demonstration model   shown, beside its notice, where Gemini did not answer; it is not `trusted`
    any other             shown, the alt text where Gemini has none, embedded, compared with Gemini's words
"""

import datetime as dt
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from html import escape

from dropcap.domain.analysis import ENGLISH, NOTICE, Caption, Description, Said, Source

# "An image of a dog" tells a person with a screen reader twice that it is one. What kind of picture it is, as
# in "a family photo of", may be what matters, and stays.
KIND = "(image|picture|photo|photograph|snapshot)"
PREAMBLE = re.compile(
    rf"((this|it|here) is )?(an? )?{KIND} (of|showing|depicting|that shows) "
    rf"|(this|the) {KIND} (shows|depicts) ",
    re.IGNORECASE,
)
DEMONSTRATION, THINGS = "dropcap-scenes", 60  # the model that ships, and how many things it knows
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, 2.2
LARGEST = 65_000  # bytes: one segment of a JPEG holds no more than 65,502 of XMP
PACKET = """\
<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" \
xmlns:Iptc4xmpCore="http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/">{}</rdf:Description></rdf:RDF></x:xmpmeta>\
<?xpacket end="r"?>"""


@dataclass(frozen=True, slots=True)
class Words:
    """What is shown of a picture, in `language`; `text` is what is written in it."""

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
    """Return the caption if it may take the place of Gemini's words, and be compared with them."""
    caption = usable(caption)
    return None if caption is None or caption.demo else caption


def of(description: Description | None, caption: Caption | None) -> Words:
    """Return Gemini's words with BLIP's caption, which is also the alt text where Gemini did not answer.

    BLIP speaks English alone: in any other language the caption is Gemini's.
    """
    blip = _shown(description, caption)
    if description is None:
        alt_text = plain(blip.text) if blip and trusted(blip) else ""
        return Words(blip.text if blip else "", "", alt_text, (), "", ENGLISH)
    return Words(
        caption=blip.text if blip else description.caption or description.alt_text,
        description=description.description,
        alt_text=description.alt_text,
        tags=description.tags,
        text=description.text,
        language=description.language,
    )


def captions(description: Description | None, caption: Caption | None) -> dict[str, str]:
    """What each model called it, of those that did; one of the two is shown as the caption."""
    blip = usable(caption)
    said = {"blip": blip.text if blip else "", "gemini": description.caption if description else ""}
    return {model: text for model, text in said.items() if text}


def provenance(
    description: Description | None, caption: Caption | None, at: dt.datetime, begun: str
) -> dict[str, Said]:
    """By model: which of the words that are shown are its own, and when and how it was asked.

    BLIP's caption is of the instant `at`, and begins with the text `begun`.
    """
    said, theirs = {}, ("description", "alt_text", "tags", "text")
    blips = _shown(description, caption)
    if caption := usable(caption):
        texts: tuple[str, ...] = ("caption",) if blips else ()
        if not description and trusted(caption):
            texts = ("caption", "alt_text")
        asked = hashlib.sha256(begun.encode()).hexdigest()[:12] if begun else ""
        said["blip"] = Said(texts, caption.model, caption.version, asked, at.isoformat())
    if description:
        texts = theirs if blips else ("caption", *theirs)
        model, version = description.model, description.version
        said["gemini"] = Said(texts, model, version, description.prompt, description.at)
    return said


def sources(recorded: Mapping[str, Source]) -> Mapping[str, Source]:
    """Return a record's sources, with the mark of a demonstration model, which older revisions did not write.

    Those took a demonstration's caption for a true one: what else of such a record says so is not `trusted`.
    """
    blip = recorded.get("blip")
    if blip is None or blip.demo or blip.model != DEMONSTRATION:
        return recorded
    return {**recorded, "blip": replace(blip, demo=True, notice=NOTICE.format(things=THINGS))}


def notice(sources: Mapping[str, Source], provenance: Mapping[str, Said]) -> str:
    """Return the notice of a demonstration model if the caption that is shown is its; else nothing."""
    said = provenance.get("blip")
    return sources["blip"].notice if said and "caption" in said.texts and "blip" in sources else ""


def _shown(description: Description | None, caption: Caption | None) -> Caption | None:
    """Return BLIP's caption if it is the one that is shown."""
    if description is None:
        return usable(caption)
    return trusted(caption) if description.language.partition("-")[0] == ENGLISH else None


def plain(alt_text: str) -> str:
    """An alt text without "an image of" and the like before it."""
    said = alt_text[found.end() :] if (found := PREAMBLE.match(alt_text)) else ""
    return said[:1].upper() + said[1:] or alt_text


def packet(words: Words) -> bytes:
    """The words as an XMP packet (ISO 16684-1); empty where there are none, or by far too many."""
    long = "\n\n".join(filter(None, (words.description, words.text)))
    tags = "".join(f"<rdf:li>{_xml(tag)}</rdf:li>" for tag in words.tags)
    fields = (
        _in_language("Iptc4xmpCore:AltTextAccessibility", words.alt_text, words.language)
        + _in_language("Iptc4xmpCore:ExtDescrAccessibility", long, words.language)
        + _in_language("dc:description", words.caption, words.language)
        + (f"<dc:subject><rdf:Bag>{tags}</rdf:Bag></dc:subject>" if tags else "")
    )
    made = PACKET.format(fields).encode() if fields else b""
    return made if len(made) <= LARGEST else b""


def _in_language(name: str, text: str, language: str) -> str:
    """A text with its language, and as the one for whoever asks for none, which must come first."""
    if not text:
        return ""
    items = (f'<rdf:li xml:lang="{each}">{_xml(text)}</rdf:li>' for each in ("x-default", language))
    return f"<{name}><rdf:Alt>{''.join(items)}</rdf:Alt></{name}>"


def _xml(text: str) -> str:
    return escape(NOT_XML.sub("", text), quote=False)
