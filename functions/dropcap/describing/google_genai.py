"""Adapter to Gemini for google-genai, the successor of google-generativeai."""

import math
import ssl
from collections.abc import Sequence
from http import HTTPStatus

import httpx2
from google import genai
from google.genai import types
from google.genai.errors import APIError

from dropcap.describing import client, prompt, token_usage
from dropcap.describing.response import NotDescribed
from dropcap.domain.gemini_response import GeminiResponse
from dropcap.settings import Settings

SHORTEST_DEADLINE_S = 10  # Google answers a shorter X-Server-Timeout with 400 (livekit/agents #3723)


class Adapter:
    """A client.GeminiClient. The package does not retry, because it has no `retry_options`."""

    def __init__(self, settings: Settings, key: str) -> None:
        self._settings = settings
        self._timeout = settings.gemini_timeout_s
        self._model = settings.gemini_model
        self._config = types.GenerateContentConfig(
            system_instruction=prompt.instruction(settings),
            max_output_tokens=prompt.MAX_OUTPUT_TOKENS,
            media_resolution=types.MediaResolution(
                f"MEDIA_RESOLUTION_{settings.gemini_media_resolution.upper()}"
            ),
            response_mime_type="application/json",
            response_schema=prompt.schema(settings),
        )
        self._client = genai.Client(
            api_key=key,
            vertexai=False,  # overrides GOOGLE_GENAI_USE_VERTEXAI: the key is one of the Gemini API
            http_options=types.HttpOptions(
                base_url=settings.gemini_endpoint or None,
                api_version="v1beta",  # the default, v1, has neither system instruction nor schema
                timeout=math.ceil(self._timeout * 1000),
                # The asyncio client is not used: an empty context saves loading all certificates twice more.
                async_client_args={"ssl": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)},
                headers={"X-Server-Timeout": str(max(SHORTEST_DEADLINE_S, math.ceil(self._timeout)))},
            ),
        )

    def ask(self, jpeg: bytes, request: str) -> GeminiResponse:
        return _response(
            self._client.models.generate_content(
                model=self._model, contents=_content(jpeg, request), config=self._config
            )
        )

    def create_batch(self, display_name: str, requests: Sequence[client.BatchedRequest]) -> str:
        job = self._client.batches.create(
            model=self._model,
            src=[
                types.InlinedRequest(
                    contents=_content(each.jpeg, each.request),
                    config=self._config.model_copy(
                        update={"response_schema": prompt.schema(self._settings, each.key)}
                    ),
                    metadata={"key": each.key},
                )
                for each in requests
            ],
            config=types.CreateBatchJobConfig(
                display_name=display_name,
                http_options=types.HttpOptions(timeout=math.ceil(client.BATCH_TIMEOUT_S * 1000)),
            ),
        )
        if not job.name:
            raise ValueError("a batch without a name")
        return job.name

    def find_batch(self, display_name: str) -> str | None:
        pages = self._client.batches.list(config=types.ListBatchJobsConfig(page_size=100))
        return next((job.name for job in pages if job.display_name == display_name), None)

    def batch(self, name: str) -> client.BatchStatus | None:
        try:
            job = self._client.batches.get(name=name)
        except APIError as refused:
            if refused.code == HTTPStatus.NOT_FOUND:
                return None
            raise
        state = (job.state.value if job.state else "").removeprefix("JOB_STATE_")
        answers = (job.dest.inlined_responses if job.dest else None) or ()
        # Which request an answer belongs to is in its text, not in its metadata or position: prompt.schema.
        responses = [_response(answer.response) for answer in answers if answer.response]
        return client.BatchStatus(state, responses, sum(answer.error is not None for answer in answers))

    def delete_batch(self, name: str, *, cancel: bool = False) -> None:
        try:
            if cancel:
                self._client.batches.cancel(name=name)
            self._client.batches.delete(name=name)
        except APIError as refused:
            if refused.code != HTTPStatus.NOT_FOUND:
                raise

    def translate_error(self, error: Exception) -> NotDescribed:
        if isinstance(error, APIError):
            return client.http_error(error.code, error.response)
        if isinstance(error, httpx2.TimeoutException):
            return client.timeout_error(self._timeout)
        if isinstance(error, httpx2.TransportError):
            return client.connection_error(error, connected=not isinstance(error, httpx2.ConnectError))
        # An unreadable response: json and pydantic raise ValueError, the package's own code the others.
        retry_now = isinstance(error, ValueError | AttributeError | RecursionError | httpx2.DecodingError)
        return client.parse_error(error, retry_now=retry_now)


def _content(jpeg: bytes, request: str) -> types.Content:
    picture = types.Part.from_bytes(data=jpeg, mime_type="image/jpeg")
    return types.Content(role="user", parts=[picture, types.Part.from_text(text=request)])


def _response(response: types.GenerateContentResponse) -> GeminiResponse:
    candidate = next(iter(response.candidates or ()), None)
    parts = candidate.content.parts if candidate and candidate.content else None
    feedback = response.prompt_feedback
    return GeminiResponse(
        text="".join(part.text or "" for part in parts or () if not part.thought),
        finish=client.enum_name(candidate.finish_reason) if candidate else "",
        blocked=client.enum_name(feedback.block_reason) if feedback else "",
        version=response.model_version or "",
        ratings=client.safety_ratings(
            candidate.safety_ratings if candidate else None, feedback.safety_ratings if feedback else None
        ),
        tokens=token_usage.tokens(response.usage_metadata),
    )
