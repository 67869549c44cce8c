"""Words that BLIP-large says and that mean nothing: "arafed man in a hat", "araffe ferris wheel"."""

from __future__ import annotations

import re

# No model card lists them: these are the forms in published captions of BLIP-large and in public code that
# deletes them (GitHub, November 2026). "araf" is left alone: it is a word, on the roads of Wales.
_ARTEFACT = re.compile(r"ar{1,2}af{1,2}(?:e|es|ed|y|ly|ul)", re.ASCII | re.IGNORECASE)
_NOUN = re.compile(r".*es?", re.IGNORECASE)
_ARTICLES = {"a", "an"}
_DETERMINERS = _ARTICLES | {"the", "some", "one", "two", "three", "four", "several", "many"}
_AFTER_A_NOUN = re.compile(
    "and|or|that|which|who|with|without|of|on|in|at|by|to|for|from|near|next|behind|under|over|above|between"
    "|inside|outside|around|through|is|are|was|were|has|have|standing|sitting|walking|laying|lying|looking"
    "|eating|holding|wearing|riding|playing|flying"
)
_SAID_WITH_A = ("uni", "use", "usu", "eu", "one")  # vowels only in writing
_SAID_WITH_AN = ("hour", "honest")


def without_artefacts(caption: str) -> tuple[str, tuple[str, ...]]:
    """Return the caption without such words, still grammatical, and the words that went, in their order.

    Before a noun the word is an adjective that nobody misses: "an arafed dog" is "a dog". Where the word is
    itself the noun, "something" takes its place.
    """
    words, kept, gone = caption.split(), list[str](), list[str]()
    while words:
        word = words.pop(0)
        bare = word.rstrip(".,;:!?")
        if not _ARTEFACT.fullmatch(bare):
            kept.append(word)
            continue
        gone.append(bare)
        ending, before = word[len(bare) :], kept[-1].lower() if kept else ""
        if words[:1] == ["looking"] and len(words) > 1 and not _AFTER_A_NOUN.fullmatch(words[1]):
            del words[0]  # "araful looking street"
        elif ending or not words or _AFTER_A_NOUN.fullmatch(words[0]):
            if before in _DETERMINERS:
                kept.pop()
            if before in _DETERMINERS or _NOUN.fullmatch(bare):
                kept.append("something" + ending)
                if words[:1] == ["are"]:
                    words[0] = "is"
                if kept[-2:-1] == ["are"]:
                    kept[-2] = "is"
            continue
        if before in _ARTICLES:
            kept[-1] = _article(words[0])
    return (" ".join(kept) if gone else caption), tuple(gone)


def _article(word: str) -> str:
    vowel = word.startswith(tuple("aeiou")) and not word.startswith(_SAID_WITH_A)
    return "an" if vowel or word.startswith(_SAID_WITH_AN) else "a"
