"""The store of the stand-in for Google Cloud's control plane: requests, errors, resources, policies."""

import base64
import datetime as dt
import itertools
import json
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from infra.cloud.gcloud.known_errors import KNOWN_ERRORS

Json = dict[str, Any]
Answer = tuple[int, Any]  # the HTTP status and the body, JSON or bytes

NUMBER, BILLING = "123456789012", "000000-111111-222222"  # of the project, and of who pays for it
OWNER = "owner@example.com"  # who deploys
FAILED = 200  # as the status of a refusal: it is accepted, and its operation or revision ends in this error
STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
}
READS = ("getIamPolicy", "testIamPermissions", "wait")  # methods sent as a POST that change nothing
# Where a change is answered with an operation; here it is done at once.
LONG_RUNNING = ("artifactregistry", "eventarc")
MERGED = ("storage", "sqladmin")  # whose PATCH without a mask is a merge, not a replacement
# The APIs that a new project must enable before it uses them.
TO_ENABLE = {
    *("artifactregistry", "billingbudgets", "cloudbuild", "cloudscheduler", "cloudtasks", "eventarc", "iam"),
    *("pubsub", "run", "secretmanager", "sqladmin"),
}


class Refusal(Exception):
    """An error response: HTTP status, message, Google's reason, and google.rpc's code."""

    def __init__(self, status: int, message: str, reason: str = "", code: str = "", **metadata: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.metadata = status, reason, metadata
        self.code = code or STATUSES.get(status, "UNKNOWN")

    @property
    def body(self) -> Json:
        """Return the error as google.rpc.Status over HTTP."""
        info = {"reason": self.reason, "domain": "googleapis.com", "metadata": self.metadata}
        details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo"} | info] if self.reason else []
        errors = [{"message": str(self), "domain": "global", "reason": self.reason or self.code}]
        error = {"code": self.status, "message": str(self), "status": self.code, "errors": errors}
        return {"error": error | ({"details": details} if details else {})}


def google(name: str, **values: str) -> Refusal:
    """Return the error with Google's message from infra/cloud/gcloud/known_errors.toml."""
    [known] = [each for each in KNOWN_ERRORS if each.name == name]
    message = known.example.format(**values)
    return Refusal(known.status or FAILED, message, known.reason, known.code)


@dataclass(frozen=True)
class Request:
    """What gcloud sent. `body` is JSON where it was JSON, else bytes; `query` has each name once.

    `project` is the one project that there is, whatever the request is about.
    """

    method: str
    host: str
    path: str
    query: dict[str, str]
    body: Any
    headers: dict[str, str] = field(repr=False)
    project: str

    @property
    def line(self) -> str:
        """Return a line like `POST secretmanager.googleapis.com/v1/projects/p/secrets?secretId=x`."""
        query = "&".join(f"{name}={value}" for name, value in self.query.items())
        return f"{self.method} {self.host}{self.path}" + (f"?{query}" if query else "")

    @property
    def api(self) -> str:
        """Return the API: `run`, also for a regional host, europe-west1-run.googleapis.com."""
        return self.host.split(".")[0].rpartition("-")[2]

    @property
    def verb(self) -> str:
        """Return the custom method, `addVersion` in `secrets/x:addVersion`, or an empty string."""
        path = unquote(self.path).removesuffix(self.project)  # an id may have a colon: example.com:my-project
        found = re.search(r":([a-zA-Z]+)$", path) if self.api != "storage" else None
        return found[1] if found else ""

    @property
    def key(self) -> str:
        """Return the key of the resource or collection: the API and the path, without version and verb."""
        path = re.sub(r"^/(.*?/)??v\d\w*/", "", self.path.removesuffix(f":{self.verb}"))
        region = self.host.split(".")[0].rpartition("-")[0] or "-"
        path = re.sub(r"^namespaces/([^/]+)", rf"projects/\1/locations/{region}", path)
        path = re.sub(rf"^projects/(-|{NUMBER})(?=/|$)", f"projects/{self.project}", path)
        return "/".join([self.api, *(unquote(part).replace("/", "%2F") for part in path.split("/"))])

    @property
    def writes(self) -> bool:
        """Return whether it asks for a change."""
        reads = self.verb in READS or self.path.endswith("entries:list") or self.dry
        return self.method != "GET" and not reads

    @property
    def dry(self) -> bool:
        """Return whether it is a dry run: dryRun of Cloud Run's API."""
        return self.query.get("dryRun") == "all"


Special = Callable[["Store", Request, str], Answer | None]
Shape = Callable[["Store", str, Json, Json], Json]
SPECIALS: list[tuple[str, re.Pattern[str], Special]] = []
SHAPES: dict[str, Shape] = {}


def special(methods: str, pattern: str) -> Callable[[Special], Special]:
    """Register a handler by method and `key:verb`; if it returns None, the default handler answers."""

    def register(function: Special) -> Special:
        SPECIALS.append((methods, re.compile(pattern), function))
        return function

    return register


def shape(collection: str) -> Callable[[Shape], Shape]:
    """Register how the server completes a resource of `api/collection`, from key, new and present state."""

    def register(function: Shape) -> Shape:
        SHAPES[collection] = function
        return function

    return register


class Store:
    """Resources and their policies by key, such as `secretmanager/projects/demo-project/secrets/x`."""

    def __init__(self, project: str) -> None:
        self.project = project
        self.resources: dict[str, Json] = {}
        self.policies: dict[str, Json] = {}
        self.operations: dict[str, Json] = {}  # by the last part of their name
        self.images: dict[str, str | None] = {}  # built images, with digest: the base image that each needs
        self.payloads: dict[str, bytes] = {}  # of secret versions and objects, by key
        self.uploads: list[tuple[str, bytes]] = []  # every object ever uploaded, by key
        self.failure: Refusal | None = None  # in which the present change is to end
        self.silent_regions: list[str] = []  # regions that do not answer a list of all
        self._numbers = itertools.count(1)

    def answer(self, request: Request) -> Answer:
        """Return the response of the special or default handler."""
        service = f"{request.api}.googleapis.com"
        if request.api in TO_ENABLE and f"serviceusage/projects/{self.project}/services/{service}" not in (
            self.resources
        ):
            raise google("api-off", service=service, project=self.project)
        target = request.key + (f":{request.verb}" if request.verb else "")
        for methods, pattern, function in SPECIALS:
            if request.method in methods.split() and pattern.fullmatch(target):
                answer = function(self, request, request.key)
                if answer:
                    return answer
        return self._usual(request)

    def _usual(self, request: Request) -> Answer:
        """Answer as most APIs do for a path of alternating collections and ids."""
        key, method, verb, body = request.key, request.method, request.verb, request.body or {}
        if verb in ("getIamPolicy", "setIamPolicy"):
            return 200, self.policy(key, body["policy"] if verb == "setIamPolicy" else None)
        if verb == "testIamPermissions":
            return 200, {"permissions": body["permissions"]}
        if verb:
            raise Refusal(501, f"The stand-in has no {request.line}")
        if "/operations/" in key:
            return 200, self.operations.get(key.rsplit("/")[-1]) or self.get(key)
        if self.failure and method != "GET":
            return 200, self.operation(key)
        if len(key.split("/")) % 2 == 0:  # a collection: the API's name is a part, too
            if method == "GET":
                return 200, {_plural(key): self.list(key)}
            key = f"{key}/{_chosen_id(request) or uuid.uuid4().hex[:16]}"
            changed = self.put(key, body, new=True)
        elif method == "DELETE":
            self.get(key)
            self.delete(key)
            changed = {}
        elif method == "GET":
            return 200, self.get(key)
        else:
            changed = self.put(key, merged(request, self.get(key)))
        return 200, self.operation(key, changed) if request.api in LONG_RUNNING else changed

    def get(self, key: str) -> Json:
        """Return the resource. Raises Google's 404 if there is none."""
        if key not in self.resources:
            raise Refusal(404, f"Resource '{key.partition('/')[2]}' was not found")
        return self.resources[key]

    def list(self, collection: str) -> list[Json]:
        """Return the direct resources of a collection; `-` in the path matches any part."""
        pattern = "/".join("[^/]+" if part == "-" else re.escape(part) for part in collection.split("/"))
        return [value for key, value in self.resources.items() if re.fullmatch(rf"{pattern}/[^/]+", key)]

    def put(self, key: str, resource: Json, new: bool = False) -> Json:
        """Create or replace a resource, with the fields that the server adds."""
        if new and key in self.resources:
            raise Refusal(409, f"Resource '{key.partition('/')[2]}' already exists.")
        api, *_, collection, _ = key.split("/")
        make = SHAPES.get(f"{api}/{collection}", _as_sent)
        sent = {"name": key.partition("/")[2]} | {n: v for n, v in resource.items() if n != "name"}
        self.resources[key] = make(self, key, sent, self.resources.get(key, {}))
        return self.resources[key]

    def delete(self, key: str) -> None:
        """Delete a resource with its children and its policy."""
        tables: tuple[dict[str, Any], ...] = (self.resources, self.policies, self.payloads)
        for table in tables:
            for name in [name for name in table if name == key or name.startswith(f"{key}/")]:
                del table[name]

    def policy(self, key: str, new: Json | None = None) -> Json:
        """Get or set the IAM policy of a resource; a new one must have the present etag, or none."""
        if not key.startswith("iap/"):  # Identity-Aware Proxy keeps them by name, also of what is gone
            self.get(key)
        present = self.policies.setdefault(key, {"version": 1, "etag": self.etag(), "bindings": []})
        if new is not None:
            if new.get("etag", present["etag"]) != present["etag"]:
                raise google("policy-changed")
            for member in (member for binding in new.get("bindings", []) for member in binding["members"]):
                if not self.account_exists(member.removeprefix("serviceAccount:")):
                    raise google("account-unknown", account=member.partition(":")[2])
            present = self.policies[key] = present | {"bindings": []} | new | {"etag": self.etag()}
        return present

    @property
    def project_key(self) -> str:
        """Return the key of the project itself."""
        return f"cloudresourcemanager/projects/{self.project}"

    @property
    def domain(self) -> str:
        """Return the domain of the project's service accounts."""
        return f"{'.'.join(reversed(self.project.split(':')))}.iam.gserviceaccount.com"

    def account_exists(self, email: str) -> bool:
        """Return False for the address of a missing service account of the project."""
        ours = email.endswith(f"@{self.domain}") and not email.startswith("deleted:")
        return not ours or f"iam/projects/{self.project}/serviceAccounts/{email}" in self.resources

    def act_as(self, email: str) -> None:
        """Refuse if the service account is missing, as Google does for callers who cannot act as it."""
        if email and not self.account_exists(email):
            raise google("acts-as", account=email)

    def granted(self, key: str, role: str, member: str) -> bool:
        """Return whether the policy of this resource gives this role to this member."""
        bindings = self.policies.get(key, {}).get("bindings", [])
        return any(binding["role"] == role and member in binding["members"] for binding in bindings)

    def operation(self, key: str, response: Json | None = None) -> Json:
        """Return an operation on the resource of this key, which has finished or failed."""
        api, path = key.split("/", 1)
        parent = re.match(r"projects/[^/]+(/locations/[^/]+)?", path)
        identity = str(uuid.uuid4())
        name = f"{parent[0] if parent else path}/operations/{identity}"
        ended: Json = {"response": {"@type": f"type.googleapis.com/google.cloud.{api}.Resource"}}
        ended["response"] |= response or {}
        if self.failure:
            ended = {"error": {"code": 13, "message": str(self.failure)}}
        self.operations[identity] = {"name": name, "metadata": {"target": path}, "done": True} | ended
        return self.operations[identity]

    def number(self) -> str:
        """Return an unused number."""
        return str(next(self._numbers))

    def etag(self) -> str:
        """Return an unused opaque string."""
        return base64.b64encode(f"BwX{next(self._numbers):08d}".encode()).decode()

    @staticmethod
    def now() -> str:
        """Return the time in RFC 3339, as Google writes it."""
        return dt.datetime.now(dt.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _as_sent(store: Store, key: str, sent: Json, before: Json) -> Json:
    return sent


def stamped(store: Store, sent: Json, before: Json) -> Json:
    """Return a resource with etag, uid and times."""
    added = {"uid": before.get("uid", str(uuid.uuid4())), "etag": store.etag(), "updateTime": store.now()}
    return sent | added | {"createTime": before.get("createTime", added["updateTime"])}


def defaults(values: Json, body: Json) -> Json:
    """Return the values, with these defaults."""
    nested = {
        name: defaults(values[name], value)
        for name, value in body.items()
        if isinstance(value, dict) and isinstance(values.get(name), dict)
    }
    return values | body | nested


def merged(request: Request, present: Json) -> Json:
    """Return the resource after an update."""
    body, mask = request.body or {}, request.query.get("updateMask")
    if "updateMask" in body:  # and the resource in the other field
        [(_, body)], mask = [part for part in body.items() if part[0] != "updateMask"], body["updateMask"]
    if not mask:
        return patched(present, body) if request.method == "PATCH" and request.api in MERGED else dict(body)
    result: Json = json.loads(json.dumps(present))
    for path in mask.split(","):
        *parents, last = [re.sub(r"_(\w)", lambda found: found[1].upper(), part) for part in path.split(".")]
        target, source = result, body
        for name in parents:
            target, source = target.setdefault(name, {}), source.get(name, {})
        target.pop(last, None)
        if last in source:
            target[last] = source[last]
    return result


def patched(present: Any, patch: Any) -> Any:
    """Apply a JSON merge patch (RFC 7396)."""
    if not isinstance(patch, dict) or not isinstance(present, dict):
        return patch
    result = present | {name: patched(present.get(name), value) for name, value in patch.items()}
    return {name: value for name, value in result.items() if value is not None}


def _plural(collection: str) -> str:
    """Return the name of the list in the response for a collection."""
    api, name = collection.split("/")[0], collection.rsplit("/")[-1]
    if api in ("run", "storage", "sqladmin"):
        return "items"
    return "accounts" if name == "serviceAccounts" else name


def _chosen_id(request: Request) -> str:
    """Return the id that a request chooses for a new resource; empty if the server assigns it."""
    for name, value in request.query.items():
        if name.endswith("Id") and name != "requestId":
            return value
    body = request.body or {}
    name = str(body.get("name") or body.get("metadata", {}).get("name") or "")
    return name.replace("/", "%2F") if request.api == "logging" else name.rsplit("/")[-1]
