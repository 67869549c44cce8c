"""python -m model_export train | export | install | archive | bits | recipes | evaluate | ..."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from . import ROOT

BUILD = ROOT / "build"
CHECKPOINT = BUILD / "checkpoint"
MODEL = ROOT / "functions" / "model"
BITS = ("8", "mixed", "4")  # of the decoder's weights; the first unless another is asked: quantize.RECIPES
THRESHOLDS = {
    "--at-least": "share of scenes that must be exactly right; 0.98 of a model that knows them",
    "--agree": "share of captions that must be those of fp32; 0.995 of a model that knows the scenes",
    "--lose-at-most": "share of exactly right scenes that may be lost; 0.005 of a model that knows them",
    "--lose-cider": "points of CIDEr that may be lost; 1 with --coco",
}


def main(arguments: list[str] | None = None) -> int:
    """0 when all is well, 1 when a model is not good enough, 2 when something is missing or wrong."""
    asked = _parser().parse_args(arguments)
    warnings.filterwarnings("ignore")  # the exporter's tracer warns of every shape that it reads
    logging.disable(logging.WARNING)  # and the quantizer advises in the middle of the progress bars
    try:
        return int(asked.run(asked))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    except ModuleNotFoundError as missing:
        print(f"{missing.name} is missing: install model_export/requirements.txt", file=sys.stderr)
    except OSError as refused:  # by the system: read-only, no such folder, no space
        print(f"{refused}: see to this file, its folder and its disk", file=sys.stderr)
    except Exception as wrong:
        if not _is_ours(wrong):
            raise
        print(wrong, file=sys.stderr)
    return 2


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _is_ours(wrong: Exception) -> bool:
    """Errors that were written for people: one line with a remedy."""
    return type(wrong).__name__ in {
        "TrainError",
        "ExportError",
        "InstallError",
        "EvaluateError",
        "ModelError",
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model_export", description=__doc__)
    commands = parser.add_subparsers(required=True, dest="command", metavar="command")
    style = argparse.ArgumentDefaultsHelpFormatter

    train = commands.add_parser(
        "train", help="train the small BLIP (about 100 minutes on two cores)", formatter_class=style
    )
    train.add_argument("--out", type=Path, default=CHECKPOINT, help="checkpoint folder")
    train.add_argument("--steps", type=int, default=9000, help="batches")
    train.add_argument("--batch", type=int, default=64, help="scenes a batch")
    train.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    train.add_argument(
        "--threes",
        type=float,
        default=0.4,
        help="share of scenes with three things, the hardest; held-out ones have 0.2",
    )
    train.add_argument("--seed", type=int, default=0, help="of the weights and the scenes")
    train.add_argument("--every", type=int, default=1000, help="steps between checkpoints")
    train.add_argument("--threads", type=int, default=os.cpu_count(), help="of PyTorch")
    train.add_argument("--resume", action="store_true", help="go on from the checkpoint folder")
    train.set_defaults(run=_train)

    export = commands.add_parser("export", help="checkpoint -> quantized model folder", formatter_class=style)
    export.add_argument(
        "--checkpoint",
        default="",
        help="folder or hub name of a BLIP captioner, or random-base: BLIP-base's shapes without a download; "
        "empty: the small model's weights",
    )
    export.add_argument(
        "--out", type=Path, default=MODEL, help="model folder; replaced only when all went well"
    )
    export.add_argument("--resolution", type=int, default=0, help="px that it looks at; 0: the checkpoint's")
    export.add_argument("--fp32", action="store_true", help="keep fp32 (for tests; four times as large)")
    export.add_argument(
        "--bits",
        choices=BITS,
        default=BITS[0],
        help="of the decoder's weights; mixed: 8 in the cross-attention and the vocabulary, else 4",
    )
    export.add_argument(
        "--check",
        type=int,
        default=argparse.SUPPRESS,
        help="held-out scenes to compare with fp32 on; 200 of a model that knows them, of any other 8",
    )
    export.add_argument(
        "--agree",
        type=float,
        default=argparse.SUPPRESS,
        help="least share of equal captions; 0.98 of a model that knows the scenes, of any other 0",
    )
    export.set_defaults(run=_export)

    install = commands.add_parser("install", help="ready model folder or archive -> model folder")
    install.add_argument("source", help="folder, archive, or its https address, #sha256=... after it pins it")
    install.add_argument(
        "--out", type=Path, default=MODEL, help="model folder; replaced only when all is well"
    )
    install.set_defaults(run=_install)

    archive = commands.add_parser("archive", help="model folder -> one file, for install")
    archive.add_argument("--model", type=Path, default=MODEL, help="model folder")
    archive.add_argument("--out", type=Path, help="file to write; none: build/NAME-REVISION.tar")
    archive.set_defaults(run=_archive)

    bits = commands.add_parser("bits", help="what rounding does to trained weights", formatter_class=style)
    bits.add_argument(
        "--weights",
        default="",
        help="as --checkpoint of export, or a folder with a BERT encoder or CTranslate2's Whisper; "
        "empty: the small model's",
    )
    bits.add_argument(
        "--examples",
        type=Path,
        help="folder of pictures, file of sentences, or folder of WAV files; none: scenes, or pairs.json",
    )
    bits.add_argument("--report", type=Path, default=BUILD / "bits.json", help="JSON to write")
    bits.set_defaults(run=_bits)

    recipes = commands.add_parser("recipes", help="what else was tried, measured", formatter_class=style)
    recipes.add_argument("--checkpoint", default="random-base", help="as for export")
    recipes.add_argument("--runs", type=int, default=9, help="captions for each figure")
    recipes.add_argument("--scenes", type=int, default=0, help="held-out scenes to compare with fp32 on")
    recipes.add_argument("--report", type=Path, default=BUILD / "recipes.json", help="JSON to write")
    recipes.set_defaults(run=_recipes)

    evaluate = commands.add_parser("evaluate", help="captions beside those of fp32", formatter_class=style)
    evaluate.add_argument("--model", type=Path, default=MODEL, help="model folder")
    evaluate.add_argument(
        "--checkpoint", default="", help="as for export; empty: what the model's card names"
    )
    evaluate.add_argument(
        "--against",
        type=Path,
        help="fp32 model folder; none: made on the spot, as large as the checkpoint is",
    )
    evaluate.add_argument(
        "--coco", type=Path, help="captions in COCO's format, such as captions_val2017.json"
    )
    evaluate.add_argument("--pictures", type=Path, help="folder of the pictures that --coco names")
    evaluate.add_argument(
        "--count", type=int, default=1000, help="held-out scenes, or first pictures of --coco"
    )
    evaluate.add_argument(
        "--bits",
        default="",
        help="export the checkpoint with each of these instead, such as 4,8, or all, and print one table",
    )
    evaluate.add_argument("--beams", type=int, default=1, help="1 is greedy")
    # A threshold that is not given depends on the pictures and on what the model knows: evaluate.bounds.
    for option, what in THRESHOLDS.items():
        evaluate.add_argument(option, type=float, default=argparse.SUPPRESS, help=what)
    evaluate.add_argument("--report", type=Path, default=BUILD / "evaluate.json", help="JSON to write")
    evaluate.set_defaults(run=_evaluate)

    confidence = commands.add_parser(
        "confidence", help="of which pictures the model is not sure", formatter_class=style
    )
    confidence.add_argument("--model", type=Path, default=MODEL, help="model folder")
    confidence.add_argument(
        "--write", action="store_true", help="fit it to the scenes first, and put the threshold into the card"
    )
    confidence.add_argument("--count", type=int, default=200, help="held-out scenes")
    confidence.add_argument(
        "--photographs", type=Path, nargs="+", default=[], help="folders; else those of installed packages"
    )
    confidence.add_argument(
        "--others", type=Path, nargs="+", default=[], help="folders of pictures that are only reported on"
    )
    confidence.add_argument("--report", type=Path, default=BUILD / "confidence.json", help="JSON to write")
    confidence.set_defaults(run=_confidence)

    consistency = commands.add_parser(
        "consistency",
        aliases=["witnesses"],  # deprecated
        help="how often a true or an altered description is flagged",
        formatter_class=style,
    )
    consistency.add_argument("--model", type=Path, default=MODEL, help="model folder")
    consistency.add_argument("--count", type=int, default=1000, help="held-out scenes")
    consistency.add_argument("--seed", type=int, default=0, help="of templates and alterations")
    consistency.add_argument(
        "--tuning", action="store_true", help="only the pairs to change the rules by, not to report"
    )
    consistency.add_argument("--captions", type=Path, help="Flickr8k.token.txt: captions by people")
    consistency.add_argument("--report", type=Path, default=BUILD / "consistency.json", help="JSON to write")
    consistency.set_defaults(run=_consistency)

    samples = commands.add_parser("samples", help="draw the sample pictures", formatter_class=style)
    samples.add_argument("--out", type=Path, default=ROOT / "infra" / "samples", help="folder")
    samples.set_defaults(run=_samples)
    return parser


# PyTorch takes seconds to import: each command imports what it needs, so that --help answers at once.


def _train(asked: argparse.Namespace) -> int:
    from .train import train

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

    from .export import export
    from .quantize import RECIPES

    card = export(
        asked.checkpoint,
        asked.out,
        resolution=asked.resolution,
        recipe=None if asked.fp32 else RECIPES[asked.bits],
        check=getattr(asked, "check", None),
        agree=getattr(asked, "agree", None),
    )
    with suppress(OSError):  # the kernel tells it on Linux alone
        print(f"peak memory {peak_mb():,.0f} MB, {time.monotonic() - began:.0f} s")
    quality = ", ".join(f"{key} {value}" for key, value in card.get("quality", {}).items())
    print(f"{asked.out}: {card['name']} {card['revision']}, {card['bytes'] / 1e6:.1f} MB {quality}")
    return 0


def _install(asked: argparse.Namespace) -> int:
    from .ready import install

    card = install(asked.source, asked.out)
    megabytes = sum(size for size, _ in card.files.values()) / 1e6
    print(f"{asked.out}: {card.name} {card.revision}, {megabytes:.1f} MB")
    return 0


def _archive(asked: argparse.Namespace) -> int:
    from .ready import archive

    path, sha256 = archive(asked.model, asked.out)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, SHA-256 {sha256}")
    print(f"make model MODEL=https://.../{path.name}#sha256={sha256}")
    return 0


def _bits(asked: argparse.Namespace) -> int:
    from .bits import measure

    asked.report.parent.mkdir(parents=True, exist_ok=True)
    measure(asked.weights, asked.examples, asked.report)
    return 0


def _recipes(asked: argparse.Namespace) -> int:
    from .recipes import compare

    asked.report.parent.mkdir(parents=True, exist_ok=True)
    compare(asked.checkpoint, asked.runs, asked.report, asked.scenes)
    return 0


def _check_count(count: int) -> None:
    from .datasets import EvaluateError

    if count < 1:
        raise EvaluateError(f"--count {count}: there must be one picture at least")


def _status(failed: Sequence[str]) -> int:
    """Print a line for each threshold that is missed, and return the exit status."""
    for line in failed:
        print(line, file=sys.stderr)
    return 1 if failed else 0


def _evaluate(asked: argparse.Namespace) -> int:
    from .datasets import EvaluateError, coco, held_out
    from .evaluate import compare_bits, evaluate

    if bool(asked.coco) != bool(asked.pictures):
        raise EvaluateError("--coco captions.json and --pictures FOLDER go together: give both, or none")
    _check_count(asked.count)
    bits = BITS if asked.bits == "all" else tuple(filter(None, asked.bits.split(",")))
    if unknown := [name for name in bits if name not in BITS]:
        raise EvaluateError(f"--bits {unknown[0]} is none of {', '.join(BITS)} and all")
    if bits and asked.against:
        raise EvaluateError("--bits makes its own original, from --checkpoint: leave --against out")
    names = [option.strip("-").replace("-", "_") for option in THRESHOLDS]
    what = (
        asked.model,
        coco(asked.coco, asked.pictures, asked.count) if asked.coco else held_out(asked.count),
        asked.report,
    )
    limits = {name: getattr(asked, name) for name in names if hasattr(asked, name)}
    how: dict[str, Any] = {"checkpoint": asked.checkpoint, "beams": asked.beams, "asked": limits}
    failed = compare_bits(*what, bits, **how) if bits else evaluate(*what, against=asked.against, **how)
    return _status(failed)


def _confidence(asked: argparse.Namespace) -> int:
    from dropcap.captioning.blip import Card

    from . import confidence
    from .datasets import held_out

    _check_count(asked.count)
    photographs = confidence.photographs(asked.photographs)
    groups = photographs | (confidence.photographs(asked.others) if asked.others else {})
    if asked.write:
        confidence.write(asked.model)
    if not Card.read(asked.model).confidence:
        print(f"{asked.model} has no threshold in its card: it rejects no caption")
        return 0
    scenes = held_out(asked.count)
    counted = confidence.count(asked.model, scenes, groups, confidence.WAYS)
    failed = confidence.misses(counted, scenes.name, list(photographs))
    confidence.show(counted, confidence.WAYS)
    confidence.report(asked.report, asked.model, counted, failed)
    return _status(failed)


def _consistency(asked: argparse.Namespace) -> int:
    from .consistency import evaluate

    if asked.command == "witnesses":
        print("`witnesses` is deprecated: use `consistency`", file=sys.stderr)
    _check_count(asked.count)
    return _status(evaluate(asked.model, asked.count, asked.seed, asked.report, asked.tuning, asked.captions))


def _samples(asked: argparse.Namespace) -> int:
    from .samples import write

    for name, caption in write(asked.out).items():
        print(f"{asked.out / name}: {caption}")
    return 0


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C, or hundreds of MB stay beside the model
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup has it ignored
            signal.signal(number, _stop)
    sys.exit(main())
