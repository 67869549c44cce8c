"""The functions: Cloud Run services of one image, which is built from source with the first of them.

The image starts `functions-framework`, and FUNCTION_TARGET says which function. The buildpack puts that into
the image as a default alone, so a service's own variable replaces it (GoogleCloudPlatform/buildpacks,
pkg/gcpbuildpack/env.go and cmd/python/functions_framework, 2026-08-22); firebase-tools deploys services with
it, too (src/gcp/runv2.ts, 2026). The operating system is not in the image: Cloud Run puts it under, and keeps
it patched, where the service names the base image, so each names that of the build
(docs.cloud.google.com/run/docs/configuring/services/automatic-base-image-updates, a copy of 2026).
"""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from dropcap.errors import SettingsError
from dropcap.settings import Settings
from infra.cloud import CloudError
from infra.cloud.config import SETTINGS
from infra.cloud.gcloud.command import Command, Late, Word, command
from infra.cloud.inventory import Cloud
from infra.cloud.resources.base import ABSENT, Change, Facts, Resource
from infra.cloud.resources.secrets import Secret
from infra.cloud.source import FOLDER, Source

RUNTIME = "python313"
ANNOTATIONS = {  # by words: where Cloud Run keeps it
    "at most instances": "autoscaling.knative.dev/maxScale",
    "environment": "run.googleapis.com/execution-environment",
    "startup boost": "run.googleapis.com/startup-cpu-boost",
    "Cloud SQL": "run.googleapis.com/cloudsql-instances",
}
IMAGE = "spec.template.spec.containers[0].image"  # with its digest, as gcloud deploys what it built
BASE_IMAGE = "metadata.annotations['run.googleapis.com/build-base-image']"  # as the build was answered
CLOUD_SQL_LABEL = "dropcap-cloud-sql"  # whether the instance is this deployment's own: CLOUD_SQL=new


@dataclass(frozen=True, kw_only=True)
class Function(Resource):
    """A function. Its revisions are named for the commit and for all that is wanted, so that what has not
    changed has the name that it had, and a changed setting another one."""

    kind: ClassVar[str] = "function"
    aside: ClassVar[str] = "functions"
    entry: str
    image_of: str  # the function that is built; empty for that one
    source: Source
    region: str
    account: str
    builder: str
    memory_mb: int
    environment: str
    at_once: int
    timeout_s: int
    instances: int
    ingress: str
    variables: Mapping[str, str]
    secrets: tuple[Secret, ...]
    sql: str
    sql_is: str

    def _template(self, cloud: Cloud) -> dict[str, Any]:
        """What a change of needs no build."""
        return {
            "memory": f"{self.memory_mb}Mi",
            "vCPU": "1",
            "requests at once": self.at_once,
            "timeout": f"{self.timeout_s} s",
            "at most instances": str(self.instances),
            "environment": self.environment,
            "startup boost": "true",
            "ingress": self.ingress,
            "account": self.account,
            "Cloud SQL": self.sql or None,
            "Cloud SQL instance": self.sql_is or None,
            **{name: self._secret(secret, cloud) for name, secret in self._secrets().items()},
            **dict(sorted(self.variables.items())),
        }

    def _secrets(self) -> dict[str, Secret]:
        return {each.variable: each for each in self.secrets}

    def _secret(self, secret: Secret, cloud: Cloud) -> str:
        return f"{secret.name}:{secret.version(cloud)}"

    def wanted(self, cloud: Cloud) -> Facts:
        unwanted = variables(cloud.services.get(self.name)).keys() & SETTINGS
        facts = dict.fromkeys(sorted(unwanted)) | self._template(cloud)
        code = {"source": self.source.digest, "image": self._origin()}
        return code | {"traffic": "to the newest", "state": "ready"} | facts

    def found(self, cloud: Cloud) -> Facts | None:
        if (service := cloud.services.get(self.name)) is None:
            return None
        metadata, spec, status = service["metadata"], service["spec"], service.get("status", {})
        template = spec["template"]
        notes = template["metadata"].get("annotations", {})
        container = template["spec"]["containers"][0]
        limits = container.get("resources", {}).get("limits", {})
        ready: dict[str, Any] = next(
            (each for each in status.get("conditions", ()) if each["type"] == "Ready"), {}
        )
        latest = all(each.get("latestRevision") for each in spec.get("traffic", ()) if each.get("percent"))
        first = cloud.services.get(self.image_of or self.name, {}).get("spec", {}).get("template", {})
        images = {each.get("spec", {}).get("containers", [{}])[0].get("image") for each in (first, template)}
        return {
            "source": metadata.get("labels", {}).get("dropcap-source"),
            "image": self._origin() if len(images) == 1 else "another",
            "traffic": "to the newest" if latest else "to an earlier revision",
            "state": "failed" if ready.get("status") == "False" else "ready",
            "memory": limits.get("memory"),
            "vCPU": "1" if limits.get("cpu") in ("1", "1000m") else limits.get("cpu"),
            "requests at once": template["spec"].get("containerConcurrency"),
            "timeout": f"{template['spec'].get('timeoutSeconds')} s",
            **{name: notes.get(key, "").lower() or None for name, key in ANNOTATIONS.items()},
            "Cloud SQL instance": metadata.get("labels", {}).get(CLOUD_SQL_LABEL) or None,
            "ingress": metadata.get("annotations", {}).get("run.googleapis.com/ingress", "all"),
            "account": template["spec"].get("serviceAccountName"),
            **variables(cloud.services.get(self.name)),
        }

    def revision(self, cloud: Cloud) -> str:
        """The end of the next revision's name: commit and digest, and a number where that name is taken."""
        wanted = {"source": self.source.digest, **self._template(cloud)}
        digest = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:8]
        suffix = f"{self.source.commit}-{digest}"
        taken = {each["metadata"]["name"] for each in cloud.revisions}
        names = [suffix, *(f"{suffix}-{number}" for number in range(2, len(taken) + 3))]
        return next(name for name in names if f"{self.name}-{name}" not in taken)

    def summary(self, wanted: Facts) -> str:
        instances = f"at most {self.instances} instance{'s' * (self.instances != 1)}"
        code = f"{self.source.commit} {wanted['image']}"
        return f"{code}, {wanted['memory']}, {instances}, {self.ingress} ingress"

    def _origin(self) -> str:
        """Return where its code comes from: what is uploaded and built once, or the image of that build."""
        return f"as in {self.image_of}" if self.image_of else f"built of {self.source.bytes / 1e6:.0f} MB"

    def difference(self, cloud: Cloud) -> Change | None:
        """With the commits that people know, beside digests. What is built is there before it is shared."""
        change = super().difference(cloud)
        if change is None:
            return None
        labels = cloud.services.get(self.name, {}).get("metadata", {}).get("labels", {})
        now, was = self.source.digest, labels.get("dropcap-source", "no source")
        if now != was and not self.image_of:
            change = replace(change, aside="")
        if change.now == ABSENT:
            return change
        then = change.then.replace(now, f"{self.source.commit} ({now}) {self._origin()}")
        return replace(
            change, now=change.now.replace(was, f"{labels.get('dropcap-commit')} ({was})"), then=then
        )

    def make(self, cloud: Cloud) -> Sequence[Command]:
        return [self._deploy(cloud, "--no-allow-unauthenticated")]

    def change(self, cloud: Cloud, differing: Facts) -> Sequence[Command]:
        commands = [self._with_variables(cloud)] if self._changes_kind(cloud) else []
        if differing.keys() & {"source", "image"}:
            commands.append(self._deploy(cloud))
        elif differing.keys() - {"traffic"}:
            commands.append(self._command(cloud, "run", "services", "update", self.name))
        if "traffic" in differing:
            commands.append(traffic(self.name, self.region, "--to-latest"))
        return commands

    def _changes_kind(self, cloud: Cloud) -> bool:
        """Whether a secret is to become a plain variable, which no flag of gcloud can do in one step."""
        container = cloud.services[self.name]["spec"]["template"]["spec"]["containers"][0]
        return any(
            "valueFrom" in each and each["name"] in self.variables for each in container.get("env", ())
        )

    def _with_variables(self, cloud: Cloud) -> Command:
        """The service as it is, with the variables that are wanted, as a revision of its own."""
        service: dict[str, Any] = copy.deepcopy({**cloud.services[self.name], "status": {}})
        kept = ("name", "namespace", "labels", "annotations")
        service["metadata"] = {name: value for name, value in service["metadata"].items() if name in kept}
        template = service["spec"]["template"]
        suffix = f"{self.revision(cloud)}-env"
        template["metadata"]["name"] = f"{self.name}-{suffix}"
        template["metadata"]["annotations"][ANNOTATIONS["Cloud SQL"]] = self.sql
        secrets = {name: (each.name, str(each.version(cloud))) for name, each in self._secrets().items()}
        template["spec"]["containers"][0]["env"] = [
            *({"name": name, "value": value} for name, value in self.variables.items()),
            *(
                {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": version}}}
                for name, (secret, version) in secrets.items()
            ),
        ]
        replaced = command(
            "run", "services", "replace", f"--region={self.region}", file=("", json.dumps(service, indent=2))
        )
        return replace(replaced, again=self._again(suffix))

    def _deploy(self, cloud: Cloud, *flags: str) -> Command:
        code: tuple[Word, ...] = (
            (self._built("--image", IMAGE), self._built("--base-image", BASE_IMAGE))
            if self.image_of
            else (
                f"--source={FOLDER}",
                f"--function={self.entry}",
                f"--base-image={RUNTIME}",
                f"--build-service-account={self.builder}",
            )
        )
        return self._command(cloud, "run", "deploy", self.name, *code, *flags)

    def _built(self, flag: str, key: str) -> Late:
        """Return a flag with what is known of the function that is built, once it is."""
        words = ("run", "services", "describe", self.image_of, f"--region={self.region}")
        return Late((*words, f"--format=value({key})"), f"{flag}=")

    def _command(self, cloud: Cloud, *words: Word) -> Command:
        secrets = ",".join(f"{name}={self._secret(each, cloud)}" for name, each in self._secrets().items())
        suffix = self.revision(cloud)
        made = command(
            *words,
            f"--region={self.region}",
            f"--service-account={self.account}",
            f"--memory={self.memory_mb}Mi",
            "--cpu=1",
            f"--concurrency={self.at_once}",
            f"--timeout={self.timeout_s}",
            f"--max-instances={self.instances}",
            f"--execution-environment={self.environment}",
            "--cpu-boost",
            f"--ingress={self.ingress}",
            f"--set-secrets={secrets}" if secrets else "--clear-secrets",
            f"--set-cloudsql-instances={self.sql}" if self.sql else "--clear-cloudsql-instances",
            f"--update-labels={','.join(f'{name}={value}' for name, value in self._labels(cloud).items())}",
            f"--revision-suffix={suffix}",
            file=(
                "--env-vars-file",
                json.dumps(dict(self.variables), indent=2),
            ),  # JSON is YAML, and quotes all
        )
        return replace(made, again=self._again(suffix))

    def _again(self, suffix: str) -> tuple[str, ...]:
        """Return the arguments that create a new revision of a service whose settings stay as they are."""
        region = f"--region={self.region}"
        return ("run", "services", "update", self.name, region, f"--revision-suffix={suffix}")

    def _labels(self, cloud: Cloud) -> dict[str, str]:
        had = cloud.services.get(self.name, {}).get("metadata", {}).get("labels", {})
        sql = {CLOUD_SQL_LABEL: self.sql_is} if self.sql_is or CLOUD_SQL_LABEL in had else {}
        return {"dropcap-source": self.source.digest, "dropcap-commit": self.source.commit, **sql}

    def remove(self, cloud: Cloud) -> Sequence[Command]:
        return [command("run", "services", "delete", self.name, f"--region={self.region}")]


def traffic(name: str, region: str, to: str) -> Command:
    return command("run", "services", "update-traffic", name, f"--region={region}", to)


def variables(service: Mapping[str, Any] | None) -> dict[str, str]:
    """What a service has: variables, and secrets as name:version; nothing where it is not there."""
    found = {}
    container = service["spec"]["template"]["spec"]["containers"][0] if service else {}
    for each in container.get("env", ()):
        reference = each.get("valueFrom", {}).get("secretKeyRef")
        value = f"{reference['name']}:{reference['key']}" if reference else each.get("value", "")
        found[each["name"]] = value
    return found


def settings(service: Mapping[str, Any]) -> Settings:
    """What on-upload runs with, but database and events; of a key there is the name. Raises CloudError."""
    values = variables(service)
    for name in ("DATABASE_URL", "EVENTS", "EVENTS_SECRET"):
        values.pop(name, None)
    try:
        return Settings.read(values)
    except SettingsError as wrong:
        raise CloudError(f"dropcap-on-upload runs with a wrong setting: {wrong}") from wrong
