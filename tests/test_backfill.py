"""What already lies in the bucket is enqueued once, at a set rate, and then claimed as any upload is."""

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
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from infra.cloud import backfill
from infra.cloud.backlog import WINDOW
from infra.local.tasks import Server, TasksStandIn
from tests.app import EVENT, ROOT, Start, event_of, hear_ctrl_c, rows, small_png
from tests.test_healing import instance

PROJECT, REGION = "demo", "us-west1"  # found where nobody says it
QUEUE = f"projects/{PROJECT}/locations/{REGION}/queues/dropcap-backfill"
ACCOUNT = f"dropcap-trigger@{PROJECT}.iam.gserviceaccount.com"
SERVICES = "/v1/projects/demo/locations/-/services"
ODD_NAMES = [
    "ana/a b.png",
    "ana/#1?x=%2F&y=1+1.png",
    "ana/ü/日本語/🖼.png",
    'ana/"quoted".png',
    "ana/\u202ereversed\x1b[31m.png",
    "plain.png",
]
WAIT_S = 60


class Cloud(TasksStandIn):
    """The queue, and what gcloud says of the function that it calls: gcloud takes it for its proxy."""

    def __init__(self) -> None:
        super().__init__()
        self.variables: dict[str, str] = {}
        self.worker = ""

    def answer(self, method: str, path: str, query: str, body: bytes) -> Any:
        path = urlsplit(path).path if path.startswith("http") else path
        if path != SERVICES:
            return super().answer(method, path, query, body)
        return {"items": [self._service()] if self.worker else []}

    def _service(self) -> Any:
        variables = [{"name": name, "value": value} for name, value in self.variables.items()]
        secret = {"secretKeyRef": {"name": "dropcap-database-url", "key": "1"}}
        variables.append({"name": "DATABASE_URL", "valueFrom": secret})  # type: ignore[dict-item]
        return {
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
                    "spec": {"containers": [{"env": variables}], "timeoutSeconds": 540},
                }
            },
            "status": {"url": self.worker},
        }

    def change(self, **limits: float) -> None:
        """Change the queue's rate limits."""
        body = json.dumps({"rateLimits": limits}).encode()
        self.answer(
            "PATCH", f"/v2/{QUEUE}", "updateMask=" + ",".join(f"rateLimits.{each}" for each in limits), body
        )

    def empty(self) -> None:
        """Wait until nothing is left in the queue."""
        deadline = time.monotonic() + WAIT_S
        while self.left():
            assert time.monotonic() < deadline, self.attempts
            time.sleep(0.02)


@pytest.fixture
def cloud(tmp_path: Path, warm_gcloud: str) -> Iterator[Cloud]:
    """A project with the queue and without a function; the environment leads gcloud and clients there."""
    with Cloud() as stand_in:
        stand_in.make(QUEUE, rateLimits={"maxDispatchesPerSecond": 200, "maxConcurrentDispatches": 4})
        (tmp_path / "token").write_text("any")
        port = stand_in.url.rpartition(":")[2]
        os.environ.update(
            CLOUDSDK_CONFIG=str(tmp_path / "gcloud"),
            CLOUDSDK_AUTH_ACCESS_TOKEN_FILE=str(tmp_path / "token"),
            CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDTASKS=f"{stand_in.url}/",
            CLOUDSDK_API_ENDPOINT_OVERRIDES_RUN="http://run.invalid/",
            CLOUDSDK_PROXY_TYPE="http",
            CLOUDSDK_PROXY_ADDRESS="127.0.0.1",
            CLOUDSDK_PROXY_PORT=port,
            PATH=f"{warm_gcloud}:{os.environ['PATH']}",
            PROJECT=PROJECT,
            STATE=str(tmp_path / "state"),
            YES="1",
        )
        yield stand_in


Answer = Callable[[BaseHTTPRequestHandler, bytes], tuple[int, Any]]


@contextmanager
def server(answer: Answer) -> Iterator[str]:
    """An HTTP server whose every request is answered so, with JSON."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, message = answer(self, body)
            data = json.dumps(message).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    with Server(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()


@contextmanager
def bucket_of(count: int) -> Iterator[str]:
    """A storage server whose every bucket lists this many pictures, as Cloud Storage pages them."""

    def page(request: BaseHTTPRequestHandler, _: bytes) -> tuple[int, Any]:
        query = {name: value for name, [value] in parse_qs(urlsplit(request.path).query).items()}
        offset = re.sub(r"\D", "", query.get("startOffset", ""))
        first = int(query.get("pageToken", 0)) or int(offset or 0)
        last = min(first + int(query.get("maxResults", 1000)), count)
        items = [
            {
                "name": f"ana/{n:06}.jpg",
                "generation": str(n + 1),
                "size": "2000000",
                "metadata": {"tz": "UTC"},
            }
            for n in range(first, last)
        ]
        return 200, {"items": items} | ({"nextPageToken": str(last)} if last < count else {})

    with server(page) as url:
        yield url


def run(bucket: str, *words: str) -> int:
    return backfill.main(["--bucket", bucket, *words])


def test_all_objects_of_a_bucket_are_analyzed_once_whatever_their_names(
    start: Start, cloud: Cloud, tmp_path: Path
) -> None:
    app = start(SOURCE="keep")
    uploads = [app.upload(name, small_png(), "image/png", tz="Europe/Madrid") for name in ODD_NAMES]
    app.upload("ana/", b"")
    cloud.variables = {"UPLOADS_BUCKET": app.uploads, "SOURCE": "keep"}
    with instance(tmp_path) as function:
        cloud.worker = function.url
        assert run(app.uploads) == 0
        cloud.empty()
        found = rows("SELECT u.name, u.attempts, a.time_zone FROM uploads u JOIN analyses a USING (id)")
        assert sorted(found) == sorted([each.name, 1, "Europe/Madrid"] for each in uploads)
        assert {attempt.status for attempt in cloud.attempts} == {200}
        assert sorted(cloud.created) == sorted(f"{QUEUE}/tasks/{each.id}" for each in uploads)
        assert run(app.uploads, "--restart") == 0  # Cloud Tasks knows their names
        assert (len(cloud.created), cloud.refused) == (len(ODD_NAMES), len(ODD_NAMES))
        cloud.forget()  # and after a while no longer: then the claim knows the uploads
        assert run(app.uploads, "--restart") == 0
        cloud.empty()
    assert len(cloud.created) == 2 * len(ODD_NAMES)
    assert sorted(rows("SELECT name, attempts FROM uploads")) == sorted([n, 1] for n in ODD_NAMES)


@pytest.fixture
def worker(cloud: Cloud) -> Iterator[list[dict[str, Any]]]:
    """A deployed function of bucket `uploads`, sources kept, that notes what it is sent."""
    notes: list[dict[str, Any]] = []

    def take(request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, Any]:
        notes.append({"headers": dict(request.headers), "body": json.loads(body), "at": time.monotonic()})
        return 200, "OK"

    cloud.variables = {"UPLOADS_BUCKET": "uploads", "SOURCE": "keep"}
    with server(take) as url:
        cloud.worker = url
        yield notes


def test_a_task_is_the_event_that_eventarc_would_send_signed_as_the_trigger(
    start: Start, cloud: Cloud, worker: list[dict[str, Any]]
) -> None:
    app = start()
    upload = app.upload(ODD_NAMES[2], b"x", tz="UTC")
    cloud.variables["UPLOADS_BUCKET"] = app.uploads
    assert run(app.uploads) == 0
    cloud.empty()
    [sent] = worker
    headers = {name.lower(): value for name, value in sent["headers"].items()}
    assert sent["body"] == json.loads(event_of(upload))
    for name in ("ce-specversion", "ce-type", "content-type"):
        assert headers[name] == EVENT[name]
    assert headers["ce-id"] == headers["x-cloudtasks-taskname"] == str(upload.id)
    assert headers["ce-source"] == f"//storage.googleapis.com/projects/_/buckets/{app.uploads}"
    assert headers["ce-subject"] == "objects/ana/%C3%BC/%E6%97%A5%E6%9C%AC%E8%AA%9E/%F0%9F%96%BC.png"
    claims = headers["authorization"].removeprefix("Bearer ").split(".")[1]
    assert decoded(claims) == {"aud": cloud.worker, "email": ACCOUNT, "email_verified": True}


def test_with_a_prefix_or_patterns_only_those_are_enqueued(
    start: Start, cloud: Cloud, worker: list[dict[str, Any]]
) -> None:
    app = start()
    for name in ("ana/a.png", "ana/b.txt", "ana/skip/c.png", "anabel/d.png", "bob/e.png"):
        app.upload(name, b"x")
    cloud.variables |= {"UPLOADS_BUCKET": app.uploads, "INCLUDE": "*.png", "EXCLUDE": "*/skip/*"}
    assert run(app.uploads, "--prefix", "ana/") == 0
    cloud.empty()
    assert [each["body"]["name"] for each in worker] == ["ana/a.png"]


def test_before_it_starts_it_says_how_many_how_long_how_much_and_what_becomes_of_sources(
    cloud: Cloud, worker: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    del os.environ["YES"]
    cloud.variables = {"UPLOADS_BUCKET": "uploads", "SOURCE": "delete", "GEMINI_API_KEY": "any"}
    with bucket_of(2500) as os.environ["STORAGE_EMULATOR_HOST"]:
        assert run("gs://uploads/", "--rate", "10", "--each-s", "2") == 1
    said = capsys.readouterr()
    lines = {line.partition(" ")[0]: " ".join(line.split()[1:]) for line in said.out.splitlines()}
    assert lines["pictures"] == "2,500, 5 GB"
    assert lines["rate"].startswith("2 a second: the queue sends 10 a second, 4 at once, to 5 instances")
    assert lines["time"] == "20.8 min, of which this command has 6 s"
    priced = re.sub(r"[\d.]+", "n", lines["US$"])
    assert priced == "n at list price: Cloud Run n, Cloud Storage n, Cloud Tasks n, logs n, Gemini n"
    assert lines["sources"].startswith("DELETED")
    assert "Put 2,500 pictures into the queue? Say so with YES=1." in said.err
    assert cloud.created == []


def test_who_does_not_say_yes_changes_nothing(
    cloud: Cloud,
    worker: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    del os.environ["YES"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    with bucket_of(3) as os.environ["STORAGE_EMULATOR_HOST"]:
        assert run("uploads", "--rate", "9") == 1
    assert "make backfill: Nothing was changed." in capsys.readouterr().err
    assert cloud.created == []
    assert cloud.answer("GET", f"/v2/{QUEUE}", "", b"").rate_limits.max_dispatches_per_second == 200


def test_of_more_objects_than_are_counted_it_says_at_least(
    cloud: Cloud, worker: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    with bucket_of(30) as os.environ["STORAGE_EMULATOR_HOST"]:
        assert run("uploads", "--count", "20") == 0
    assert re.search(r"^pictures +at least 20, ", capsys.readouterr().out, re.MULTILINE)
    assert len(cloud.created) == 30


def test_the_rate_is_the_queues_and_is_kept(cloud: Cloud, worker: list[dict[str, Any]]) -> None:
    with bucket_of(21) as os.environ["STORAGE_EMULATOR_HOST"]:
        assert run("uploads", "--rate", "25") == 0
    cloud.empty()
    instants = [each["at"] for each in worker]
    assert len(instants) == 21
    assert max(instants) - min(instants) >= 0.7  # 20 intervals of 40 ms, as far as threads are on time
    assert cloud.answer("GET", f"/v2/{QUEUE}", "", b"").rate_limits.max_dispatches_per_second == 25


def test_the_queue_posts_no_more_at_once_than_it_may_and_again_what_is_refused(cloud: Cloud) -> None:
    running: Counter[str] = Counter()
    lock = threading.Lock()

    def take(request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, Any]:
        with lock:
            running["now"] += 1
            running["most"] = max(running["most"], running["now"])
            running[name := request.headers["X-CloudTasks-TaskName"]] += 1
        time.sleep(0.02)
        with lock:
            running["now"] -= 1
        return (200 if running[name] > 1 else 503), ""

    cloud.variables = {"UPLOADS_BUCKET": "uploads"}
    with server(take) as cloud.worker, bucket_of(20) as os.environ["STORAGE_EMULATOR_HOST"]:
        assert run("uploads") == 0
        cloud.empty()
    assert running["most"] == 4
    assert Counter(attempt.status for attempt in cloud.attempts) == {503: 20, 200: 20}


def start_program(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "infra.cloud.backfill", "--bucket", "uploads", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "functions")}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True, preexec_fn=hear_ctrl_c
    )


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_what_was_ended_half_way_goes_on_from_there(
    cloud: Cloud, worker: list[dict[str, Any]], how: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud.change(maxDispatchesPerSecond=1)  # they are not looked at here
    cloud.creation_s = 0.02
    with bucket_of(700) as os.environ["STORAGE_EMULATOR_HOST"]:
        with start_program() as program:
            while len(cloud.created) < 350:
                assert program.poll() is None, program.communicate()
                time.sleep(0.01)
            program.send_signal(how)
            _, err = program.communicate(timeout=WAIT_S)
        assert len(cloud.created) < 700
        if how == signal.SIGINT:
            assert program.returncode == 130
            assert re.search(r"Interrupted\n\d+ enqueued, .*\. The same command goes on from there\.", err)
        cloud.creation_s = 0.0
        assert run("uploads") == 0
    assert len(cloud.created) == len(set(cloud.created)) == 700
    assert cloud.refused <= (2 * WINDOW if how == signal.SIGKILL else WINDOW)
    assert "Going on after ana/000" in capsys.readouterr().out


def test_when_all_was_enqueued_it_says_so_and_does_nothing(
    cloud: Cloud, worker: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    with bucket_of(3) as os.environ["STORAGE_EMULATOR_HOST"]:
        assert run("uploads") == 0
        capsys.readouterr()
        assert run("uploads") == 0
    assert (
        "3 enqueued, 0 known before, 0 left alone. RESTART=1 goes through it again" in capsys.readouterr().out
    )
    assert (len(cloud.created), cloud.refused) == (3, 0)


def test_it_says_how_to_look_to_halt_and_to_drop_in_words_that_gcloud_knows(
    cloud: Cloud, worker: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    with bucket_of(1) as os.environ["STORAGE_EMULATOR_HOST"]:
        assert run("uploads") == 0
    commands = re.findall(r"gcloud tasks (?:\S+ )*\S+", capsys.readouterr().out)
    assert len(commands) == 3
    for words in commands:
        lint = ["gcloud", "meta", "lint-gcloud-commands", "--command-string", words]
        [verdict] = json.loads(subprocess.run(lint, capture_output=True, text=True, check=True).stdout)
        assert verdict["success"], verdict["error_message"]


def test_a_full_queue_is_tried_again(cloud: Cloud, worker: list[dict[str, Any]]) -> None:
    cloud.faults.extend([429, 503, 500, 409])
    with bucket_of(20) as os.environ["STORAGE_EMULATOR_HOST"]:
        assert run("uploads") == 0
    assert (len(cloud.created), cloud.refused) == (20, 0)


def test_a_missing_right_is_named_with_the_command_that_grants_it_and_what_was_done_is_kept(
    cloud: Cloud, worker: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    cloud.faults.extend([403] * 500)
    with bucket_of(20) as os.environ["STORAGE_EMULATOR_HOST"]:
        assert run("uploads") == 1
        assert re.search(r"add-iam-policy-binding demo .*--role=roles/cloudtasks", capsys.readouterr().err)
        cloud.faults.clear()
        assert run("uploads") == 0
    assert len(cloud.created) == 20


def test_an_empty_bucket_is_nothing_to_do(
    cloud: Cloud, worker: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    with bucket_of(0) as os.environ["STORAGE_EMULATOR_HOST"]:
        assert run("uploads") == 0
    assert capsys.readouterr().out.startswith("There is nothing to do in gs://uploads/: 0 objects")


def no_such_queue(cloud: Cloud) -> None:
    cloud._queues.clear()


def a_paused_queue(cloud: Cloud) -> None:
    cloud.answer("POST", f"/v2/{QUEUE}:pause", "", b"")


def no_function(cloud: Cloud) -> None:
    cloud.worker = ""


@pytest.mark.parametrize(
    ("bucket", "trouble", "said"),
    [
        (
            "other",
            None,
            "watches gs://uploads and ignores gs://other: deploy for it, make deploy UPLOADS_BUCKET=other",
        ),
        ("dropcap-pictures", None, "ignores gs://dropcap-pictures: copy what you want: gcloud storage cp"),
        ("uploads", no_such_queue, "There is no queue dropcap-backfill: `make deploy` makes it."),
        ("uploads", a_paused_queue, f"is paused: gcloud tasks queues resume {QUEUE}"),
        ("uploads", no_function, "No dropcap-on-upload runs in demo: make deploy comes first."),
        ("", None, "Say what and where: make backfill PROJECT=my-project BUCKET="),
    ],
)
def test_what_can_not_be_is_one_line_with_its_remedy(
    cloud: Cloud,
    worker: list[dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    bucket: str,
    trouble: Callable[[Cloud], None] | None,
    said: str,
) -> None:
    if trouble:
        trouble(cloud)
    with bucket_of(3) as os.environ["STORAGE_EMULATOR_HOST"]:
        assert run(bucket) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert cloud.created == []


def decoded(part: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
