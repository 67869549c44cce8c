"""Parse requests and build responses of the Gemini API with Google's own message definitions."""

import importlib
import io
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format
from PIL import Image, UnidentifiedImageError

from infra.local.gemini.errors import ApiError

if TYPE_CHECKING:  # takes a second, which `make run` need not wait for: the first picture loads it
    from google.ai.generativelanguage_v1beta.types import GenerateContentRequest

VERSION = "dropcap-stand-in"
# Newer than our copy of Google's definitions.
NEWER_FIELDS = {"propertyOrdering", "property_ordering", "mediaResolution", "media_resolution"}
# Tokens of a picture with Gemini 3: ai.google.dev/gemini-api/docs/media-resolution, as of 2026-11.
PICTURE_TOKENS = {
    f"MEDIA_RESOLUTION_{name}": tokens
    for name, tokens in (("UNSPECIFIED", 1120), ("LOW", 280), ("MEDIUM", 560), ("HIGH", 1120))
}


def _without_newer(value: Any) -> Any:
    """Return JSON without NEWER_FIELDS."""
    if isinstance(value, dict):
        return {name: _without_newer(field) for name, field in value.items() if name not in NEWER_FIELDS}
    return [_without_newer(each) for each in value] if isinstance(value, list) else value


def definition(name: str) -> Any:
    """Return one of Google's message definitions."""
    return getattr(importlib.import_module("google.ai.generativelanguage_v1beta.types"), name)


def parse(fields: Any) -> "GenerateContentRequest":
    """Parse a request by Google's definition: camelCase or snake_case, enums as words or numbers."""
    message = definition("GenerateContentRequest")
    request: GenerateContentRequest = message()
    if not isinstance(fields, dict):
        raise ApiError(400, "Invalid JSON payload received. Expected an object.")
    try:
        json_format.ParseDict(_without_newer(fields), message.pb(request))
    except json_format.ParseError as wrong:
        raise ApiError(400, f"Invalid JSON payload received. {wrong}") from wrong
    if not any(content.parts for content in request.contents):
        raise ApiError(400, "* GenerateContentRequest.contents: contents is not specified")
    return request


def picture_in(request: "GenerateContentRequest") -> Image.Image:
    """Return the first picture of a request, decoded."""
    for content in request.contents:
        for part in content.parts:
            if part.inline_data.data:
                try:
                    image = Image.open(io.BytesIO(part.inline_data.data))
                    image.load()
                except (UnidentifiedImageError, OSError) as wrong:
                    raise ApiError(400, "Unable to process input image.") from wrong
                return image
    raise ApiError(400, "The stand-in describes pictures alone, and this request has none.")


def picture_tokens(fields: dict[str, Any]) -> int:
    """Return the tokens of a picture at the request's media resolution. Raises ApiError if it is unknown."""
    configuration = fields.get("generationConfig") or fields.get("generation_config") or {}
    resolution = configuration.get("mediaResolution", "MEDIA_RESOLUTION_UNSPECIFIED")
    if resolution not in PICTURE_TOKENS:
        raise ApiError(400, f"Invalid value at 'generation_config.media_resolution': {resolution!r}")
    return PICTURE_TOKENS[resolution]


def response_to(text: str, read: int) -> Any:
    """Return the protobuf message of a complete response with this text to a prompt of `read` tokens."""
    tokens = {"prompt_token_count": read, "candidates_token_count": len(text) // 4}
    fields: dict[str, Any] = {
        "model_version": VERSION,
        "usage_metadata": tokens | {"total_token_count": sum(tokens.values())},
        "candidates": [{"content": {"role": "model", "parts": [{"text": text}]}, "finish_reason": "STOP"}],
    }
    message = definition("GenerateContentResponse")
    return message.pb(message(fields))
