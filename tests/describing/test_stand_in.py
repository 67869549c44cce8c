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
