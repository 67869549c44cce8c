"""Cloud Run in the stand-in for Google Cloud's control plane: services, revisions, builds, images."""

import hashlib
import json
import uuid

from infra.cloud.operations.gallery import IAP_HEADER
from infra.cloud.resources.access import PROXIED, UNCHECKED
from tests.support.cloud.control_plane_store import (
    NUMBER,
    OWNER,
    Answer,
    Json,
    Refusal,
    Request,
    Store,
    defaults,
    google,
    merged,
    shape,
    special,
)


@shape("run/services")
def _service(store: Store, key: str, sent: Json, before: Json) -> Json:
    """Return a service with the fields that Cloud Run adds. A new template creates a revision."""
    _, _, _, _, region, _, name = key.split("/")
    sent_metadata: Json = sent.get("metadata", {})
    had: Json = before.get("metadata", {})
    version = sent_metadata.get("resourceVersion")
    if had and version and version != had["resourceVersion"]:
        raise Refusal(
            409, f"Conflict for resource '{name}': version '{version}' was specified", code="ABORTED"
        )
    template = _template(sent["spec"]["template"])
    store.act_as(template["spec"]["serviceAccountName"])
    traffic = sent["spec"].get("traffic") or [{"percent": 100, "latestRevision": True}]
    spec: Json = {"template": template, "traffic": traffic}
    generation = had.get("generation", 0) + (spec != before.get("spec"))
    status: Json = before.get("status", {})
    created, ready = status.get("latestCreatedRevisionName"), status.get("latestReadyRevisionName")
    if template != before.get("spec", {}).get("template"):
        created = template["metadata"].get("name") or f"{name}-{generation:05d}-{uuid.uuid4().hex[:3]}"
        fault = str(store.failure or "") or _fault(store, template)
        _add_revision(store, key, created, template, fault)
        ready = ready if fault else created
    revisions = f"{key.rpartition('/services/')[0]}/revisions"
    pinned = [part["revisionName"] for part in traffic if part.get("revisionName")]
    for revision in pinned:
        if f"{revisions}/{revision}" not in store.resources or _trouble(store, f"{revisions}/{revision}"):
            raise Refusal(400, f"Revision '{revision}' is not ready and cannot serve traffic.")
    trouble = _trouble(store, f"{revisions}/{created}") if len(pinned) < len(traffic) else ""
    now, short = store.now(), "".join(part[0] for part in region.split("-"))
    url = f"https://{name}-a1b2c3d4e5-{short}.a.run.app"
    annotations = {
        "run.googleapis.com/ingress": "all",
        **sent_metadata.get("annotations", {}),
        "run.googleapis.com/operation-id": str(uuid.uuid4()),
        "run.googleapis.com/urls": json.dumps([f"https://{name}-{NUMBER}.{region}.run.app", url]),
        "serving.knative.dev/creator": OWNER,
        "serving.knative.dev/lastModifier": OWNER,
    }
    annotations["run.googleapis.com/ingress-status"] = annotations["run.googleapis.com/ingress"]
    metadata = {
        "name": name,
        "namespace": NUMBER,
        "selfLink": f"/apis/serving.knative.dev/v1/namespaces/{NUMBER}/services/{name}",
        "uid": had.get("uid", str(uuid.uuid4())),
        "resourceVersion": store.etag(),
        "generation": generation,
        "creationTimestamp": had.get("creationTimestamp", now),
        "labels": sent_metadata.get("labels", {}) | {"cloud.googleapis.com/location": region},
        "annotations": annotations,
    }
    status = {
        "observedGeneration": generation,
        "conditions": _conditions(now, trouble, "Ready", "ConfigurationsReady", "RoutesReady"),
        "latestCreatedRevisionName": created,
        "traffic": [{"revisionName": ready} | part for part in traffic] if ready else [],
        "url": url,
        "address": {"url": url},
    }
    if ready:
        status["latestReadyRevisionName"] = ready
    kind = {"apiVersion": "serving.knative.dev/v1", "kind": "Service"}
    return kind | {"metadata": metadata, "spec": spec, "status": status}


def _trouble(store: Store, revision: str) -> str:
    """Return why this revision is not ready, or an empty string."""
    return str(store.get(revision)["status"]["conditions"][0].get("message", ""))


def _fault(store: Store, template: Json) -> str:
    """Why a revision can't start: an image that no build made, or without the base image that it was built
    to lie on; a secret that is not there, or that its account may not read.

    The application's image has no operating system: docs.cloud.google.com/run/docs/configuring/services/
    automatic-base-image-updates, a copy of 2026. That a container fails then is our conclusion.
    """
    image, bases = template["spec"]["containers"][0].get("image", ""), template["metadata"]["annotations"]
    if "@" in image and image not in store.images:
        return str(google("image-gone", image=image))
    if (base := store.images.get(image)) and base not in bases.get("run.googleapis.com/base-images", ""):
        return (
            "The user-provided container failed to start and listen on the port defined provided by the "
            "PORT=8080 environment variable within the allocated timeout."
        )
    account = template["spec"]["serviceAccountName"]
    sources = [entry.get("valueFrom", {}) for entry in template["spec"]["containers"][0].get("env", [])]
    for reference in [source["secretKeyRef"] for source in sources if "secretKeyRef" in source]:
        secret = f"secretmanager/projects/{store.project}/secrets/{reference['name']}"
        number, versions = reference["key"], store.list(f"{secret}/versions")
        version = f"projects/{NUMBER}/secrets/{reference['name']}/versions/{number}"
        if not versions or number not in ("latest", *(each["name"].rsplit("/")[-1] for each in versions)):
            return f"Secret {version} was not found"
        if not store.granted(secret, "roles/secretmanager.secretAccessor", f"serviceAccount:{account}"):
            return str(google("secret-not-readable-yet", version=version, account=account))
    return ""


def _template(sent: Json) -> Json:
    """Return the template of a revision with Cloud Run's default values."""
    account = f"{NUMBER}-compute@developer.gserviceaccount.com"
    spec = {"containerConcurrency": 80, "timeoutSeconds": 300, "serviceAccountName": account}
    annotations = {"autoscaling.knative.dev/maxScale": "100"}
    template = defaults({"metadata": {"annotations": annotations}, "spec": spec}, sent)
    probe = {"timeoutSeconds": 240, "periodSeconds": 240, "failureThreshold": 1, "tcpSocket": {"port": 8080}}
    container = {
        "ports": [{"name": "http1", "containerPort": 8080}],
        "resources": {"limits": {"cpu": "1000m", "memory": "512Mi"}},
        "startupProbe": probe,
    }
    template["spec"]["containers"] = [defaults(container, one) for one in template["spec"]["containers"]]
    return template


def _conditions(now: str, fault: str, *types: str) -> list[Json]:
    bad = {"status": "False", "reason": "RevisionFailed", "message": fault}
    return [
        {"type": kind, "lastTransitionTime": now}
        | (bad if fault and kind != "RoutesReady" else {"status": "True"})
        for kind in types
    ]


def _add_revision(store: Store, service: str, name: str, template: Json, fault: str) -> None:
    parent, now = service.rpartition("/services/")[0], store.now()
    key = f"{parent}/revisions/{name}"
    if key in store.resources:
        raise Refusal(409, f"Revision named '{name}' with different configuration already exists.")
    labels = {"serving.knative.dev/service": service.rsplit("/")[-1]}
    labels["cloud.googleapis.com/location"] = parent.rsplit("/")[-1]
    metadata = {
        "name": name,
        "namespace": NUMBER,
        "labels": template["metadata"].get("labels", {}) | labels,
        "uid": str(uuid.uuid4()),
        "creationTimestamp": now,
        "generation": 1,
        "resourceVersion": store.etag(),
    }
    store.resources[key] = {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Revision",
        "metadata": template["metadata"] | metadata,
        "spec": template["spec"],
        "status": {
            "observedGeneration": 1,
            "conditions": _conditions(now, fault, "Ready", "ContainerHealthy", "ResourcesAvailable"),
            "imageDigest": template["spec"]["containers"][0].get("image", ""),
        },
    }


@special("PUT POST", r"run/projects/[^/]+/locations/[^/]+/services(/[^/:]+)?")
def _change_service(store: Store, request: Request, key: str) -> Answer:
    """Create or change a service. A failed revision does not fail the request: the conditions report it.

    Before a build, gcloud 578 sends a dry run, which is not stored.
    """
    if request.dry:
        return 200, request.body
    if request.method == "PUT":
        store.get(key)
        return 200, store.put(key, request.body)
    return 200, store.put(f"{key}/{request.body['metadata']['name']}", request.body, new=True)


@special("DELETE", r"run/projects/[^/]+/locations/[^/]+/services/[^/:]+")
def _delete_service(store: Store, request: Request, key: str) -> None:
    store.get(key)
    parent, _, name = key.rpartition("/services/")
    for revision in _selected(store, f"{parent}/revisions", f"serving.knative.dev/service={name}"):
        store.delete(f"{parent}/revisions/{revision['metadata']['name']}")


@special("DELETE", r"run/projects/[^/]+/locations/[^/]+/revisions/[^/]+")
def _delete_revision(store: Store, request: Request, key: str) -> None:
    service = store.get(key)["metadata"]["labels"]["serving.knative.dev/service"]
    owner = store.resources[f"{key.rpartition('/revisions/')[0]}/services/{service}"]
    if key.rsplit("/")[-1] in [part["revisionName"] for part in owner["status"]["traffic"]]:
        raise Refusal(400, "Revision is actively serving traffic.", code="FAILED_PRECONDITION")


def _selected(store: Store, collection: str, selector: str) -> list[Json]:
    """Return the resources of a collection with these labels, `name = value,name=value`, the newest first."""
    pairs = [[word.strip(" =") for word in pair.split("=", 1)] for pair in selector.split(",") if pair]
    labels = {(name, value) for name, value in pairs}
    return [one for one in store.list(collection)[::-1] if labels <= set(one["metadata"]["labels"].items())]


@special("GET", r"run/projects/[^/]+/locations/[^/]+/(services|revisions)")
def _list(store: Store, request: Request, key: str) -> Answer:
    """List a region, or with `-` all that respond: discovery document of run v1, ListServicesResponse."""
    items = _selected(store, key, request.query.get("labelSelector", ""))
    if "/locations/-/" not in key or not store.silent_regions:
        return 200, {"items": items, "metadata": {}}
    label = "cloud.googleapis.com/location"
    items = [each for each in items if each["metadata"]["labels"][label] not in store.silent_regions]
    return 200, {"items": items, "metadata": {}, "unreachable": store.silent_regions}


@special("POST", r"run/projects/[^/]+/locations/[^/]+/operations/[^/]+:wait")
def _wait(store: Store, request: Request, key: str) -> Answer:
    """Return the operation of a service's change, which is finished."""
    parent, _, number = key.rpartition("/operations/")
    [service] = [
        one
        for one in store.list(f"{parent}/services")
        if one["metadata"]["annotations"]["run.googleapis.com/operation-id"] == number
    ]
    response = {"@type": "type.googleapis.com/google.cloud.run.v1.Service"} | service
    return 200, {"name": key.partition("/")[2], "done": True, "response": response}


@special("GET", r"ew//gallery/")
def _gallery(store: Store, request: Request, key: str) -> Answer:
    """Answer an anonymous request: 401 by the function if Google does not check callers, otherwise 403.

    Identity-Aware Proxy, which comes first, redirects to its sign-in page and marks its responses:
    docs.cloud.google.com/iap/docs/query-parameters-and-headers-howto (2026-11).
    """
    name = request.host.partition("-a1b2c3d4e5-")[0]
    service = f"run/projects/{store.project}/locations/europe-west1/services/{name}"
    if PROXIED.holds(store.get(service)):
        return 302, {"Location": "https://accounts.google.com/o/oauth2/v2/auth", IAP_HEADER: "true"}
    is_open = UNCHECKED.holds(store.get(service)) or store.granted(service, "roles/run.invoker", "allUsers")
    return 401 if is_open else 403, {}


@shape("artifactregistry/repositories")
def _repository(store: Store, key: str, sent: Json, before: Json) -> Json:
    _, _, _, _, region, _, name = key.split("/")
    for policy in sent.get("cleanupPolicies", {}).values():
        condition = policy.get("condition", {})
        if "olderThan" in condition:
            condition["olderThan"] = f"{float(condition['olderThan'].rstrip('s')):g}s"
    added = {"mode": "STANDARD_REPOSITORY", "registryUri": f"{region}-docker.pkg.dev/{store.project}/{name}"}
    now = store.now()
    return sent | added | {"createTime": before.get("createTime", now), "updateTime": now}


@special("PATCH", r"artifactregistry/projects/[^/]+/locations/[^/]+/repositories/[^/]+")
def _update_repository(store: Store, request: Request, key: str) -> Answer:
    """Update a repository; unlike other changes of this API, the response is the resource."""
    return 200, store.put(key, merged(request, store.get(key)))


@special("GET", r"cloudbuild/projects/[^/]+/locations/[^/]+/defaultServiceAccount")
def _builder(store: Store, request: Request, key: str) -> Answer:
    account = f"projects/{store.project}/serviceAccounts/{NUMBER}-compute@developer.gserviceaccount.com"
    return 200, {"name": key.partition("/")[2], "serviceAccountEmail": account}


@special("POST", r"run/projects/[^/]+/locations/[^/]+/builds:submit")
def _submit(store: Store, request: Request, key: str) -> Answer:
    """Build the uploaded source; return an operation that has finished or failed."""
    body, identity = request.body, str(uuid.uuid4())
    region, error = key.split("/")[4], store.failure
    source = body["storageSource"]
    store.get(f"storage/b/{source['bucket']}/o/{source['object'].replace('/', '%2F')}")
    digest = "sha256:" + hashlib.sha256(identity.encode()).hexdigest()
    build: Json = {
        "id": identity,
        "name": f"projects/{NUMBER}/locations/{region}/builds/{identity}",
        "projectId": store.project,
        "status": "FAILURE" if error else "SUCCESS",
        "logUrl": f"https://console.cloud.google.com/cloud-build/builds;region={region}/{identity}?project={NUMBER}",
        "results": {"images": [{"name": body.get("imageUri"), "digest": digest}]},
        "source": {"storageSource": source},
    }
    metadata = {
        "@type": "type.googleapis.com/google.devtools.cloudbuild.v1.BuildOperationMetadata",
        "build": build,
    }
    operation: Json = {
        "name": f"operations/build/{store.project}/{identity}",
        "metadata": metadata,
        "done": True,
    }
    if error:
        operation["error"] = {
            "code": 2,
            "message": str(error) or "Build failed; check build logs for details",
        }
    else:
        build_type = "type.googleapis.com/google.devtools.cloudbuild.v1.Build"
        operation["response"] = {"@type": build_type} | build
    store.operations[identity] = operation
    answer: Json = {"buildOperation": {"name": operation["name"], "metadata": metadata}}
    if base := body.get("buildpackBuild", {}).get("baseImage"):  # as firebase-tools, src/gcp/runv2.ts, has it
        base = f"{region}-docker.pkg.dev/serverless-runtimes/google-22-full/runtimes/{base}"
    store.images[f"{body.get('imageUri')}@{digest}"] = base
    return 200, answer | ({"baseImageUri": base} if base else {})
