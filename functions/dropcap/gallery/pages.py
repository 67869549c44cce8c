"""Render the gallery's pages from `templates/`."""

from http import HTTPStatus
from pathlib import Path
from typing import Any

import flask
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from dropcap.gallery import assets, charts
from dropcap.gallery.request import BASE, GalleryRequest

FOLDER = Path(__file__).parent
TEMPLATES = Environment(
    loader=FileSystemLoader(FOLDER / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
)
TEMPLATES.globals |= charts.GLOBALS
TEMPLATES.filters |= charts.FILTERS
TEMPLATES.globals["static"] = lambda name: f"{BASE}/static/{name}?v={assets.version(name)}"


def page(
    request: GalleryRequest, template: str, status: HTTPStatus = HTTPStatus.OK, **facts: Any
) -> flask.Response:
    """Render a template with the facts, `request` and `settings`."""
    text = TEMPLATES.get_template(template).render(
        request=request, settings=request.services.settings, **facts
    )
    return flask.Response(text, status, mimetype="text/html")
