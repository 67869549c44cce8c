"""Remove the meaningless words that BLIP-large generates: "arafed man in a hat", "araffe ferris wheel"."""

from __future__ import annotations

import re

# No model card lists them: these are the forms in published captions of BLIP-large and in public code that
# deletes them (GitHub, November 2026). "araf" is left alone: it is a word, on the roads of Wales.
_ARTEFACT = re.compile(r"ar{1,2}af{1,2}(?:e|es|ed|y|ly|ul)", re.ASCII | re.IGNORECASE)
_NOUN = re.compile(r".*es?", re.IGNORECASE)
_ARTICLES = {"a", "an"}
_DETERMINERS = _ARTICLES | {"the", "some", "one", "two", "three", "four", "several", "many"}
_LINK = "and|or|with|without|of|on|in|at|by|to|for|from|near|behind|under|over|above|between"
_NOUN_FOLLOWS = re.compile(_LINK)  # a noun follows, or the caption has a hole
_NOUN_ENDS = re.compile(
    f"{_LINK}|that|which|who|next|inside|outside|around|through|is|are|was|were|has|have|standing|sitting"
    "|walking|laying|lying|looking|eating|holding|wearing|riding|playing|flying|[,;:.!?].*"
)
_CONSONANT_SOUND = ("uni", "use", "usu", "eu", "one", "uk")  # vowels only in writing
_VOWEL_SOUND = ("hour", "honest", "honor", "heir", "8", "11", "18")
_ENDING = re.compile(r"('s)?[.,;:!?]*$")


def remove_artefacts(caption: str) -> tuple[str, tuple[str, ...]]:
    """Return the caption without such words, still grammatical, and the removed words in their order.

    Before a noun the word is an adjective and is left out: "an arafed dog" becomes "a dog". Where the word is
    itself the noun, "something" takes its place. A caption of which only "something" remains is empty.
    """
    words, kept, gone = caption.split(), list[str](), list[str]()
    while words:
        word = words.pop(0)
        ending = _ENDING.search(word).group()  # type: ignore[union-attr]  # it matches any word
        bare = word.removesuffix(ending)
        if not _ARTEFACT.fullmatch(bare):
            kept.append(word)
            continue
        gone.append(bare)
        before = kept[-1].lower() if kept else ""
        filler = ["-", "looking"] if words[:1] == ["-"] else ["looking"]
        after = words[len(filler) :] if words[: len(filler)] == filler else []
        if after and not _NOUN_ENDS.fullmatch(after[0]):
            words = after  # "araful looking street"
        elif ending or not words or _NOUN_ENDS.fullmatch(words[0]):
            hole = before in _DETERMINERS or _NOUN_FOLLOWS.fullmatch(before)
            if before in _DETERMINERS:
                kept.pop()
            if hole or ending.startswith("'s") or _NOUN.fullmatch(bare):
                kept.append("something" + ending)
                words = _singular(words)
                if kept[-2:-1] == ["are"]:
                    kept[-2] = "is"
            continue
        if before in _ARTICLES:
            kept[-1] = _article(words[0])
    if not gone:
        return caption, ()
    shown = " ".join(kept)
    return ("" if shown.strip(".,;:!?") == "something" else shown), tuple(gone)


def _singular(words: list[str]) -> list[str]:
    """Return the words after "something", with "is" where they begin with "are", "that are" or the like."""
    at = 1 if words[:1] in (["that"], ["which"]) else 0
    return [*words[:at], "is", *words[at + 1 :]] if words[at : at + 1] == ["are"] else words


def _article(word: str) -> str:
    vowel = word.startswith(tuple("aeiou")) and not word.startswith(_CONSONANT_SOUND)
    return "an" if vowel or word.startswith(_VOWEL_SOUND) else "a"
