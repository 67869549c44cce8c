"""Parse DATABASE_URL as libpq does: each option is honoured or refused by name, none is ignored.

The grammar and the meaning of the options are those of PostgreSQL 18's libpq
(postgresql.org/docs/18/libpq-connect.html, 2026-11); tests compare both with the library itself.
"""

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NoReturn
from urllib.parse import unquote

from dropcap.errors import SettingsError

LOCAL = ("127.0.0.1", "::1", "localhost")  # hosts reached without a network, so without TLS
# Set for each transaction (transactions.py), so a value in the address would have no effect.
OURS = ("statement_timeout", "idle_in_transaction_session_timeout", "timezone")
# Variables that change the text of values or the meaning of SQL. Tests set every variable that a login may
# set.
SESSION: Mapping[str, str] = {
    "standard_conforming_strings": "on",
    "DateStyle": "ISO, MDY",  # pg8000 parses no other
    "extra_float_digits": "1",
    "array_nulls": "off",  # pg8000 does not quote the word null in an array, so such a tag would be lost
    "quote_all_identifiers": "off",  # affects what the schema check compares
    "gin_fuzzy_search_limit": "0",  # else a search returns a random subset
    "exit_on_error": "off",
    "lock_timeout": "0",  # statement_timeout limits the wait
}
URL = re.compile(
    r"postgres(?:ql)?://(?:([^:@/]*)(?::([^@/]*))?@)?"
    r"((?:\[[^\]]*\])?[^/?:]*)(?::([^/?]*))?(?:/([^?]*))?(?:\?(.*))?"
)
OPTION = re.compile(r"(?:^|\s)(?:-c\s*|--)([^=\s]+)=")  # of `options`: a variable of the session
TLS = ("require", "verify-ca", "verify-full")  # sslmode: certificate and host name are verified in each
# Options of libpq that have no effect here at these values; other values are refused.
WITHOUT_EFFECT: Mapping[str, tuple[str, ...]] = {
    "sslnegotiation": ("postgres",),
    "sslcompression": ("0",),
    "sslcertmode": ("allow",),
    "sslsni": ("1",),
    "ssl_min_protocol_version": ("TLSv1.2",),  # also Python's minimum
    "gssencmode": ("disable", "prefer"),  # TLS is used
    "gssdelegation": ("0",),
    "min_protocol_version": ("3.0",),  # the protocol version in use
    "max_protocol_version": ("3.0", "3.2", "latest"),
    "client_encoding": ("auto", "utf8", "UTF8", "utf-8", "UTF-8"),
    "keepalives": ("1",),
    "load_balance_hosts": ("disable", "random"),  # there is one host
    "target_session_attrs": ("any", "read-write", "primary"),  # a read-only server is refused
    "replication": ("0", "off", "no", "false"),
}


@dataclass(frozen=True, slots=True)
class Address:
    """Address of PostgreSQL and login. A `host` that begins with a slash is the folder of a Unix socket.

    `iam` and `role` are our own options (connection.py). `connect_timeout` is in seconds; 0: not set.
    """

    user: str
    host: str
    dbname: str
    port: int = 5432
    password: str = field(default="", repr=False)
    application_name: str = "dropcap"
    options: str = ""
    connect_timeout: int = 0
    channel_binding: str = "prefer"
    sslmode: str = "prefer"
    sslrootcert: str = "system"
    sslcert: str = ""
    sslkey: str = ""
    sslpassword: str = field(default="", repr=False)
    iam: bool = False
    role: str = ""

    @property
    def local(self) -> bool:
        """Return whether the server is reached without a network."""
        return self.host.startswith("/") or self.host in LOCAL

    @property
    def tls(self) -> bool:
        """Return whether to use TLS: for any other machine, and on request; never in a Unix socket."""
        return not self.local or (self.sslmode in TLS and not self.host.startswith("/"))

    @cache  # noqa: B019  loading the authorities takes 20 ms; a process has one address
    def context(self) -> ssl.SSLContext:
        """Return the TLS context. Raises SettingsError if a certificate file can't be read."""
        option = "sslrootcert"
        try:
            file = None if self.sslrootcert == "system" else self.sslrootcert
            context = ssl.create_default_context(cafile=file)
            if self.sslcert:
                option = "sslcert or sslkey"
                context.load_cert_chain(self.sslcert, self.sslkey, self.sslpassword)
        except OSError as unreadable:  # includes ssl.SSLError
            reason = getattr(unreadable, "reason", None) or unreadable.strerror
            _refuse(f"its {option} can't be read ({reason}).")
        return context


def read(url: str) -> Address:
    """Parse the URL. Raises SettingsError with one line that names the option, but no value."""
    parts = URL.fullmatch(url)
    if not parts or re.search(r"[\s\x00-\x1f\x7f]", url):
        _refuse(
            "it must be postgresql://user:password@host:port/name, with all characters except letters and "
            "digits percent-encoded."
        )
    user, password, host, port, dbname, query = (part or "" for part in parts.groups())
    encoded = {"user": user, "password": password, "host": host, "port": port, "dbname": dbname}
    encoded = {name: _decoded(value) for name, value in encoded.items() if value}
    if host.startswith("["):
        encoded["host"] = _decoded(host[1:-1]) if re.fullmatch(r"\[[^\]]+\]", host) else ""
    encoded |= _options(query)
    values = {name: _value(name, value, query) for name, value in encoded.items()}
    values = {name: value for name, value in values.items() if value != "" and name not in WITHOUT_EFFECT}
    name = values.pop("fallback_application_name", "dropcap")
    for needed in ("user", "host"):
        if needed not in values:
            _refuse(f"it must name a {needed}.")
    found = Address(**{"application_name": name, "dbname": values["user"]} | values)
    if not found.local and "sslmode" in values and found.sslmode not in TLS:
        _refuse("its option sslmode must be require, verify-ca or verify-full, or be left out.")
    if found.iam and found.password:
        _refuse("with iam=true it must have no password.")
    if bool(found.sslcert) != bool(found.sslkey):
        _refuse("its options sslcert and sslkey must be given together.")
    return found


def _options(query: str) -> dict[str, str]:
    """Return the options of a query. The last duplicate wins, and a plus sign stays a plus sign."""
    pairs = [pair.split("=") for pair in query.removesuffix("&").split("&")] if query else []
    if any(len(pair) != 2 for pair in pairs):
        _refuse("each option must be name=value.")
    found = {_decoded(name): _decoded(value) for name, value in pairs}
    if found.get("ssl") == "true":  # JDBC's form, which libpq accepts
        del found["ssl"]
        found.setdefault("sslmode", "require")
    return found


def _decoded(text: str) -> str:
    if re.search(r"%(?![0-9A-Fa-f]{2})|%00", text):
        _refuse("a percent sign must be written as %25, and no character may be NUL.")
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        _refuse("what is percent-encoded must be UTF-8.")


def _value(name: str, value: str, query: str) -> Any:
    """Check the value of an option, and return it converted."""
    match name:
        case "host" | "port" if "," in value or value.startswith("@"):
            _refuse("its host must be one: name one host, or a pooler in front of several.")
        case "port" | "connect_timeout" if value:
            low, high = (1, 65_535) if name == "port" else (-1, 86_400)
            if not re.fullmatch(r"-?\d{1,5}", value) or not low <= int(value) <= high:
                _refuse(f"its {name} must be one number from {low} to {high}.")
            return max(0, int(value))
        case "sslmode" if value not in (*TLS, "disable", "allow", "prefer"):
            _refuse("its option sslmode must be require, verify-ca or verify-full, or be left out.")
        case "channel_binding" if value not in ("prefer", "require"):
            _refuse("its option channel_binding must be prefer or require.")
        case "iam":
            if value not in ("true", "false"):
                _refuse("its option iam must be true or false.")
            return value == "true"
        case "options":
            _check_session(value)
        case _ if name in WITHOUT_EFFECT:
            if value not in WITHOUT_EFFECT[name]:
                _refuse(f"its option {name} must be {' or '.join(WITHOUT_EFFECT[name])}, or be left out.")
        case _ if name not in Address.__dataclass_fields__ and name != "fallback_application_name":
            shown = name if "@" not in query and re.fullmatch(r"\w{1,40}", name) else "***"  # a password?
            _refuse(f"its option {shown} is not supported: leave it out.")
    return value


def _check_session(options: str) -> None:
    """Refuse variables that each transaction sets itself."""
    ours = {name.lower() for name in (*OURS, *SESSION)}
    for name in OPTION.findall(options):
        variable = name.lower().replace("-", "_")
        if variable == "search_path":
            _refuse("its option options must not set search_path: DATABASE_SCHEMA names the schema.")
        if variable in ours:
            _refuse(f"its option options must not set {variable}: Dropcap does, for each transaction.")


def _refuse(why: str) -> NoReturn:
    raise SettingsError(f"DATABASE_URL=*** is not allowed: {why}") from None
