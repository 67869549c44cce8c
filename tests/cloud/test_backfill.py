"""A backfill enqueues existing objects once, at a limited rate; each is then processed like any upload."""

import base64
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from dropcap.settings import Settings
from infra.cloud.__main__ import main
from infra.cloud.backfill.backlog import BATCH
from infra.cloud.backfill.estimate import costs
from tests.support.app import EVENT, ROOT, Start, event_of, hear_ctrl_c, rows, small_png
from tests.support.cloud.control_plane import DROPPED, ControlPlane
from tests.support.instances import instance

PROJECT, REGION = "demo-project", "us-west1"  # found where nobody says it
QUEUE = f"projects/{PROJECT}/locations/{REGION}/queues/dropcap-backfill"
TASKS = f"/v2/{QUEUE}/tasks"
FUNCTION = f"run/projects/{PROJECT}/locations/{REGION}/services/dropcap-on-upload"
URL = "https://dropcap-on-upload.example"
ODD_NAMES = [
    "ana/a b.png",
    "ana/#1?x=%2F&y=1+1.png",
    "ana/ü/日本語/🖼.png",
    'ana/"quoted".png',
    "ana/\u202ereversed\x1b[31m.png",
    "plain.png",
]
WAIT_S = 60


def deploy(plane: ControlPlane, url: str = URL, **variables: str) -> None:
    """Create the service on_upload in the project, with these variables."""
    environment: list[Any] = [{"name": name, "value": value} for name, value in variables.items()]
    secret = {"secretKeyRef": {"name": "dropcap-database-url", "key": "1"}}
    environment.append({"name": "DATABASE_URL", "valueFrom": secret})
    plane.resources[FUNCTION] = {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {
            "name": "dropcap-on-upload",
            "namespace": PROJECT,
            "labels": {"cloud.googleapis.com/location": REGION},
        },
        "spec": {
            "template": {
                "metadata": {"annotations": {"autoscaling.knative.dev/maxScale": "5"}},
                "spec": {"containers": [{"env": environment}], "timeoutSeconds": 540},
            }
        },
        "status": {"url": url},
    }


@pytest.fixture
def cloud(plane: ControlPlane, tmp_path: Path) -> ControlPlane:
    """Provide a project with the queue and on_upload; the environment points gcloud and clients to it."""
    for api in ("run", "cloudtasks"):
        name = f"{api}.googleapis.com"
        plane.resources[f"serviceusage/projects/{PROJECT}/services/{name}"] = {
            "config": {"name": name},
            "state": "ENABLED",
        }
    plane.put(
        f"cloudtasks/{QUEUE}", {"rateLimits": {"maxDispatchesPerSecond": 200, "maxConcurrentDispatches": 4}}
    )
    deploy(plane, UPLOADS_BUCKET="uploads", SOURCE="keep")
    plane.environment |= {"PROJECT": PROJECT, "STATE": str(tmp_path / "state"), "YES": "1"}
    os.environ.update(plane.environment)
    return plane


def tasks(plane: ControlPlane) -> list[Any]:
    """Return the tasks in the queue."""
    with plane.lock:
        return plane.list(f"cloudtasks/{QUEUE}/tasks")


def offered(plane: ControlPlane) -> int:
    """Return how many task creations were requested, refused ones included."""
    return sum(request.path == TASKS for request in plane.writes)


def send(task: Any) -> int:
    """Call on_upload as Cloud Tasks would, and return the status of its answer."""
    request = task["httpRequest"]
    body = base64.b64decode(request["body"])
    return requests.post(request["url"], body, headers=request["headers"], timeout=WAIT_S).status_code


@contextmanager
def bucket_of(count: int) -> Iterator[str]:
    """Run a storage server whose buckets list this many pictures, in pages like those of Cloud Storage."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            query = {name: value for name, [value] in parse_qs(urlsplit(self.path).query).items()}
            offset = re.sub(r"\D", "", query.get("startOffset", ""))
            first = int(query.get("pageToken", 0)) or int(offset or 0)
            last = min(first + int(query.get("maxResults", 1000)), count)
            fields = {"size": "2000000", "metadata": {"tz": "UTC"}}
            items = [
                {"name": f"ana/{n:06}.jpg", "generation": str(n + 1), **fields} for n in range(first, last)
            ]
            page = {"items": items} | ({"nextPageToken": str(last)} if last < count else {})
            data = json.dumps(page).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()


def run(plane: ControlPlane, bucket: str = "uploads", **variables: str) -> int:
    return main(["backfill"], plane.environment | {"BUCKET": bucket} | variables)


def test_all_objects_of_a_bucket_are_analyzed_once_whatever_their_names(
    start: Start, cloud: ControlPlane, tmp_path: Path
) -> None:
    app = start(SOURCE="keep")
    uploads = [app.upload(name, small_png(), "image/png", tz="Europe/Madrid") for name in ODD_NAMES]
    app.upload("ana/", b"")
    with instance(tmp_path) as function:
        deploy(cloud, function.url, UPLOADS_BUCKET=app.uploads, SOURCE="keep")
        assert run(cloud, app.uploads) == 0
        assert {send(task) for task in tasks(cloud)} == {200}
        found = rows("SELECT u.name, u.attempts, a.time_zone FROM uploads u JOIN analyses a USING (id)")
        assert sorted(found) == sorted([each.name, 1, "Europe/Madrid"] for each in uploads)
        names = sorted(f"{QUEUE}/tasks/{each.id}" for each in uploads)
        assert sorted(task["name"] for task in tasks(cloud)) == names
        assert run(cloud, app.uploads, RESTART="1") == 0  # Cloud Tasks knows their names
        assert (len(tasks(cloud)), offered(cloud)) == (len(ODD_NAMES), 2 * len(ODD_NAMES))
        for name in names:  # and after a while no longer: then the lease knows the uploads
            cloud.delete(f"cloudtasks/{name}")
        assert run(cloud, app.uploads, RESTART="1") == 0
        assert [send(task) for task in tasks(cloud)] == [200] * len(ODD_NAMES)
    assert sorted(rows("SELECT name, attempts FROM uploads")) == sorted([n, 1] for n in ODD_NAMES)


def test_a_task_is_the_event_that_eventarc_would_send_signed_as_the_trigger(
    start: Start, cloud: ControlPlane
) -> None:
    app = start()
    upload = app.upload(ODD_NAMES[2], b"x", tz="UTC")
    deploy(cloud, UPLOADS_BUCKET=app.uploads)
    assert run(cloud, app.uploads) == 0
    [task] = tasks(cloud)
    request, headers = task["httpRequest"], task["httpRequest"]["headers"]
    assert json.loads(base64.b64decode(request["body"])) == json.loads(event_of(upload))
    for name in ("ce-specversion", "ce-type", "content-type"):
        assert headers[name] == EVENT[name]
    assert headers["ce-id"] == task["name"].rpartition("/")[2] == str(upload.id)
    assert headers["ce-source"] == f"//storage.googleapis.com/projects/_/buckets/{app.uploads}"
    assert headers["ce-subject"] == "objects/ana/%C3%BC/%E6%97%A5%E6%9C%AC%E8%AA%9E/%F0%9F%96%BC.png"
    account = f"dropcap-trigger@{PROJECT}.iam.gserviceaccount.com"
    assert request["url"] == URL
    assert request["oidcToken"] == {"serviceAccountEmail": account, "audience": URL}
    assert task["dispatchDeadline"] == "545s"


@pytest.mark.parametrize(
    ("settings", "later"),
    [({"GEMINI_API_KEY": "any"}, True), ({"GEMINI_API_KEY": "any", "GEMINI_BATCH": "0"}, False), ({}, False)],
)
def test_descriptions_wait_for_batches_at_half_the_price_where_there_are_any(
    start: Start,
    cloud: ControlPlane,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, str],
    later: bool,
) -> None:
    app = start()
    app.upload("ana/a.png", b"x", tz="UTC")
    deploy(cloud, UPLOADS_BUCKET=app.uploads, **settings)
    assert run(cloud, app.uploads) == 0
    [task] = tasks(cloud)
    metadata = json.loads(base64.b64decode(task["httpRequest"]["body"]))["metadata"]
    assert metadata == ({"tz": "UTC", "describe": "later"} if later else {"tz": "UTC"})
    assert ("Gemini's in batches at half the price" in capsys.readouterr().out) == later


def test_a_backfill_by_batch_costs_half_for_gemini_and_no_wait_for_it() -> None:
    def usd(batch: int) -> float:
        made = Settings(gemini_api_key="any", gemini_batch=batch)
        return costs(1000, 1000, made, 1.0)["Gemini"] or 0.0

    assert usd(10) == pytest.approx(usd(0) / 2, abs=1e-5)


def test_with_a_prefix_or_patterns_only_those_are_enqueued(start: Start, cloud: ControlPlane) -> None:
    app = start()
    for name in ("ana/a.png", "ana/b.txt", "ana/skip/c.png", "anabel/d.png", "bob/e.png"):
        app.upload(name, b"x")
    deploy(cloud, UPLOADS_BUCKET=app.uploads, INCLUDE="*.png", EXCLUDE="*/skip/*")
    assert run(cloud, app.uploads, PREFIX="ana/") == 0
    [task] = tasks(cloud)
    assert json.loads(base64.b64decode(task["httpRequest"]["body"]))["name"] == "ana/a.png"


def test_before_it_starts_it_says_how_many_how_long_how_much_and_what_becomes_of_sources(
    cloud: ControlPlane, capsys: pytest.CaptureFixture[str]
) -> None:
    deploy(cloud, UPLOADS_BUCKET="uploads", SOURCE="delete", GEMINI_API_KEY="any")
    with bucket_of(2500) as os.environ["STORAGE_EMULATOR_HOST"]:
        assert run(cloud, "gs://uploads/", RATE="10", EACH_S="2", YES="") == 1
    printed = capsys.readouterr()
    lines = {line.partition(" ")[0]: " ".join(line.split()[1:]) for line in printed.out.splitlines()}
    assert lines["pictures"] == "2,500, 5 GB"
    assert lines["rate"].startswith("2 a second: the queue sends 10 a second, 4 at once, to 5 instances")
    assert lines["time"] == "20.8 min, of which this command takes 6 s"
    priced = re.sub(r"[\d.]+", "n", lines["US$"])
    assert priced == "n at list price: Cloud Run n, Cloud Storage n, Cloud Tasks n, logs n, Gemini n"
    assert lines["sources"].startswith("DELETED")
    assert "Put 2,500 pictures into the queue? Confirm with YES=1." in printed.err
    assert cloud.writes == []


def test_who_does_not_say_yes_changes_nothing(
    cloud: ControlPlane, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    with bucket_of(3) as os.environ["STORAGE_EMULATOR_HOST"]:
        assert run(cloud, RATE="9", YES="") == 1
    assert "make backfill: Nothing was changed." in capsys.readouterr().err
    assert cloud.writes == []


def test_of_more_objects_than_are_counted_it_says_at_least(
    cloud: ControlPlane, capsys: pytest.CaptureFixture[str]
) -> None:
    with bucket_of(30) as os.environ["STORAGE_EMULATOR_HOST"]:
        assert run(cloud, COUNT="20") == 0
    assert re.search(r"^pictures +at least 20, ", capsys.readouterr().out, re.MULTILINE)
    assert len(tasks(cloud)) == 30


def test_the_rate_is_the_queues_and_is_set_before_the_first_task(cloud: ControlPlane) -> None:
    with bucket_of(3) as os.environ["STORAGE_EMULATOR_HOST"]:
        assert run(cloud, RATE="25") == 0
    limits = cloud.get(f"cloudtasks/{QUEUE}")["rateLimits"]
    assert (limits["maxDispatchesPerSecond"], limits["maxConcurrentDispatches"]) == (25, 4)
    assert [request.method for request in cloud.writes] == ["PATCH", "POST", "POST", "POST"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_what_was_ended_half_way_goes_on_from_there(
    cloud: ControlPlane, how: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    with bucket_of(700) as os.environ["STORAGE_EMULATOR_HOST"]:
        environment = os.environ | {"BUCKET": "uploads", "PYTHONPATH": str(ROOT / "functions")}
        with subprocess.Popen(
            [sys.executable, "-m", "infra.cloud", "backfill"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=hear_ctrl_c,
        ) as program:
            while len(tasks(cloud)) < BATCH + 50:
                assert program.poll() is None, program.communicate()
                time.sleep(0.05)
            program.send_signal(how)
            _, err = program.communicate(timeout=WAIT_S)
        assert len(tasks(cloud)) < 700
        if how == signal.SIGINT:
            assert program.returncode == 130
            assert "make backfill: stopped. Run the same command again to continue." in err
        assert run(cloud) == 0
    assert len(tasks(cloud)) == 700
    assert offered(cloud) <= 700 + BATCH + 32  # THREADS may have been under way
    assert re.search(r"Continuing after ana/000\d49.jpg: \d+ enqueued, ", capsys.readouterr().out)


def test_when_all_was_enqueued_it_says_so_and_does_nothing(
    cloud: ControlPlane, capsys: pytest.CaptureFixture[str]
) -> None:
    with bucket_of(3) as os.environ["STORAGE_EMULATOR_HOST"]:
        assert run(cloud) == 0
        capsys.readouterr()
        assert run(cloud) == 0
    assert "3 enqueued, 0 known before, 0 ignored. RESTART=1 goes through it again" in capsys.readouterr().out
    assert (len(tasks(cloud)), offered(cloud)) == (3, 3)


def test_it_says_how_to_look_to_halt_and_to_drop_in_words_that_gcloud_knows(
    cloud: ControlPlane, capsys: pytest.CaptureFixture[str]
) -> None:
    with bucket_of(1) as os.environ["STORAGE_EMULATOR_HOST"]:
        assert run(cloud) == 0
    commands = re.findall(r"gcloud tasks (?:\S+ )*\S+", capsys.readouterr().out)
    assert len(commands) == 3
    for words in commands:
        lint = ["gcloud", "meta", "lint-gcloud-commands", "--command-string", words]
        [verdict] = json.loads(subprocess.run(lint, capture_output=True, text=True, check=True).stdout)
        assert verdict["success"], verdict["error_message"]


def test_a_full_queue_is_tried_again(cloud: ControlPlane) -> None:
    for status in (429, 503, 500, DROPPED):
        cloud.refuse(TASKS, status)
    cloud.refuse(TASKS, 409, code="ABORTED")
    with bucket_of(20) as os.environ["STORAGE_EMULATOR_HOST"]:
        assert run(cloud) == 0
    assert (len(tasks(cloud)), offered(cloud)) == (20, 25)


def test_a_missing_right_is_named_with_the_command_that_grants_it_and_what_was_done_is_kept(
    cloud: ControlPlane, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud.refuse(TASKS, 403, message="The principal lacks IAM permission.", times=20)
    with bucket_of(20) as os.environ["STORAGE_EMULATOR_HOST"]:
        assert run(cloud) == 1
        error = capsys.readouterr().err
        assert re.search(rf"add-iam-policy-binding {PROJECT} .*--role=roles/cloudtasks", error)
        assert "Run the same command again to continue." in error
        cloud._rules.clear()
        assert run(cloud) == 0
    assert len(tasks(cloud)) == 20


def test_an_empty_bucket_is_nothing_to_do(cloud: ControlPlane, capsys: pytest.CaptureFixture[str]) -> None:
    with bucket_of(0) as os.environ["STORAGE_EMULATOR_HOST"]:
        assert run(cloud) == 0
    assert capsys.readouterr().out.startswith("There is nothing to do in gs://uploads/: 0 objects")


def no_such_queue(cloud: ControlPlane) -> None:
    cloud.delete(f"cloudtasks/{QUEUE}")


def a_paused_queue(cloud: ControlPlane) -> None:
    cloud.get(f"cloudtasks/{QUEUE}")["state"] = "PAUSED"


def no_function(cloud: ControlPlane) -> None:
    cloud.delete(FUNCTION)


@pytest.mark.parametrize(
    ("environment", "trouble", "message"),
    [
        (
            {"bucket": "other"},
            None,
            "watches gs://uploads and ignores gs://other: deploy for it, make deploy UPLOADS_BUCKET=other",
        ),
        (
            {"bucket": "dropcap-pictures"},
            None,
            "ignores gs://dropcap-pictures: copy the objects: gcloud storage cp",
        ),
        ({}, no_such_queue, "There is no queue dropcap-backfill: `make deploy` creates it."),
        ({}, a_paused_queue, f"is paused: gcloud tasks queues resume {QUEUE}"),
        ({}, no_function, f"dropcap-on-upload is not deployed in {PROJECT}: run make deploy first."),
        ({"bucket": ""}, None, "BUCKET is not set: make backfill PROJECT=my-project BUCKET="),
        ({"RATE": "501"}, None, "RATE=501 is not allowed: it must be from 0.01 to 500 a second."),
        ({"EACH_S": "long"}, None, "EACH_S=long is not allowed: it must be a number above 0."),
    ],
)
def test_what_can_not_be_is_one_line_with_its_remedy(
    cloud: ControlPlane,
    capsys: pytest.CaptureFixture[str],
    environment: dict[str, str],
    trouble: Callable[[ControlPlane], None] | None,
    message: str,
) -> None:
    if trouble:
        trouble(cloud)
    with bucket_of(3) as os.environ["STORAGE_EMULATOR_HOST"]:
        assert run(cloud, **environment) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert cloud.writes == []
