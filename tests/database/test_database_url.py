"""DATABASE_URL is read as libpq reads it, and unsupported options are refused by name: none is ignored."""

import os
import ssl
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest

from dropcap import database_url
from dropcap.database.connection import DatabaseUnavailable, connect
from dropcap.database.transactions import Database
from dropcap.errors import SettingsError
from dropcap.settings import Settings
from tests.database.test_connection import ELSEWHERE, certificate, tls_front
from tests.support.app import ROOT
from tests.support.database import libpq

PASSWORD = "hunter2"  # noqa: S105  no one's
URL = f"postgresql://ana:{PASSWORD}@db.example.com/photos"
# Each keyword of libpq 18 (postgresql.org/docs/18/libpq-connect.html, 2026-11), and the attribute of the
# address that has its value. None: refused with any value. The others are in SAME_ADDRESS.
KEYWORDS: dict[str, tuple[str, str] | None] = {
    "host": ("host", "db2.example.com"),
    "port": ("port", "6432"),
    "user": ("user", "bo"),
    "password": ("password", "other"),
    "dbname": ("dbname", "albums"),
    "connect_timeout": ("connect_timeout", "3"),
    "application_name": ("application_name", "mine"),
    "fallback_application_name": ("application_name", "mine"),
    "options": ("options", "--work_mem=8MB"),
    "channel_binding": ("channel_binding", "require"),
    "sslmode": ("sslmode", "verify-full"),
    "sslrootcert": ("sslrootcert", "/ca.pem"),
    "sslpassword": ("sslpassword", "secret"),
    "sslcert": ("sslcert", "/client.pem"),  # with the other
    "sslkey": ("sslkey", "/client.key"),
    **dict.fromkeys(("service", "servicefile", "passfile", "hostaddr", "tcp_user_timeout"), None),
    **dict.fromkeys(("keepalives_idle", "keepalives_interval", "keepalives_count"), None),
    **dict.fromkeys(("sslcrl", "sslcrldir", "ssl_max_protocol_version", "sslkeylogfile"), None),
    **dict.fromkeys(("requirepeer", "require_auth", "krbsrvname", "gsslib"), None),
    **dict.fromkeys(("scram_client_key", "scram_server_key"), None),
    **dict.fromkeys(("oauth_issuer", "oauth_client_id", "oauth_client_secret", "oauth_scope"), None),
}
SAME_ADDRESS = {  # a value that changes nothing, and one that is refused
    "sslnegotiation": ("postgres", "direct"),  # the one way that pg8000 has
    "sslcompression": ("0", "1"),  # modern TLS has none
    "sslcertmode": ("allow", "require"),  # a certificate is sent if it is given and requested
    "sslsni": ("1", "0"),  # Python sends the name
    "ssl_min_protocol_version": ("TLSv1.2", "TLSv1.3"),  # Python's minimum
    "gssencmode": ("disable", "require"),  # it is TLS
    "gssdelegation": ("0", "1"),
    "min_protocol_version": ("3.0", "3.2"),  # pg8000 speaks 3.0
    "max_protocol_version": ("latest", "2.0"),
    "client_encoding": ("UTF8", "LATIN1"),  # it is always requested
    "keepalives": ("1", "0"),  # pg8000 sets them
    "load_balance_hosts": ("random", "other"),  # there is one host
    "target_session_attrs": ("read-write", "standby"),  # the schema check refuses a read-only one
    "replication": ("false", "database"),
}
TOGETHER = {"sslcert": "&sslkey=/k", "sslkey": "&sslcert=/c"}


@pytest.mark.parametrize("keyword", libpq.keywords())
def test_every_keyword_of_libpq_is_honoured_or_refused_by_name(keyword: str) -> None:
    if keyword in SAME_ADDRESS:
        value, other = SAME_ADDRESS[keyword]
        assert database_url.read(f"{URL}?{keyword}={value}") == database_url.read(URL)
        refused = f"{URL}?{keyword}={other}"
    elif honoured := KEYWORDS[keyword]:
        attribute, value = honoured
        url = f"{URL}?{keyword}={quote(value)}{TOGETHER.get(keyword, '')}"
        assert str(getattr(database_url.read(url), attribute)) == value
        return
    else:
        refused = f"{URL}?{keyword}=1"
    with pytest.raises(SettingsError, match=rf"^DATABASE_URL=\*\*\* .* option {keyword} ") as wrong:
        Settings.read({"DATABASE_URL": refused})
    assert PASSWORD not in str(wrong.value)


@pytest.mark.parametrize("option", ["schema", "currentSchema", "pgbouncer", "sslmod", "connection_limit"])
def test_an_option_that_libpq_does_not_know_is_refused_by_name(option: str) -> None:
    assert libpq.parse(f"{URL}?{option}=x") is None
    with pytest.raises(SettingsError, match=rf"^DATABASE_URL=\*\*\* .* option {option} "):
        Settings.read({"DATABASE_URL": f"{URL}?{option}=x"})


URLS = [
    *(URL, f"{URL}?", f"{URL}?port=5&", f"{URL}?user=a&user=b", f"{URL}?ssl=true"),
    f"{URL}?application_name=a+b%20c",
    *("postgres://u@h", "postgresql://u@h:/d", "postgresql://u@h:6543/d", "postgresql://u:@h/d"),
    *("postgresql://u:p?w#x@h/d", "postgresql://u:p:q@h/d", "postgresql://u@h/d/e", "postgresql://u@h/d#e"),
    *("postgresql://u:p%40%2F%25@h/d%2Fx", "postgresql://%C3%A4@h/d", "postgresql://h?x=a@b"),
    *("postgresql://u@[::1]/d", "postgresql://u@[2001:db8::1]:5/d", "postgresql://u@H.Example/d"),
    *("postgresql://u@%2Ftmp/d", "postgresql:///d?host=/tmp&user=u", "postgresql://u@:5433/d?host=/tmp"),
    *("postgresql:///?user=x&password=y&dbname=z&port=7&host=h", "postgresql://u@h/d?host=x&port=1"),
    *("postgresql://u:a@b@h/d", "postgresql://a%40b:p@h/d?user=x@y"),
]


@pytest.mark.parametrize("url", URLS)
def test_a_url_is_parsed_as_by_libpq(url: str) -> None:
    theirs, ours = libpq.parse(url), database_url.read(url)
    assert theirs is not None
    assert ours.dbname == theirs.pop("dbname", theirs["user"])
    for name, value in theirs.items():
        assert str(getattr(ours, name)) == value
    assert ours.port == int(theirs.get("port", 5432))


@pytest.mark.parametrize(
    "url",
    [
        *(f"{URL}?sslmode", f"{URL}?sslmode=a=b", f"{URL}?&port=5", f"{URL}?a%zz=b", f"{URL}?ssl=false"),
        *(
            "postgresql://u:p%zz@h/d",
            "postgresql://u:%00@h/d",
            "postgresql://u@[::1/d",
            "postgresql://u@[]/d",
        ),
        *("postgresql://u@[::1]x/d", "POSTGRESQL://u@h/d", "mysql://u@h/d", "postgresql://u:p w@h/d"),
    ],
)
def test_a_url_that_libpq_refuses_is_refused(url: str) -> None:
    assert libpq.parse(url) is None
    with pytest.raises(SettingsError, match=r"^DATABASE_URL=\*\*\* "):
        Settings.read({"DATABASE_URL": url})


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (f"{URL}?host=", "name a host"),
        ("postgresql://ana@/photos", "name a host"),
        ("postgresql://db.example.com/photos", "name a user"),
        (f"{URL}?host=a,b", "its host must be one"),
        ("postgresql://ana@a:1,b:2/photos", "its host must be one"),
        (f"{URL}?host=@abstract", "its host must be one"),
        (f"{URL}?port=0", "its port must be one number from 1 to 65535"),
        (f"{URL}?port=1e3", "its port must be"),
        (f"{URL}?connect_timeout=soon", "its connect_timeout must be"),
        (f"{URL}?sslcert=/client.pem", "sslcert and sslkey must be given together"),
        *(
            (f"{URL}?sslmode={mode}", "sslmode must be require")
            for mode in ("disable", "allow", "prefer", "")
        ),
        ("postgresql://ana@127.0.0.1/photos?sslmode=none", "sslmode must be require"),
        (f"{URL}?options=-csearch_path%3Dapp", "search_path: DATABASE_SCHEMA names the schema"),
        (f"{URL}?options=-c%20work_mem%3D1MB%20--search-path%3Dapp", "DATABASE_SCHEMA"),
        (f"{URL}?options=-c%20DateStyle%3DGerman", "must not set datestyle"),
        (f"{URL}?options=--TimeZone%3DUTC", "must not set timezone"),
    ],
)
def test_an_option_without_effect_or_with_another_is_refused(url: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as refused:
        Settings.read({"DATABASE_URL": url})
    assert str(refused.value).startswith("DATABASE_URL=***")


@pytest.mark.parametrize("password", ["p@ss?word=1", "a/b", "a:b/c", "p@h?x=hunter2", "%zz", "a b", "p@a,b"])
def test_no_part_of_an_unencoded_password_is_shown(password: str) -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.read({"DATABASE_URL": f"postgresql://ana:{password}@db.example.com/photos"})
    assert refused.value.__suppress_context__
    for part in ("ss", "word", "hunter", "a/b", "zz"):
        assert part not in str(refused.value).replace("password", "").replace("passed", "")


def test_a_local_connection_uses_no_tls_unless_it_is_required() -> None:
    local = "postgresql://ana@localhost/photos"
    assert not database_url.read(local).tls
    assert not database_url.read(f"{local}?sslmode=prefer").tls
    assert database_url.read(f"{local}?sslmode=require").tls
    assert not database_url.read("postgresql://ana@%2Ftmp/photos?sslmode=require").tls  # as libpq
    assert database_url.read("postgresql://ana@localhost/photos?host=db.example.com").tls
    for mode in ("", "?sslmode=require", "?sslmode=verify-ca", "?sslmode=verify-full"):
        address = database_url.read(f"{URL}{mode}")
        assert address.tls
        assert address.context().verify_mode == ssl.CERT_REQUIRED
        assert address.context().check_hostname


def test_the_host_option_takes_precedence(database_url: str) -> None:
    unknown_host = database_url.replace("127.0.0.1", "db.invalid")
    with closing(connect(f"{unknown_host}?host=127.0.0.1")) as connection:
        assert connection.run("SELECT 1") == [[1]]
    with pytest.raises(DatabaseUnavailable, match="PostgreSQL does not answer"):
        Database(Settings(database_url=f"{database_url}?host={ELSEWHERE}")).prepare()


def test_options_and_application_name_reach_the_session(database_url: str) -> None:
    url = f"{database_url}?options=-c%20work_mem%3D1MB&application_name=mine&connect_timeout=2"
    with closing(connect(url)) as connection:
        shown = connection.run("SELECT current_setting('work_mem'), current_setting('application_name')")
    assert shown == [["1MB", "mine"]]


def test_client_certificates_are_used(database_url: str, tmp_path: Path) -> None:
    pem = certificate(tmp_path, ELSEWHERE)
    with tls_front(database_url, pem, client=pem) as url:
        url += f"?sslrootcert={pem}"
        with pytest.raises(DatabaseUnavailable):
            Database(Settings(database_url=url)).prepare()
        with closing(Database(Settings(database_url=f"{url}&sslcert={pem}&sslkey={pem}"))) as database:
            assert database.query("SELECT 1") == [[1]]


def test_a_required_channel_binding_that_is_not_offered_is_refused(database_url: str, tmp_path: Path) -> None:
    pem = certificate(tmp_path, ELSEWHERE)
    with tls_front(database_url, pem) as url:
        url += f"?sslrootcert={pem}"
        with closing(Database(Settings(database_url=url))) as database:
            assert database.query("SELECT 1") == [[1]]
        with pytest.raises(DatabaseUnavailable, match="channel binding"):
            Database(Settings(database_url=f"{url}&channel_binding=require")).prepare()


@pytest.mark.parametrize(
    "options",
    ["sslrootcert=/no.pem", "sslrootcert={junk}", "sslcert={junk}&sslkey={junk}", "sslcert=/no&sslkey=/no"],
)
def test_an_unreadable_certificate_is_a_settings_error(options: str, tmp_path: Path) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("no certificate")
    settings = Settings.read({"DATABASE_URL": f"{URL}?{options.format(junk=junk)}"})
    option = "sslrootcert" if "root" in options else "sslcert or sslkey"
    with pytest.raises(SettingsError, match=rf"^DATABASE_URL=\*\*\* .* its {option} can't be read \("):
        Database(settings).prepare()


@pytest.mark.parametrize("options", ["schema=app", "sslrootcert=/nowhere.pem"])
def test_an_invalid_url_stops_a_function_with_one_log_line(options: str) -> None:
    started = subprocess.run(
        [sys.executable, "-c", "import main"],
        cwd=ROOT / "functions",
        env=os.environ | {"DATABASE_URL": f"{URL}?{options}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert started.returncode == 1
    assert f"its {'' if 'root' in options else 'option '}{options.partition('=')[0]} " in started.stdout
    assert PASSWORD not in started.stdout + started.stderr
    assert "Traceback" not in started.stdout + started.stderr


def test_the_systems_certificate_authorities_are_the_default() -> None:
    assert database_url.read(f"{URL}?sslrootcert=system") == database_url.read(URL)
