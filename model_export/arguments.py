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
    style = argparse.ArgumentDefaultsHelpFormatter

    train = commands.add_parser(
        "train", help="train the small BLIP (about 100 minutes on two cores)", formatter_class=style
    )
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

    export = commands.add_parser("export", help="checkpoint -> quantized model folder", formatter_class=style)
    export.add_argument(
        "--checkpoint",
        default="",
        help="folder or Hugging Face name of a BLIP captioner, or random-base: BLIP-base's shapes "
        "with random weights, without a download; empty: the weights of the small model",
    )
    export.add_argument("--out", type=Path, default=MODEL, help="model folder; replaced only on success")
    export.add_argument("--resolution", type=int, default=0, help="input size in px; 0: the checkpoint's")
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

    install = commands.add_parser("install", help="exported model folder or archive -> model folder")
    install.add_argument(
        "source", help="folder, archive, or https address of an archive; a #sha256=... suffix pins it"
    )
    install.add_argument("--out", type=Path, default=MODEL, help="model folder; replaced only on success")

    archive = commands.add_parser("archive", help="model folder -> one archive for install")
    archive.add_argument("--model", type=Path, default=MODEL, help="model folder")
    archive.add_argument("--out", type=Path, help="file to write; default: build/NAME-REVISION.tar")

    bits = commands.add_parser(
        "bits", help="measure how rounding changes trained weights", formatter_class=style
    )
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
    bits.add_argument("--report", type=Path, default=BUILD / "bits.json", help="JSON to write")

    recipes = commands.add_parser(
        "recipes", help="measure other quantization recipes and session settings", formatter_class=style
    )
    recipes.add_argument("--checkpoint", default="random-base", help="as for export")
    recipes.add_argument("--runs", type=int, default=9, help="captions per figure")
    recipes.add_argument(
        "--scenes", type=int, default=0, help="held-out scenes on which to compare with fp32"
    )
    recipes.add_argument("--report", type=Path, default=BUILD / "recipes.json", help="JSON to write")

    evaluate = commands.add_parser(
        "evaluate", help="compare captions with those of fp32", formatter_class=style
    )
    evaluate.add_argument("--model", type=Path, default=MODEL, help="model folder")
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
    evaluate.add_argument("--beams", type=int, default=1, help="beam width; 1 is greedy")
    # evaluation.evaluate.bounds has the defaults, which depend on the pictures and on the model.
    for option, description in THRESHOLDS.items():
        evaluate.add_argument(option, type=float, default=argparse.SUPPRESS, help=description)
    evaluate.add_argument("--report", type=Path, default=BUILD / "evaluate.json", help="JSON to write")

    confidence = commands.add_parser(
        "confidence", help="measure how many captions have low confidence", formatter_class=style
    )
    confidence.add_argument("--model", type=Path, default=MODEL, help="model folder")
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
    confidence.add_argument(
        "--others",
        type=Path,
        nargs="+",
        default=[],
        help="folders of pictures that are reported without a threshold",
    )
    confidence.add_argument("--report", type=Path, default=BUILD / "confidence.json", help="JSON to write")

    consistency = commands.add_parser(
        "consistency",
        aliases=["witnesses"],  # deprecated
        help="measure how often true and altered descriptions are flagged",
        formatter_class=style,
    )
    consistency.add_argument("--model", type=Path, default=MODEL, help="model folder")
    consistency.add_argument("--count", type=int, default=1000, help="held-out scenes")
    consistency.add_argument("--seed", type=int, default=0, help="seed of templates and alterations")
    consistency.add_argument(
        "--tuning", action="store_true", help="use only the tuning pairs, which are not for reporting"
    )
    consistency.add_argument("--captions", type=Path, help="captions by people, such as Flickr8k.token.txt")
    consistency.add_argument("--report", type=Path, default=BUILD / "consistency.json", help="JSON to write")

    samples = commands.add_parser("samples", help="draw the sample pictures", formatter_class=style)
    samples.add_argument("--out", type=Path, default=ROOT / "infra" / "samples", help="folder")
    return parser
