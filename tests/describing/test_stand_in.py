"""The stand-in for Gemini accepts and refuses the requests that Google does."""

import base64
import json
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from typing import Any

import pytest
from google import genai
from google.genai import types
from google.genai.errors import APIError, ClientError

from tests.support.app import ROOT
from tests.support.describing import jpeg
from tests.support.gemini_faults import FaultyGemini


def post(url: str, body: bytes, **headers: str) -> tuple[int, Any]:
    request = urllib.request.Request(url, body, headers)  # noqa: S310  the stand-in's own http address
    try:
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, json.load(refused)


PICTURE = {"parts": [{"inlineData": {"mimeType": "image/jpeg", "data": base64.b64encode(jpeg()).decode()}}]}


def test_the_stand_in_accepts_both_spellings_of_fields_and_of_the_key(stand_in: FaultyGemini) -> None:
    url = f"{stand_in.url}/v1beta/models/gemini-3.5-flash-lite:generateContent"
    data = base64.b64encode(jpeg()).decode()
    for part in (
        {"inlineData": {"mimeType": "image/jpeg", "data": data}},
        {"inline_data": {"mime_type": "image/jpeg", "data": data}},
    ):
        body = json.dumps({"contents": [{"parts": [part]}]}).encode()
        for status, answer in (post(f"{url}?key=k", body), post(url, body, **{"x-goog-api-key": "k"})):
            assert status == 200
            assert answer["modelVersion"] == "dropcap-stand-in"
            assert answer["candidates"][0]["finishReason"] == "STOP"
            usage = answer["usageMetadata"]
            tokens = usage["promptTokenCount"] + usage.get("candidatesTokenCount", 0)
            assert tokens == usage["totalTokenCount"]


@pytest.mark.parametrize(
    ("body", "key", "message"),
    [
        (b"{}", "", "API key not valid"),
        (b"{}", "k", "contents is not specified"),
        (b"{", "k", "Invalid JSON payload received."),
        (b'{"prompt": "x"}', "k", "Invalid JSON payload received."),
        (
            b'{"contents": [{"parts": [{"inlineData": {"data": "AAAA"}}]}]}',
            "k",
            "Unable to process input image.",
        ),
        (
            json.dumps({"contents": [PICTURE], "generationConfig": {"mediaResolution": "TINY"}}).encode(),
            "k",
            "Invalid value at 'generation_config.media_resolution'",
        ),
    ],
)
def test_the_stand_in_refuses_what_google_refuses(
    stand_in: FaultyGemini, body: bytes, key: str, message: str
) -> None:
    url = f"{stand_in.url}/v1beta/models/gemini-3.5-flash-lite:generateContent?key={key}"
    status, answer = post(url, body)
    assert status == 400
    assert answer["error"]["code"] == 400
    assert answer["error"]["status"] == "INVALID_ARGUMENT"
    assert message in answer["error"]["message"]


@pytest.fixture
def client(stand_in: FaultyGemini) -> genai.Client:
    """Google's own client, with a key that no other test uses."""
    options = types.HttpOptions(base_url=stand_in.url, api_version="v1beta")
    return genai.Client(api_key=uuid.uuid4().hex, vertexai=False, http_options=options)


def create(client: genai.Client, model: str, *names: str) -> types.BatchJob:
    requests = [
        types.InlinedRequest(
            contents=types.Part.from_bytes(data=jpeg(colour=name), mime_type="image/jpeg"),
            config=types.GenerateContentConfig(response_schema={"type": "OBJECT", "properties": ALT_TEXT}),
            metadata={"key": name},
        )
        for name in names
    ]
    return client.batches.create(model=model, src=requests, config={"display_name": "a batch"})


ALT_TEXT = {"alt_text": {"type": "STRING"}}


def inlined(client: genai.Client, job: types.BatchJob) -> list[types.InlinedResponse]:
    found = client.batches.get(name=job.name or "")
    assert found.state == types.JobState.JOB_STATE_SUCCEEDED
    assert found.dest
    return found.dest.inlined_responses or []


def test_a_batch_is_answered_in_another_order_with_the_keys_of_its_requests(client: genai.Client) -> None:
    job = create(client, "gemini-3.5-flash-lite", "red", "green", "blue")
    answers = inlined(client, job)
    assert [answer.metadata for answer in answers] == [{"key": key} for key in ("blue", "green", "red")]
    for answer in answers:
        assert answer.response
        assert answer.metadata
        assert answer.metadata["key"] in (answer.response.text or "")


def test_a_key_lists_cancels_and_deletes_its_own_batches_alone(
    client: genai.Client, stand_in: FaultyGemini
) -> None:
    first, second = (create(client, "fault-batch-running", "red") for _ in range(2))
    listed = [*client.batches.list(config={"page_size": 1})]
    assert [job.name for job in listed] == [second.name, first.name]
    assert {job.display_name for job in listed} == {"a batch"}
    stranger = genai.Client(
        api_key="other", vertexai=False, http_options={"base_url": stand_in.url, "api_version": "v1beta"}
    )
    assert [*stranger.batches.list()] == []
    with pytest.raises(ClientError, match="404"):
        stranger.batches.get(name=first.name or "")
    client.batches.cancel(name=first.name or "")
    assert client.batches.get(name=first.name or "").state == types.JobState.JOB_STATE_CANCELLED
    client.batches.delete(name=first.name or "")
    assert [job.name for job in client.batches.list()] == [second.name]


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "FAILED", "EXPIRED", "CANCELLED"])
def test_a_batch_without_results_says_its_state(client: genai.Client, state: str) -> None:
    job = create(client, f"fault-batch-{state.lower()}", "red")
    found = client.batches.get(name=job.name or "")
    assert found.state == types.JobState(f"JOB_STATE_{state}")
    assert not (found.dest and found.dest.inlined_responses)


def test_entries_of_a_batch_fail_one_by_one(client: genai.Client) -> None:
    job = create(client, "fault-batch-error-400", "red", "green", "blue")
    failed = [answer.error.code if answer.error else 0 for answer in inlined(client, job)]
    assert failed == [0, 3, 0]


@pytest.mark.parametrize(("model", "code"), [("fault-503", 503), ("fault-batch-none", 400), ("other", 404)])
def test_a_batch_is_refused_as_a_request_is(client: genai.Client, model: str, code: int) -> None:
    with pytest.raises(APIError, match=str(code)):
        create(client, model, "red")


def test_the_stand_in_runs_as_a_program_and_counts_its_calls() -> None:
    command = [sys.executable, "-m", "infra.local.gemini", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as program:
        try:
            assert program.stdout is not None
            url = program.stdout.readline().split()[-1]
            key = uuid.uuid4().hex
            for _ in range(3):
                post(f"{url}/v1beta/models/gemini-3.5-flash-lite:generateContent?key={key}", b"{}")
            with urllib.request.urlopen(f"{url}/_calls") as answer:  # noqa: S310
                assert json.load(answer) == {key: 3}
        finally:
            program.terminate()
