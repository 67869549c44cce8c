"""`make redescribe` calls `sweep` through a task of Cloud Tasks, because the function admits nobody else."""

import base64
import json
from typing import Any

import pytest

from tests.support.app import NO_GCLOUD
from tests.support.cloud.deployment import Deployment

pytestmark = pytest.mark.skipif(NO_GCLOUD, reason="gcloud is not installed")


def test_a_task_calls_sweep_as_the_scheduler_and_the_answer_is_in_the_log(there: Deployment) -> None:
    lines: Any = [{"jsonPayload": {"message": "to be described anew", "pictures": 2, "after": None}}]
    there.plane.resources["entries"] = lines
    ran = there.make("redescribe", OWNER="ana", YES="1")
    assert (ran.status, ran.error) == (0, "")
    assert "2 marked" in ran.out
    requests = [write.body["task"]["httpRequest"] for write in ran.writes]
    account = f"dropcap-scheduler@{there.plane.project}.iam.gserviceaccount.com"
    assert {each["oidcToken"]["serviceAccountEmail"] for each in requests} == {account}
    assert {each["url"] for each in requests} == {there.service("sweep")["status"]["url"]}
    bodies = [json.loads(base64.b64decode(each["body"]))["redescribe"] for each in requests]
    assert [(each["owner"], each.get("mark", False)) for each in bodies] == [("ana", False), ("ana", True)]
    assert {each["headers"]["Content-Type"] for each in requests} == {"application/json"}
    assert bodies[0]["token"] != bodies[1]["token"]
    reads = [each.body["filter"] for each in there.plane.requests if each.path.endswith("entries:list")]
    for body, read in zip(bodies, reads, strict=True):  # each command reads the answer to its own request
        assert f'jsonPayload.token="{body["token"]}"' in read


def test_without_an_answer_in_the_log_the_command_says_where_to_look(there: Deployment) -> None:
    ran = there.make("redescribe", YES="1", WAIT_S="1")
    assert ran.status == 1
    assert "make logs PROJECT=" in ran.error


def test_without_a_confirmation_nothing_is_marked(there: Deployment) -> None:
    lines: Any = [{"jsonPayload": {"pictures": 2, "after": None}}]
    there.plane.resources["entries"] = lines
    ran = there.make("redescribe", YES="")
    assert (ran.status, len(ran.writes)) == (1, 1)  # the pictures were counted
    assert ran.error == "make redescribe: Have Gemini describe 2 pictures anew? Confirm with YES=1.\n"
