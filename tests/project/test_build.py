"""What is deployed is enough: `functions/` and its list of packages, as docs/elsewhere.md starts them."""

import fcntl
import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Any

import pytest
import requests
import yaml
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client

from dropcap.database.connection import connect_to_schema
from infra.cloud.resources.declaration import PICTURES_AT_ONCE
from infra.local.process import Process, free_port
from tests.support.app import CAPTION, NAME, PICTURE, ROOT
from tests.support.pages import DOCS, blocks, commands

PAGE = DOCS / "elsewhere.md"
[DOCKERFILE] = blocks(PAGE, "dockerfile")
[KNATIVE] = [list(yaml.safe_load_all(text)) for text in blocks(PAGE, "yaml")]
ADDRESS = "http://127.0.0.1:8080/"


def docker(instruction: str) -> list[str]:
    return re.findall(rf"^{instruction} (.*)$", DOCKERFILE, re.MULTILINE)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `functions` as they are sent, and an environment that the page's commands have made.

    One for all workers of a run: the first makes it.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "build"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            left_out = (ROOT / "functions" / ".gcloudignore").read_text().replace("/", "").split()
            source, ignored = ROOT / "functions", ignore_patterns(*left_out)
            copytree(source, folder / "functions", ignore=ignored, dirs_exist_ok=True)
            [[_, *make]] = commands(PAGE, "python3", "-m", "venv")
            for words in ([sys.executable, *make], *commands(PAGE, "environment/bin/pip")):
                subprocess.run(words, cwd=folder, env=clean(), check=True)
            (folder / "made").touch()
    return folder


def clean(**more: str) -> dict[str, str]:
    """The environment without what would lend the project's own code or packages."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | more


@pytest.fixture
def settings(storage_url: str, database_url: str) -> Iterator[dict[str, str]]:
    """What a function is told: three new buckets and a new database."""
    client = Client("any", AnonymousCredentials(), client_options={"api_endpoint": storage_url})
    names = {
        word: f"{word.lower()}-{uuid.uuid4().hex[:12]}" for word in ("UPLOADS", "PICTURES", "QUARANTINE")
    }
    buckets = [client.create_bucket(name) for name in names.values()]
    yield {f"{word}_BUCKET": name for word, name in names.items()} | {
        "DATABASE_URL": database_url,
        "STORAGE_EMULATOR_HOST": storage_url,
        "GOOGLE_CLOUD_PROJECT": "any",
    }
    for bucket in buckets:
        bucket.delete(force=True)


@pytest.fixture
def started(build: Path, settings: dict[str, str]) -> Callable[[str], Any]:
    """Starts a function as the page says, on a free port; its address."""

    @contextmanager
    def start(target: str) -> Iterator[str]:
        [words] = [each for each in commands(PAGE, "environment/bin/functions-framework") if target in each]
        port = free_port()
        words = [str(port) if word.isdigit() else word for word in words]
        log = build / f"{target}-{port}.log"
        with Process(target, [*words, "--host", "127.0.0.1"], log, clean(**settings), build) as process:
            process.wait_until_answers(f"http://127.0.0.1:{port}/")
            yield f"http://127.0.0.1:{port}/"

    return start


def send(words: list[str], address: str, upload: dict[str, str]) -> requests.Response:
    """The request of a curl command of the page, to another address, of another object."""
    options = [(words[i], words[i + 1]) for i in range(2, len(words), 2)]
    [body] = [json.loads(value) for name, value in options if name == "-d"]
    resource = body.get("data", body)
    assert set(resource) == set(upload)
    resource |= upload
    headers = dict(value.split(": ", 1) for name, value in options if name == "-H")
    assert [words[1], len(options)] == [ADDRESS, len(headers) + 1]
    return requests.post(address, data=json.dumps(body), headers=headers, timeout=60)


def put(settings: dict[str, str], name: str) -> dict[str, str]:
    """Drop a picture; what an event tells of it."""
    client = Client(
        "any", AnonymousCredentials(), client_options={"api_endpoint": settings["STORAGE_EMULATOR_HOST"]}
    )
    blob = client.bucket(settings["UPLOADS_BUCKET"]).blob(name)
    blob.upload_from_string(PICTURE, content_type="image/jpeg")
    return {
        "bucket": blob.bucket.name,
        "name": name,
        "generation": str(blob.generation),
        "size": str(len(PICTURE)),
    }


def test_what_is_deployed_is_enough_to_caption_a_picture_as_the_page_says(
    settings: dict[str, str], started: Callable[[str], Any]
) -> None:
    client = Client(
        "any", AnonymousCredentials(), client_options={"api_endpoint": settings["STORAGE_EMULATOR_HOST"]}
    )
    events = [words for words in commands(PAGE, "curl") if words[1] == ADDRESS]
    assert len(events) == 2  # binary, structured
    with started("on_upload") as address:
        for number, words in enumerate(events):
            resource = put(settings, f"ana/{number}-{NAME}")
            assert send(words, address, resource).status_code == 200
    with closing(connect_to_schema(settings["DATABASE_URL"])) as database:
        assert database.run("SELECT user_id, caption FROM analyses") == [["ana", CAPTION]] * 2
    assert list(client.list_blobs(settings["UPLOADS_BUCKET"])) == []
    assert len(list(client.list_blobs(settings["PICTURES_BUCKET"]))) == 6
    with started("get_progress_stats") as address:
        assert requests.get(f"{address}?user=ana", timeout=60).json()["pictures_analyzed"] == 2


def test_the_other_functions_start_as_the_page_says(
    settings: dict[str, str], started: Callable[[str], Any]
) -> None:
    with started("analyze") as address:
        answer = requests.post(address, PICTURE, headers={"Content-Type": "image/jpeg"}, timeout=60)
        assert answer.json()["caption"] == CAPTION
    put(settings, f"ana/{NAME}")
    [look] = commands(PAGE, "curl", "-X", "POST")
    with started("sweep") as address:
        query = look[3].partition("?")[2]
        assert requests.post(f"{address}?{query}", timeout=60).json()["done"] == 1


def test_the_page_says_how_large_a_build_is(build: Path) -> None:
    [sizes] = re.findall(
        r"(\d+) MB of source .*?, (\d+) MB with BLIP-base, and (\d+) MB of packages", PAGE.read_text()
    )
    small, large, packages = map(int, sizes)
    # Without what Python keeps there of the functions that other tests have run.
    files = [path for path in (build / "functions").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    shipped = {path for path in files if path.parent.name == "model"}
    source = sum(path.stat().st_size for path in files) / 1e6
    assert source == pytest.approx(small, abs=1)
    blip_base = 196  # MB: model_export/README.md
    assert source - sum(p.stat().st_size for p in shipped) / 1e6 + blip_base == pytest.approx(large, abs=2)
    installed = [path for path in build.glob("environment/lib/*/site-packages/*") if path.name != "pip"]
    size = sum(p.stat().st_size for top in installed for p in [top, *top.rglob("*")] if p.is_file()) / 1e6
    assert size == pytest.approx(packages, rel=0.15)  # a little other on each system


def test_the_dockerfile_copies_installs_and_starts_what_was_tried_here() -> None:
    assert docker("COPY") == [
        "functions/requirements.txt .",
        "functions/wheels wheels",
        "functions/ .",
    ]
    install = commands(PAGE, "environment/bin/pip")[-1]
    tried = ["pip", *install[1:-1], Path(install[-1]).name]
    assert [word for word in docker("RUN")[0].split() if word != "--no-cache-dir"] == tried
    [command] = docker("CMD")
    start = commands(PAGE, "environment/bin/functions-framework", "--target", "on_upload")[0]
    source = start.index("--source") + 1
    assert json.loads(command) == ["functions-framework", *start[1:source], Path(start[source]).name]
    assert docker("USER") == ["dropcap"]
    assert "PORT=8080" in docker("ENV")[0].split()


def test_the_image_has_a_python_that_the_deployment_has() -> None:
    [image] = docker("FROM")
    assert image.startswith("python:3.13-")


def test_knative_gets_as_many_pictures_at_once_as_on_google_cloud_and_only_events_of_new_objects() -> None:
    service, trigger = KNATIVE
    revision = service["spec"]["template"]["spec"]
    assert revision["containerConcurrency"] == PICTURES_AT_ONCE
    assert revision["containers"][0]["resources"]["limits"] == {"cpu": "1", "memory": "512Mi"}
    types = [value for words in commands(PAGE, "curl", ADDRESS) for value in words if "finalized" in value]
    assert trigger["spec"]["filter"]["attributes"]["type"] in types[0]
    assert trigger["spec"]["subscriber"]["ref"]["name"] == service["metadata"]["name"]
