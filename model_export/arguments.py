"""Command-line arguments of `python -m model_export`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from . import ROOT

BUILD = ROOT / "build"
CHECKPOINT = BUILD / "checkpoint"
MODEL = ROOT / "functions" / "model"
BITS = ("8", "mixed", "4")  # bits of the decoder's weights, default first; the keys of quantize.RECIPES
THRESHOLDS = {
    "--at-least": "least share of scenes captioned exactly; default 0.98 for a model trained on scenes",
    "--agree": "least share of captions equal to fp32's; default 0.995 for a model trained on scenes",
    "--lose-at-most": "largest share of exact captions lost; default 0.005 for a model trained on scenes",
    "--lose-cider": "largest loss of CIDEr points; default 1 with --coco",
}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    description = "Train, convert, install and evaluate the captioning model."
    parser = argparse.ArgumentParser(prog="python -m model_export", description=description)
    commands = parser.add_subparsers(required=True, dest="command", metavar="command")

    def command(name: str, help: str, *aliases: str) -> argparse.ArgumentParser:
        style = argparse.ArgumentDefaultsHelpFormatter
        return commands.add_parser(name, help=help, aliases=aliases, formatter_class=style)

    def model(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--model", type=Path, default=MODEL, help="model folder")

    def out(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--out", type=Path, default=MODEL, help="model folder; replaced only on success")

    def report(parser: argparse.ArgumentParser, name: str) -> None:
        parser.add_argument("--report", type=Path, default=BUILD / f"{name}.json", help="JSON to write")

    train = command("train", "train the small BLIP (about 100 minutes on two cores)")
    train.add_argument("--out", type=Path, default=CHECKPOINT, help="checkpoint folder")
    train.add_argument("--steps", type=int, default=9000, help="number of batches")
    train.add_argument("--batch", type=int, default=64, help="scenes per batch")
    train.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    train.add_argument(
        "--threes",
        type=float,
        default=0.4,
        help="share of scenes with three things, the hardest kind; held-out scenes have 0.2",
    )
    train.add_argument("--seed", type=int, default=0, help="seed of the weights and the scenes")
    train.add_argument("--every", type=int, default=1000, help="steps between checkpoints")
    train.add_argument("--threads", type=int, default=os.cpu_count(), help="PyTorch threads")
    train.add_argument("--resume", action="store_true", help="continue from the checkpoint folder")

    export = command("export", "checkpoint -> quantized model folder")
    export.add_argument(
        "--checkpoint",
        default="",
        help="folder or Hugging Face name of a BLIP captioner, or random-base: BLIP-base's shapes "
        "with random weights, without a download; empty: the weights of the small model",
    )
    out(export)
    export.add_argument("--resolution", type=int, default=0, help="input size in px; 0: the checkpoint's")
    export.add_argument("--merge", type=int, default=0, help="tokens that each layer of the encoder merges")
    export.add_argument("--fp32", action="store_true", help="keep fp32 (for tests; four times as large)")
    export.add_argument(
        "--bits",
        choices=BITS,
        default=BITS[0],
        help="bits of the decoder's weights; mixed: 8 in the cross-attention and the vocabulary, 4 elsewhere",
    )
    export.add_argument(
        "--check",
        type=int,
        default=argparse.SUPPRESS,
        help="held-out scenes to compare with fp32; default 200 for a model trained on scenes, else 8",
    )
    export.add_argument(
        "--agree",
        type=float,
        default=argparse.SUPPRESS,
        help="least share of equal captions; default 0.98 for a model trained on scenes, else 0",
    )

    install = command("install", "exported model folder or archive -> model folder")
    install.add_argument(
        "source", help="folder, archive, or https address of an archive; a #sha256=... suffix pins it"
    )
    out(install)

    archive = command("archive", "model folder -> one archive for install")
    model(archive)
    archive.add_argument("--out", type=Path, help="file to write; default: build/NAME-REVISION.tar")

    bits = command("bits", "measure how rounding changes trained weights")
    bits.add_argument(
        "--weights",
        default="",
        help="as --checkpoint of export, or a folder with a BERT encoder or CTranslate2's Whisper; "
        "empty: the weights of the small model",
    )
    bits.add_argument(
        "--examples",
        type=Path,
        help="folder of pictures, file of sentences, or folder of WAV files; default: scenes, or pairs.json",
    )
    report(bits, "bits")

    recipes = command("recipes", "measure other quantization recipes and session settings")
    recipes.add_argument("--checkpoint", default="random-base", help="as for export")
    report(recipes, "recipes")

    evaluate = command("evaluate", "compare captions with those of fp32")
    model(evaluate)
    evaluate.add_argument(
        "--checkpoint", default="", help="as for export; empty: the checkpoint that the model card names"
    )
    evaluate.add_argument(
        "--against",
        type=Path,
        help="fp32 model folder; default: exported temporarily, as large as the checkpoint",
    )
    evaluate.add_argument("--coco", type=Path, help="captions in COCO format, such as captions_val2017.json")
    evaluate.add_argument("--pictures", type=Path, help="folder of the pictures that --coco lists")
    evaluate.add_argument(
        "--count",
        type=int,
        default=1000,
        help="number of held-out scenes, or of pictures from the start of --coco",
    )
    evaluate.add_argument(
        "--bits",
        default="",
        help="export the checkpoint with each of these (such as 4,8, or all) instead, and print one table",
    )
    for option in ("--merge", "--resolution"):
        evaluate.add_argument(
            option, type=int, nargs="+", default=[], help=f"the same for each {option} of export"
        )
    evaluate.add_argument("--beams", type=int, default=1, help="beam width; 1 is greedy")
    # evaluation.evaluate.bounds has the defaults, which depend on the pictures and on the model.
    for option, description in THRESHOLDS.items():
        evaluate.add_argument(option, type=float, default=argparse.SUPPRESS, help=description)
    report(evaluate, "evaluate")

    confidence = command("confidence", "measure how many captions have low confidence")
    model(confidence)
    confidence.add_argument(
        "--write",
        action="store_true",
        help="first fit the distance to the scenes and write the threshold into the model card",
    )
    confidence.add_argument("--count", type=int, default=200, help="held-out scenes")
    confidence.add_argument(
        "--photographs",
        type=Path,
        nargs="+",
        default=[],
        help="folders of photographs; default: those of installed packages",
    )
    report(confidence, "confidence")

    flagged = "measure how often true and altered descriptions are flagged"
    consistency = command("consistency", flagged, "witnesses")  # the alias is deprecated
    model(consistency)
    consistency.add_argument("--count", type=int, default=1000, help="held-out scenes")
    consistency.add_argument("--seed", type=int, default=0, help="seed of templates and alterations")
    consistency.add_argument(
        "--tuning", action="store_true", help="use only the tuning pairs, which are not for reporting"
    )
    consistency.add_argument("--captions", type=Path, help="captions by people, such as Flickr8k.token.txt")
    report(consistency, "consistency")

    samples = command("samples", "draw the sample pictures")
    samples.add_argument("--out", type=Path, default=ROOT / "infra" / "samples", help="folder")
    return parser
