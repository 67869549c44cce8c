"""The functions: Cloud Run services that run one image, which the first of them builds from source.

The image starts `functions-framework`, and FUNCTION_TARGET selects the function. The buildpack sets it only
as a default of the image, so a service's own variable overrides it (GoogleCloudPlatform/buildpacks,
pkg/gcpbuildpack/env.go and cmd/python/functions_framework, 2026-08-22); firebase-tools deploys services with
it, too (src/gcp/runv2.ts, 2026). The operating system is not in the image: Cloud Run adds and
patches it if the service names the base image, so each service names that of the build
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
from infra.cloud.gcloud.command import Command, OutputOf, Word, command, output_of
from infra.cloud.inventory import Cloud
from infra.cloud.resources.base import ABSENT, Change, Facts, Resource, at
from infra.cloud.resources.secrets import Secret
from infra.cloud.source import FOLDER, Source

RUNTIME = "python313"
# The build compiles the source (GoogleCloudPlatform/buildpacks, cmd/python/functions_framework/lib/lib.go,
# 2026-08-22). Then the image gives every file the time 1980-01-01 (buildpacks/lifecycle #1358), and Python
# would compile all of it again at each cold start. With this variable, it compares the hash of the source
# instead of its time (docs.python.org/3/library/py_compile.html). Any value does.
BUILD_VARIABLES = {"SOURCE_DATE_EPOCH": "315532801"}
SPEC, NOTES = ("spec", "template", "spec"), ("spec", "template", "metadata", "annotations")
CONTAINER = (*SPEC, "containers", 0)
PATHS: Mapping[str, tuple[str | int, ...]] = {  # by name of the fact: its path in a service
    "memory": (*CONTAINER, "resources", "limits", "memory"),
    "vCPU": (*CONTAINER, "resources", "limits", "cpu"),
    "requests at once": (*SPEC, "containerConcurrency"),
    "timeout": (*SPEC, "timeoutSeconds"),
    "at most instances": (*NOTES, "autoscaling.knative.dev/maxScale"),
    "environment": (*NOTES, "run.googleapis.com/execution-environment"),
    "startup boost": (*NOTES, "run.googleapis.com/startup-cpu-boost"),
    "Cloud SQL": (*NOTES, "run.googleapis.com/cloudsql-instances"),
    "ingress": ("metadata", "annotations", "run.googleapis.com/ingress"),
    "account": (*SPEC, "serviceAccountName"),
}
IMAGE = "spec.template.spec.containers[0].image"  # with its digest, as gcloud deploys it
BASE_IMAGE = "metadata.annotations['run.googleapis.com/build-base-image']"  # as the build returned it
CLOUD_SQL_LABEL = "dropcap-cloud-sql"  # `new` if the deployment created the instance


@dataclass(frozen=True, kw_only=True)
class Function(Resource):
    """A function.

    The name of a revision contains the commit and a digest of all wanted settings, so unchanged settings keep
    the name, and a changed setting gets a new one.
    """

    kind: ClassVar[str] = "function"
    parallel_group: ClassVar[str] = "functions"
    surface: ClassVar[str] = "run services"
    table: ClassVar[str] = "services"
    entry: str
    image_of: str  # the function that is built; empty if it is this one
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

    @property
    def location_flags(self) -> tuple[str, ...]:
        return (f"--region={self.region}",)

    def _template(self, cloud: Cloud) -> dict[str, Any]:
        """Return the settings that can change without a build."""
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

    def facts(self, cloud: Cloud, there: Any) -> Facts:
        labels, first = at(there, "metadata", "labels") or {}, cloud.services.get(self.image_of or self.name)
        latest = all(
            each.get("latestRevision") for each in there["spec"].get("traffic", ()) if each.get("percent")
        )
        ready = [each for each in at(there, "status", "conditions") or () if each["type"] == "Ready"]
        same = at(first, *CONTAINER, "image") == at(there, *CONTAINER, "image")
        found = {name: at(there, *path) for name, path in PATHS.items()}
        return found | {
            "source": labels.get("dropcap-source"),
            "image": self._origin() if same else "another",
            "traffic": "to the newest" if latest else "to an earlier revision",
            "state": "failed" if ready and ready[0].get("status") == "False" else "ready",
            "vCPU": "1" if found["vCPU"] == "1000m" else found["vCPU"],
            "timeout": f"{found['timeout']} s",
            "startup boost": (found["startup boost"] or "").lower() or None,
            "Cloud SQL": found["Cloud SQL"] or None,  # gcloud clears it to an empty annotation
            "Cloud SQL instance": labels.get(CLOUD_SQL_LABEL) or None,
            "ingress": found["ingress"] or "all",
            **variables(there),
        }

    def revision(self, cloud: Cloud) -> str:
        """Return the suffix of the next revision: commit and digest, with a number if that name is taken."""
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
        """Return the origin of its code: the uploaded source, or the image of the built function."""
        return f"as in {self.image_of}" if self.image_of else f"built of {self.source.bytes / 1e6:.0f} MB"

    def difference(self, cloud: Cloud) -> Change | None:
        """Return the change, with commits beside digests. The build runs alone, as others need its image."""
        change = super().difference(cloud)
        if change is None:
            return None
        labels = at(cloud.services.get(self.name), "metadata", "labels") or {}
        now, was = self.source.digest, labels.get("dropcap-source", "no source")
        if now != was and not self.image_of:
            change = replace(change, parallel_group="")
        if change.now == ABSENT:
            return change
        then = change.then.replace(now, f"{self.source.commit} ({now}) {self._origin()}")
        before = change.now.replace(was, f"{labels.get('dropcap-commit')} ({was})")
        return replace(change, now=before, then=then)

    def make(self, cloud: Cloud) -> Sequence[Command]:
        return [self._deploy(cloud, "--no-allow-unauthenticated")]

    def change(self, cloud: Cloud, differing: Facts) -> Sequence[Command]:
        commands = [self._with_variables(cloud)] if self._changes_kind(cloud) else []
        if differing.keys() & {"source", "image"}:
            commands.append(self._deploy(cloud))
        elif differing.keys() - {"traffic"}:
            commands.append(self._command(cloud, "run services update"))
        if "traffic" in differing:
            commands.append(traffic(self.name, self.region, "--to-latest"))
        return commands

    def _changes_kind(self, cloud: Cloud) -> bool:
        """Return whether a secret becomes a plain variable, which no flag of gcloud can do in one step."""
        env = at(cloud.services[self.name], *CONTAINER, "env") or ()
        return any("valueFrom" in each and each["name"] in self.variables for each in env)

    def _with_variables(self, cloud: Cloud) -> Command:
        """Return the command that deploys the existing service with the wanted variables."""
        service: dict[str, Any] = copy.deepcopy({**cloud.services[self.name], "status": {}})
        kept = ("name", "namespace", "labels", "annotations")
        service["metadata"] = {name: value for name, value in service["metadata"].items() if name in kept}
        template = service["spec"]["template"]
        suffix = f"{self.revision(cloud)}-env"
        template["metadata"]["name"] = f"{self.name}-{suffix}"
        template["metadata"]["annotations"][PATHS["Cloud SQL"][-1]] = self.sql
        env: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in self.variables.items()]
        for name, each in self._secrets().items():
            reference = {"name": each.name, "key": str(each.version(cloud))}
            env.append({"name": name, "valueFrom": {"secretKeyRef": reference}})
        template["spec"]["containers"][0]["env"] = env
        file = "", json.dumps(service, indent=2)
        return replace(
            command("run services replace", *self.location_flags, file=file), again=self._again(suffix)
        )

    def _deploy(self, cloud: Cloud, *flags: str) -> Command:
        """Return the command that builds and deploys, or deploys the built image.

        The other functions could use documents for `gcloud run services replace`. But the first one needs
        these flags anyway, as `run deploy --source` builds and configures in one step. `replace` removes what
        a document omits, so each document would have to be merged with the existing service: more code for a
        second way to do the same.
        """
        code: tuple[Word, ...] = (
            *(f"--source={FOLDER}", f"--function={self.entry}"),
            *(f"--base-image={RUNTIME}", f"--build-service-account={self.builder}"),
            f"--set-build-env-vars={','.join(f'{name}={value}' for name, value in BUILD_VARIABLES.items())}",
        )
        if self.image_of:
            code = (self._built("--image", IMAGE), self._built("--base-image", BASE_IMAGE))
        return self._command(cloud, "run deploy", *code, *flags)

    def _built(self, flag: str, key: str) -> OutputOf:
        """Return a flag whose value is read from the built function after its deployment."""
        return output_of(
            f"{flag}=", "run services describe", self.image_of, *self.location_flags, f"--format=value({key})"
        )

    def _command(self, cloud: Cloud, surface: str, *words: Word) -> Command:
        secrets = ",".join(f"{name}={self._secret(each, cloud)}" for name, each in self._secrets().items())
        suffix = self.revision(cloud)
        made = command(
            surface,
            self.name,
            *words,
            *self.location_flags,
            f"--service-account={self.account}",
            *(f"--memory={self.memory_mb}Mi", "--cpu=1", f"--concurrency={self.at_once}"),
            *(f"--timeout={self.timeout_s}", f"--max-instances={self.instances}"),
            *(f"--execution-environment={self.environment}", "--cpu-boost", f"--ingress={self.ingress}"),
            f"--set-secrets={secrets}" if secrets else "--clear-secrets",
            f"--set-cloudsql-instances={self.sql}" if self.sql else "--clear-cloudsql-instances",
            f"--update-labels={','.join(f'{name}={value}' for name, value in self._labels(cloud).items())}",
            f"--revision-suffix={suffix}",
            file=("--env-vars-file", json.dumps(dict(self.variables), indent=2)),  # JSON is valid YAML
        )
        return replace(made, again=self._again(suffix))

    def _again(self, suffix: str) -> tuple[str, ...]:
        """Return the arguments that create a new revision of a service whose settings stay as they are."""
        return ("run", "services", "update", self.name, *self.location_flags, f"--revision-suffix={suffix}")

    def _labels(self, cloud: Cloud) -> dict[str, str]:
        had = at(cloud.services.get(self.name), "metadata", "labels") or {}
        sql = {CLOUD_SQL_LABEL: self.sql_is} if self.sql_is or CLOUD_SQL_LABEL in had else {}
        return {"dropcap-source": self.source.digest, "dropcap-commit": self.source.commit, **sql}


def traffic(name: str, region: str, to: str) -> Command:
    return command("run services update-traffic", name, f"--region={region}", to)


def variables(service: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the variables of a service, secrets as name:version; empty if there is no service."""
    found = {}
    for each in at(service, *CONTAINER, "env") or ():
        reference = each.get("valueFrom", {}).get("secretKeyRef")
        value = f"{reference['name']}:{reference['key']}" if reference else each.get("value", "")
        found[each["name"]] = value
    return found


def settings(service: Mapping[str, Any]) -> Settings:
    """Return the settings of a service, without database and events; secrets are names. Raises CloudError."""
    values = variables(service)
    for name in ("DATABASE_URL", "EVENTS", "EVENTS_SECRET"):
        values.pop(name, None)
    try:
        return Settings.read(values)
    except SettingsError as wrong:
        raise CloudError(f"dropcap-on-upload runs with a wrong setting: {wrong}") from wrong
