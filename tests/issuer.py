"""An issuer of ID tokens on this machine: signs as Google and Firebase do, and serves its keys as they do."""

import datetime as dt
import ipaddress
import json
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import crypt, jwt

CLIENT = "1234-abc.apps.googleusercontent.com"
PROJECT = "dropcap-demo"
KID = "key-1"


class Issuer:
    """Keys over HTTPS on 127.0.0.1; `folder` holds the certificate, which is also the one that signs."""

    def __init__(self, folder: Path) -> None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = serialization.Encoding.PEM
        plain = serialization.NoEncryption()
        self.private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
        self.certificate = _certificate(key).public_bytes(pem).decode()
        self.signer = crypt.RSASigner.from_string(self.private, KID)
        self.trusted = folder / "issuer.pem"
        self.trusted.write_bytes(self.certificate.encode() + self.private)
        self.status, self.headers, self.asked = 200, {"Cache-Control": "public, max-age=3600"}, 0
        self.body: Any = {KID: self.certificate, "key-2": self.certificate}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"issuer": self}))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.trusted)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self._server.server_address[1]}/certs"

    @property
    def settings(self) -> dict[str, str]:
        """The environment of a function that lets in this issuer's users."""
        return {
            "AUTH": "token",
            "AUTH_AUDIENCE": CLIENT,
            "AUTH_CERTS_URL": self.url,
            "REQUESTS_CA_BUNDLE": str(self.trusted),
        }

    def token(self, user: Any = "ana", signer: crypt.Signer | None = None, **claims: Any) -> str:
        """An ID token that is Google's, but for signer and claims; a claim that is None is left out."""
        now = int(time.time())
        usual = {"iss": "https://accounts.google.com", "aud": CLIENT, "sub": user}
        all_claims = usual | {"iat": now, "exp": now + 3600, "email": "ana@example.com"} | claims
        kept = {name: value for name, value in all_claims.items() if value is not None}
        return str(jwt.encode(signer or self.signer, kept).decode())

    def signed_in(self, user: Any = "ana", **claims: Any) -> dict[str, str]:
        """The headers of a request of this user."""
        return {"Authorization": f"Bearer {self.token(user, **claims)}"}

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
        self.issuer.asked += 1
        self.send_response(self.issuer.status)
        for name, value in self.issuer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        body = self.issuer.body
        self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Silence."""


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
