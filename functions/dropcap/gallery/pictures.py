"""Renditions of a picture for the templates: addresses, `srcset`, and snippets to copy."""

import html
import math
import re
from collections.abc import Iterable
from urllib.parse import quote

from dropcap.domain.analysis import Rendition
from dropcap.gallery.assets import FOLDER
from dropcap.gallery.cards import Card
from dropcap.gallery.request import GalleryRequest
from dropcap.settings import Settings
from dropcap.storage.buckets import browser_origin

# Each has a class in gallery.css, because the content security policy forbids inline styles.
RATIOS = tuple(map(float, re.findall(r"\.r\d+ { --r: ([\d.]+); }", (FOLDER / "gallery.css").read_text())))
COPIED_SIZES = "(max-width: {width}px) 100vw, {width}px"
MARKDOWN = re.compile(r"([\\`*_\[\]<>&!|~])")


def distinct(pictures: Iterable[Rendition]) -> list[Rendition]:
    """Return the renditions with distinct widths, largest first, in the first format of FORMAT.

    Sizes above the source's own all have the same width.
    """
    renditions = list(pictures)
    by_width = {each.width: each for each in renditions if each.content_type == renditions[0].content_type}
    return [by_width[width] for width in sorted(by_width, reverse=True)]


def srcset(request: GalleryRequest, card: Card) -> str:
    """Return the `srcset` of a card's picture, with addresses of the gallery, which checks access."""
    return ", ".join(f"{address(request, card, each)} {each.width}w" for each in distinct(card.pictures))


def address(request: GalleryRequest, card: Card, picture: Rendition) -> str:
    return request.link(f"/image/{card.id}/{picture.label}")


def middle(card: Card) -> Rendition | None:
    """Return the rendition for browsers without srcset: the smallest of at least 600 px, else the largest."""
    renditions = distinct(card.pictures)
    return next((each for each in reversed(renditions) if max(each.width, each.height) >= 600), None) or (
        renditions[0] if renditions else None
    )


def ratio(card: Card) -> float:
    """Return the aspect ratio of the frame on the wall: the nearest of RATIOS to the picture's."""
    wide = card.picture.width / card.picture.height if card.picture.height else 1.0
    return min(RATIOS, key=lambda each: abs(math.log(each / wide)) if wide else 0)


def alt(card: Card) -> str:
    """Return the alt text of the `<img>`: never empty, because the picture is the page's content."""
    return card.alternative or card.name or "A picture without a description"


def published(settings: Settings, picture: Rendition) -> str:
    """Return the address of a rendition for use outside the gallery."""
    base = settings.pictures_url or f"{browser_origin()}/{settings.pictures_bucket}"
    return f"{base.rstrip('/')}/{quote(picture.object)}"


def as_html(settings: Settings, card: Card) -> str:
    """Return an `<img>` with all renditions for another page; empty if there are none."""
    renditions, shown = distinct(card.pictures), middle(card)
    if not shown:
        return ""
    attributes = {
        "src": published(settings, shown),
        "srcset": ", ".join(f"{published(settings, each)} {each.width}w" for each in renditions),
        "sizes": COPIED_SIZES.format(width=renditions[0].width),
        "alt": _line(card.alternative),
        "width": str(renditions[0].width),
        "height": str(renditions[0].height),
    }
    written = (f'{name}="{html.escape(value)}"' for name, value in attributes.items())
    return f"<img {' '.join(written)}>"


def as_markdown(settings: Settings, card: Card) -> str:
    """Return the picture in Markdown; empty if there are no renditions."""
    shown = middle(card)
    text = MARKDOWN.sub(r"\\\1", _line(card.alternative))
    return f"![{text}]({published(settings, shown)})" if shown else ""


def _line(text: str) -> str:
    """Return the text on one line, because a blank line would end the Markdown paragraph."""
    return " ".join(text.split())
