"""Compute BLEU-4 and CIDEr of captions against references by people, times 100, as in papers on captioning.

Packages compute both: sacrebleu's BLEU, and the CIDEr (CIDEr-D) of COCO's evaluation. Papers split captions
with Stanford's PTBTokenizer, which needs Java; `words` is used here. It differs at hyphens and apostrophes,
where it splits words, in captions and references alike: BLIP itself writes "t - shirt".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import zip_longest

from pycocoevalcap.cider.cider import Cider
from sacrebleu.metrics.bleu import BLEU

WORD = re.compile(r"\w+")


def words(caption: str) -> str:
    """Return the words in lower case, separated by spaces, without punctuation."""
    return " ".join(WORD.findall(caption.lower()))


def bleu(captions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return BLEU-4 of all pictures together, 0 to 100; picture i has one or more `references[i]`."""
    # A stream holds one reference of each picture, and None where a picture has no more.
    streams = list(zip_longest(*([words(text) for text in texts] for texts in references)))
    scorer = BLEU(tokenize="none", force=True)  # the text is tokenized already
    return float(scorer.corpus_score([words(caption) for caption in captions], streams).score)


def cider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return CIDEr, 0 to 1,000; picture i has one or more `references[i]`.

    How much a word counts is learnt from the references at hand: only figures of the same pictures can be
    compared, and of a single picture it is 0.
    """
    candidates = {i: [words(caption)] for i, caption in enumerate(captions)}
    people = {i: [words(text) for text in texts] for i, texts in enumerate(references)}
    score, _ = Cider().compute_score(people, candidates)
    return 100 * float(score)
