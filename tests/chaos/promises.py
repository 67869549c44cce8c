"""The promises, checked from the outside: by what lies in the buckets and what stands in the database.

    lost         a source is neither in its bucket, nor published with its result committed, nor in quarantine
    twice        more than one analysis, count, achievement or set of pictures for an upload
    wrong one    an upload is deleted, overwritten or credited in place of another of its name
    not healed   something is left to be done when all deliveries were acknowledged

The first three hold at every moment, so they may be checked while functions are at work: the source is looked
for first, as it goes last.
"""

import io
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.cloud.storage import Blob
from PIL import Image

from dropcap.describing import moderation
from tests.chaos.world import Sent, World

PROMISES = ("lost", "twice", "wrong one", "not healed")
COUNTED = {"first_picture": 1, "ten_pictures": 10, "hundred_pictures": 100, "thousand_pictures": 1000}
NEAR = 24  # of 255: how far a colour may be off after WebP
ROWS = """
SELECT u.id, u.bucket, u.name, u.generation, u.state, u.reason_code, a.result,
       ARRAY(SELECT type FROM events e WHERE e.upload_id = u.id),
       ARRAY(SELECT outcome || ', ' || source_fate FROM receipts r WHERE r.id = u.id)
FROM uploads u LEFT JOIN analyses a USING (id)
"""
ANALYSES = "SELECT id, user_id, result->'upload' FROM analyses"
ACHIEVEMENTS = "SELECT user_id, achievement_name FROM achievements"


@dataclass(frozen=True, slots=True)
class Broken:
    """A promise that was broken, for which upload, and what was seen."""

    promise: str
    upload: str
    why: str

    def __str__(self) -> str:
        return f"{self.promise}: {self.upload}: {self.why}"


@dataclass(frozen=True, slots=True)
class Row:
    """An upload as the database has it."""

    bucket: str
    name: str
    generation: int
    state: str
    code: str
    result: Mapping[str, Any] | None
    events: Sequence[str]  # by type
    receipts: Sequence[str]  # outcome, and what became of the source


class Seen:
    """All that can be seen from outside, sources first."""

    def __init__(self, world: World) -> None:
        self.sent = list(world.sent)  # what is sent from now on is not looked at
        self.may_be_held = "SAFETY" in world.variables
        uploads, pictures, quarantine, archive = world.buckets
        self.sources = self._objects(world, uploads)
        with world.connected() as connection:
            connection.run("BEGIN ISOLATION LEVEL REPEATABLE READ")
            self.rows = {row[0]: Row(*row[1:]) for row in connection.run(ROWS) or ()}
            self.analyses = connection.run(ANALYSES) or []
            self.achievements = [tuple(row) for row in connection.run(ACHIEVEMENTS) or ()]
        self.known = {sent.id: sent for sent in world.sent}  # whatever is analyzed was sent before
        self.pictures = self._objects(world, pictures)
        self.quarantine = self._objects(world, quarantine)
        self.archive = self._objects(world, archive)

    @staticmethod
    def _objects(world: World, bucket: str) -> dict[str, Blob]:
        return {blob.name: blob for blob in world.client.list_blobs(bucket)}

    def source(self, sent: Sent) -> bool:
        """Whether this very generation is in the bucket."""
        blob = self.sources.get(sent.upload.name)
        return blob is not None and int(blob.generation) == sent.upload.generation

    def result(self, sent: Sent) -> Mapping[str, Any] | None:
        """Its committed result."""
        row = self.rows.get(sent.id)
        return row.result if row else None

    def published(self, sent: Sent) -> str:
        """What is wrong with the pictures of its result, or nothing."""
        result = self.result(sent)
        for each in result["pictures"] if result else ():
            blob = self.pictures.get(each["object"])
            if blob is None:
                return f"{each['object']} is not there"
            if (blob.size, blob.md5_hash) != (each["bytes"], each["md5"]):
                return f"{each['object']} is not as it was recorded"
        return "" if result and result["pictures"] else "nothing was published"

    def quarantined(self, sent: Sent) -> bool:
        """Whether its whole bytes are in quarantine with a reason."""
        return bool(
            (blob := self.quarantine.get(f"{sent.id}/{sent.upload.name}"))
            and _is(blob, sent)
            and (blob.metadata or {}).get("dropcap-reason")
        )


def broken(world: World, at_rest: bool = False) -> list[Broken]:
    """Each promise that is broken now; `at_rest`: all was acknowledged, so nothing is left to do."""
    seen = Seen(world)
    found = [Broken(*each) for each in _lost(seen)]
    found += [Broken(*each) for each in _twice(seen)]
    found += [Broken(*each) for each in _wrong(seen)]
    if at_rest:
        found += [Broken(*each) for each in _not_healed(seen, world.variables.get("SOURCE") == "archive")]
        found += [Broken(*each) for each in _unfit(seen)]
        if world.variables.get("LAYOUT") == "beside":
            found += [Broken(*each) for each in _copies(seen)]
        found += [Broken(*each) for each in _wrongly_shown(world, seen)]
    return found


Finding = tuple[str, str, str]


def _lost(seen: Seen) -> Iterator[Finding]:
    for sent in seen.sent:
        row = seen.rows.get(sent.id)
        problem = "" if seen.source(sent) or seen.quarantined(sent) else seen.published(sent)
        if problem and not (sent.overwritten and seen.result(sent) is None):
            yield "lost", str(sent), f"its source is gone, and {problem} (state {row.state if row else None})"
        if row and row.state != "claimed" and not (_event(row) in row.events and row.receipts):
            yield (
                "lost",
                str(sent),
                f"it is {row.state}: its events are {row.events}, receipts {row.receipts}",
            )


def _twice(seen: Seen) -> Iterator[Finding]:
    for upload, number in Counter((r.bucket, r.name, r.generation) for r in seen.rows.values()).items():
        if number > 1:
            yield "twice", f"{upload[1]}#{upload[2]}", f"{number} rows in uploads"
    for id, row in seen.rows.items():
        if set(row.events) - {_event(row)} - ({"held"} if seen.may_be_held else set()):
            yield "twice", str(id), f"it is {row.state} {row.code}, and its events are {row.events}"
    whose = Counter(
        (each["bucket"], each["name"], each["generation"]) for _, _, each in seen.analyses if each
    )
    for analyzed, number in whose.items():
        if number > 1:
            yield "twice", f"{analyzed[1]}#{analyzed[2]}", f"{number} analyses"
    for (user, achievement), number in Counter(seen.achievements).items():
        if number > 1:
            yield "twice", user, f"{number} times {achievement}"
    pictures = defaultdict(set)
    for name in seen.pictures:
        pictures[name.partition("/")[0]].add(name)
    for sent in seen.sent:
        result = seen.result(sent)
        more = pictures[str(sent.id)] - {each["object"] for each in result["pictures"]} if result else set()
        if more:
            yield "twice", str(sent), f"published beside its result: {', '.join(sorted(more))}"
    yield from _counts(seen)


def _counts(seen: Seen) -> Iterator[Finding]:
    """What a user's progress counts, against the uploads of that user that were sent and analyzed."""
    counted = Counter(user for _, user, _ in seen.analyses)
    due = Counter(seen.known[row[0]].upload.user for row in seen.analyses if row[0] in seen.known)
    for user in {*counted, *due}:
        if counted[user] != due[user]:
            yield "twice", user, f"{counted[user]} analyses are counted for {due[user]} uploads"
        stored = {name for whose, name in seen.achievements if whose == user} & COUNTED.keys()
        earned = {name for name, number in COUNTED.items() if counted[user] >= number}
        if stored != earned:
            yield "twice", user, f"has {sorted(stored)} for {counted[user]} pictures"


def _wrong(seen: Seen) -> Iterator[Finding]:
    for sent in seen.sent:
        result, row = seen.result(sent), seen.rows.get(sent.id)
        if result:
            facts = result["picture"]
            is_, due = (facts["bytes"], facts["width"], facts["height"]), (sent.upload.size, *sent.size)
            if is_ != due:
                yield "wrong one", str(sent), f"its result is of a picture of {is_}, not {due}"
        if row and row.code == "gone" and not sent.overwritten:
            yield "wrong one", str(sent), "it is taken for deleted or replaced, and is neither"
        source = seen.sources.get(sent.upload.name)
        if source is not None and int(source.generation) < sent.upload.generation:
            yield "wrong one", str(sent), f"an older upload, {source.generation}, took its place"
        kept = f"{sent.id}/{sent.upload.name}"
        for bucket in (seen.quarantine, seen.archive):
            if kept in bucket and not _is(bucket[kept], sent):
                yield "wrong one", str(sent), f"{kept} holds other bytes"


def _not_healed(seen: Seen, archived: bool) -> Iterator[Finding]:
    for sent in seen.sent:
        row = seen.rows.get(sent.id)
        held = row is not None and row.code == moderation.NO_VERDICT
        if row is None or row.state != ("held" if held else "done"):
            yield "not healed", str(sent), f"it is {row.state if row else 'unknown'}"
            continue
        if row.receipts != [f"{row.code or 'analyzed'}, {_fate(seen, sent, row, archived)}"]:
            yield "not healed", str(sent), f"its receipt says {row.receipts}"
        if seen.source(sent) and not held:
            yield "not healed", str(sent), "its source is still there"
        elif row.code not in (sent.code, sent.or_code) and not (sent.overwritten and row.code == "gone"):
            yield "not healed", str(sent), f"{row.code or 'analyzed'}, not {sent.code or 'analyzed'}"
        elif archived and not sent.overwritten and f"{sent.id}/{sent.upload.name}" not in seen.archive:
            yield "not healed", str(sent), "it is not in the archive"


def _fate(seen: Seen, sent: Sent, row: Row, archived: bool) -> str:
    """What is to become of its source: one that is replaced before it could be quarantined is gone."""
    if row.code == moderation.NO_VERDICT:
        return ""
    if row.code:
        return "quarantined" if seen.quarantined(sent) else "gone"
    return "archived" if archived else "deleted"


def _event(row: Row) -> str:
    """The type of the event that tells of it; empty where there is nothing to tell."""
    if row.state in ("claimed", "held"):
        return row.state.removeprefix("claimed")
    return "rejected" if row.code else "analyzed"


def _unfit(seen: Seen) -> Iterator[Finding]:
    """What is published although its upload was rejected, or is held."""
    published = {name.partition("/")[0] for name in seen.pictures}
    for sent in seen.sent:
        row = seen.rows.get(sent.id)
        if row and row.code and str(sent.id) in published:
            yield "not healed", str(sent), f"it is {row.code}, and something of it is published"


def _copies(seen: Seen) -> Iterator[Finding]:
    """Of each name the newest upload that has a result has the copies beside, and nobody has any other."""
    newest: dict[str, Sent] = {}
    for sent in sorted(seen.sent, key=lambda each: each.upload.generation):
        if seen.result(sent):
            newest[sent.upload.name] = sent
    due = {
        f"{name.removesuffix('.png')}_{each['label']}.webp": (sent, each["bytes"], each["md5"])
        for name, sent in newest.items()
        for each in (seen.result(sent) or {})["pictures"]
    }
    ids = {str(id) for id in seen.known}
    there = {name: blob for name, blob in seen.pictures.items() if name.partition("/")[0] not in ids}
    for name, (sent, *stored) in due.items():
        blob = there.get(name)
        if blob is None or [blob.size, blob.md5_hash] != stored:
            yield "wrong one" if blob else "lost", str(sent), f"its copy {name} is not there"
    for name in there.keys() - due.keys():
        yield "twice", name, "it is the copy of no picture that is recorded"


def _wrongly_shown(world: World, seen: Seen) -> Iterator[Finding]:
    """Of names that were used more than once, whether each upload's pictures show that upload."""
    names = Counter(sent.upload.name for sent in seen.sent)
    for sent in seen.sent:
        result = seen.result(sent)
        if names[sent.upload.name] < 2 or not result or seen.published(sent):
            continue
        blob = seen.pictures[result["pictures"][-1]["object"]]
        with Image.open(io.BytesIO(blob.download_as_bytes(client=world.client))) as picture:
            shown = picture.convert("RGB").getpixel((picture.width // 2, picture.height // 2))
        assert isinstance(shown, tuple)
        if any(abs(is_ - due) > NEAR for is_, due in zip(shown, sent.colour, strict=True)):
            yield "wrong one", str(sent), f"its picture shows {shown}, not {sent.colour}"


def _is(blob: Blob, sent: Sent) -> bool:
    return bool(blob.md5_hash == sent.md5)


def tally(found: Sequence[Broken]) -> dict[str, int]:
    """How many uploads each promise was broken for."""
    return {promise: len({each.upload for each in found if each.promise == promise}) for promise in PROMISES}
