"""Requests from pages of other sites, and through DNS rebinding, are refused."""

import io
from typing import Any

import pytest
import requests
from flask.testing import FlaskClient

from dropcap.errors import SettingsError
from dropcap.http.origin import is_local
from dropcap.settings import Settings
from tests.support.app import EVENT, JSON, App, Start, event_of, problem, rows, small_png
from tests.support.issuer import Issuer

ANA = {"user": "ana"}
RUN_APP = "dropcap-gallery-a1b2c3d4e5-ew.a.run.app"
ELSEWHERE = (
    *("evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "a@[::1]"),
    RUN_APP,
)
HERE = (
    *("localhost", "LOCALHOST:8080", "localhost.", "gallery.localhost:8080", "127.0.0.1:8080", "[::1]:8080"),
    "10.0.0.7",
)


def requests_of(app: App) -> dict[str, tuple[FlaskClient, dict[str, Any]]]:
    """Return one valid request for each function."""
    upload, options = app.upload("ana/a.png", small_png()), {"keep": "1", "user": "ana"}
    return {
        "on_upload": (app.on_upload, {"method": "POST", "data": event_of(upload), "headers": EVENT}),
        "analyze": (app.http, {"method": "POST", "data": small_png(), "query_string": options}),
        "progress": (app.progress, {"query_string": ANA}),
        "sweep": (app.sweep, {"method": "POST", "query_string": {"min_age_s": "0"}}),
        "gallery": (app.gallery, {"path": "/gallery/?user=ana"}),
        "gallery's style": (app.gallery, {"path": "/gallery/static/gallery.css"}),
    }


def ask(client: FlaskClient, request: dict[str, Any], **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    whole = {"path": "/"} | request | {"headers": JSON | request.get("headers", {}) | named}
    return client.open(**whole)


def test_dns_rebinding_is_refused(start: Start) -> None:
    app = start()
    for function, (client, request) in requests_of(app).items():
        for host in ELSEWHERE:
            answer = ask(client, request, Host=host)
            assert problem(answer, 421)["code"] == "wrong_host", (function, host)
    assert rows("SELECT count(*) FROM uploads") == [[0]]
    page = app.gallery.get("/gallery/", headers={"Host": "evil.example"})
    assert (page.status_code, page.mimetype) == (421, "text/html")


def test_localhost_ip_addresses_and_the_names_in_hosts_are_accepted(start: Start) -> None:
    app = start(HOSTS="Gallery.Example, gallery")
    client, request = requests_of(app)["progress"]
    for host in (*HERE, "gallery.example", "gallery.example:443", "gallery.example.", "gallery"):
        assert ask(client, request, Host=host).status_code == 200, host
    assert ask(client, request, Host="other.example").status_code == 421


def test_on_cloud_run_every_host_name_is_accepted(start: Start) -> None:
    app = start(K_SERVICE="dropcap-gallery")
    client, request = requests_of(app)["progress"]
    for host in (RUN_APP, "gallery.example"):
        assert ask(client, request, Host=host).status_code == 200
    client, request = requests_of(app.restarted(HOSTS="gallery.example"))["progress"]
    for host, status in ((RUN_APP, 200), ("gallery.example", 200), ("other.example", 421)):
        assert ask(client, request, Host=host).status_code == status


def test_with_tokens_the_host_name_is_not_checked(start: Start, issuer: Issuer) -> None:
    app = start(**issuer.settings)
    found = requests_of(app)
    for function in ("analyze", "progress", "gallery"):
        client, request = found[function]
        answer = ask(client, request, Host="app.example", Origin="https://app.example", **issuer.signed_in())
        assert answer.status_code == 200, function
    client, request = found["sweep"]  # which needs no token
    assert problem(ask(client, request, Host="evil.example"), 421)["code"] == "wrong_host"


SOURCES = {
    "another site": {"Sec_Fetch_Site": "cross-site", "Origin": "https://evil.example"},
    "another port": {"Sec_Fetch_Site": "same-site", "Origin": "http://localhost:3000"},
    "another site, without Origin": {"Sec_Fetch_Site": "cross-site"},
    "another site, in an old browser": {"Origin": "https://evil.example"},
    "a sandbox": {"Origin": "null"},
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_requests_from_pages_of_other_sites_are_refused(start: Start, source: dict[str, str]) -> None:
    found = requests_of(start())
    for function in ("on_upload", "analyze", "sweep"):
        client, request = found[function]
        assert problem(ask(client, request, **source), 403)["code"] == "other_site", function
    assert rows("SELECT count(*) FROM uploads") == [[0]]


def test_requests_from_programs_and_from_our_own_pages_are_accepted(start: Start) -> None:
    found = requests_of(start())
    client, request = found["analyze"]
    for source in ({}, {"Sec_Fetch_Site": "same-origin"}, {"Origin": "http://localhost"}):
        assert ask(client, request, **source).status_code == 200


@pytest.mark.parametrize(
    "value", ["https://gallery.example", "gallery.example:80", "*.example", "a b", "a/b"]
)
def test_hosts_must_be_host_names(value: str) -> None:
    with pytest.raises(SettingsError, match="HOSTS="):
        Settings.read({"HOSTS": value})
    assert Settings.read({"HOSTS": ""}).hosts == ()


def test_a_host_that_only_looks_like_an_address_is_not_local() -> None:
    hosts = ("", ":", "[", "[::1", "127.0.0.1:x", "1.2.3", "127.0.0.1/", "localhost/x", "::1@evil.example")
    for host in hosts:
        assert not is_local(host), host


def test_the_local_storage_refuses_pages_of_other_sites(storage_url: str) -> None:
    name = "rebinding"
    made = requests.post(f"{storage_url}/storage/v1/b", json={"name": name}, timeout=10)
    assert made.status_code == 200
    objects = f"{storage_url}/storage/v1/b/{name}/o"
    upload = f"{storage_url}/upload/storage/v1/b/{name}/o?uploadType=media&name=a"
    assert requests.get(objects, timeout=10).status_code == 200
    assert requests.get(objects, headers={"Host": "evil.example:8081"}, timeout=10).status_code == 403
    sources = ({"Host": "evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"})
    for headers in sources:
        answer = requests.post(upload, io.BytesIO(b"x"), headers=headers, timeout=10)
        assert answer.status_code == 403
    assert "items" not in requests.get(objects, timeout=10).json()
