"""What an English sentence about a picture claims: its things, with their number, colour and place.

    read("Two dogs lie on a red couch.") ─▶ Reading(mentions=[2 dogs, 1 red couch], places=[dogs above couch])

A few rules instead of a parser: a group of words ends at a determiner, a function word or a mark, and its
thing is the last word in it that lexicon.py knows. What the rules can't tell is left out, as if it was not
said. Of a text `MOST` characters are read, whatever its length.
"""

import re
from dataclasses import dataclass, field

from dropcap.lexicon import (
    ANY_COLOUR,
    COLOUR_NAMES,
    COLOURS,
    FOREIGN,
    FUNCTION,
    JOINED,
    META,
    NUMBERS,
    OF,
    SHADES,
    singular,
    stem,
    tree,
    words,
)

MOST = 1000  # characters of a text: as many as gemini.py lets through of the longest

PIECE = re.compile(r"[a-z]{1,40}|\d{1,4}|[.,;:!?()]")
QUOTED = re.compile(
    '["\u201c][^"\u201c\u201d]{0,300}["\u201d]|[\'\u2019]s\\b'
)  # what is written in the picture shows nothing of it
NOT_ENGLISH_LETTER = re.compile(r"[^\W\d_a-zA-Z]")
SIDE = r"(?:far |lower |upper )?(left|right)(?:[- ]hand)?(?: side)?"
OWNER = r"(?:the |its |his |her |their )?"
REWRITTEN = (  # phrases that are one word here
    (re.compile(rf"\b(?:to|on|at) {OWNER}{SIDE} of\b"), r" \1of "),
    (re.compile(rf"\b(?:to|on|at|in) {OWNER}{SIDE}\b"), r" at\1 "),
    (re.compile(r"\b(?:on top of|atop|on|over)\b"), " above "),
    (re.compile(r"\b(?:underneath|beneath|below)\b"), " under "),
    (re.compile(r"\bin front of\b"), " before "),
    (re.compile(rf"\b({'|'.join(JOINED)})"), lambda found: found[1].replace(" ", "")),
)
# How each relation is told, what it is, and whether its things change places: under is above turned round.
RELATIONS = {
    "leftof": ("left of", "left", False),
    "rightof": ("right of", "left", True),
    "above": ("on", "above", False),
    "under": ("under", "above", True),
    "before": ("in front of", "before", False),
    "behind": ("behind", "before", True),
}
SIDES = {"atleft": "left", "atright": "right"}
DEFINITE = words("the this that these those its their his her our your my")
DETERMINERS = DEFINITE | (NUMBERS.keys() - OF) | {"dozen"}
NO_CONTENT = FUNCTION | DETERMINERS | RELATIONS.keys() | SIDES.keys()
COLLECTIVE = words("couple family crowd audience group team")
BREAKS = words(". ; : ! ? ( ) , and but while as where which")
PREPOSITIONS = words(
    "of in at to from by for into onto between among against across along around through near next beside "
    "besides inside outside with within without like"
)
COPULAS = words("is are was were appears looks")


@dataclass(slots=True)
class Mention:
    """A thing that a text names; `kinds` are its places in the tree, none for a word that is not known."""

    word: str
    kinds: frozenset[str]
    number: tuple[int, int | None] | None = None
    exact: bool = False  # said in so many words: "two", "several", "no", but not "a"
    definite: bool = False
    main: bool = False  # what the text is about: named before any verb or preposition
    colours: set[str] = field(default_factory=set)
    side: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """That `first` is left of, above or in front of `second`; `told` has the text's own words."""

    first: Mention
    relation: str
    second: Mention
    told: str


@dataclass(slots=True)
class Reading:
    """Of one text; `words` are all its content words, brought to one form, those of its things included."""

    mentions: list[Mention] = field(default_factory=list)
    words: set[str] = field(default_factory=set)
    places: list[Place] = field(default_factory=list)


def english(text: str) -> bool:
    """Whether a text is English, by its function words; one without any, such as "golden crown", is."""
    text = text[:MOST].lower()
    found = re.findall(r"[^\W\d_]+", text)
    foreign = sum(word in FOREIGN or bool(NOT_ENGLISH_LETTER.search(word)) for word in found)
    ours = sum(word in FUNCTION or word in NUMBERS for word in found)
    return ours > 2 * foreign if foreign else ours * 12 >= len(found) or len(found) < 8


def read(text: str) -> Reading:
    """The claims of a text."""
    text = QUOTED.sub(" ", text[:MOST].lower())
    for phrase, word in REWRITTEN:
        text = phrase.sub(word, text)
    pieces = [*PIECE.findall(text), "."]
    reader = _Reader()
    for piece, following in zip(pieces, [*pieces[1:], "."], strict=True):
        reader.take(piece, following)
    return reader.reading


class _Reader:
    """Takes one word after the other; what belongs together is closed into a mention."""

    def __init__(self) -> None:
        self.reading = Reading()
        self.main = True
        self._begin_clause()
        self._begin_group()

    def _begin_clause(self) -> None:
        self.clause: list[Mention] = []  # subject and objects, not what follows a preposition
        self.copula = self.silent = self.preposition = False
        self.relation = self.side = ""

    def _begin_group(self) -> None:
        self.run: list[str] = []
        self.colours: set[str] = set()
        self.coloured_last = self.definite = self.any_colour = False
        self.number: tuple[int, int | None] | None = None
        self.exact = False
        self.shade = ""

    def take(self, piece: str, following: str) -> None:
        """One word or mark, and the one after it."""
        one = singular(piece)[0]
        if following == "of" and one in OF:
            self._counted(one)
        elif piece == "of" and self.number and not self.run:
            pass  # "two of the dogs", "a pair of dogs"
        elif piece in DETERMINERS or piece.isdigit():
            self._determiner(piece)
        elif piece in SHADES:
            self.shade = SHADES[piece]
        elif (piece in COLOURS or piece in COLOUR_NAMES) and not self._is_fruit(piece, following):
            self._colour(COLOUR_NAMES.get(piece, piece))
        elif piece in ANY_COLOUR:
            self.any_colour = True
        elif piece in SIDES:
            self._close(piece)
            self._place(SIDES[piece])
        elif piece in ("and", ",") and self._goes_on(following):
            pass
        elif piece in FUNCTION or piece in RELATIONS or not piece.isalpha():
            self._close(piece)
            self._linked(piece)
        else:
            self.run.append(piece)
            self.coloured_last = False

    def _is_fruit(self, piece: str, following: str) -> bool:
        """An orange is a fruit where no thing follows; "the ball is orange" has no determiner."""
        if piece not in ("orange", "lime"):
            return False
        ends = following in NO_CONTENT or not following.isalpha()
        return ends and self.number is not None and not self.copula

    def _goes_on(self, following: str) -> bool:
        """Whether "and" or a comma stands between adjectives, as in "a black and white dog"."""
        begun = self.number or self.definite or self.colours or self.any_colour
        coloured = following in COLOURS or following in COLOUR_NAMES
        content = coloured or (following.isalpha() and following not in NO_CONTENT and not self.copula)
        kinds = tree()[0]
        return bool(begun and content and not any(singular(word)[0] in kinds for word in self.run))

    def _counted(self, noun: str) -> None:
        if self.run:
            self._close(noun)
        self.number, self.exact = NUMBERS[noun], noun == "pair"
        self.reading.words.add(stem(noun))

    def _determiner(self, piece: str) -> None:
        number = (int(piece), int(piece)) if piece.isdigit() else NUMBERS.get(piece)
        if self.run or self.colours:
            self._close(piece)
        if number is None:
            self.definite = True
        elif self.number != (0, 0):  # "without a dog"
            self.number, self.exact = number, piece not in ("a", "an", "another", "one", "some", "few")

    def _colour(self, name: str) -> None:
        self.colours.add(name)
        if self.shade and name in ("gray", "blue", "brown", "green", "red", "purple"):
            self.colours.add(self.shade)
        self.shade, self.coloured_last = "", True

    def _close(self, piece: str) -> None:
        """End the group: a mention, or the colour of what the clause is about."""
        kinds = tree()[0]
        heads = [i for i, word in enumerate(self.run) if singular(word)[0] in kinds]
        verb = next((i for i, word in enumerate(self.run) if i and _is_verb(word)), len(self.run))
        before = [i for i in heads if i < verb] or heads[:1]
        if self.colours and not before and (not self.run or self.coloured_last):
            if self.copula and len(self.clause) == 1:
                self.clause[0].colours |= self.colours
        elif self.run and not self.silent:
            at = before[-1] if before else max(verb - 1, 0)
            word, plural = singular(next((word for word in self.run if word in META), self.run[at]))
            if before or word in META or self.number or self.definite or self.colours:
                self._add(word, plural, kinds.get(word, frozenset()))
            if self.number != (0, 0):
                self.reading.words.update(map(stem, self.run))
            self.main &= at == len(self.run) - 1 or word in META
        if not self.silent:
            self.reading.words.update(self.colours)
        if self.run or self.colours or piece not in FUNCTION:
            self._begin_group()

    def _add(self, word: str, plural: bool, kinds: frozenset[str]) -> None:
        number = self.number
        if word in COLLECTIVE or (plural and number and number[1] == 1) or word in META:
            number = None
        exact = self.exact and number is not None
        colours = set(COLOURS) if self.any_colour else self.colours
        mention = Mention(word, kinds, number, exact, self.definite, self.main, colours)
        if self.relation and self.clause:
            self._related(self.clause[0], mention)
        if self.side and not self.clause:
            mention.side, self.side = self.side, ""
        if word not in META:
            self.reading.mentions.append(mention)
        if not self.preposition:
            self.clause.append(mention)
        self.preposition = False

    def _related(self, source: Mention, target: Mention) -> None:
        told, relation, turned = RELATIONS[self.relation]
        if target.word in META:  # "to the left of the picture"
            source.side = {"leftof": "left", "rightof": "right"}.get(self.relation, "")
        else:
            first, second = (target, source) if turned else (source, target)
            told = f"{source.word} {told} {target.word}"
            self.reading.places.append(Place(first, relation, second, told))
        self.relation = ""

    def _place(self, side: str) -> None:
        """On the left: of what the clause is about, or of what it comes to name."""
        if len(self.clause) == 1:
            self.clause[0].side = side
        elif not self.clause:
            self.side = side
        self.main = False

    def _linked(self, piece: str) -> None:
        if piece in BREAKS:
            side = self.side if piece == "," else ""
            self._begin_clause()
            self.side = side
        elif piece in COPULAS:
            self.copula = True
        elif piece == "not":
            self.silent = True
        elif piece == "without":
            self.number, self.exact = (0, 0), True
        self.relation = piece if piece in RELATIONS and len(self.clause) == 1 else ""
        self.preposition = piece in PREPOSITIONS or piece in RELATIONS
        if self.reading.mentions and piece not in ("and", ","):
            self.main = False


def _is_verb(word: str) -> bool:
    return word.endswith(("ing", "ed")) and len(word) > 4
