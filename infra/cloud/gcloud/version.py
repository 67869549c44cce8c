"""Check that this gcloud has everything that a deployment needs, before anything is created."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from infra.cloud import CloudError
from infra.cloud.config import Config

# By gcloud's release notes: `run deploy --source` got --function, --base-image and --build-service-account on
# 2025-02-19, `monitoring policies` left alpha on 2025-12-09, and --iap of Cloud Run left beta on 2026-02-24.
# `monitoring channels` is still in beta in 578.0.0 (2026-07-28), and is only used with ALERT_EMAIL.
OLDEST = (511, 0, 0)
POLICIES = (549, 0, 0)
IAP = (558, 0, 0)
NEWEST = (
    "gcloud components update, or, where apt installed it, "
    "sudo apt-get install --only-upgrade google-cloud-cli"
)


@dataclass(frozen=True, slots=True)
class Tools:
    """gcloud's version and components, if it prints them; a third-party package may not."""

    version: tuple[int, ...] = POLICIES
    components: frozenset[str] = frozenset()

    @classmethod
    def read(cls, answer: Mapping[str, str]) -> "Tools":
        """Parse the output of `gcloud version --format=json`."""
        found = re.match(r"(\d+)(?:\.(\d+))?(?:\.(\d+))?", answer.get("Google Cloud SDK", ""))
        version = tuple(int(number or 0) for number in found.groups()) if found else cls().version
        return cls(version, frozenset(answer))

    @property
    def policies(self) -> str:
        """Return the command group for alert policies."""
        return "monitoring policies" if self.version >= POLICIES else "alpha monitoring policies"

    @property
    def iap(self) -> str:
        """Return the prefix of commands that configure Identity-Aware Proxy for Cloud Run."""
        return "" if self.version >= IAP else "beta"

    def check(self, config: Config) -> None:
        """Raise CloudError if this gcloud lacks something that the deployment needs."""
        version = ".".join(map(str, self.version))
        if self.version < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            raise CloudError(f"gcloud {version} is too old: it must be {oldest} or newer. {NEWEST}")
        if not self.has("alpha") and self.version < POLICIES:
            raise CloudError(
                f"gcloud {version} needs its component alpha for alerts, which is not installed. {NEWEST}"
            )
        if not self.has("beta") and config.alert_email:
            raise CloudError(
                "ALERT_EMAIL needs gcloud's component beta, which is not installed: "
                "gcloud components install beta, or omit ALERT_EMAIL."
            )

        if not self.has("beta") and config.settings.auth == "iap" and self.version < IAP:
            raise CloudError(
                f"gcloud {version} needs its component beta for Identity-Aware Proxy, which is not "
                f"installed. {NEWEST}"
            )

    def has(self, component: str) -> bool:
        """Return whether gcloud has a component, or does not list them."""
        return "core" not in self.components or component in self.components
