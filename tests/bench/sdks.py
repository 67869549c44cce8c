"""`python -m tests.bench.sdks`: memory and CPU of each package of GEMINI_SDK, with everything else loaded.

Each is loaded in a process of its own, in turns, and describes a picture 20 times by the stand-in for Gemini.
`--python` names the interpreter of another environment. One with functions/requirements.txt alone is as
deployed; where aiohttp is installed, as for the tests, google-genai loads it, too.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence

from infra.local.gemini.server import GeminiStandIn

SDKS = ("google-genai", "google-generativeai")
WHOLE = """
import io, json, sys, time
import functions_framework, google.cloud.storage, onnxruntime, psutil
from PIL import Image
from dropcap import pipeline, services
from dropcap.describing.gemini import Describer
from dropcap.settings import Settings

file = io.BytesIO()
Image.new("RGB", (800, 600), "red").save(file, "JPEG")
sdk, endpoint = sys.argv[1:]
settings = Settings(gemini_sdk=sdk, gemini_endpoint=endpoint, gemini_api_key="key", gemini_timeout_s=60.0)
describer = Describer(settings)
process, began, clock = psutil.Process(), time.process_time(), time.perf_counter()
before = process.memory_info().rss
describer._load()
cpu_s, seconds = time.process_time() - began, time.perf_counter() - clock
for _ in range(20):
    describer.describe(file.getvalue())
mb = (process.memory_info().rss - before) / 1e6
print(json.dumps({"before_mb": before / 1e6, "mb": mb, "cpu_s": cpu_s, "seconds": seconds}))
"""


def measure(python: str, sdk: str, endpoint: str) -> dict[str, float]:
    """Return resident MB before, MB added, and CPU and clock seconds of the load, in a new process."""
    done = subprocess.run(
        [python, "-W", "ignore", "-c", WHOLE, sdk, endpoint],
        env=os.environ | {"PYTHONPATH": "functions"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return {name: float(value) for name, value in json.loads(done.stdout.splitlines()[-1]).items()}


def main(words: Sequence[str] | None = None) -> None:
    """Print the medians."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.sdks")
    parser.add_argument("--python", default=sys.executable, help="interpreter to measure in")
    parser.add_argument("--rounds", type=int, default=5, help="processes for each package")
    asked = parser.parse_args(words)
    with GeminiStandIn() as stand_in:
        turns = [{sdk: measure(asked.python, sdk, stand_in.url) for sdk in SDKS} for _ in range(asked.rounds)]
    for sdk in SDKS:
        before, mb, cpu_s, seconds = (
            statistics.median(turn[sdk][name] for turn in turns)
            for name in ("before_mb", "mb", "cpu_s", "seconds")
        )
        print(
            f"{sdk:20} {before:.1f} MB before, +{mb:.1f} MB, loaded in {seconds:.2f} s ({cpu_s:.2f} s of CPU)"
        )


if __name__ == "__main__":
    main()
