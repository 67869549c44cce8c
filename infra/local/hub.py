"""Whether the Hugging Face hub answers, asked with Python's standard library alone.

    python -m infra.local.hub NAME      fails, with the reason, if NAME can't be had

`make model` asks this before it installs PyTorch, which takes minutes.
"""

import os
import ssl
import sys
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from dropcap.runtime.timeouts import run_with_timeout

HUB = "https://huggingface.co"
ANSWER_S = 15.0
TRUE = ("1", "ON", "YES", "TRUE")  # of the hub's variables, in capitals: huggingface_hub 0.36, constants.py


def endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", HUB).rstrip("/")


def is_offline() -> bool:
    """Return whether the hub's client is told to use no network."""
    offline = (os.environ.get(name, "") for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return any(value.upper() in TRUE for value in offline)


def problem(seconds: float = ANSWER_S) -> str:
    """Return why the hub does not answer; empty if it does, whatever its answer is."""
    if is_offline():
        return "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set"
    request = Request(endpoint(), method="HEAD")  # noqa: S310  the user's own address
    try:
        run_with_timeout(seconds, lambda: urlopen(request, timeout=seconds).close())  # noqa: S310
    except HTTPError:
        return ""
    except URLError as error:
        if isinstance(error.reason, ssl.SSLError):
            return ""  # the hub's client brings certificates of its own
        return str(getattr(error.reason, "strerror", None) or error.reason)
    except (OSError, ValueError) as error:
        return str(error) or "it is silent"
    return ""


def is_cached(name: str) -> bool:
    """Return whether the cache of the hub's client has files of a repository (its constants.py)."""
    home = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    cache = os.environ.get("HF_HUB_CACHE", f"{os.environ.get('HF_HOME', f'{home}/huggingface')}/hub")
    folder = f"models--{name.partition('@')[0].replace('/', '--')}"
    return (Path(cache).expanduser() / folder / "snapshots").is_dir()


def main(name: str) -> int:
    """Return the exit status: 0 also for a folder, and for `random-base`, which need no hub."""
    if "/" not in name or Path(name).is_dir() or is_cached(name) or not (why := problem()):
        return 0
    print(
        f"make: {name} can't be downloaded: {endpoint()} does not answer ({why}). Is the network up?",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
