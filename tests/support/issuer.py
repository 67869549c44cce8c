"""An issuer of ID tokens on this machine: signs as Google and Firebase do, and serves its keys as they do.

Its sign-in page stands in for Google's, which is out of reach: it takes the same parameters, refuses
what Google's refuses, and posts what Google's posts, but for whoever `person` says, without a password.
"""

import datetime as dt
import html
import ipaddress
import json
import re
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from google.auth import crypt, jwt

CLIENT = "1234-abc.apps.googleusercontent.com"
PROJECT = "dropcap-demo"
KID = "key-1"
IAP_KID = "iap-1"
AUDIENCE = "/projects/123456789012/locations/europe-west1/services/dropcap-gallery"
PAGE = "/o/oauth2/v2/auth"
KNOWN = ("id_token", "form_post", "openid")  # of what Google knows, what is asked for here


class Issuer:
    """Keys over HTTPS on 127.0.0.1; `folder` holds the certificate, which is also the one that signs."""

    def __init__(self, folder: Path) -> None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = serialization.Encoding.PEM
        plain = serialization.NoEncryption()
        self.private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
        self.certificate = _certificate(key).public_bytes(pem).decode()
        self.signer = crypt.RSASigner.from_string(self.private, KID)
        proxys = ec.generate_private_key(ec.SECP256R1())
        public = serialization.PublicFormat.SubjectPublicKeyInfo
        self.proxy = crypt.EsSigner(proxys, IAP_KID)
        self.proxys_key = proxys.public_key().public_bytes(pem, public).decode()
        self.trusted = folder / "issuer.pem"
        self.trusted.write_bytes(self.certificate.encode() + self.private)
        self.status, self.headers, self.key_requests = 200, {"Cache-Control": "public, max-age=3600"}, 0
        self.body: Any = {KID: self.certificate, "key-2": self.certificate, IAP_KID: self.proxys_key}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"issuer": self}))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.trusted)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.origin = f"https://127.0.0.1:{self._server.server_address[1]}"
        self.url = f"{self.origin}/certs"
        self.page = f"{self.origin}{PAGE}"
        self.redirects: tuple[str, ...] = ("http://localhost/gallery/sign-in",)  # registered for the client
        self.person: str | None = "ana"  # who sits before the page; None: who has changed their mind
        self.claims: dict[str, Any] = {}  # others than usual, of the page's tokens

    @property
    def settings(self) -> dict[str, str]:
        """Return the environment of a function that accepts this issuer's users."""
        return {
            "AUTH": "token",
            "AUTH_AUDIENCE": CLIENT,
            "AUTH_CERTS_URL": self.url,
            "REQUESTS_CA_BUNDLE": str(self.trusted),
            "SIGN_IN_URL": self.page,
        }

    @property
    def proxied(self) -> dict[str, str]:
        """Return the environment of a gallery behind Identity-Aware Proxy, with this issuer's keys."""
        return self.settings | {"AUTH": "iap", "AUTH_AUDIENCE": AUDIENCE, "SIGN_IN_URL": ""}

    def assertion(self, user: Any = "accounts.google.com:1234", **claims: Any) -> str:
        """Return an assertion as docs.cloud.google.com/iap/docs/signed-headers-howto has it (2026-11)."""
        now = int(time.time())
        usual: dict[str, Any] = {"signer": self.proxy}
        usual |= {"iss": "https://cloud.google.com/iap", "aud": AUDIENCE, "iat": now, "exp": now + 600}
        usual |= {"azp": AUDIENCE, "hd": "example.com", "email": "ana@example.com", "google": {}}
        return self.token(user, **usual | claims)

    def token(self, user: Any = "ana", signer: crypt.Signer | None = None, **claims: Any) -> str:
        """Return an ID token like Google's, but with this signer and claims; a claim of None is omitted."""
        now = int(time.time())
        usual = {"iss": "https://accounts.google.com", "aud": CLIENT, "sub": user}
        all_claims = usual | {"iat": now, "exp": now + 3600, "email": "ana@example.com"} | claims
        kept = {name: value for name, value in all_claims.items() if value is not None}
        return str(jwt.encode(signer or self.signer, kept).decode())

    def signed_in(self, user: Any = "ana", **claims: Any) -> dict[str, str]:
        """Return the headers of a request of this user."""
        return {"Authorization": f"Bearer {self.token(user, **claims)}"}

    def sign_in(self, address: str) -> dict[str, str]:
        """Return the form fields that a browser posts from the sign-in page at this URL."""
        answer = requests.get(address, verify=str(self.trusted), timeout=10)
        assert answer.status_code == 200, answer.text
        fields = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', answer.text)
        return {name: html.unescape(value) for name, value in fields}

    def answer(self, asked: dict[str, str]) -> tuple[int, str]:
        """Return status and HTML of the sign-in page for these parameters."""
        wanted = ("client_id", "redirect_uri", "response_type", "scope", "nonce")
        missing = [name for name in wanted if not asked.get(name)]
        if missing:
            return 400, f"Missing required parameter: {missing[0]}"
        if asked["client_id"] not in (CLIENT, PROJECT):
            return 401, "The OAuth client was not found."
        if asked["redirect_uri"] not in self.redirects:
            return 400, "Error 400: redirect_uri_mismatch"
        if (asked["response_type"], asked.get("response_mode"), asked["scope"]) != KNOWN:
            return 400, "Error 400: invalid_request"
        fields = {"state": asked.get("state", "")}
        if self.person is None:
            fields |= {"error": "access_denied"}
        else:
            claims = {"nonce": asked["nonce"]} | self.claims
            fields |= {"id_token": self.token(self.person, **claims), "authuser": "0", "prompt": "none"}
        inputs = [
            f'<input type="hidden" name="{name}" value="{html.escape(value)}">'
            for name, value in fields.items()
        ]
        action = html.escape(asked["redirect_uri"])
        return 200, f'<form method="post" action="{action}">{"".join(inputs)}<button>Continue</button></form>'

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    issuer: Issuer

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        if asked.path == PAGE:
            status, text = self.issuer.answer(dict(parse_qsl(asked.query)))
            self.send_response(status)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(text.encode())
            return
        self.issuer.key_requests += 1
        self.send_response(self.issuer.status)
        for name, value in self.issuer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        body = self.issuer.body
        self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Suppress the log."""


def _certificate(key: rsa.RSAPrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer.example")])
    now, public = dt.datetime.now(dt.UTC), key.public_key()
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign"), False
    ) | {"encipher_only": False, "decipher_only": False}
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (
        (x509.BasicConstraints(ca=True, path_length=None), True),
        (x509.KeyUsage(digital_signature=True, key_cert_sign=True, **usage), True),
        (x509.SubjectKeyIdentifier.from_public_key(public), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(public), False),
        (x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False),
    )
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(public)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=1))
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(key, hashes.SHA256())
