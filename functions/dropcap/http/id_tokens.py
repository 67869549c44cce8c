"""Verify signed tokens: the ID token of Google or Firebase (AUTH=token), or the assertion of Identity-Aware
Proxy (AUTH=iap, for the gallery only). Not used with AUTH=iam.

An audience belongs to one issuer, so `sub` alone identifies a user. It is also the folder of the user's
uploads, as `request.auth.uid` is in Firebase's rules.
"""

import base64
import json
import logging
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from google.auth import jwt
from google.auth.exceptions import GoogleAuthError, TransportError
from google.auth.transport.requests import Request

from dropcap.domain.upload import ANONYMOUS, is_user
from dropcap.errors import Rejected, TransientError
from dropcap.http.bodies import parse
from dropcap.setting_parsers import OAUTH_CLIENT
from dropcap.settings import Settings

logger = logging.getLogger(__name__)

# developers.google.com/identity/gsi/web/guides/verify-google-id-token
GOOGLE = frozenset({"accounts.google.com", "https://accounts.google.com"})
GOOGLE_CERTS = "https://www.googleapis.com/oauth2/v1/certs"
# firebase.google.com/docs/auth/admin/verify-id-tokens
FIREBASE = "https://securetoken.google.com/"
FIREBASE_CERTS = "https://www.googleapis.com/robot/v1/metadata/x509/securetoken@system.gserviceaccount.com"
# docs.cloud.google.com/iap/docs/signed-headers-howto (2026-11): ES256, the keys as PEM by key id, and a `sub`
# that is a Google Account's id, the `sub` of its ID tokens, after the name of its issuer.
IAP = "https://cloud.google.com/iap"
IAP_CERTS = "https://www.gstatic.com/iap/verify/public_key"
ACCOUNT = re.compile(r"accounts\.google\.com:(\d+)")
TYPE = "JWT"
COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")  # RFC 7515, 3.1: without padding
PAST = ("iat", "nbf", "auth_time")  # claims that must lie in the past
LAST_INSTANT = 253_402_300_799  # the end of the year 9999
CLOCK_SKEW_S = 30
LONGEST_TOKEN = 8192  # characters, as the web server allows; the usual ones have 1,000 to 2,000
CERTS_TIMEOUT_S = 5
LONGEST_KEPT_S = 86_400  # upper limit for Cache-Control: a revoked key is not trusted for longer
ASKED_AGAIN_S = 60  # minimum interval for unknown key ids, which anybody can invent


class KeysUnavailable(TransientError):
    """Transient error: the issuer's public keys can't be fetched, so no token can be verified or refused."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The claims of a valid token: user, expiry (s since 1970), and the nonce of the sign-in, if any."""

    user: str
    expires: float
    nonce: str | None


class Tokens:
    """Verifies tokens, and caches the issuer's keys for as long as the issuer allows. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._audience = list(settings.auth_audience)
        # Each issuer signs with one algorithm; google-auth alone would accept both.
        self._issuers, address, self._algorithm = frozenset({IAP}), IAP_CERTS, "ES256"
        if settings.auth != "iap":
            google = OAUTH_CLIENT.fullmatch(self._audience[0])
            self._issuers = GOOGLE if google else frozenset({FIREBASE + self._audience[0]})
            address, self._algorithm = GOOGLE_CERTS if google else FIREBASE_CERTS, "RS256"
        self._address = settings.auth_certs_url or address
        self._lock = threading.Lock()
        self._keys: Mapping[str, str] = {}
        self._asked = self._kept_until = float("-inf")  # in seconds of the monotonic clock

    def user(self, authorization: str) -> str:
        """Return the user of the ID token in an `Authorization: Bearer` header. Raises as `check`."""
        scheme, _, token = authorization.partition(" ")
        return self.check(token if scheme.lower() == "bearer" else "").user

    def check(self, token: str) -> Identity:
        """Return the identity in an ID token or an assertion of Identity-Aware Proxy.

        Raises Rejected (401) if it is missing or not valid. The client does not learn why; the log has the
        type of the error, but no part of the token. Raises KeysUnavailable.
        """
        try:
            if len(token) > LONGEST_TOKEN or not COMPACT.fullmatch(token):
                raise ValueError("no token")
            header, claims = (parse(_decoded(part)) for part in token.split(".")[:2])
            if header.get("alg") != self._algorithm or not isinstance(header.get("kid"), str):
                raise ValueError("not signed as the issuers do")
            if "crit" in header or str(header.get("typ", TYPE)).upper() != TYPE:
                raise ValueError("has an unsupported header")  # RFC 7515, 4.1.11; RFC 8725, 3.11
            jwt.decode(
                token,
                certs=self._current_keys(header["kid"]),
                audience=self._audience,
                clock_skew_in_seconds=CLOCK_SKEW_S,
            )
            latest = time.time() + CLOCK_SKEW_S
            if not all(_instant(claims[name]) <= latest for name in PAST if name in claims):
                raise ValueError("not valid yet")
            expires = _instant(claims["exp"])
            user, nonce = claims.get("sub"), claims.get("nonce")
            if claims.get("iss") not in self._issuers or not isinstance(user, str) or not is_user(user):
                raise ValueError("another issuer, or no user")
            if IAP in self._issuers and (account := ACCOUNT.fullmatch(user)):
                user = account[1]
            if user == ANONYMOUS:  # anonymous uploads belong to no user
                raise ValueError("no user of its own")
            if nonce is not None and not isinstance(nonce, str):
                raise ValueError("nonce is not a string")
            return Identity(user, expires, nonce)
        # TypeError: a claim of a type that google-auth did not expect.
        except (GoogleAuthError, ValueError, TypeError) as wrong:
            if token:
                logger.info(
                    "An ID token was refused",
                    extra={"event": "id_token_refused", "error": type(wrong).__name__},
                )
            if IAP in self._issuers:
                raise Rejected(
                    "not_signed_in",
                    "This needs a valid assertion of Identity-Aware Proxy.",
                    "Open the gallery at its own address, where Identity-Aware Proxy signs people in.",
                    HTTPStatus.UNAUTHORIZED,
                    {"WWW-Authenticate": "Bearer"},
                ) from None
            raise Rejected(
                "not_signed_in",
                "This needs a valid ID token.",
                "Sign in, and send the ID token as `Authorization: Bearer TOKEN`.",
                HTTPStatus.UNAUTHORIZED,
                {"WWW-Authenticate": "Bearer"},
            ) from None  # google-auth's messages quote the token

    def _current_keys(self, kid: str) -> Mapping[str, str]:
        """Return the issuer's keys by key id; fetch them if they are expired or this key id is unknown."""
        with self._lock:
            now = time.monotonic()
            unknown = kid not in self._keys and now >= self._asked + ASKED_AGAIN_S
            if now >= self._kept_until or unknown:
                self._asked = now
                try:
                    answer = Request()(self._address, timeout=CERTS_TIMEOUT_S)
                    keys = json.loads(answer.data) if answer.status == HTTPStatus.OK else None
                except (TransportError, ValueError) as failed:
                    raise KeysUnavailable(f"The issuer's keys can't be fetched: {failed}") from failed
                if not isinstance(keys, dict) or not all(isinstance(key, str) for key in keys.values()):
                    raise KeysUnavailable(f"The issuer's keys are not certificates: HTTP {answer.status}")
                self._keys, self._kept_until = keys, time.monotonic() + _kept_s(answer.headers)
            return self._keys


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _instant(value: object) -> float:
    """Return a NumericDate (RFC 7519, 2), in s since 1970. Raises ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LAST_INSTANT:
        raise ValueError("not a NumericDate")
    return float(value)


def _kept_s(headers: Mapping[str, str]) -> int:
    """Return for how many seconds a response may be cached (RFC 9111: max-age less Age)."""
    age = re.fullmatch(r"\d{1,9}", headers.get("Age", ""))
    longest = re.search(r"\bmax-age=(\d{1,9})", headers.get("Cache-Control", ""))
    return min(int(longest[1]) - int(age[0] if age else 0), LONGEST_KEPT_S) if longest else 0
