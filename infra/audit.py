"""Look for known vulnerabilities in pinned packages with pip-audit; no answer is a failure.

    python -m infra.audit FILE...

Exit status: 0 if every package was looked up and none is known to be vulnerable, 1 if one is, and 2 if the
audit is incomplete: pip-audit itself skips a package that it can't look up, and exits with 0.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

COMMAND = (
    "-m",
    "pip_audit",
    "--disable-pip",
    "--require-hashes",
    "--format",
    "json",
    "--progress-spinner",
    "off",
)


def main(files: Sequence[str]) -> int:
    asked = [word for file in files for word in ("--requirement", file)]
    audit = subprocess.run([sys.executable, *COMMAND, *asked], capture_output=True, text=True, check=False)
    try:
        packages: list[dict[str, Any]] = json.loads(audit.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        words = audit.stderr.strip().splitlines() or ["it said nothing"]
        return _unknown(f"pip-audit did not get through ({words[-1][:200]})")
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    vulnerable = [package for package in packages if package.get("vulns")]
    for package in vulnerable:
        for each in package["vulns"]:
            fixed = ", ".join(each["fix_versions"]) or "no version yet"
            print(f"{package['name']} {package['version']}: {each['id']}, fixed in {fixed}")
    if vulnerable:
        print(f"{len(vulnerable)} of {len(packages)} packages are known to be vulnerable.")
        return 1
    if skipped or not packages:
        return _unknown(f"the database did not answer for {len(skipped)} of {len(packages)} packages")
    print(f"No vulnerability is known in any of {len(packages)} packages.")
    return 0


def _unknown(why: str) -> int:
    print(f"Not audited: {why}. Run it where the database of PyPI can be reached.", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
