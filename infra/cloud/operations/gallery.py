"""The gallery for users: its address, who can sign in, and the manual steps in Google's console."""

import time
from http import HTTPStatus

from dropcap.setting_parsers import OAUTH_CLIENT
from infra.cloud import CloudError
from infra.cloud.config import Config
from infra.cloud.inventory import Cloud
from infra.cloud.resources.access import MAY_ENTER
from infra.cloud.resources.functions import variables
from infra.cloud.resources.rights import GALLERY as GALLERY
from infra.cloud.resources.rights import functions_of

CLIENTS = "https://console.cloud.google.com/apis/credentials/oauthclient"
REQUEST_S, POLL_S = 30.0, 2.0
# Statuses for an anonymous request: a way to sign in, or a refusal.
SIGN_IN_STATUSES = (HTTPStatus.OK, HTTPStatus.FOUND, HTTPStatus.SEE_OTHER, HTTPStatus.UNAUTHORIZED)
PRIVATE_STATUSES = (HTTPStatus.FORBIDDEN,)
# docs.cloud.google.com/iap/docs/query-parameters-and-headers-howto (2026-11)
IAP_STATUSES, IAP_HEADER = (HTTPStatus.FOUND, HTTPStatus.UNAUTHORIZED), "X-Goog-IAP-Generated-Response"


def check(config: Config) -> None:
    """Raise CloudError if nobody could sign in: Firebase, unlike Google, has no page for that."""
    if "gallery" not in functions_of(config) and config.settings.auth == "iap":
        raise CloudError(
            "AUTH=iap is for the gallery, which GALLERY=0 turns off: set GALLERY=1, or AUTH=iam."
        )
    if "gallery" not in functions_of(config) or config.settings.auth != "token":
        return
    firebase = not OAUTH_CLIENT.fullmatch(config.settings.auth_audience[0])
    if firebase and not config.settings.sign_in_url:
        raise CloudError(
            "SIGN_IN_URL='' is not allowed with GALLERY=1 and a Firebase project: "
            "set it to the page of your app that signs people in (docs/gallery.md has one), or set GALLERY=0."
        )


def address(cloud: Cloud) -> str:
    """Return the URL of its first page; empty if it is not deployed."""
    url = cloud.url(GALLERY)
    return f"{url}/gallery/" if url else ""


def _auth(cloud: Cloud) -> str:
    return variables(cloud.services.get(GALLERY)).get("AUTH", "iam")


def is_open(cloud: Cloud) -> bool:
    """Return whether a browser reaches a sign-in page: the gallery's own, or the proxy's."""
    return _auth(cloud) != "iam"


def instructions(config: Config, cloud: Cloud) -> list[str]:
    """Return lines with its URL and the remaining manual steps; none if it is not deployed."""
    if not (page := address(cloud)):
        return []
    if not is_open(cloud):
        proxy = f"gcloud run services proxy {GALLERY} --region={config.region} --project={config.project}"
        return [
            f"gallery: {page} is private because of AUTH=iam. "
            f"To open it yourself: {proxy}, then http://localhost:8080/gallery/"
        ]
    if _auth(cloud) == "iap":
        words = f"gcloud {cloud.tools.iap} iap web add-iam-policy-binding --service={GALLERY}".split()
        words += [f"--region={config.region}", f"--project={config.project}", "--resource-type=cloud-run"]
        words += [f"--role={MAY_ENTER}", "--member=user:ana@example.com"]
        allow = f"Identity-Aware Proxy lets in only the members that you add: {' '.join(words)}"
        return [f"gallery: {page}", f"  {allow}"]
    known = variables(cloud.services[GALLERY])
    client, back = known.get("AUTH_AUDIENCE", "").partition(",")[0].strip(), f"{page}sign-in"
    if known.get("SIGN_IN_URL"):
        instruction = f"{known['SIGN_IN_URL']} must send people back to {back}, and to no other address."
    else:
        instruction = (
            f"Google must know the redirect URI: at {CLIENTS}/{client}?project={config.project}, "
            f"under “Authorized redirect URIs”, add {back}"
        )
    return [f"gallery: {page}", f"  {instruction}"]


def verify(config: Config, cloud: Cloud, patience_s: float) -> str:
    """Return how it answers an anonymous request, in words; empty if it is not deployed.

    Raises CloudError if it lets in the public, or nobody. Waits, as a role takes up to some minutes to
    propagate.
    """
    if not (page := address(cloud)):
        return ""
    begun, behind = time.monotonic(), _auth(cloud) == "iap"
    wanted = IAP_STATUSES if behind else SIGN_IN_STATUSES if is_open(cloud) else PRIVATE_STATUSES
    while True:
        status, by_proxy = _status(page)
        if status in wanted and by_proxy == behind:
            answer = "asks visitors to sign in" if is_open(cloud) else "refuses anonymous requests"
            return f"gallery: {page} {answer} (HTTP {status})."
        if time.monotonic() - begun > patience_s:
            raise CloudError(
                f"{page} answers anonymous requests with HTTP {status or 'nothing'}, but should with "
                f"{' or '.join(str(int(each)) for each in wanted)}{' of Identity-Aware Proxy' * behind}. "
                f"See: make logs PROJECT={config.project} FUNCTION=gallery SEVERITY=WARNING"
            )
        time.sleep(POLL_S)


def _status(page: str) -> tuple[int, bool]:
    """Return the HTTP status, 0 if there is no answer, and whether Identity-Aware Proxy answered."""
    import requests  # imported here: it doubles a command's start, and only `make verify` needs it

    try:
        answer = requests.get(page, allow_redirects=False, timeout=REQUEST_S)
    except requests.RequestException:
        return 0, False
    return answer.status_code, IAP_HEADER in answer.headers
