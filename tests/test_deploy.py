"""The deployment is plain gcloud; gcloud itself checks every command and flag."""

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from dropcap.settings import Settings
from tests.app import NO_GCLOUD

DEPLOY = Path(__file__).parent.parent / "infra" / "deploy.sh"
RECORDER = """#!/bin/sh
printf '%s\\n' "gcloud $(for a in "$@"; do printf "'%s' " "$a"; done)" >> "$RECORD"
case "$*" in *service-agent*) echo agent@example.com ;; *describe*) exit 1 ;; esac
"""


def deploy(folder: Path, **settings: str) -> list[list[str]]:
    """The gcloud commands of a first deployment, each as its words."""
    recorder = folder / "gcloud"
    recorder.write_text(RECORDER)
    recorder.chmod(0o755)
    record = folder / "record"
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "RECORD": str(record)} | settings
    subprocess.run([DEPLOY], env=environment, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    return [shlex.split(line) for line in record.read_text().splitlines()]


@pytest.fixture
def commands(tmp_path: Path) -> list[list[str]]:
    return deploy(
        tmp_path,
        PROJECT="my-project",
        DATABASE_URL="postgresql://ana:secret1@host/name",
        GEMINI_API_KEY="secret2",
    )


@pytest.mark.skipif(NO_GCLOUD, reason="gcloud is not installed")
def test_every_command_and_flag_is_one_that_gcloud_knows(commands: list[list[str]], tmp_path: Path) -> None:
    environment = os.environ | {"CLOUDSDK_CONFIG": str(tmp_path)}
    for forms in {tuple(command[:4]): command for command in commands}.values():
        checked = subprocess.run(
            ["gcloud", "meta", "lint-gcloud-commands", "--command-string", shlex.join(forms)],  # noqa: S607
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        [verdict] = json.loads(checked.stdout)
        assert verdict["success"], verdict["error_message"]


def test_functions_are_private_small_and_take_one_picture_at_a_time(commands: list[list[str]]) -> None:
    deployed = {command[3]: command for command in commands if command[1:3] == ["functions", "deploy"]}
    assert set(deployed) == {
        f"dropcap-{name}" for name in ("on-upload", "analyze", "sweep", "get-progress-stats")
    }
    for command in deployed.values():
        assert "--concurrency=1" in command
        assert "--allow-unauthenticated" not in command
    assert "--ingress-settings=internal-only" in deployed["dropcap-on-upload"]
    assert "--retry" in deployed["dropcap-on-upload"]
    for name in ("dropcap-on-upload", "dropcap-analyze", "dropcap-sweep"):
        assert {"--memory=512Mi", "--cpu=1"} <= set(deployed[name])
        [timeout] = [word for word in deployed[name] if word.startswith("--timeout=")]
        assert int(timeout.removeprefix("--timeout=").removesuffix("s")) > Settings().lease_s
    for name in ("dropcap-analyze", "dropcap-sweep", "dropcap-get-progress-stats"):
        assert "--no-allow-unauthenticated" in deployed[name]


def test_a_schedule_may_call_the_sweep_and_does(commands: list[list[str]]) -> None:
    [job] = [command for command in commands if command[1:4] == ["scheduler", "jobs", "create"]]
    assert "--http-method=POST" in job
    assert any(word.startswith("--oidc-service-account-email=dropcap@") for word in job)
    bound = [
        command[4] for command in commands if command[1:4] == ["run", "services", "add-iam-policy-binding"]
    ]
    assert bound == ["dropcap-on-upload", "dropcap-sweep"]


def test_with_auth_token_the_functions_that_check_tokens_are_open_and_no_other(tmp_path: Path) -> None:
    clients = "1.apps.googleusercontent.com,2.apps.googleusercontent.com"
    settings = {"PROJECT": "my-project", "DATABASE_URL": "postgresql://host/name", "AUTH": "token"}
    commands = deploy(tmp_path, **settings, AUTH_AUDIENCE=clients)
    deployed = {command[3]: command for command in commands if command[1:3] == ["functions", "deploy"]}
    for name, command in deployed.items():
        assert ("--allow-unauthenticated" in command) == (name not in ("dropcap-on-upload", "dropcap-sweep"))
        [variables] = [word for word in command if word.startswith("--set-env-vars=^;^")]
        assert {"AUTH=token", f"AUTH_AUDIENCE={clients}"} <= set(variables.split(";"))
    with pytest.raises(subprocess.CalledProcessError):
        deploy(tmp_path, **settings)  # whose tokens?


def test_secrets_are_in_no_command_line(commands: list[list[str]]) -> None:
    assert not any("secret1" in word or "secret2" in word for command in commands for word in command)


def test_without_a_project_it_says_what_to_do() -> None:
    environment = {"PATH": os.environ["PATH"]}
    refused = subprocess.run([DEPLOY], env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "make deploy PROJECT=my-project" in refused.stderr
