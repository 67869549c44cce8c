"""Adapter to Gemini for google-generativeai 0.8.6, the last release. It uses REST: gRPC takes 18 MB more."""

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import requests
from google.api_core.exceptions import GoogleAPICallError
from google.protobuf import json_format
from urllib3.exceptions import NewConnectionError

from dropcap import logs
from dropcap.describing import client, prompt, token_usage
from dropcap.describing.response import NotDescribed
from dropcap.domain.gemini_response import GeminiResponse
from dropcap.settings import Settings

with warnings.catch_warnings():  # its own warning about the end of support has eight lines
    warnings.simplefilter("ignore", FutureWarning)
    from google.ai.generativelanguage import GenerativeServiceClient
    from google.generativeai.generative_models import GenerativeModel
    from google.generativeai.types import RequestOptions

logger = logging.getLogger(__name__)

SUPPORT_ENDED = (
    "GEMINI_SDK=google-generativeai selects a package whose support ended on 2025-11-30: "
    "unset GEMINI_SDK to use google-genai."
)

NO_BATCHES = "google-generativeai knows no batches: Settings.can_batch must be checked before."

# Finish reasons that this package does not know and returns as numbers: google-ai-generativelanguage 0.12.1
# (2026), generative_service.py. Of these, IMAGE_PROHIBITED_CONTENT is a verdict.
NEWER_FINISH_REASONS = {
    12: "UNEXPECTED_TOOL_CALL",
    13: "TOO_MANY_TOOL_CALLS",
    14: "IMAGE_PROHIBITED_CONTENT",
    15: "IMAGE_OTHER",
    16: "NO_IMAGE",
    17: "IMAGE_RECITATION",
}


class Adapter:
    """A client.GeminiClient."""

    def __init__(self, settings: Settings, key: str) -> None:
        logs.once(logger, logging.WARNING, SUPPORT_ENDED, "gemini_sdk_unsupported")
        self._timeout = settings.gemini_timeout_s
        self._model = GenerativeModel(
            settings.gemini_model,
            system_instruction=prompt.instruction(settings),
            generation_config={
                "max_output_tokens": prompt.MAX_OUTPUT_TOKENS,
                "response_mime_type": "application/json",
                "response_schema": prompt.schema(settings),
            },
        )
        endpoint = settings.gemini_endpoint.rstrip("/")
        options = {"api_key": key} | ({"api_endpoint": endpoint} if endpoint else {})
        # These two private names are safe to use: the packages have no later release. The public
        # genai.configure sets key and address for the whole process. After 401, google-auth would refresh the
        # credentials and retry twice, but a key can't be refreshed.
        service: Any = GenerativeServiceClient(client_options=options, transport="rest")
        service.transport._session._max_refresh_attempts = 0
        self._model._client = service

    def ask(self, jpeg: bytes, request: str) -> GeminiResponse:
        response = self._model.generate_content(
            [{"mime_type": "image/jpeg", "data": jpeg}, request],
            request_options=RequestOptions(timeout=self._timeout, retry=None),  # gemini.py retries
        )
        candidate = next(iter(response.candidates), None)
        finish = candidate.finish_reason if candidate else 0
        return GeminiResponse(
            text="".join(part.text for part in candidate.content.parts) if candidate else "",
            finish=NEWER_FINISH_REASONS.get(int(finish)) or client.enum_name(finish),
            blocked=client.enum_name(response.prompt_feedback.block_reason),
            version=response.model_version,
            ratings=client.safety_ratings(
                candidate.safety_ratings if candidate else None, response.prompt_feedback.safety_ratings
            ),
            tokens=token_usage.tokens(response.usage_metadata),
        )

    def create_batch(self, display_name: str, requests: Sequence[client.BatchedRequest]) -> str:
        raise NotImplementedError(NO_BATCHES)

    def find_batch(self, display_name: str) -> str | None:
        raise NotImplementedError(NO_BATCHES)

    def batch(self, name: str) -> client.BatchStatus | None:
        raise NotImplementedError(NO_BATCHES)

    def delete_batch(self, name: str, *, cancel: bool = False) -> None:
        raise NotImplementedError(NO_BATCHES)

    def translate_error(self, error: Exception) -> NotDescribed:
        if isinstance(error, GoogleAPICallError):
            return client.http_error(error.code, error.response)
        if isinstance(error, requests.Timeout):
            return client.timeout_error(self._timeout)
        if isinstance(error, requests.ConnectionError | requests.exceptions.ChunkedEncodingError):
            reasons = (getattr(cause, "reason", None) for cause in error.args)
            refused = any(isinstance(reason, NewConnectionError) for reason in reasons)
            return client.connection_error(error, connected=not refused)
        retry_now = isinstance(error, json_format.ParseError | requests.exceptions.ContentDecodingError)
        return client.parse_error(error, retry_now=retry_now)
