"""Whether a page of another site asks, where nothing else says who does.

Any page can make a browser send requests to what its person reaches: 127.0.0.1, a proxy that adds a token.
What it sends elsewhere names its own site (`check_source`). A page whose name is made to lead here (DNS
rebinding) is of our origin to the browser and reads the answers; that name gives it away (`check_host`).
"""

import ipaddress
import os
import re
from http import HTTPStatus

import flask

from dropcap.errors import Rejected
from dropcap.settings import Settings

HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^][:/@]+)(:[0-9]*)?", re.IGNORECASE)
GOOGLES = (".run.app", ".cloudfunctions.net")  # of services, by which Eventarc and Cloud Scheduler call
READS = frozenset({"GET", "HEAD", "OPTIONS"})


def of(request: flask.Request) -> str:
    """Return our own origin as a browser writes it; Cloud Run's front end ends the TLS."""
    forwarded = request.headers.get("X-Forwarded-Proto", "")
    return f"{'https' if forwarded == 'https' else request.scheme}://{request.host}"


def check(request: flask.Request, settings: Settings) -> None:
    """Raise Rejected for what a page of another site asks of a function that has no page of its own."""
    check_host(request, settings)
    if request.method not in READS:
        check_source(request)


def check_host(request: flask.Request, settings: Settings) -> None:
    """Raise Rejected for a name that is none of ours.

    On Cloud Run (K_SERVICE, cloud.google.com/run/docs/container-contract, 2026-11) a request finds the
    service by that name, so all that comes is ours, unless HOSTS says more. `gcloud run services proxy`
    writes the service's own name into each request (main.go of GoogleCloudPlatform/cloud-run-proxy, 2026-11):
    of a page that reaches it under another, nothing is to be seen here.
    """
    host = request.headers.get("Host", "")  # which every browser sends
    on_cloud_run = "K_SERVICE" in os.environ and (not settings.hosts or name(host).endswith(GOOGLES))
    if host and not on_cloud_run and not is_local(host) and name(host) not in settings.hosts:
        raise Rejected(
            "wrong_host",
            "The functions do not answer under this host name.",
            "Ask at the address that they run at, or name the host in HOSTS.",
            HTTPStatus.MISDIRECTED_REQUEST,
        )


def check_source(request: flask.Request) -> None:
    """Raise Rejected for what a page of another site has a browser send. Programs name no site."""
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site in ("same-origin", "none") or (site is None and origin in (None, of(request))):
        return
    raise Rejected(
        "other_site",
        "The request comes from a page of another site.",
        "Let a program ask, or a page's own site.",
        HTTPStatus.FORBIDDEN,
    )


def is_local(host: str) -> bool:
    """Whether a Host header is an IP address or localhost: no page of another site can have such a name."""
    plain = name(host)
    if plain == "localhost" or plain.endswith(".localhost"):  # RFC 6761, 6.3
        return True
    try:
        ipaddress.ip_address(plain.strip("[]"))
    except ValueError:
        return False
    return True


def name(host: str) -> str:
    """Return the name in a Host header, without port and the root's dot; empty for what is no name."""
    found = HOST.fullmatch(host)
    return found[1].lower().removesuffix(".") if found else ""
