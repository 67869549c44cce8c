"""Compare BLIP's caption with Gemini's description: a score, and claims that exclude each other.

    compare("a dog on a couch", description) ─▶ Agreement(0.0, (("thing", "dog", "cat"),), contradicts=True)

The score is the share of the caption's words, without verbs, that the description, alt text or tags confirm,
less one word for each contradiction: another number of a noun, another colour of it, or another thing in its
place. The rules stay silent when in doubt, and a contradiction does not say which model is wrong. Measure the
false alarms with `python -m model_export consistency`.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from dropcap.domain.analysis import ENGLISH, Agreement, Description, Finding

MAX_CHARACTERS, MAX_FINDINGS, ANY = 1000, 10, 99  # read of a text, reported of a picture, "or more"

# A kind a line: words for any thing of it, then things that exclude each other, each with its synonyms.
KINDS = """\
animal creature pet cub; dog puppy hound terrier retriever collie labrador bulldog poodle beagle; tiger;\
 cat kitten kitty tabby; lion; bear; panda; pig; monkey ape gorilla; rabbit bunny; fox; wolf; elephant;\
 horse pony foal; zebra; giraffe; cow bull cattle calf; buffalo; sheep lamb; goat; deer; dolphin; otter;\
 bird duck goose swan owl penguin chicken parrot eagle seagull pigeon heron; turtle tortoise; snake; frog;\
 fish; octopus; crab; butterfly moth; bee bumblebee
fruit food; apple; banana; pear; strawberry; pineapple; watermelon; cherry; lemon; grape; peach; mango
vehicle traffic; car automobile sedan suv taxi van truck jeep convertible; bus; train locomotive tram;\
 bicycle bike motorcycle motorbike scooter; boat ship sailboat yacht canoe kayak; airplane plane jet;\
 helicopter; rocket spaceship
instrument; guitar; violin; piano; drum; trumpet; saxophone; flute; harp
; couch sofa; phone smartphone cellphone; mushroom toadstool; shoe sneaker; house cottage; flower blossom;\
 field meadow pasture lawn grass; background backdrop surface; photo picture image photograph
person people child kid baby adult someone crowd audience team family couple friend player worker rider skier\
 cyclist driver surfer climber musician officer student tourist; man guy boy businessman; woman lady girl"""
# Colours that are taken for each other.
SHADES = """white cream beige silver gray grey; black; red pink maroon orange; brown maroon red tan
; purple blue; orange yellow gold golden blond tan beige brown ginger; green turquoise blue; purple pink"""
LINES = [[thing.split() for thing in line.split(";")] for line in KINDS.splitlines()]
KIND = {word: line[0][0] for line in LINES if line[0] for thing in line for word in thing}
NAMES = {word: thing[0] for line in LINES[:-1] for thing in line[1:] for word in thing}  # not of people
CONFIRMS = {word: {*line[0], *thing} for line in LINES for thing in line[1:] for word in thing}
CONFIRMS |= {word: {each for thing in line for each in thing} for line in LINES for word in line[0]}
COLOURS = dict[str, set[str]]()
for shades in SHADES.split(";"):
    COLOURS |= {name: {*shades.split(), *COLOURS.get(name, ())} for name in shades.split()}
NUMBERS = dict.fromkeys(("a", "an", "one", "another", "single"), (1, 1)) | {
    "no": (0, 0), "two": (2, 2), "both": (2, 2), "three": (3, 3), "four": (4, 4), "five": (5, 5),
    "some": (1, ANY), "other": (1, ANY), "several": (2, ANY), "few": (2, ANY), "couple": (2, ANY),
}  # fmt: skip
DEFINITE = {"the", "this", "that", "these", "those", "their", "its", "his", "her"}
FUNCTION = """of and with in on to is are was be it at by for from as into onto over under above below behind
    front near next beside between across along around through against while there they who which or but
    not has have many up down off out top side inside outside towards"""
STOPS = {*DEFINITE, *NUMBERS, *FUNCTION.split()}
IRREGULAR = {"men": "man", "women": "woman", "children": "child", "geese": "goose", "calves": "calf"}
REWRITTEN = {
    '["“][^"“”]{0,300}["”]|\'s\\b': " ",  # what is written in the picture shows nothing of it
    r"\b(teddy|hot|cell|traffic|stop|fire|sea) (bear|dog|phone|light|sign|truck|hydrant|lion)": r"\1\2",
    r"\b(a|the) (pair|couple|group|herd|flock|bunch|row|pile|stack) of\b": " several ",
}
VERB = re.compile(r"(?!building|painting)\w{3,}(ing|ed)$")
Nouns = list["Noun"]


class Noun(NamedTuple):
    word: str
    number: tuple[int, int] | None  # at least, at most
    colours: set[str]
    head: bool  # of its phrase


def compare(caption: str, description: Description) -> Agreement:
    """Return how far the two agree; no verdict where one is not English or the caption has no word."""
    texts = (description.description, description.alt_text)
    (caption_nouns, words), *shown = [_read(text) for text in (caption, *texts, *description.tags)]
    found = re.findall(r"[^\W\d_]+", " ".join(texts)[: 2 * MAX_CHARACTERS].lower())
    english = 8 * sum(word in STOPS for word in found) - 16 * sum(not word.isascii() for word in found)
    if not words or description.language != ENGLISH or english < len(found):
        return Agreement(None, (), False)
    confirming = set[str]().union(*(content for _, content in shown))
    findings = _findings(caption_nouns, _confirm(words), [nouns for nouns, _ in shown], confirming)
    unique = tuple(dict.fromkeys(findings))[:MAX_FINDINGS]
    confirmed = sum(not confirming.isdisjoint(_confirm([word])) for word in words) - len(unique)
    return Agreement(round(max(0, confirmed) / len(words), 2), unique, bool(unique))


def _findings(
    caption_nouns: Nouns, expected: set[str], shown: list[Nouns], confirming: set[str]
) -> Iterator[Finding]:
    elsewhere = {KIND.get(word) for word in confirming}.isdisjoint(
        KIND.get(noun.word, "") for noun in caption_nouns
    )
    rivals = [
        noun.word for text in shown[:2] for noun in text if noun.word in KIND and noun.word not in expected
    ]
    for word, _, colours, _ in filter(lambda noun: noun.head, caption_nouns):
        if word in KIND and confirming.isdisjoint(_confirm([word])):
            instead = [rival for rival in rivals if elsewhere or KIND[rival] == KIND[word]]
            yield from (("thing", word, rival) for rival in instead[:1])
        mine, *theirs = ([noun for noun in text if noun.word == word] for text in (caption_nouns, *shown))
        low, high = _range(mine) or (0, 0)
        ranges = [found for nouns in theirs[:2] if (found := _range(nouns))]
        # "A dog" both texts must exclude, and "a man" may be one of many.
        certain = low > 1 or (len(ranges) == 2 and KIND.get(word) != "person")
        if low and ranges and certain and all(most < low or high < least for least, most in ranges):
            one, other = (f"{n}{' or more' * (n != most)} {word}" for n, most in ((low, high), ranges[0]))
            yield ("number", one, other) if ranges[0][1] else ("thing", word, f"no {word}")
        coloured = [nouns for nouns in theirs if any(noun.colours for noun in nouns)]
        plain = any(noun.number and not noun.colours for nouns in theirs[:2] for noun in nouns)
        if colours and len(coloured) > 1 and not plain and confirming.isdisjoint(_confirm(colours)):
            others = set[str]().union(*(noun.colours for nouns in coloured for noun in nouns))
            one, other = (f"{' and '.join(sorted(each))} {word}" for each in (colours, others))
            yield ("colour", one, other)


def _range(nouns: Nouns) -> tuple[int, int] | None:
    """Return the least and most that a text says there are: "a dog and another dog" are one or two."""
    numbers = [noun.number for noun in nouns if noun.number]
    return (min(low for low, _ in numbers), sum(high for _, high in numbers)) if numbers else None


def _read(text: str) -> tuple[Nouns, set[str]]:
    """Return the words that may be nouns, and all content words but verbs."""
    text, nouns, content = text[:MAX_CHARACTERS].lower(), list[Noun](), set[str]()
    for pattern, replacement in REWRITTEN.items():
        text = re.sub(pattern, replacement, text)
    colours, run, before = set[str](), list[str](), ""  # of a phrase: its words, and the one before it
    for token in [*re.findall(r"[a-z]{1,40}|\b\d\d?\b|[.,;:!?()]", text), "."]:
        if token in COLOURS:
            colours.add(token)
        elif token.isalpha() and token not in STOPS:
            run.append(token)
        elif run or not colours or token not in ("and", ","):  # not inside "a black and white dog"
            number = (int(before), int(before)) if before.isdigit() else NUMBERS.get(before)
            run = run[: next((i for i, word in enumerate(run) if i and VERB.match(word)), None)]
            names = [NAMES.get(_singular(word), _singular(word)) for word in run]
            head = max((i for i, name in enumerate(names) if name in KIND), default=len(run) - 1)
            for i, name in enumerate(names):
                if run[i] != _singular(run[i]) and number in (None, (1, 1)):
                    number = None if before in DEFINITE else (1, ANY)
                nouns.append(Noun(name, number, colours, i == head))
            content |= colours | {name for name in names if not VERB.match(name)}
            colours, run, before = set(), [], token
    return nouns, content


def _singular(word: str) -> str:
    if word in IRREGULAR or len(word) < 4 or word.endswith(("ss", "us", "is")):
        return IRREGULAR.get(word, word)
    return re.sub(r"ies$", "y", word) if word.endswith("ies") else re.sub(r"(?<=ch|sh|xx|ss)es$|s$", "", word)


def _confirm(words: Iterable[str]) -> set[str]:
    return set[str]().union(*(CONFIRMS.get(word, {word}) | COLOURS.get(word, set()) for word in words))
