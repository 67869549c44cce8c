"""Refuse requests from pages of other sites, where no token authenticates the caller.

Any page can make a browser send requests to servers that its user can reach: 127.0.0.1, or a proxy that adds
a token. Browsers name the page's site in such requests (`check_source`). With DNS rebinding the browser takes
the page for one of our origin and lets it read the answers, but the `Host` header reveals it (`check_host`).
"""

import ipaddress
import os
import re
from http import HTTPStatus

import flask

from dropcap.errors import Rejected
from dropcap.settings import Settings

HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^][:/@]+)(:[0-9]*)?", re.IGNORECASE)
GOOGLES = (".run.app", ".cloudfunctions.net")  # domains of services, which Eventarc and Cloud Scheduler call
READS = frozenset({"GET", "HEAD", "OPTIONS"})


def of(request: flask.Request) -> str:
    """Return our own origin as a browser writes it; Cloud Run's front end terminates TLS."""
    forwarded = request.headers.get("X-Forwarded-Proto", "")
    return f"{'https' if forwarded == 'https' else request.scheme}://{request.host}"


def check(request: flask.Request, settings: Settings) -> None:
    """Raise Rejected for requests from pages of other sites, to a function that serves no pages."""
    check_host(request, settings)
    if request.method not in READS:
        check_source(request)


def check_host(request: flask.Request, settings: Settings) -> None:
    """Raise Rejected for a host name that is not ours.

    Cloud Run (K_SERVICE, cloud.google.com/run/docs/container-contract, 2026-11) routes by host name, so every
    name that arrives there is ours, unless HOSTS restricts them. `gcloud run services proxy` replaces the
    name by the service's own (main.go of GoogleCloudPlatform/cloud-run-proxy, 2026-11), so DNS rebinding to
    the proxy can't be detected here.
    """
    host = request.headers.get("Host", "")  # every browser sends it
    on_cloud_run = "K_SERVICE" in os.environ and (not settings.hosts or name(host).endswith(GOOGLES))
    if host and not on_cloud_run and not is_local(host) and name(host) not in settings.hosts:
        raise Rejected(
            "wrong_host",
            "The functions do not answer under this host name.",
            "Use the address of the functions, or add the host name to HOSTS.",
            HTTPStatus.MISDIRECTED_REQUEST,
        )


def check_source(request: flask.Request) -> None:
    """Raise Rejected if a browser sent the request for a page of another site. Programs name no site."""
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site in ("same-origin", "none") or (site is None and origin in (None, of(request))):
        return
    raise Rejected(
        "other_site",
        "The request comes from a page of another site.",
        "Call from a program, or through your page's own server.",
        HTTPStatus.FORBIDDEN,
    )


def is_local(host: str) -> bool:
    """Return whether a Host header is an IP address or localhost, which no page of another site can have."""
    plain = name(host)
    if plain == "localhost" or plain.endswith(".localhost"):  # RFC 6761, 6.3
        return True
    try:
        ipaddress.ip_address(plain.strip("[]"))
    except ValueError:
        return False
    return True


def name(host: str) -> str:
    """Return the name in a Host header without port and trailing dot; empty if it is not a name."""
    found = HOST.fullmatch(host)
    return found[1].lower().removesuffix(".") if found else ""
