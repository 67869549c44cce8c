"""Render the gallery's pages from `templates/`."""

import datetime as dt
import html
import re
from http import HTTPStatus
from pathlib import Path
from typing import Any

import flask
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from dropcap.database.progress import DAYS, PICTURES, RULES
from dropcap.domain.analysis import Source
from dropcap.gallery import assets, charts, pictures
from dropcap.gallery.request import BASE, GalleryRequest

# Targets by the first word of the achievement's name.
NUMBERS = {name.split("_")[0]: rule.target for name, rule in RULES.items() if rule.counts in (PICTURES, DAYS)}


def page(
    request: GalleryRequest, template: str, status: HTTPStatus = HTTPStatus.OK, **facts: Any
) -> flask.Response:
    """Render a template with the facts, `request` and `settings`."""
    text = TEMPLATES.get_template(template).render(
        request=request, settings=request.services.settings, **facts
    )
    return flask.Response(text, status, mimetype="text/html")


def size(number: float) -> str:
    """Return a number of bytes with its unit."""
    for unit in ("bytes", "kB", "MB"):
        if number < 1000:
            return f"{number:.{0 if unit == 'bytes' or number >= 10 else 1}f}\xa0{unit}"
        number /= 1000
    return f"{number:.1f}\xa0GB"


def when(instant: dt.datetime | dt.date) -> Markup:
    """Return an instant to the minute, or a day, as `<time>`."""
    text = day(instant)
    if isinstance(instant, dt.datetime):
        text += f", {instant:%H:%M} {instant.tzname() or ''}".rstrip()
    return Markup('<time datetime="{}">{}</time>').format(instant.isoformat(), text)


def day(instant: dt.datetime | dt.date) -> str:
    return f"{instant.day} {instant:%B %Y}"


def coded(text: str) -> Markup:
    """Return the text as HTML, with `<code>` in place of backticks."""
    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", html.escape(text)))  # noqa: S704  escaped


def confidence(source: Source) -> str:
    """Return BLIP's confidence in its caption; empty if unknown."""
    if source.confidence is None:
        return ""
    low = ", too low for the caption to be shown" if source.low_confidence else ""
    return f"confidence {source.confidence:z.2f}{low}".replace("-", "\N{MINUS SIGN}")


def seconds(duration: float) -> str:
    return f"{duration:.2f}" if duration >= 0.1 else f"{duration:.3f}"


def medal(title: str) -> str:
    """Return the label of an achievement's medal: its number, else its initial."""
    first = title.split(" ", 1)[0].lower()
    return str(NUMBERS.get(first, first[:1].upper()))


TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
)
TEMPLATES.globals |= {
    each.__name__: each
    for each in (
        *(charts.calendar, charts.panel_of, charts.panel_over),
        *(pictures.address, pictures.alt, pictures.as_html, pictures.as_markdown, pictures.distinct),
        *(pictures.middle, pictures.ratio, pictures.srcset),
    )
}
TEMPLATES.globals["static"] = lambda name: f"{BASE}/static/{name}?v={assets.version(name)}"
TEMPLATES.filters |= {each.__name__: each for each in (coded, confidence, day, medal, seconds, size, when)}
