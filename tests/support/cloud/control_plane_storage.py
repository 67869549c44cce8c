"""Cloud Storage and Cloud SQL in the stand-in for Google Cloud's control plane."""

import base64
import hashlib
import io
import json
import re
import uuid
import zipfile
from typing import Any
from urllib.parse import quote

from tests.support.cloud.control_plane_store import (
    NUMBER,
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


@special("GET", r"storage/projects/[^/]+/serviceAccount")
def _agent(store: Store, request: Request, key: str) -> Answer:
    address = f"service-{NUMBER}@gs-project-accounts.iam.gserviceaccount.com"
    return 200, {"kind": "storage#serviceAccount", "email_address": address}


@shape("storage/b")
def _bucket(store: Store, key: str, sent: Json, before: Json) -> Json:
    name, now = key.rsplit("/")[-1], store.now()
    access = sent.get("iamConfiguration", {})
    uniform = access.get("uniformBucketLevelAccess", {"enabled": False})
    usual: Json = {
        "location": "US",
        "locationType": "region",
        "storageClass": "STANDARD",
        "softDeletePolicy": {"retentionDurationSeconds": "604800", "effectiveTime": now},
        "iamConfiguration": {
            "uniformBucketLevelAccess": uniform,
            "bucketPolicyOnly": uniform,
            "publicAccessPrevention": "inherited",
        },
        "timeCreated": now,
        "generation": store.number(),
    }
    bucket = defaults(usual, sent)
    return bucket | {
        "kind": "storage#bucket",
        "id": name,
        "name": name,
        "selfLink": f"https://www.googleapis.com/storage/v1/b/{name}",
        "projectNumber": NUMBER,
        "location": bucket["location"].upper(),
        "metageneration": str(int(before.get("metageneration", 0)) + 1),
        "updated": now,
        "etag": store.etag(),
    }


@special("POST", r"storage/b")
def _create_bucket(store: Store, request: Request, key: str) -> Answer:
    key = f"{key}/{request.body['name']}"
    bucket = store.put(key, request.body, new=True)
    roles = {"legacyBucketOwner": ("Editor", "Owner"), "legacyBucketReader": ("Viewer",)}
    store.policy(key)["bindings"] = [
        {"role": f"roles/storage.{role}", "members": [f"project{who}:{store.project}" for who in members]}
        for role, members in roles.items()
    ]
    return 200, bucket


@special("GET", r"storage/b")
def _buckets(store: Store, request: Request, key: str) -> Answer:
    prefix = request.query.get("prefix", "")
    return 200, {"items": [one for one in store.list(key) if one["name"].startswith(prefix)]}


@special("DELETE", r"storage/b/[^/]+")
def _delete_bucket(store: Store, request: Request, key: str) -> None:
    if store.list(f"{key}/o"):
        raise Refusal(409, "The bucket you tried to delete is not empty.", "conflict")


@special("GET PUT", r"storage/b/[^/]+/iam")
def _bucket_policy(store: Store, request: Request, key: str) -> Answer:
    bucket = key.removesuffix("/iam")
    policy = store.policy(bucket, request.body if request.method == "PUT" else None)
    return 200, {"kind": "storage#policy", "resourceId": f"projects/_/buckets/{bucket[10:]}"} | policy


@special("GET", r"storage/b/[^/]+/storageLayout")
def _layout(store: Store, request: Request, key: str) -> Answer:
    bucket = store.get(key.removesuffix("/storageLayout"))
    layout = {"kind": "storage#storageLayout", "bucket": bucket["name"], "location": bucket["location"]}
    return 200, layout | {"locationType": bucket["locationType"], "hierarchicalNamespace": {"enabled": False}}


@special("GET", r"storage/b/[^/]+/o")
def _objects(store: Store, request: Request, key: str) -> Answer:
    """List objects by name; deeper ones are represented by their folder if there is a delimiter."""
    store.get(key.removesuffix("/o"))
    prefix, delimiter = request.query.get("prefix", ""), request.query.get("delimiter", "")
    items, prefixes = [], set()
    for found in sorted(store.list(key), key=lambda each: str(each["name"])):
        name = found["name"].removeprefix(prefix)
        if found["name"].startswith(prefix) and delimiter and delimiter in name:
            prefixes.add(prefix + name.partition(delimiter)[0] + delimiter)
        elif found["name"].startswith(prefix):
            items.append(found)
    return 200, {"items": items, "prefixes": sorted(prefixes)}


@special("POST PUT", r"storage/b/[^/]+/o")
def _upload(store: Store, request: Request, key: str) -> Answer:
    """Store an object: metadata and content in one body, or the content in an upload session."""
    store.get(key.removesuffix("/o"))
    how, name, content = request.query.get("uploadType"), request.query.get("name", ""), request.body
    if how == "resumable" and request.method == "POST":
        session = f"uploadType=resumable&upload_id=1&name={quote(name or content['name'], safe='')}"
        return 200, {"Location": f"https://{request.host}{request.path}?{session}"}
    if how == "multipart":
        boundary = re.search(r"boundary=['\"]?([^'\";]+)", request.headers["content-type"])
        assert boundary
        parts = content.split(b"--" + boundary[1].encode())[1:3]
        (_, _, metadata), (_, line, content) = (
            re.split(rb"(\r?\n)\r?\n", part, maxsplit=1) for part in parts
        )
        name, content = name or json.loads(metadata)["name"], content.removesuffix(line)
    key, now = f"{key}/{name.replace('/', '%2F')}", store.now()
    bucket = key.split("/")[2]
    store.payloads[key] = content
    store.uploads.append((key, content))
    store.resources[key] = {
        "kind": "storage#object",
        "name": name,
        "bucket": bucket,
        "generation": store.number(),
        "metageneration": "1",
        "contentType": "application/octet-stream",
        "storageClass": "STANDARD",
        "size": str(len(content)),
        "md5Hash": base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode(),
        "etag": store.etag(),
        "timeCreated": now,
        "updated": now,
        "mediaLink": f"https://storage.googleapis.com/download/storage/v1/{key[8:]}?alt=media",
    }
    return 200, store.resources[key]


@special("GET", r"storage/b/[^/]+/o/[^/]+")
def _download(store: Store, request: Request, key: str) -> Answer | None:
    store.get(key)
    return (200, store.payloads[key]) if request.query.get("alt") == "media" else None


def archives(store: Store) -> list[list[str]]:
    """Return the file names in each archive that was uploaded for a build, in order."""
    return [
        sorted(zipfile.ZipFile(io.BytesIO(content)).namelist())
        for key, content in store.uploads
        if key.startswith("storage/b/run-sources-")
    ]


@shape("sqladmin/instances")
def _instance(store: Store, key: str, sent: Json, before: Json) -> Json:
    """Create a Cloud SQL instance with its initial database and user."""
    name = key.rsplit("/")[-1]
    if not before:
        store.put(f"{key}/databases/postgres", {"name": "postgres", "charset": "UTF8"})
        store.put(f"{key}/users/postgres", {"name": "postgres", "type": "BUILT_IN"})
    usual: Json = {
        "settings": {
            "activationPolicy": "ALWAYS",
            "availabilityType": "ZONAL",
            "dataDiskSizeGb": "10",
            "dataDiskType": "PD_SSD",
            "storageAutoResize": True,
            "ipConfiguration": {"ipv4Enabled": True},
            "backupConfiguration": {"enabled": False},
        }
    }
    instance = defaults(usual, sent)
    instance["settings"]["settingsVersion"] = store.number()
    return instance | {
        "name": name,
        "createTime": before.get("createTime", store.now()),
        "state": "RUNNABLE",
        "backendType": "SECOND_GEN",
        "connectionName": f"{store.project}:{sent['region']}:{name}",
        "serviceAccountEmailAddress": f"p{NUMBER}-sql@gcp-sa-cloud-sql.iam.gserviceaccount.com",
        "ipAddresses": [{"type": "PRIMARY", "ipAddress": "192.0.2.1"}],
        "selfLink": f"https://sqladmin.googleapis.com/sql/v1beta4/projects/{store.project}/instances/{name}",
        "etag": store.etag(),
    }


@shape("sqladmin/databases")
@shape("sqladmin/users")
def _of_instance(store: Store, key: str, sent: Json, before: Json) -> Json:
    added = {"name": key.rsplit("/")[-1], "instance": key.split("/")[4], "project": store.project}
    return sent | added | {"etag": store.etag()}


@special("POST PUT PATCH DELETE", r"sqladmin/projects/[^/]+/instances.*")
def _sql(store: Store, request: Request, key: str) -> Answer:
    """Return an operation in the format of Cloud SQL."""
    error: Any = store.failure
    if not error and key.endswith("/import"):
        name = request.body["importContext"]["uri"].removeprefix("gs://").partition("/")
        account = store.get(key.removesuffix("/import"))["serviceAccountEmailAddress"]
        if not store.granted(
            f"storage/b/{name[0]}", "roles/storage.objectViewer", f"serviceAccount:{account}"
        ):
            raise google("import-not-readable-yet")
        try:
            store.get(f"storage/b/{name[0]}/o/{name[2].replace('/', '%2F')}")
        except Refusal as refusal:
            error = refusal
    elif not error and request.method == "DELETE":
        key = f"{key}/{request.query['name']}" if key.endswith("/users") else key
        store.get(key)
        store.delete(key)
    elif not error and request.method == "POST":
        store.put(f"{key}/{request.body['name']}", request.body, new=True)
    elif not error:
        key = f"{key}/{request.query['name']}" if key.endswith("/users") else key
        store.put(key, merged(request, store.get(key)))
    identity = str(uuid.uuid4())
    operation: Json = {
        "kind": "sql#operation",
        "name": identity,
        "status": "DONE",
        "targetProject": store.project,
    }
    if error:
        operation["error"] = {"errors": [{"code": "INTERNAL_ERROR", "message": str(error)}]}
    store.operations[identity] = operation
    return 200, operation
