"""Which gcloud this is: what a deployment needs of it is checked before anything is made."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from infra.cloud import CloudError
from infra.cloud.config import Config

# By gcloud's release notes: `run deploy --source` got --function, --base-image and --build-service-account on
# 2025-02-19, `monitoring policies` left alpha on 2025-12-09, and --iap of Cloud Run left beta on 2026-02-24.
# `monitoring channels` is still in beta in 578.0.0 (2026-07-28), and is used with ALERT_EMAIL alone.
OLDEST = (511, 0, 0)
POLICIES = (549, 0, 0)
IAP = (558, 0, 0)
NEWEST = (
    "gcloud components update, or, where apt installed it, "
    "sudo apt-get install --only-upgrade google-cloud-cli"
)


@dataclass(frozen=True, slots=True)
class Tools:
    """gcloud's version and components, where it can tell them: one that somebody else has packed may not."""

    version: tuple[int, ...] = POLICIES
    components: frozenset[str] = frozenset()

    @classmethod
    def read(cls, answer: Mapping[str, str]) -> "Tools":
        """Return what `gcloud version --format=json` answers."""
        found = re.match(r"(\d+)(?:\.(\d+))?(?:\.(\d+))?", answer.get("Google Cloud SDK", ""))
        version = tuple(int(number or 0) for number in found.groups()) if found else cls().version
        return cls(version, frozenset(answer))

    @property
    def policies(self) -> str:
        """The words before what is done with alerts."""
        return "monitoring policies" if self.version >= POLICIES else "alpha monitoring policies"

    @property
    def iap(self) -> str:
        """The word before a command that Identity-Aware Proxy of Cloud Run is a part of."""
        return "" if self.version >= IAP else "beta"

    def check(self, config: Config) -> None:
        """Raise CloudError where this gcloud can't do all that a deployment asks of it."""
        version = ".".join(map(str, self.version))
        if self.version < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            raise CloudError(f"gcloud {version} is too old: it must be {oldest} or newer. {NEWEST}")
        if not self.has("alpha") and self.version < POLICIES:
            raise CloudError(
                f"gcloud {version} has alerts in its component alpha, which is not installed. {NEWEST}"
            )
        if not self.has("beta") and config.alert_email:
            raise CloudError(
                "ALERT_EMAIL needs gcloud's component beta, which is not installed: "
                "gcloud components install beta, or leave ALERT_EMAIL out."
            )

        if not self.has("beta") and config.settings.auth == "iap" and self.version < IAP:
            raise CloudError(
                f"gcloud {version} has Identity-Aware Proxy of Cloud Run in its component beta, which is not "
                f"installed. {NEWEST}"
            )

    def has(self, component: str) -> bool:
        """Return whether gcloud has a component, or can't tell."""
        return "core" not in self.components or component in self.components
