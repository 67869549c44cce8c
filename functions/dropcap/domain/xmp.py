"""Write a picture's texts as an XMP packet, which each published file carries.

    xmp.packet(texts)     XMP (ISO 16684-1): two accessibility fields of the IPTC Photo Metadata Standard,
                          the caption (dc:description) and the tags (dc:subject)

A published file never changes, so it has the texts of its analysis. Edits by a person and later descriptions
are in the record alone. What models write is hostile: it is escaped, and what XML cannot hold is left out.
"""

import re
from html import escape

from dropcap.domain.texts import Texts

NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, 2.2
LARGEST = 65_000  # bytes: one segment of a JPEG holds no more than 65,502 of XMP
PACKET = """\
<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" \
xmlns:Iptc4xmpCore="http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/">{}</rdf:Description></rdf:RDF></x:xmpmeta>\
<?xpacket end="r"?>"""


def packet(texts: Texts) -> bytes:
    """Return the packet; empty where there are no texts, or more than LARGEST bytes."""
    long = "\n\n".join(filter(None, (texts.description, texts.text)))
    tags = "".join(f"<rdf:li>{_xml(tag)}</rdf:li>" for tag in texts.tags)
    fields = (
        _in_language("Iptc4xmpCore:AltTextAccessibility", texts.alt_text, texts.language)
        + _in_language("Iptc4xmpCore:ExtDescrAccessibility", long, texts.language)
        + _in_language("dc:description", texts.caption, texts.language)
        + (f"<dc:subject><rdf:Bag>{tags}</rdf:Bag></dc:subject>" if tags else "")
    )
    made = PACKET.format(fields).encode() if fields else b""
    return made if len(made) <= LARGEST else b""


def _in_language(name: str, text: str, language: str) -> str:
    """Return a text as the default alternative, which must come first, and as that of its language."""
    if not text:
        return ""
    items = (f'<rdf:li xml:lang="{each}">{_xml(text)}</rdf:li>' for each in ("x-default", language))
    return f"<{name}><rdf:Alt>{''.join(items)}</rdf:Alt></{name}>"


def _xml(text: str) -> str:
    return escape(NOT_XML.sub("", text), quote=False)
