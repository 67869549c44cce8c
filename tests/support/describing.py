"""A `Describer` of either package, the stand-in for Gemini that it asks, and deferred descriptions."""

import io
import os
import uuid
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import pytest
import requests
from PIL import Image

from dropcap.describing.gemini import Describer
from dropcap.describing.response import NotDescribed
from dropcap.settings import Settings
from infra.local.gemini.server import Call
from tests.support.app import App, rows
from tests.support.gemini_faults import FaultyGemini

SDKS = ("google-generativeai", "google-genai")
DOWN, UP = "fault-503", "gemini-3.5-flash-lite"  # models: Gemini is unavailable, and it answers
ONCE = {"SIZES": "200", "GEMINI_ATTEMPTS": "1"}
DONE = {"complete": True}  # what reconcile returns if it did nothing


@pytest.fixture(scope="module")
def stand_in() -> Iterator[FaultyGemini]:
    with FaultyGemini() as server:
        yield server


@pytest.fixture(params=SDKS)
def settings(request: pytest.FixtureRequest, stand_in: FaultyGemini, few_certificates: str) -> dict[str, Any]:
    """Return settings for one of the packages, with a key that no other test uses."""
    os.environ["SSL_CERT_FILE"] = few_certificates
    return {
        "gemini_sdk": request.param,
        "gemini_endpoint": stand_in.url,
        "gemini_api_key": f"key-{uuid.uuid4().hex}",
        "gemini_attempts": 2,
        "gemini_timeout_s": 10.0,
    }


def jpeg(width: int = 64, height: int = 48, colour: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "JPEG")
    return file.getvalue()


def describer(settings: dict[str, Any], model: str = "gemini-3.5-flash-lite", **others: Any) -> Describer:
    return Describer(Settings(**settings | {"gemini_model": model} | others))


def refusal(settings: dict[str, Any], model: str, **others: Any) -> NotDescribed:
    """Return the error with which a description by this model fails."""
    with pytest.raises(NotDescribed) as raised:
        describer(settings, model, **others).describe(jpeg())
    return raised.value


def calls(stand_in: FaultyGemini, settings: dict[str, Any]) -> list[Call]:
    return [call for call in stand_in.calls if call.key == settings["gemini_api_key"]]


def new_key() -> str:
    """Return a key that no other test uses: the stand-in counts requests by key."""
    return f"key-{uuid.uuid4().hex}"


def requests_of(gemini_url: str, key: str) -> int:
    return int(requests.get(f"{gemini_url}/_calls", timeout=10).json().get(key, 0))


def result(app: App, id: uuid.UUID) -> dict[str, Any]:
    return dict(app.services.analyses.result(id) or {})


def make_due() -> None:
    rows("UPDATE analyses SET describe_after = now() WHERE describe_after IS NOT NULL")


def redescribe(app: App, **selection: object) -> dict[str, Any]:
    answer = app.sweep.post("/", json={"redescribe": selection})
    assert answer.status_code == HTTPStatus.OK, answer.text
    return dict(answer.get_json())
