"""A stateful stand-in for Google Cloud's control plane, to which the real gcloud connects in tests.

It is a proxy on 127.0.0.1 that answers for every host of googleapis.com, and for the gallery's host, with a
certificate that gcloud is configured to trust. So gcloud sends the same requests as to Google, and none
leaves the machine. The proxy has one store of resources by path, with the fields that Google's servers add,
policies with etags, and operations that finish at once. `control_plane_apis` has the special cases of the
APIs.

It is not Google: it checks few values and limits, and allows every request that `refuse` does not deny.
"""

import datetime as dt
import json
import re
import ssl
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from infra.cloud.operations.gallery import IAP_HEADER
from tests.support.cloud import control_plane_run, google_schemas  # noqa: F401  (registers its answers)
from tests.support.cloud.control_plane_apis import begin
from tests.support.cloud.control_plane_storage import archives
from tests.support.cloud.control_plane_store import FAILED as FAILED
from tests.support.cloud.control_plane_store import OWNER, Answer, Refusal, Request, Store, google

Response = tuple[int, bytes]  # the HTTP status and the content
Exchange = list[tuple[Request, Response]]

DROPPED = 0  # as a status for `refuse`: the connection ends without an answer


@dataclass
class _Rule:
    pattern: str
    refusal: Refusal
    times: int


class ControlPlane(Store):
    """A context manager; `folder` is for gcloud's configuration, the certificate and the token."""

    def __init__(self, folder: Path, project: str = "demo-project") -> None:
        super().__init__(project)
        self.requests: list[Request] = []
        self.faults: list[str] = []  # in what requests and answers are not what Google documents
        self._rules: list[_Rule] = []
        self.lock = threading.RLock()
        folder.mkdir(parents=True, exist_ok=True)
        pem = folder / "plane.pem"
        pem.write_bytes(_certificate())
        (folder / "token").write_text("stand-in")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        self._context = context
        self._server = self._proxy([])
        address, self.port = "127.0.0.1", str(self._server.server_address[1])
        self.environment = {  # of gcloud, and of Google's Python clients
            "CLOUDSDK_CONFIG": str(folder / "config"),
            "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE": str(folder / "token"),
            "CLOUDSDK_CORE_PROJECT": project,
            "CLOUDSDK_CORE_ACCOUNT": OWNER,
            "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
            "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "1",
            "CLOUDSDK_CORE_DISABLE_FILE_LOGGING": "1",
            "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE": str(pem),
            "CLOUDSDK_CORE_CHECK_GCE_METADATA": "0",
            "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "1",
            "CLOUDSDK_SURVEY_DISABLE_PROMPTS": "1",
            "CLOUDSDK_STORAGE_PROCESS_COUNT": "1",
            "CLOUDSDK_STORAGE_THREAD_COUNT": "1",
            "CLOUDSDK_PROXY_TYPE": "http",
            "CLOUDSDK_PROXY_ADDRESS": address,
            "CLOUDSDK_PROXY_PORT": self.port,
            **dict.fromkeys(("HTTPS_PROXY", "https_proxy"), f"http://{address}:{self.port}"),
            "REQUESTS_CA_BUNDLE": str(pem),
        }
        begin(self)

    def _proxy(self, exchange: Exchange) -> ThreadingHTTPServer:
        members = {"plane": self, "context": self._context, "exchange": exchange}
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), members))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server

    @contextmanager
    def recording(self) -> Iterator[tuple[str, Exchange]]:
        """Provide another port of the proxy, and what is exchanged through it."""
        exchange: Exchange = []
        server = self._proxy(exchange)
        yield str(server.server_address[1]), exchange
        server.shutdown()
        server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def writes(self) -> list[Request]:
        """Return the requests that ask for a change, in order."""
        return [request for request in self.requests if request.writes]

    @property
    def sources(self) -> list[list[str]]:
        """Return the file names in each uploaded source archive, in order."""
        return archives(self)

    def refuse(
        self, pattern: str, status: int, reason: str = "", message: str = "", times: int = 1, code: str = ""
    ) -> None:
        """Fail the next requests whose `line` matches this regular expression.

        `reason` is Google's for the error, as "RATE_LIMIT_EXCEEDED"; for a status of 403 it is the
        permission, as "run.services.create". `status` may be `DROPPED` or `FAILED`. `code` is google.rpc's
        where the status has several.
        """
        if status == 403 and "." in reason:
            message = message or f"Permission '{reason}' denied on resource (or it may not exist)."
            reason = "IAM_PERMISSION_DENIED"
        self._rules.append(_Rule(pattern, Refusal(status, message or reason, reason, code), times))

    def fail_with(self, pattern: str, name: str, times: int = 1, **values: str) -> None:
        """Fail the next requests whose `line` matches, with the error `name` of known_errors.toml.

        An error without an HTTP status fails the operation or the revision instead of the request.
        """
        self._rules.append(_Rule(pattern, google(name, **values), times))

    def reply(self, request: Request) -> Answer:
        """Return the status of the response to this request, and its body: JSON or bytes."""
        status, body = self._reply(request)
        self.faults += google_schemas.faults(request, status, body)
        return status, body

    def respond_again(self, request: Request) -> Response | None:
        """Return the response that an earlier reading request would have now, unless a rule is for it."""
        with self.lock:
            if any(rule.times and re.search(rule.pattern, request.line) for rule in self._rules):
                return None
            self.failure = None
            try:
                return encoded(self.answer(request))
            except Refusal as refusal:
                return encoded((refusal.status, refusal.body))

    def _reply(self, request: Request) -> Answer:
        with self.lock:
            self.requests.append(request)
            self.failure = None
            try:
                for rule in self._rules:
                    if rule.times and re.search(rule.pattern, request.line):
                        rule.times -= 1
                        if rule.refusal.status != FAILED:
                            raise rule.refusal
                        self.failure = rule.refusal
                return self.answer(request)
            except Refusal as refusal:
                return refusal.status, refusal.body
            except Exception:  # of the stand-in itself: gcloud shows it
                return 400, Refusal(400, traceback.format_exc()).body


def encoded(answer: Answer) -> Response:
    """Return the response with its body as bytes."""
    status, body = answer
    return status, body if isinstance(body, bytes) else json.dumps(body).encode()


class _Handler(BaseHTTPRequestHandler):
    plane: ControlPlane
    context: ssl.SSLContext
    exchange: Exchange
    protocol_version = "HTTP/1.1"
    host = ""
    timeout = 60
    disable_nagle_algorithm = True  # else the body of an answer waits 40 ms for its header to be acknowledged

    def do_CONNECT(self) -> None:
        self.host = self.path.partition(":")[0]
        self.send_response(200)
        self.end_headers()
        self.request = self.connection = self.context.wrap_socket(self.connection, server_side=True)
        self.setup()
        self.close_connection = False  # which a CONNECT of HTTP/1.0, Python's own, would have ended

    def finish(self) -> None:
        super().finish()
        self.connection.close()  # the server knows only the socket that was wrapped

    def _answer(self) -> None:
        url = urlsplit(self.path)
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body: Any = data
        if "json" in self.headers.get("Content-Type", ""):
            body = json.loads(data or b"{}")
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(
            self.command, self.host or url.netloc, url.path, query, body, headers, self.plane.project
        )
        with self.plane.lock:  # until the answer is written down, nothing of it may change
            status, body = self.plane.reply(request)
            _, content = encoded((status, body))
            self.exchange.append((request, (status, content)))
        if status == DROPPED:
            self.close_connection = True
            return
        self.send_response(status)
        for name in ("Location", IAP_HEADER):
            if isinstance(body, dict) and name in body:
                self.send_header(name, body[name])
        self.send_header("Content-Type", "application/json; charset=UTF-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


def _certificate() -> bytes:
    """Return a new key and its self-signed certificate for Google's APIs and Cloud Run."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "stand-in")])
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName(host) for host in ("googleapis.com", "*.googleapis.com", "*.a.run.app")]
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = serialization.NoEncryption()
    return certificate.public_bytes(pem) + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
