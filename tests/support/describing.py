"""A `Describer` of either package, and the stand-in for Gemini that it asks."""

import io
import os
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from dropcap.describing.gemini import Describer
from dropcap.describing.response import NotDescribed
from dropcap.settings import Settings
from infra.local.gemini.server import Call
from tests.support.gemini_faults import FaultyGemini

SDKS = ("google-generativeai", "google-genai")


@pytest.fixture(scope="module")
def stand_in() -> Iterator[FaultyGemini]:
    with FaultyGemini() as server:
        yield server


@pytest.fixture(params=SDKS)
def settings(request: pytest.FixtureRequest, stand_in: FaultyGemini, few_certificates: str) -> dict[str, Any]:
    """Settings for one of the packages, with a key that no other test uses."""
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
    """How Gemini's absence is told where this model is asked."""
    with pytest.raises(NotDescribed) as raised:
        describer(settings, model, **others).describe(jpeg())
    return raised.value


def calls(stand_in: FaultyGemini, settings: dict[str, Any]) -> list[Call]:
    return [call for call in stand_in.calls if call.key == settings["gemini_api_key"]]
