"""Two witnesses: how far Gemini's description bears out BLIP's caption, and where one excludes the other.

    compare("a dog on a couch", description) ─▶ Agreement(0.43, (("thing", "dog", "cat"),), contradicts=True)

The score is the share of the caption that description, alt text and tags bear out. Its things count 3, their
colours and exact numbers 2, other words 1; a kind for its member ("an animal" for "a dog") is worth 0.75 of
it. What a description adds costs nothing, as it is the longer of the two.

A contradiction is a claim of one that excludes a claim of the other: another number of the same thing,
another colour of it, its place the other way round, or another thing of its kind where the description knows
nothing of what the caption names. Silence is none. So what is invented of things that the caption leaves out
can't be seen: it is short, and a list of things claims no order. What the small table of words (lexicon.py)
and the few rules of grammar (sentences.py) don't know is silence too. Two models can be wrong alike, and a
contradiction does not say which of them is. Of texts in other languages than English there is no verdict.

How often it is right: `python -m model_export witnesses`.
"""

from collections.abc import Iterable, Iterator

from dropcap.analysis import Agreement, Description, Finding
from dropcap.lexicon import COLOURS, EXCLUSIVE, stem, tree
from dropcap.sentences import Mention, Place, Reading, english, read

THING, CLAIM, WORD, KIND_FOR_MEMBER = 3, 2, 1, 0.75
MOST_FINDINGS = 10  # that are told of a picture


def compare(caption: str, description: Description) -> Agreement:
    """How far the two agree; no verdict where one of them is not English or the caption has no word."""
    texts = (description.description, description.alt_text)
    if not (english(caption) and english(" ".join(texts))):
        return Agreement(None, (), False)
    said, shown = read(caption), [read(text) for text in texts]
    tags = [read(tag) for tag in description.tags]
    findings = tuple(dict.fromkeys(_findings(said, shown, tags)))[:MOST_FINDINGS]
    return Agreement(_score(said, [*shown, *tags], findings), findings, bool(findings))


def _findings(said: Reading, shown: list[Reading], tags: list[Reading]) -> Iterator[Finding]:
    for claim in said.mentions:
        if claim.number == (0, 0) or not claim.kinds:
            continue
        yield from _thing(claim, said, shown, tags)
        yield from _number(claim, said, shown)
    for claim in said.mentions:
        yield from _colour(claim, [*shown, *tags])
        yield from _side(claim, shown)
    for place in said.places:
        yield from _place(place, shown)


def _thing(claim: Mention, said: Reading, shown: list[Reading], tags: list[Reading]) -> Iterator[Finding]:
    """Another thing in its place: of its kind anywhere, or of any kind where caption and alt text begin."""
    named = [mention for text in shown for mention in text.mentions]
    if any(_same(claim, mention) and mention.number == (0, 0) for mention in named):
        yield ("thing", claim.word, f"no {claim.word}")
        return
    named = [mention for mention in named if mention.number != (0, 0)]
    if any(
        _related(claim, mention) for mention in named if not (mention.definite and _above(mention, claim))
    ):
        return
    words = {word for text in (*shown, *tags) for word in text.words}
    if words & _names(claim) or any(_same(claim, mention) for text in tags for mention in text.mentions):
        return
    others = [m for m in named if m.kinds and not any(_related(m, each) for each in said.mentions)]
    rival = next((mention for mention in others if _rivals(claim, mention)), None)
    if rival is None and claim.main and _counts(claim):
        about = [mention for mention in shown[-1].mentions if mention.main]
        if all(mention.kinds for mention in about):  # a word that is not known may be another name for it
            rival = next((m for m in about if m in others and _counts(m)), None)
    if rival:
        yield ("thing", claim.word, rival.word)


def _number(claim: Mention, said: Reading, shown: list[Reading]) -> Iterator[Finding]:
    mine = _range(said.mentions, claim)
    theirs = [found for text in shown if (found := _range(text.mentions, claim))]
    if not mine or not _counts(claim):
        return
    for low, high, _ in theirs:
        apart = (high is not None and high < mine[0]) or (mine[1] is not None and mine[1] < low)
        if not apart:
            return
    for low, high, exact in theirs:
        if low and (exact or mine[2]):
            yield ("number", _counted(*mine[:2], claim.word), _counted(low, high, claim.word))
            return


def _range(mentions: list[Mention], of: Mention) -> tuple[int, int | None, bool] | None:
    """The least and most that a text says there are of a thing: "a dog" and "another dog" are one or two."""
    of_it = [m for m in mentions if m.number and _same(of, m)]
    if not of_it:
        return None
    numbers = [mention.number for mention in of_it if mention.number]
    highs = [high for _, high in numbers]
    most = None if None in highs else sum(high for high in highs if high is not None)
    return min(low for low, _ in numbers), most, any(mention.exact for mention in of_it)


def _counted(low: int, high: int | None, word: str) -> str:
    many = str(low) if low == high else f"{low} or more" if high is None else f"{low} to {high}"
    return f"{many} {word}"


def _colour(claim: Mention, shown: list[Reading]) -> Iterator[Finding]:
    if not claim.colours or "person" in _ancestors(claim):
        return
    theirs: set[str] = set()
    for text in shown:
        of_it = [mention for mention in text.mentions if _same(claim, mention)]
        if len([mention for mention in of_it if mention.number]) > 1 and not all(m.colours for m in of_it):
            return  # more than one of them, and of some no colour is said
        theirs.update(*(mention.colours for mention in of_it))
    if theirs and not any(_near(mine, other) for mine in claim.colours for other in theirs):
        mine = " and ".join(sorted(claim.colours))
        yield ("colour", f"{mine} {claim.word}", f"{' and '.join(sorted(theirs))} {claim.word}")


def _near(one: str, other: str) -> bool:
    return one == other or other in COLOURS[one] or one in COLOURS[other]


def _side(claim: Mention, shown: list[Reading]) -> Iterator[Finding]:
    sides = {m.side for text in shown for m in text.mentions if m.side and _same(claim, m)}
    if claim.side and sides and claim.side not in sides:
        yield ("place", f"{claim.word} on the {claim.side}", f"{claim.word} on the {sides.pop()}")


def _place(claim: Place, shown: list[Reading]) -> Iterator[Finding]:
    def says(place: Place, first: Mention, second: Mention) -> bool:
        ours = place.relation == claim.relation
        return ours and _same(first, place.first) and _same(second, place.second)

    places = [place for text in shown for place in text.places]
    turned = [place.told for place in places if says(place, claim.second, claim.first)]
    if turned and not any(says(place, claim.first, claim.second) for place in places):
        yield ("place", claim.told, turned[0])


def _score(said: Reading, shown: list[Reading], findings: Iterable[Finding]) -> float | None:
    wrong = {(about, mine) for about, mine, _ in findings}
    words = {word for text in shown for word in text.words}
    named = [mention for text in shown for mention in text.mentions if mention.number != (0, 0)]
    total = borne = 0.0
    rest = set(said.words)
    for claim in said.mentions:
        counts = THING if claim.kinds and _counts(claim) else WORD
        names = _names(claim)
        rest -= names
        total += counts
        if names & words or any(_same(claim, mention) for mention in named):
            borne += counts * (("thing", claim.word) not in wrong)
        elif any(_related(claim, mention) for mention in named):
            borne += counts * KIND_FOR_MEMBER
        if 0 < len(claim.colours) < len(COLOURS):
            rest -= claim.colours
            theirs = {colour for m in named if _same(claim, m) for colour in m.colours}
            total += CLAIM
            borne += CLAIM * any(_near(mine, other) for mine in claim.colours for other in theirs)
        if claim.exact and claim.number:
            total += CLAIM
            borne += CLAIM * (
                not any(about == "number" and mine.endswith(claim.word) for about, mine in wrong)
            )
    total += WORD * len(rest)
    borne += WORD * len(rest & words)
    return round(borne / total, 2) if total else None


def _ancestors(mention: Mention) -> frozenset[str]:
    return frozenset().union(*(tree()[1][kind] for kind in mention.kinds))


def _names(mention: Mention) -> frozenset[str]:
    return frozenset((stem(mention.word), *(stem(kind) for kind in mention.kinds)))


def _counts(mention: Mention) -> bool:
    """Whether it is a thing, and not the ground that things stand on."""
    return "setting" not in _ancestors(mention)


def _same(claim: Mention, mention: Mention) -> bool:
    """Whether a mention is of what is claimed, or of a member of its kind: a robin for a bird."""
    return claim.word == mention.word or bool(claim.kinds & _ancestors(mention))


def _above(mention: Mention, claim: Mention) -> bool:
    return not _same(claim, mention) and bool(mention.kinds & _ancestors(claim))


def _related(one: Mention, other: Mention) -> bool:
    return _same(one, other) or bool(other.kinds & _ancestors(one))


def _rivals(one: Mention, other: Mention) -> bool:
    """Whether what is one can't be the other, whichever meaning the words have."""
    up = tree()[1]
    return all(up[a] & up[b] & EXCLUSIVE for a in one.kinds for b in other.kinds) and not _related(one, other)
