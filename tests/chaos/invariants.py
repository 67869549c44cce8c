"""The invariants, checked from outside: by the objects in the buckets and the rows in the database.

    lost         a source is neither in its bucket, nor published with its result committed, nor in quarantine
    twice        an upload has more than one analysis, count, achievement or set of renditions
    wrong one    an upload is deleted, overwritten or credited in place of another of the same name
    not healed   work is left although all deliveries were acknowledged

The first three hold at every moment, so they can be checked while functions run: sources are listed first,
because they are deleted last.
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

INVARIANTS = ("lost", "twice", "wrong one", "not healed")
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
class Violation:
    """A violated invariant: for which upload, and what was found."""

    invariant: str
    upload: str
    why: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.upload}: {self.why}"


@dataclass(frozen=True, slots=True)
class Row:
    """The row of an upload."""

    bucket: str
    name: str
    generation: int
    state: str
    code: str
    result: Mapping[str, Any] | None
    events: list[str]  # by type; also those that were delivered and deleted
    receipts: Sequence[str]  # outcome and source disposition


class Snapshot:
    """The buckets and the database at one moment, sources first."""

    def __init__(self, world: World) -> None:
        self.sent = [sent for sent in world.sent if not sent.erased]  # later uploads are ignored
        self.may_be_held = "SAFETY" in world.variables
        uploads, pictures, quarantine, archive = world.buckets
        self.sources = self._objects(world, uploads)
        with world.connected() as connection:
            connection.run("BEGIN ISOLATION LEVEL REPEATABLE READ")
            self.rows = {row[0]: Row(*row[1:]) for row in connection.run(ROWS) or ()}
            self.analyses = connection.run(ANALYSES) or []
            self.achievements = [tuple(row) for row in connection.run(ACHIEVEMENTS) or ()]
        for id, event in world.delivered:
            if id in self.rows and self.rows[id].code != "deleted":
                self.rows[id].events.append(event)
        self.known = {sent.id: sent for sent in world.sent}  # an analyzed upload was sent before
        self.pictures = self._objects(world, pictures)
        self.quarantine = self._objects(world, quarantine)
        self.archive = self._objects(world, archive)

    @staticmethod
    def _objects(world: World, bucket: str) -> dict[str, Blob]:
        return {blob.name: blob for blob in world.client.list_blobs(bucket)}

    def source(self, sent: Sent) -> bool:
        """Return whether this generation is in the bucket."""
        blob = self.sources.get(sent.upload.name)
        return blob is not None and int(blob.generation) == sent.upload.generation

    def result(self, sent: Sent) -> Mapping[str, Any] | None:
        """Return its committed result, if any."""
        row = self.rows.get(sent.id)
        return row.result if row else None

    def published(self, sent: Sent) -> str:
        """Return what is wrong with the renditions of its result; empty if nothing."""
        result = self.result(sent)
        for each in result["pictures"] if result else ():
            blob = self.pictures.get(each["object"])
            if blob is None:
                return f"{each['object']} is not there"
            if (blob.size, blob.md5_hash) != (each["bytes"], each["md5"]):
                return f"{each['object']} is not as it was recorded"
        return "" if result and result["pictures"] else "nothing was published"

    def quarantined(self, sent: Sent) -> bool:
        """Return whether all its bytes are in quarantine with a reason."""
        return bool(
            (blob := self.quarantine.get(f"{sent.id}/{sent.upload.name}"))
            and _is(blob, sent)
            and (blob.metadata or {}).get("dropcap-reason")
        )


def violations(world: World, at_rest: bool = False) -> list[Violation]:
    """Return the current violations; `at_rest`: all deliveries were acknowledged, so no work may be left."""
    snapshot = Snapshot(world)
    found = [Violation(*each) for each in _lost(snapshot)]
    found += [Violation(*each) for each in _twice(snapshot)]
    found += [Violation(*each) for each in _wrong(snapshot)]
    if at_rest:
        found += [
            Violation(*each) for each in _not_healed(snapshot, world.variables.get("SOURCE") == "archive")
        ]
        found += [Violation(*each) for each in _unfit(snapshot)]
        if world.variables.get("LAYOUT") == "beside":
            found += [Violation(*each) for each in _aliases(snapshot)]
        found += [Violation(*each) for each in _wrongly_shown(world, snapshot)]
    return found


Finding = tuple[str, str, str]


def _lost(snapshot: Snapshot) -> Iterator[Finding]:
    for sent in snapshot.sent:
        row = snapshot.rows.get(sent.id)
        problem = "" if snapshot.source(sent) or snapshot.quarantined(sent) else snapshot.published(sent)
        if problem and not (sent.overwritten and snapshot.result(sent) is None):
            yield "lost", str(sent), f"its source is gone, and {problem} (state {row.state if row else None})"
        if row and row.state != "claimed" and not (_event(row) in row.events and row.receipts):
            yield (
                "lost",
                str(sent),
                f"it is {row.state}: its events are {row.events}, receipts {row.receipts}",
            )


def _twice(snapshot: Snapshot) -> Iterator[Finding]:
    rows = [row for row in snapshot.rows.values() if row.bucket]  # no tombstones
    for upload, number in Counter((row.bucket, row.name, row.generation) for row in rows).items():
        if number > 1:
            yield "twice", f"{upload[1]}#{upload[2]}", f"{number} rows in uploads"
    for id, row in snapshot.rows.items():
        if set(row.events) - {_event(row)} - ({"held"} if snapshot.may_be_held else set()):
            yield "twice", str(id), f"it is {row.state} {row.code}, and its events are {row.events}"
    whose = Counter(
        (each["bucket"], each["name"], each["generation"]) for _, _, each in snapshot.analyses if each
    )
    for analyzed, number in whose.items():
        if number > 1:
            yield "twice", f"{analyzed[1]}#{analyzed[2]}", f"{number} analyses"
    for (user, achievement), number in Counter(snapshot.achievements).items():
        if number > 1:
            yield "twice", user, f"{number} times {achievement}"
    pictures = defaultdict(set)
    for name in snapshot.pictures:
        pictures[name.partition("/")[0]].add(name)
    for sent in snapshot.sent:
        result = snapshot.result(sent)
        more = pictures[str(sent.id)] - {each["object"] for each in result["pictures"]} if result else set()
        if more:
            yield "twice", str(sent), f"published beside its result: {', '.join(sorted(more))}"
    yield from _counts(snapshot)


def _counts(snapshot: Snapshot) -> Iterator[Finding]:
    """Compare a user's progress with the uploads that were sent and analyzed."""
    counted = Counter(user for _, user, _ in snapshot.analyses)
    due = Counter(snapshot.known[row[0]].upload.user for row in snapshot.analyses if row[0] in snapshot.known)
    for user in {*counted, *due}:
        if counted[user] != due[user]:
            yield "twice", user, f"{counted[user]} analyses are counted for {due[user]} uploads"
        stored = {name for whose, name in snapshot.achievements if whose == user} & COUNTED.keys()
        earned = {name for name, number in COUNTED.items() if counted[user] >= number}
        if stored != earned:
            yield "twice", user, f"has {sorted(stored)} for {counted[user]} pictures"


def _wrong(snapshot: Snapshot) -> Iterator[Finding]:
    for sent in snapshot.sent:
        result, row = snapshot.result(sent), snapshot.rows.get(sent.id)
        if result:
            facts = result["picture"]
            is_, due = (facts["bytes"], facts["width"], facts["height"]), (sent.upload.size, *sent.size)
            if is_ != due:
                yield "wrong one", str(sent), f"its result is of a picture of {is_}, not {due}"
        if row and row.code == "gone" and not sent.overwritten:
            yield "wrong one", str(sent), "it is taken for deleted or replaced, and is neither"
        source = snapshot.sources.get(sent.upload.name)
        if source is not None and int(source.generation) < sent.upload.generation:
            yield "wrong one", str(sent), f"an older upload, {source.generation}, took its place"
        kept = f"{sent.id}/{sent.upload.name}"
        for bucket in (snapshot.quarantine, snapshot.archive):
            if kept in bucket and not _is(bucket[kept], sent):
                yield "wrong one", str(sent), f"{kept} holds other bytes"


def _not_healed(snapshot: Snapshot, archived: bool) -> Iterator[Finding]:
    for sent in snapshot.sent:
        row = snapshot.rows.get(sent.id)
        held = row is not None and row.code == moderation.NO_VERDICT
        if row is None or row.state != ("held" if held else "done"):
            yield "not healed", str(sent), f"it is {row.state if row else 'unknown'}"
            continue
        if row.receipts != [f"{row.code or 'analyzed'}, {_disposition(snapshot, sent, row, archived)}"]:
            yield "not healed", str(sent), f"its receipt says {row.receipts}"
        if snapshot.source(sent) and not held:
            yield "not healed", str(sent), "its source is still there"
        elif row.code not in (sent.code, sent.or_code) and not (sent.overwritten and row.code == "gone"):
            yield "not healed", str(sent), f"{row.code or 'analyzed'}, not {sent.code or 'analyzed'}"
        elif archived and not sent.overwritten and f"{sent.id}/{sent.upload.name}" not in snapshot.archive:
            yield "not healed", str(sent), "it is not in the archive"


def _disposition(snapshot: Snapshot, sent: Sent, row: Row, archived: bool) -> str:
    """Return the expected disposition of its source: replaced before it was quarantined, it is gone."""
    if row.code == moderation.NO_VERDICT:
        return ""
    if row.code:
        return "quarantined" if snapshot.quarantined(sent) else "gone"
    return "archived" if archived else "deleted"


def _event(row: Row) -> str:
    """Return the type of its event; empty if it has none yet."""
    if row.state in ("claimed", "held"):
        return row.state.removeprefix("claimed")
    return "rejected" if row.code else "analyzed"


def _unfit(snapshot: Snapshot) -> Iterator[Finding]:
    """Yield renditions of uploads that were rejected or are held."""
    published = {name.partition("/")[0] for name in snapshot.pictures}
    for sent in snapshot.sent:
        row = snapshot.rows.get(sent.id)
        if row and row.code and str(sent.id) in published:
            yield "not healed", str(sent), f"it is {row.code}, and something of it is published"


def _aliases(snapshot: Snapshot) -> Iterator[Finding]:
    """Check that the newest analyzed upload of each name has aliases, and nothing else has."""
    newest: dict[str, Sent] = {}
    for sent in sorted(snapshot.sent, key=lambda each: each.upload.generation):
        if snapshot.result(sent):
            newest[sent.upload.name] = sent
    due = {
        f"{name.removesuffix('.png')}_{each['label']}.webp": (sent, each["bytes"], each["md5"])
        for name, sent in newest.items()
        for each in (snapshot.result(sent) or {})["pictures"]
    }
    ids = {str(id) for id in snapshot.known}
    there = {name: blob for name, blob in snapshot.pictures.items() if name.partition("/")[0] not in ids}
    for name, (sent, *stored) in due.items():
        blob = there.get(name)
        if blob is None or [blob.size, blob.md5_hash] != stored:
            yield "wrong one" if blob else "lost", str(sent), f"its copy {name} is not there"
    for name in there.keys() - due.keys():
        yield "twice", name, "it is the copy of no picture that is recorded"


def _wrongly_shown(world: World, snapshot: Snapshot) -> Iterator[Finding]:
    """Check that renditions show their own upload if a name was used more than once."""
    names = Counter(sent.upload.name for sent in snapshot.sent)
    for sent in snapshot.sent:
        result = snapshot.result(sent)
        if names[sent.upload.name] < 2 or not result or snapshot.published(sent):
            continue
        blob = snapshot.pictures[result["pictures"][-1]["object"]]
        with Image.open(io.BytesIO(blob.download_as_bytes(client=world.client))) as picture:
            shown = picture.convert("RGB").getpixel((picture.width // 2, picture.height // 2))
        assert isinstance(shown, tuple)
        if any(abs(is_ - due) > NEAR for is_, due in zip(shown, sent.colour, strict=True)):
            yield "wrong one", str(sent), f"its picture shows {shown}, not {sent.colour}"


def _is(blob: Blob, sent: Sent) -> bool:
    return bool(blob.md5_hash == sent.md5)


def tally(found: Sequence[Violation]) -> dict[str, int]:
    """Return the number of uploads that violate each invariant."""
    return {name: len({each.upload for each in found if each.invariant == name}) for name in INVARIANTS}
