"""What SCALING.md says in words with figures in them."""

from __future__ import annotations

import textwrap
from typing import Any

from infra.scaling import facts
from infra.scaling.document import Row, number, tables, total

WIDTH = 116
QUIET = 1.0  # load average, on two cores, of a machine that does nothing else but wind down


def sentences(results: Row, measured: Row) -> dict[str, str]:
    """By the name of their marker."""
    return {
        "summary": _summary(results),
        "inputs": _wrapped(_inputs(results)),
        "checked": _wrapped(_checked(measured)),
        "sql": _wrapped(_sql(results)),
    }


def parts(results: Row, measured: Row) -> dict[str, str]:
    """Everything that stands between markers."""
    made = {name: table.markdown() for name, table in tables(results, measured).items()}
    return made | sentences(results, measured)


def _summary(results: Row) -> str:
    n, inputs = number, results["inputs"]
    limits = {row["name"]: row for row in results["limits"]}
    paid = [row for row in results["limits"] if "free tier" not in row["name"]]
    few = limits["max-instances as deployed"]
    keyed = [row for row in results["scale"] if row["setting"] == "limits lifted"]
    short, once, enough = results["quota"]
    dropped = results["drop"][0]
    lines = (
        f"A picture takes {n(inputs['seconds'])} s of an instance with BLIP alone, and "
        f"{n(inputs['described_s'])} s where it waits for Gemini. Times uploads a second, that is "
        f"the number of "
        f"instances that are busy; Cloud Run keeps {1 / facts.UTILISATION:.1f} times as many, or more.",
        f"The first limit with a paid key is “{paid[0]['name']}”, at {n(paid[0]['described'])} uploads a "
        f"second, after which BLIP captions alone; the second is “{paid[1]['name']}”, at "
        f"{n(paid[1]['described'])}. "
        f"Without a key it is “{few['name']}”, at {n(few['alone'])}.",
        f"Once the limits are lifted, latency does not depend on load: half of the pictures are done "
        f"{_span([row['p50_s'] for row in keyed])} s after their upload, 95 % after "
        f"{_span([row['p95_s'] for row in keyed])} s, at {_listed([row['rate'] for row in keyed])} uploads a "
        f"second, for which there are {_listed([row['instances'] for row in keyed])} instances.",
        f"Of US$ {n(total(keyed[-1]))} a million pictures, Gemini takes "
        f"{keyed[-1]['usd']['gemini'] / total(keyed[-1]):.0%}.",
        f"Without quota Gemini costs instances too: a picture that waits for the next minute's, as it does "
        f"by default, takes {n(short['worked_s'])} s in place of {n(once['worked_s'])} s with "
        f"`GEMINI_ATTEMPTS=1`, for the same {short['described']:.0%} described "
        f"(enough quota: {n(enough['worked_s'])} s).",
        f"{dropped['pictures']:,} pictures dropped at once on {dropped['max_instances']} instances take "
        f"{n(dropped['all_s'] / 60)} minutes, where {n(dropped['at_best_s'] / 60)} would do: refused "
        f"deliveries pause for up to a minute.",
    )
    return "\n".join(
        textwrap.fill(line, WIDTH, initial_indent="- ", subsequent_indent="  ") for line in lines
    )


def _inputs(results: Row) -> str:
    n, inputs, database = number, results["inputs"], results["database"]
    tokens = f"{facts.INPUT_TOKENS:,} tokens in, {facts.OUTPUT_TOKENS} out"
    return (
        f"Measured: {inputs['pictures']} pictures of every kind from 0.1 to 100 megapixels on one CPU in 512 "
        f"MiB (`make prove`), {n(inputs['seconds'])} s on average, {n(inputs['look_s'])} of them "
        f"BLIP's. A new "
        f"instance listens after {n(inputs['listening_s'])} s, and its first picture takes "
        f"{n(inputs['first_s'])} s longer (`make bench`). A picture is {n(database['transactions'])} "
        f"transactions, {n(1000 * database['cpu_s'])} ms of PostgreSQL's CPU, and holds a connection for "
        f"{n(1000 * database['held_s'])} ms (`--measure`). Assumed, as no key was at hand: Gemini takes "
        f"{n(facts.GEMINI_S)} s, the median, and twice that at the 95th percentile, for {tokens}."
    )


def _checked(measured: Row) -> str:
    n, machine, rows = number, measured["machine"], measured["runs"]
    noise = ""
    if machine["load"] > QUIET:
        noise = (
            " Other programs ran at the same time, so that times drifted: part of the error is theirs, as is "
            "the gain by a second thread above. Run it again on a quiet machine."
        )
    refused = [row["refused"] for row in rows]
    said = []
    for count in sorted({row["instances"] for row in rows}):
        errors: dict[str, Any] = {
            key: max(
                abs(row["predicted"][key] / row["measured"][key] - 1)
                for row in rows
                if row["instances"] == count
            )
            for key in ("done_a_second", "mean_s", "p95_s")
        }
        said.append(
            f"With {count} instance{'s' * (count > 1)} the model was off by at most "
            f"{errors['done_a_second']:.0%} in throughput, {errors['mean_s']:.0%} in the mean and "
            f"{errors['p95_s']:.0%} in the 95th percentile."
        )
    return (
        f"{len(rows)} runs of {measured['seconds']:g} s of uploads on {machine['cores']} cores (load average "
        f"before it: {n(machine['load'])}), sample pictures, the small model, "
        f"{_span([row['service_s'] for row in rows])} s each "
        f"without load. {min(refused)} to {max(refused)} deliveries of a run were refused and came again. "
        f"{' '.join(said)}{noise}"
    )


def _sql(results: Row) -> str:
    n, database = number, results["database"]
    return (
        f"In transaction mode a pooler needs a server connection for {n(1000 * database['held_s'])} ms a "
        f"picture: {n(100 * database['held_s'])} at 100 uploads a second, {n(1e4 * database['held_s'])} at "
        f"10,000, where PostgreSQL computes on {n(1e4 * database['cpu_s'])} cores and commits "
        f"{n(1e4 * database['transactions'])} times a second."
    )


def _span(values: list[float]) -> str:
    """From the least to the most."""
    least, most = number(min(values)), number(max(values))
    return least if least == most else f"{least} to {most}"


def _listed(values: list[float]) -> str:
    *first, last = map(number, values)
    return f"{', '.join(first)} and {last}"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH)
