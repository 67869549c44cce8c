"""Special cases of the smaller APIs in the stand-in for Google Cloud's control plane."""

import json
import re
from typing import Any
from urllib.parse import unquote

from tests.support.cloud.control_plane_store import (
    BILLING,
    NUMBER,
    OWNER,
    Answer,
    Json,
    Refusal,
    Request,
    Store,
    defaults,
    google,
    shape,
    special,
    stamped,
)

# What the server holds where nothing was sent, for collections that need no more than that.
DEFAULTS: dict[str, Json] = {
    "cloudtasks/queues": {
        "rateLimits": {"maxDispatchesPerSecond": 500.0, "maxBurstSize": 100, "maxConcurrentDispatches": 1000},
        "retryConfig": {
            "maxAttempts": 100,
            "minBackoff": "0.100s",
            "maxBackoff": "3600s",
            "maxDoublings": 16,
        },
        "state": "RUNNING",
    },
    "pubsub/subscriptions": {
        "ackDeadlineSeconds": 10,
        "messageRetentionDuration": "604800s",
        "state": "ACTIVE",
    },
    "pubsub/topics": {},
    "monitoring/notificationChannels": {"enabled": True},
}


def begin(store: Store) -> None:
    """Create the project as it is before a deployment."""
    store.resources[store.project_key] = {
        "projectNumber": NUMBER,
        "projectId": store.project,
        "lifecycleState": "ACTIVE",
        "name": store.project,
        "createTime": store.now(),
    }
    store.policy(store.project_key)["bindings"] = [{"role": "roles/owner", "members": [f"user:{OWNER}"]}]
    store.resources[f"cloudbilling/projects/{store.project}/billingInfo"] = {
        "name": f"projects/{store.project}/billingInfo",
        "projectId": store.project,
        "billingAccountName": f"billingAccounts/{BILLING}",
        "billingEnabled": True,
    }
    store.put(f"cloudbilling/billingAccounts/{BILLING}", {"open": True, "currencyCode": "EUR"})


def _with_defaults(store: Store, key: str, sent: Json, before: Json) -> Json:
    api, *_, collection, _ = key.split("/")
    return defaults(DEFAULTS[f"{api}/{collection}"], sent)


for name in DEFAULTS:
    shape(name)(_with_defaults)


@special("POST", r"cloudtasks/projects/[^/]+/locations/[^/]+/queues/[^/]+:purge")
def _purge(store: Store, request: Request, key: str) -> Answer:
    for task in [name for name in store.resources if name.startswith(f"{key}/tasks/")]:
        store.delete(task)
    return 200, store.get(key)


@special("POST", r"cloudtasks/projects/[^/]+/locations/[^/]+/queues/[^/]+/tasks")
def _create_task(store: Store, request: Request, key: str) -> Answer:
    """Create a task, if Cloud Tasks would accept its name, headers and deadline (REST reference, Task)."""
    store.get(key.removesuffix("/tasks"))
    task, path = request.body["task"], key.partition("/")[2]
    name = task.get("name", f"{path}/{store.number()}")
    headers = [*task["httpRequest"].get("headers", {}).items()]
    if not re.fullmatch(rf"{re.escape(path)}/[\w-]{{1,500}}", name, re.ASCII):
        raise Refusal(400, f"Task name must be formatted: {path}/TASK_ID.")
    if not all(each.isascii() and each.isprintable() for pair in headers for each in pair):
        raise Refusal(400, "HttpRequest.headers must be printable ASCII.")
    if len(json.dumps(task)) > 2**20:
        raise Refusal(400, "Task size too large.")
    if not 15 <= float(task.get("dispatchDeadline", "600s").rstrip("s")) <= 1800:
        raise Refusal(400, "Task.dispatchDeadline must be between [15s, 30m].")
    return 200, store.put(f"cloudtasks/{name}", task, new=True)


@special("GET", r"cloudbilling/projects/[^/]+/billingInfo")
def _billing(store: Store, request: Request, key: str) -> Answer:
    return 200, store.get(key)


@shape("billingbudgets/budgets")
def _budget(store: Store, key: str, sent: Json, before: Json) -> Json:
    filtered = {"creditTypesTreatment": "INCLUDE_ALL_CREDITS", "calendarPeriod": "MONTH"}
    budget = defaults({"budgetFilter": filtered, "notificationsRule": {}}, sent) | {"etag": store.etag()}
    projects = budget["budgetFilter"].get("projects", [])
    budget["budgetFilter"]["projects"] = [name.replace(store.project, NUMBER) for name in projects]
    budget["thresholdRules"] = [
        {"spendBasis": "CURRENT_SPEND"} | rule for rule in sent.get("thresholdRules", [])
    ]
    return budget


@special("GET", r"serviceusage/projects/[^/]+/services/[^/]+")
def _service(store: Store, request: Request, key: str) -> Answer:
    name = key.rsplit("/")[-1]
    absent = {"name": f"projects/{NUMBER}/services/{name}", "config": {"name": name}, "state": "DISABLED"}
    return 200, store.resources.get(key, absent)


@special("POST", r"serviceusage/projects/[^/]+/services(/[^/]+)?:(batchEnable|enable|disable)")
def _enable(store: Store, request: Request, key: str) -> Answer:
    collection, _, one = key.partition("/services")
    for name in request.body.get("serviceIds", []) or [one[1:]]:
        service = {"name": f"projects/{NUMBER}/services/{name}", "parent": f"projects/{NUMBER}"}
        store.resources[f"{collection}/services/{name}"] = service | {
            "config": {"name": name},
            "state": "ENABLED",
        }
        if request.verb == "disable":
            del store.resources[f"{collection}/services/{name}"]
    return 200, store.operation(key)


@special("POST", r"iam/projects/[^/]+/serviceAccounts")
def _create_account(store: Store, request: Request, key: str) -> Answer:
    email = f"{request.body['accountId']}@{store.domain}"
    return 200, store.put(f"{key}/{email}", request.body["serviceAccount"], new=True)


@shape("iam/serviceAccounts")
def _account(store: Store, key: str, sent: Json, before: Json) -> Json:
    unique = before.get("uniqueId") or str(10**20 + int(store.number()))
    added = {"email": key.rsplit("/")[-1], "projectId": store.project, "etag": store.etag()}
    return sent | added | {"uniqueId": unique, "oauth2ClientId": unique}


@special("DELETE", r"iam/projects/[^/]+/serviceAccounts/[^/]+")
def _delete_account(store: Store, request: Request, key: str) -> Answer:
    """Delete an account; its grants stay with it, and a new account of that name does not get them."""
    account = store.get(key)
    member = f"serviceAccount:{account['email']}"
    for policy in store.policies.values():
        for binding in policy["bindings"]:
            gone = f"deleted:{member}?uid={account['uniqueId']}"
            binding["members"] = [gone if name == member else name for name in binding["members"]]
    store.delete(key)
    return 200, {}


@shape("secretmanager/secrets")
def _secret(store: Store, key: str, sent: Json, before: Json) -> Json:
    name = sent["name"].replace(f"projects/{store.project}/", f"projects/{NUMBER}/")
    created = before.get("createTime", store.now())
    return sent | {"name": name, "etag": store.etag(), "createTime": created}


shape("secretmanager/versions")(_secret)


@special("POST", r"secretmanager/projects/[^/]+/secrets/[^/]+:addVersion")
def _add_version(store: Store, request: Request, key: str) -> Answer:
    store.get(key)
    payload = request.body["payload"]
    version = f"{key}/versions/{1 + len(store.list(f'{key}/versions'))}"
    store.payloads[version] = json.dumps(payload).encode()
    checked = {"clientSpecifiedPayloadChecksum": "dataCrc32c" in payload}
    return 200, store.put(version, {"state": "ENABLED", "replicationStatus": {"automatic": {}}} | checked)


@special("GET POST", r"secretmanager/projects/[^/]+/secrets/[^/]+/versions/[^/]+(:\w+)?")
def _version(store: Store, request: Request, key: str) -> Answer:
    secret, _, number = key.rpartition("/versions/")
    if number == "latest":
        key = f"{secret}/versions/{len(store.list(f'{secret}/versions'))}"
    version = store.get(key)
    states = {"disable": "DISABLED", "enable": "ENABLED", "destroy": "DESTROYED"}
    if request.verb in states:
        version = store.put(key, version | {"state": states[request.verb]})
    if request.verb != "access":
        return 200, version
    if version["state"] != "ENABLED":
        message = f"Secret Version [{version['name']}] is in {version['state']} state."
        raise Refusal(400, message, code="FAILED_PRECONDITION")
    return 200, {"name": version["name"], "payload": json.loads(store.payloads[key])}


@special("GET", r"secretmanager/projects/[^/]+/secrets/[^/]+/versions")
def _versions(store: Store, request: Request, key: str) -> Answer:
    return 200, {"versions": store.list(key)[::-1]}  # the newest first


@shape("eventarc/triggers")
def _trigger(store: Store, key: str, sent: Json, before: Json) -> Json:
    """Create a trigger with its topic and subscription, after the checks that Eventarc makes."""
    _, _, _, _, region, _, name = key.split("/")
    account = sent.get("serviceAccount", "").rsplit("/")[-1]
    store.act_as(account)
    filters = {each["attribute"]: each["value"] for each in sent["eventFilters"]}
    if "bucket" in filters:
        store.get(f"storage/b/{filters['bucket']}")
        agent = f"serviceAccount:service-{NUMBER}@gs-project-accounts.iam.gserviceaccount.com"
        if not store.granted(store.project_key, "roles/pubsub.publisher", agent):
            raise Refusal(
                400,
                "The Cloud Storage service account for your bucket is unable to publish to Cloud Pub/Sub"
                " topics in the specified project. To use GCS CloudEvent triggers, the GCS service account"
                " requires the Pub/Sub Publisher (roles/pubsub.publisher) IAM role in the specified project.",
            )
    if not store.granted(store.project_key, "roles/eventarc.eventReceiver", f"serviceAccount:{account}"):
        raise Refusal(400, f'Permission "eventarc.events.receiveEvent" denied on "{account}"')
    pubsub = before.get("transport", {}).get("pubsub")
    if not pubsub:
        topic = f"projects/{store.project}/topics/eventarc-{region}-{name}-{100 + int(store.number())}"
        subscription = topic.replace("/topics/", "/subscriptions/").rpartition("-")
        pubsub = {"topic": topic, "subscription": f"{subscription[0]}-sub-{subscription[2]}"}
        store.put(f"pubsub/{topic}", {})
        endpoint = f"https://{sent['destination']['cloudRun']['service']}.example"
        push = {"pushEndpoint": endpoint, "oidcToken": {"serviceAccountEmail": account}}
        backoff = {"minimumBackoff": "10s", "maximumBackoff": "600s"}
        made = {"topic": topic, "pushConfig": push, "retryPolicy": backoff, "expirationPolicy": {}}
        store.put(f"pubsub/{pubsub['subscription']}", made | {"messageRetentionDuration": "86400s"})
    return stamped(store, sent, before) | {"transport": {"pubsub": pubsub}}


@special("DELETE", r"eventarc/projects/[^/]+/locations/[^/]+/triggers/[^/]+")
def _delete_trigger(store: Store, request: Request, key: str) -> None:
    for name in store.get(key)["transport"]["pubsub"].values():
        store.delete(f"pubsub/{name}")


@shape("cloudscheduler/jobs")
def _job(store: Store, key: str, sent: Json, before: Json) -> Json:
    """Create an HTTP job; Cloud Scheduler appends a slash to a URL without a path."""
    target = sent.get("httpTarget", {})
    store.act_as(target.get("oidcToken", {}).get("serviceAccountEmail", ""))
    if re.fullmatch(r"https://[^/]+", target.get("uri", "")):
        target = target | {"uri": f"{target['uri']}/"}
    usual: Json = {
        "timeZone": "Etc/UTC",
        "attemptDeadline": "180s",
        "state": "ENABLED",
        "httpTarget": {"httpMethod": "POST", "headers": {"User-Agent": "Google-Cloud-Scheduler"}},
        "retryConfig": {
            "maxRetryDuration": "0s",
            "minBackoffDuration": "5s",
            "maxBackoffDuration": "3600s",
            "maxDoublings": 5,
        },
    }
    job = defaults(usual, sent | {"httpTarget": target}) | {"userUpdateTime": store.now()}
    if job["retryConfig"].get("retryCount") == 0:  # which is left out of an answer
        del job["retryConfig"]["retryCount"]
    return job


@shape("logging/metrics")
def _metric(store: Store, key: str, sent: Json, before: Json) -> Json:
    name, now = unquote(key.rsplit("/")[-1]), store.now()
    kind = f"logging.googleapis.com/user/{name}"
    described = {"name": f"projects/{store.project}/metricDescriptors/{kind}", "type": kind}
    usual = {"metricDescriptor": {"metricKind": "DELTA", "valueType": "INT64", "unit": "1"} | described}
    times = {"createTime": before.get("createTime", now), "updateTime": now}
    return defaults(usual, sent) | {"name": name, "resourceName": key.partition("/")[2]} | times


@special("POST", r"logging/entries:list")
def _entries(store: Store, request: Request, key: str) -> Answer:
    return 200, {"entries": store.resources.get("entries", [])}


@shape("monitoring/alertPolicies")
def _alert(store: Store, key: str, sent: Json, before: Json) -> Json:
    """Create an alert policy, whose log-based metrics must exist."""
    for name in re.findall(r"logging\.googleapis\.com/user/([\w./-]+)", json.dumps(sent)):
        if f"logging/projects/{store.project}/metrics/{name.replace('/', '%2F')}" not in store.resources:
            raise google("metric-unknown", metric=f"logging.googleapis.com/user/{name}")
    record = {"mutateTime": store.now(), "mutatedBy": OWNER}
    conditions: list[Any] = [
        {"name": f"{sent['name']}/conditions/{store.number()}"} | one for one in sent.get("conditions", [])
    ]
    added = {"mutationRecord": record, "creationRecord": before.get("creationRecord", record)}
    return {"enabled": True} | sent | {"conditions": conditions} | added


@shape("monitoring/dashboards")
def _dashboard(store: Store, key: str, sent: Json, before: Json) -> Json:
    name = sent["name"].replace(f"projects/{store.project}/", f"projects/{NUMBER}/")
    if before and sent.get("etag", before["etag"]) != before["etag"]:
        raise Refusal(409, "The dashboard was changed by somebody else.", code="ABORTED")
    return sent | {"name": name, "etag": store.etag()}
