"""Connections to PostgreSQL: the address, the login, and the verification of the server."""

import datetime as dt
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pg8000.native import literal

from dropcap.database.connection import LOGIN_SCOPE, DatabaseUnavailable, connect
from dropcap.database.transactions import Database
from dropcap.errors import SettingsError
from dropcap.settings import Settings
from infra.local.postgres import Postgres


def test_names_and_passwords_may_hold_any_character(postgres: Postgres) -> None:
    name = f"an odd/näme@{uuid.uuid4().hex}"
    url = postgres.database(name)
    with closing(connect(postgres.url)) as outside:
        outside.run(f"""CREATE ROLE "{name}" SUPERUSER LOGIN PASSWORD 'p@ss:w/rd%?#'""")
    quoted = urlsplit(url).path[1:].replace("@", "%40").replace("/", "%2F")
    address = f"postgresql://{quoted}:p%40ss%3Aw%2Frd%25%3F%23@127.0.0.1:{postgres.port}/{quoted}"
    with closing(connect(address)) as connection:
        assert connection.run("SELECT current_user, current_database()") == [[name, name]]
    with closing(connect(postgres.url)) as outside:
        outside.run(f'DROP DATABASE "{name}" WITH (FORCE)')
        outside.run(f'DROP ROLE "{name}"')


def test_a_unix_socket_is_used_as_on_cloud_sql(postgres: Postgres) -> None:
    url = postgres.url.replace(f"127.0.0.1:{postgres.port}", f":{postgres.port}") + f"?host={postgres.folder}"
    with closing(connect(url)) as connection:
        assert connection.run("SELECT inet_server_addr() IS NULL") == [[True]]


MEMBER = "dropcap-analyze@my-project.iam"  # how Cloud SQL calls the account of a function
TOKEN = "ya29.a-token-of-an-hour"  # noqa: S105  no one's


class Metadata(BaseHTTPRequestHandler):
    """A stand-in for the metadata server of Cloud Run, which has the service account's tokens."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        account = "/computeMetadata/v1/instance/service-accounts/default/"
        answers = {
            "/": "",
            "/computeMetadata/v1/project/project-id": "my-project",
            account: json.dumps({"email": "default", "scopes": [], "aliases": []}),
        }
        if parse_qs(url.query).get("scopes") == [LOGIN_SCOPE]:
            token = {"access_token": TOKEN, "expires_in": 3599, "token_type": "Bearer"}
            answers[f"{account}token"] = json.dumps(token)
        body = answers.get(url.path)
        self.send_response(HTTPStatus.NOT_FOUND if body is None else HTTPStatus.OK)
        self.send_header("Metadata-Flavor", "Google")
        kind = "application/json" if body and body.startswith("{") else "application/text"
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write((body or "").encode())

    def log_message(self, *_: object) -> None:
        """Tests are quiet."""


@pytest.fixture
def account() -> Iterator[str]:
    """Where a function finds its service account."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def member(postgres: Postgres) -> Iterator[None]:
    """A login whose password is the token, as on Cloud SQL, and which is a member of `dropcap`."""
    with closing(connect(postgres.url)) as outside:
        outside.run("CREATE ROLE dropcap NOLOGIN")
        outside.run(f'CREATE ROLE "{MEMBER}" LOGIN PASSWORD {literal(TOKEN)} IN ROLE dropcap')
    yield
    with closing(connect(postgres.url)) as outside:
        outside.run(f'DROP ROLE "{MEMBER}"')
        outside.run("DROP ROLE dropcap")


WHO = """
from dropcap.database.connection import DatabaseUnavailable
from dropcap.database.transactions import Database
from dropcap.settings import Settings
try:
    print(*Database(Settings.read()).query("SELECT session_user, current_user")[0])
except DatabaseUnavailable as refused:
    print(refused)
"""


def logged_in(
    postgres: Postgres, database_url: str, account: str, folder: Path, role: str = "dropcap"
) -> str:
    """Return the session and current user of a function with this account, or the error."""
    name = urlsplit(database_url).path
    address = f"postgresql://{quote(MEMBER)}@:{postgres.port}{name}?host={postgres.folder}"
    environment = {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "DATABASE_URL": f"{address}&iam=true&role={role}",
        "CLOUDSDK_CONFIG": str(folder),  # no one's own credentials
        "HOME": str(folder),
        "GCE_METADATA_HOST": account,  # google-auth reads these as it is imported: a process of its own
        "GCE_METADATA_IP": account,
        "GCE_METADATA_DETECT_RETRIES": "1",
    }
    command = [sys.executable, "-W", "ignore", "-c", WHO]
    printed = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    return printed.splitlines()[-1]  # after what it logs


@pytest.mark.usefixtures("member")
def test_a_function_logs_in_to_cloud_sql_as_its_service_account_and_shares_its_tables(
    postgres: Postgres, empty_database: str, account: str, tmp_path: Path
) -> None:
    with closing(connect(empty_database)) as outside:
        outside.run(f"GRANT CREATE ON DATABASE {urlsplit(empty_database).path[1:]} TO dropcap")
        assert logged_in(postgres, empty_database, account, tmp_path) == f"{MEMBER} dropcap"
        owners = outside.run("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'dropcap'")
        assert owners == [["dropcap"]]
        outside.run("DROP OWNED BY dropcap")


@pytest.mark.usefixtures("member")
def test_without_a_token_the_login_is_refused_with_the_reason(
    postgres: Postgres, empty_database: str, tmp_path: Path
) -> None:
    error = logged_in(postgres, empty_database, "127.0.0.1:1", tmp_path)
    assert error.startswith("There is no access token to log in to PostgreSQL with")


@pytest.mark.usefixtures("member")
def test_a_role_of_which_the_login_is_no_member_is_refused(
    postgres: Postgres, empty_database: str, account: str, tmp_path: Path
) -> None:
    error = logged_in(postgres, empty_database, account, tmp_path, role="postgres")
    assert 'permission denied to set role "postgres"' in error


@pytest.mark.parametrize(
    "url",
    [
        "",
        "postgresql://",
        "postgresql://user:secret@host:port/name",
        "postgresql://user:secret@host/name?sslmode=disable",
        "postgresql://user:secret@host/name?iam=true",
        "postgresql://user@host/name?iam=perhaps",
    ],
)
def test_an_invalid_address_is_a_settings_error_without_the_password(url: str) -> None:
    with pytest.raises(SettingsError, match="DATABASE_URL") as refused:
        Database(Settings(database_url=url)).prepare()
    assert "secret" not in str(refused.value)


def test_an_unavailable_database_is_reported_without_its_password() -> None:
    with pytest.raises(DatabaseUnavailable) as refused:
        Database(Settings(database_url="postgresql://user:secret@127.0.0.1:1/name")).prepare()
    assert "secret" not in str(refused.value)


ELSEWHERE = "127.1"  # this machine by a name that does not count as local


def certificate(folder: Path, name: str) -> Path:
    """Return a file with a key and a self-signed certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(secret + made.public_bytes(serialization.Encoding.PEM))
    return path


@contextmanager
def tls_front(database_url: str, pem: Path, client: Path | None = None) -> Iterator[str]:
    """Yield the database's address behind a proxy that speaks TLS as PostgreSQL does.

    The test's PostgreSQL is built without TLS. With `client`, clients must show that certificate.
    """
    port = urlsplit(database_url).port
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    if client:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client)

    def relay(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_RDWR)

    def serve(client: socket.socket) -> None:
        with suppress(OSError), ExitStack() as sockets:
            sockets.enter_context(client)
            assert len(client.recv(8)) == 8  # SSLRequest
            client.sendall(b"S")
            secure = sockets.enter_context(context.wrap_socket(client, server_side=True))
            server = sockets.enter_context(socket.create_connection(("127.0.0.1", port)))
            back = threading.Thread(target=relay, args=(server, secure), daemon=True)
            back.start()
            relay(secure, server)
            back.join(5)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield database_url.replace(f"127.0.0.1:{port}", f"{ELSEWHERE}:{listener.getsockname()[1]}")


def test_another_host_is_connected_to_with_verified_tls(database_url: str, tmp_path: Path) -> None:
    pem = certificate(tmp_path, ELSEWHERE)
    with tls_front(database_url, pem) as url:
        url += f"?sslmode=require&sslrootcert={pem}"
        with closing(Database(Settings(database_url=url))) as database:
            assert database.query("SELECT count(*) FROM uploads") == [[0]]


@pytest.mark.parametrize(("name", "trusted"), [(ELSEWHERE, False), ("another.example", True)])
def test_a_certificate_that_is_untrusted_or_of_another_host_is_refused(
    database_url: str, tmp_path: Path, name: str, trusted: bool
) -> None:
    pem = certificate(tmp_path, name)
    with tls_front(database_url, pem) as url:
        url += f"?sslrootcert={pem}" if trusted else ""
        with pytest.raises(DatabaseUnavailable, match="SSLCertVerificationError"):
            Database(Settings(database_url=url)).prepare()


def test_another_host_without_tls_is_refused(database_url: str) -> None:
    url = database_url.replace("127.0.0.1", ELSEWHERE)
    with pytest.raises(DatabaseUnavailable, match="Server refuses SSL"):
        Database(Settings(database_url=url)).prepare()
