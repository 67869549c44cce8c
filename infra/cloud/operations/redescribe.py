"""`make redescribe PROJECT=...`: call the function `sweep` with a task, as it is private.

The task uses Cloud Scheduler's account, and the answer is read from the log.
"""

import json
import uuid
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from dropcap.errors import SettingsError
from infra import redescribe as engine
from infra.cloud import CloudError
from infra.cloud.config import QUEUE, Config
from infra.cloud.gcloud.command import Gcloud
from infra.cloud.inventory import Cloud
from infra.cloud.operations import after
from infra.cloud.resources import functions
from infra.local import StackError


def redescribe(console: Console, config: Config, cloud: Cloud) -> None:
    """Count the pictures, ask for confirmation, mark them. Raises CloudError if no answer comes in time."""
    gcloud, name = cloud.gcloud, "dropcap-sweep"
    if (service := cloud.services.get(name)) is None:
        raise CloudError(f"{name} is not deployed: make deploy PROJECT={config.project}")
    if not functions.settings(service).gemini_api_key:
        raise CloudError("dropcap-sweep has no GEMINI_API_KEY, so it can't describe pictures.")
    url = service["status"]["url"]
    patience_s = float(config.wait_s or 300)

    def send(chosen: Mapping[str, Any]) -> Mapping[str, Any]:
        token = uuid.uuid4().hex
        gcloud.text(
            *("tasks", "create-http-task", f"--queue={QUEUE}", f"--location={config.region}"),
            *(f"--url={url}", "--method=POST", "--header=Content-Type: application/json"),
            f"--body-content={json.dumps({'redescribe': {**chosen, 'token': token}})}",
            f"--oidc-service-account-email={config.account('scheduler')}",
            f"--oidc-token-audience={url}",
        )
        return _answer(config, gcloud, token, patience_s)

    try:
        summary = engine.redescribe(send, engine.wanted(config.environment))
    except (SettingsError, StackError) as wrong:
        raise CloudError(str(wrong)) from wrong
    console.print(summary, markup=False, soft_wrap=True)


def _answer(config: Config, gcloud: Gcloud, token: str, patience_s: float) -> Mapping[str, Any]:
    """Return the function's answer, which it also logs."""
    answer = after.await_payload(gcloud, f'jsonPayload.token="{token}"', patience_s)
    if answer is not None:
        return {name: answer.get(name) or None for name in ("after", "batch")} | {
            "pictures": answer["pictures"]
        }
    raise CloudError(
        f"There was no answer after {patience_s:.0f} s: "
        f"see make logs PROJECT={config.project} FUNCTION=sweep."
    )
