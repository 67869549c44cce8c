"""python -m model_export train | export | install | archive | bits | recipes | evaluate | ..."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from .arguments import BITS, THRESHOLDS, build_parser

# Errors whose message names the remedy. Their modules import PyTorch, so that they are matched by name.
ERRORS = {"TrainError", "ExportError", "InstallError", "EvaluateError", "ModelError"}


def main(arguments: list[str] | None = None) -> int:
    """Run a command. Return 0 on success, 1 when a model misses a threshold, 2 on any other known error."""
    asked = build_parser().parse_args(arguments)
    warnings.filterwarnings("ignore")  # the exporter's tracer warns about every shape that it reads
    logging.disable(logging.WARNING)  # the quantizer logs advice into the progress bars
    try:
        return COMMANDS[asked.command](asked)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    except ModuleNotFoundError as missing:
        print(f"{missing.name} is missing: install model_export/requirements.txt", file=sys.stderr)
    except OSError as error:  # read-only, no such folder, no space
        print(f"{error}: see to this file, its folder and its disk", file=sys.stderr)
    except Exception as error:
        if type(error).__name__ not in ERRORS:
            raise
        print(error, file=sys.stderr)
    return 2


# PyTorch takes seconds to import. Each command imports only what it needs, so that --help is fast.


def _train(asked: argparse.Namespace) -> int:
    from .training.train import train

    train(
        asked.out,
        asked.steps,
        asked.batch,
        asked.rate,
        asked.threes,
        asked.seed,
        asked.every,
        asked.threads,
        asked.resume,
    )
    return 0


def _export(asked: argparse.Namespace) -> int:
    began = time.monotonic()
    from tests.memory.peak import peak_mb

    from .conversion.export import export
    from .conversion.quantize import RECIPES

    card = export(
        asked.checkpoint,
        asked.out,
        resolution=asked.resolution,
        merge=asked.merge,
        recipe=None if asked.fp32 else RECIPES[asked.bits],
        check=getattr(asked, "check", None),
        agree=getattr(asked, "agree", None),
    )
    with suppress(OSError):  # only Linux reports it
        print(f"peak memory {peak_mb():,.0f} MB, {time.monotonic() - began:.0f} s")
    quality = ", ".join(f"{key} {value}" for key, value in card.get("quality", {}).items())
    print(f"{asked.out}: {card['name']} {card['revision']}, {card['bytes'] / 1e6:.1f} MB {quality}")
    return 0


def _install(asked: argparse.Namespace) -> int:
    from .install.model_folder import install

    card = install(asked.source, asked.out)
    megabytes = sum(size for size, _ in card.files.values()) / 1e6
    print(f"{asked.out}: {card.name} {card.revision}, {megabytes:.1f} MB")
    return 0


def _archive(asked: argparse.Namespace) -> int:
    from .install.model_folder import archive

    path, sha256 = archive(asked.model, asked.out)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, SHA-256 {sha256}")
    print(f"make model MODEL=https://.../{path.name}#sha256={sha256}")
    return 0


def _bits(asked: argparse.Namespace) -> int:
    from .experiments.rounding import measure

    measure(asked.weights, asked.examples, asked.report)
    return 0


def _recipes(asked: argparse.Namespace) -> int:
    from .experiments.recipes import compare

    asked.report.parent.mkdir(parents=True, exist_ok=True)
    compare(asked.checkpoint, asked.report)
    return 0


def _check_count(count: int) -> None:
    from .datasets.captioned import EvaluateError

    if count < 1:
        raise EvaluateError(f"--count {count}: there must be one picture at least")


def _status(failed: Sequence[str]) -> int:
    """Print each line, one per missed threshold, to stderr. Return the exit status."""
    for line in failed:
        print(line, file=sys.stderr)
    return 1 if failed else 0


def _evaluate(asked: argparse.Namespace) -> int:
    from .datasets.captioned import EvaluateError, coco, held_out
    from .evaluation.evaluate import compare_exports, evaluate

    if bool(asked.coco) != bool(asked.pictures):
        raise EvaluateError("--coco captions.json and --pictures FOLDER go together: give both, or none")
    _check_count(asked.count)
    exports = _exports(asked)
    if exports and asked.against:
        raise EvaluateError(
            "--bits, --merge and --resolution make their own original, from --checkpoint: leave --against out"
        )
    names = [option.strip("-").replace("-", "_") for option in THRESHOLDS]
    what = (
        asked.model,
        coco(asked.coco, asked.pictures, asked.count) if asked.coco else held_out(asked.count),
        asked.report,
    )
    limits = {name: getattr(asked, name) for name in names if hasattr(asked, name)}
    how: dict[str, Any] = {"checkpoint": asked.checkpoint, "beams": asked.beams, "asked": limits}
    failed = (
        compare_exports(*what, exports, **how) if exports else evaluate(*what, against=asked.against, **how)
    )
    return _status(failed)


def _exports(asked: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return the options of `export` for each export that `evaluate` compares, by name."""
    from .conversion.quantize import RECIPES
    from .datasets.captioned import EvaluateError

    bits = BITS if asked.bits == "all" else tuple(filter(None, asked.bits.split(",")))
    if unknown := [name for name in bits if name not in BITS]:
        raise EvaluateError(f"--bits {unknown[0]} is none of {', '.join(BITS)} and all")
    exports: dict[str, dict[str, Any]] = {f"DECODER_BITS={name}": {"recipe": RECIPES[name]} for name in bits}
    for option in ("merge", "resolution"):
        for number in getattr(asked, option):
            exports[f"{option.upper()}={number}"] = {option: number, "recipe": RECIPES[BITS[0]]}
    return exports


def _confidence(asked: argparse.Namespace) -> int:
    from dropcap.captioning.blip import Card

    from .datasets.captioned import held_out
    from .metrics import confidence

    _check_count(asked.count)
    photographs = confidence.photographs(asked.photographs)
    if asked.write:
        confidence.write(asked.model)
    if not Card.read(asked.model).confidence:
        print(f"{asked.model} has no threshold in its card: it rejects no caption")
        return 0
    scenes = held_out(asked.count)
    counted = confidence.count(asked.model, scenes, photographs)
    failed = confidence.misses(counted, scenes.name, list(photographs))
    confidence.show(counted)
    confidence.report(asked.report, asked.model, counted, failed)
    return _status(failed)


def _consistency(asked: argparse.Namespace) -> int:
    from .evaluation.consistency import evaluate

    if asked.command == "witnesses":
        print("`witnesses` is deprecated: use `consistency`", file=sys.stderr)
    _check_count(asked.count)
    return _status(evaluate(asked.model, asked.count, asked.seed, asked.report, asked.tuning, asked.captions))


def _samples(asked: argparse.Namespace) -> int:
    from .datasets.samples import write

    for name, caption in write(asked.out).items():
        print(f"{asked.out / name}: {caption}")
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "train": _train,
    "export": _export,
    "install": _install,
    "archive": _archive,
    "bits": _bits,
    "recipes": _recipes,
    "evaluate": _evaluate,
    "confidence": _confidence,
    "consistency": _consistency,
    "witnesses": _consistency,  # deprecated
    "samples": _samples,
}

if __name__ == "__main__":
    # Handle them like Ctrl-C, which removes the temporary folders of hundreds of MB.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # under nohup, SIGHUP stays ignored
            signal.signal(number, signal.default_int_handler)
    sys.exit(main())
