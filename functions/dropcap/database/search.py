# ruff: noqa: S608  what is put into the SQL is this file's own; users, words and keys are parameters
"""Search captions, descriptions, alt texts, tags and texts of a user's pictures, tolerating typing errors.

    documents     the words of a picture, without accents; each tag as `#tag`, its user as `@user`. No word
                  begins so, and an index finds one user's pictures among all. Scripts without spaces
                  between words are indexed by each letter and each pair of adjacent letters
    vocabulary    each word and tag of a user, with the number of pictures; for words also the trigrams. The
                  row of the word '' records that the user's documents are counted, and by which VERSION

Recording a picture does not index it. Pictures that are not `searchable` yet get their document when their
user next searches, newest first, in bounded steps (`refresh`). A picture that is changed or deleted is
removed first (`forget`), with every word that no other picture has. Users without a row for '' of this
version are indexed again, so neither a repair of the tables nor a new VERSION needs a migration.

A query word matches the user's words that begin with it or are similar. Similarity is measured as in pg_trgm,
by shared trigrams; no extension is needed. Letters of a script without spaces must be adjacent and in order.
"""

import difflib
import hashlib
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dropcap.database.search_tokens import FOLDED, LETTERS, LEXEMES, PARSE, UNSPACED
from dropcap.database.transactions import Database, Executor

VERSION = 2  # of the rules that split texts into words
USERS = 0x53656172  # "Sear": the class of the advisory locks on users, beside that of rollup.py
BATCH = 1000  # pictures indexed in one transaction: 0.4 s, or 2 s if each has 150 letters without spaces
LONGEST_WORD = 64  # characters; a longer one is found as it is, but by no typo
MOST_WORDS = 10  # of a search
ALTERNATIVES = 20  # words that are looked for instead of one
NEAR, NEAREST = 0.5, 0.3  # similarity of what is looked for too, and of what is taken for a typo (pg_trgm's)
CLOSE = 0.75  # of difflib: one slip in a short word, which spoils most of its trigrams
CANDIDATES = 200  # words that are looked at for such a slip
LONG = 9  # trigrams of a word of which any one slip leaves three in a row
NEWEST = 2000  # pictures that are looked through before the index is asked: a common word is found there
MOST_FOUND = 40_000  # pictures that are sorted by their instants: 25 ms

STATE = """
SELECT EXISTS (SELECT FROM vocabulary
               WHERE user_id = :user AND NOT tag AND word = '' AND pictures = :version),
       (SELECT count(*) FROM analyses WHERE user_id = :user AND NOT searchable)
"""
RESET = """
UPDATE analyses SET searchable = false
WHERE id IN (SELECT id FROM analyses WHERE user_id = :user AND searchable LIMIT :batch)
RETURNING 1
"""
CLEAR = "DELETE FROM vocabulary WHERE user_id = :user"
MARK = "INSERT INTO vocabulary (user_id, tag, word, pictures) VALUES (:user, false, '', :version)"
SPLIT = "starts_with(lexeme, '#') AS tag, substr(lexeme, 1 + CAST(starts_with(lexeme, '#') AS int)) AS word"
# Words with digits are left out: each receipt has its own.
COUNTED = f"""
(starts_with(lexeme, '#') OR lexeme !~ '^@|[0-9{UNSPACED}]' AND length(lexeme) <= {LONGEST_WORD})
"""
INDEX = f"""
WITH few AS MATERIALIZED (
  SELECT id, analyzed_at, tags, {FOLDED} AS folded FROM (
    SELECT id, analyzed_at, tags,
           concat_ws(' ', coalesce(own_caption, caption), coalesce(own_alt_text, alt_text), description,
                     array_to_string(tags, ' '), picture_text) AS words
    FROM analyses WHERE user_id = :user AND NOT searchable
    ORDER BY analyzed_at DESC, id DESC LIMIT :batch FOR UPDATE SKIP LOCKED
  ) AS said
),
marked AS (UPDATE analyses SET searchable = true FROM few WHERE few.id = analyses.id),
indexed AS (
  INSERT INTO documents (id, user_id, analyzed_at, document)
  SELECT id, :user, analyzed_at, strip({LEXEMES}) || array_to_tsvector(
    array_append(ARRAY(SELECT '#' || left(tag, 100) FROM unnest(tags) AS tag WHERE tag <> ''), :at_user)
  ) || ({LETTERS})
  FROM few ON CONFLICT (id) DO UPDATE SET document = excluded.document RETURNING document
),
counted AS (
  SELECT {SPLIT}, count(*) AS pictures
  FROM indexed, unnest(tsvector_to_array(document)) AS lexeme WHERE {COUNTED} GROUP BY lexeme
),
known AS (
  UPDATE vocabulary SET pictures = vocabulary.pictures + counted.pictures FROM counted
  WHERE user_id = :user AND vocabulary.tag = counted.tag AND vocabulary.word = counted.word
  RETURNING vocabulary.tag, vocabulary.word
)
INSERT INTO vocabulary (user_id, tag, word, pictures, grams)
SELECT :user, tag, word, pictures, CASE WHEN tag THEN '{{}}' ELSE ARRAY(
  SELECT DISTINCT :salt || substr('  ' || word || ' ', place, 3)
  FROM generate_series(1, length(word) + 1) AS place
) END
FROM counted WHERE (tag, word) NOT IN (SELECT tag, word FROM known)
"""
FORGET = f"""
WITH unmarked AS (
  UPDATE analyses SET searchable = false
  WHERE user_id = :user AND id = CAST(:id AS uuid) AND searchable RETURNING id
),
old AS (DELETE FROM documents WHERE user_id = :user AND id = CAST(:id AS uuid) RETURNING id, document),
gone AS (
  SELECT {SPLIT} FROM old JOIN unmarked USING (id), unnest(tsvector_to_array(document)) AS lexeme
),
last AS (
  DELETE FROM vocabulary USING gone
  WHERE user_id = :user AND vocabulary.tag = gone.tag AND vocabulary.word = gone.word AND pictures <= 1
)
UPDATE vocabulary SET pictures = pictures - 1 FROM gone
WHERE user_id = :user AND vocabulary.tag = gone.tag AND vocabulary.word = gone.word AND pictures > 1
"""
# Few words share a run of trigrams, and the index finds those. Each of a word's trigrams is then looked for.
ALIKE = """
SELECT word, any_begins, similarity FROM (
  SELECT *, bool_or(begins) OVER () AS any_begins FROM (
    SELECT word, pictures, starts_with(word, :word) AS begins,
           same::float8 / (own + :count - same) AS similarity
    FROM (
      SELECT word, pictures, cardinality(grams) AS own, {same} AS same
      FROM vocabulary, LATERAL (SELECT '  ' || word || ' ') AS framed (padded)
      WHERE user_id = :user AND NOT tag AND ({runs})
      OFFSET 0
    ) AS counted
  ) AS told
) AS candidates
WHERE CASE WHEN any_begins THEN begins OR similarity >= :near
      ELSE similarity >= :nearest OR abs(length(word) - length(:word)) <= 1 END
ORDER BY word = :word DESC, CASE WHEN any_begins THEN pictures END DESC, similarity DESC, word LIMIT :most
"""
# Three ways to the newest: the first where they are among the latest of all; the second where they are few,
# as it sorts them, and gives up where they are not; the third then, as of so many the newest come soon.
WALK = """
SELECT id FROM (
  SELECT id, analyzed_at, document FROM documents WHERE user_id = :user {conditions}
  ORDER BY analyzed_at DESC, id DESC LIMIT :rows
) AS newest
WHERE document @@ CAST(:query AS tsquery) ORDER BY analyzed_at DESC, id DESC LIMIT :size
"""
ASK = """
WITH found AS MATERIALIZED (
  SELECT id, analyzed_at FROM documents
  WHERE user_id = :user AND document @@ CAST(:query AS tsquery) {conditions}
)
SELECT id, count(*) OVER () FROM (SELECT * FROM found LIMIT :most) AS some_or_all
ORDER BY analyzed_at DESC, id DESC LIMIT :size
"""
THROUGH = """
SELECT id FROM documents WHERE user_id = :user AND document @@ CAST(:query AS tsquery) {conditions}
ORDER BY analyzed_at DESC, id DESC LIMIT :size
"""


@dataclass(frozen=True, slots=True)
class Query:
    """`text` is a tsquery, empty where nothing can be found; `corrected` says which words stand for one."""

    text: str
    corrected: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def refresh(database: Database, user: str, seconds: float) -> int:
    """Index what is not searchable yet, for about so many seconds; how many pictures are left.

    Where another request of the user's does it already, this one does not wait.
    """
    ends = time.monotonic() + seconds
    while True:
        left, more = database.transaction(lambda run: index(run, user))
        if not more or time.monotonic() > ends:
            return left


def index(run: Executor, user: str) -> tuple[int, bool]:
    """Index BATCH pictures at most; how many are left, and whether the next step is ours to do."""
    lock = {"class": USERS}
    [[ours]] = run("SELECT pg_try_advisory_xact_lock(:class, hashtext(:user))", **lock, user=user)
    [[known, left]] = run(STATE, user=user, version=VERSION)
    if not ours or (known and not left):
        return left, False
    if not known:
        reset = len(run(RESET, user=user, batch=BATCH))
        left += reset
        if not left or reset == BATCH:
            return left, bool(left)
        run(CLEAR, user=user)
        run(MARK, user=user, version=VERSION)
    run(INDEX, user=user, batch=BATCH, salt=_salt(user), at_user=f"@{user}")
    return max(0, left - BATCH), left > BATCH


def forget(run: Executor, user: str, id: uuid.UUID) -> None:
    """Take a picture out of the search, in the transaction that then changes or deletes its row."""
    run("SELECT pg_advisory_xact_lock(:class, hashtext(:user))", **{"class": USERS}, user=user)
    run(FORGET, user=user, id=id)


def tags(run: Executor, user: str, most: int) -> list[tuple[str, int]]:
    """The user's tags and how many indexed pictures have them, the most frequent first."""
    rows = run(
        "SELECT word, pictures FROM vocabulary WHERE user_id = :user AND tag "
        "ORDER BY pictures DESC, word LIMIT :most",
        user=user,
        most=most,
    )
    return [(word, pictures) for word, pictures in rows]


def query(run: Executor, user: str, words: str, tag: str) -> Query:
    """What finds the user's pictures that have all the words and the tag, where these are given."""
    parts, corrected = [_quoted(f"@{user}")], {}
    if words:
        parsed = run(PARSE, words=words)[:MOST_WORDS]
        if not parsed:
            return Query("")
        for unspaced, word in parsed:
            if unspaced:
                pairs = [word[at : at + 2] for at in range(len(word) - 1)] or [word]
                parts.append(" <-> ".join(map(_quoted, pairs)))
                continue
            alike, begins = _alike(run, user, word)
            if alike and not begins:
                corrected[word] = alike
            parts.append(" | ".join(map(_quoted, dict.fromkeys((word, *alike)))))
    if tag:
        parts.append(_quoted(f"#{tag}"))
    return Query(" & ".join(f"({part})" for part in parts), corrected)


def _alike(run: Executor, user: str, word: str) -> tuple[tuple[str, ...], bool]:
    """The user's words that are looked for, and whether any of them begins with the word."""
    if len(word) > LONGEST_WORD or re.search("[0-9]", word):
        return (), True
    padded = f"  {word} "
    grams = list(dict.fromkeys(padded[place : place + 3] for place in range(len(word) + 1)))
    length = 1 if len(word) == 1 else 2 if len(grams) < LONG else 3
    salt = _salt(user)
    runs = [[salt + gram for gram in grams[at : at + length]] for at in range(len(grams) - length + 1)]
    if len(word) == 1:
        runs = runs[:1]
    sql = ALIKE.format(
        same=" + ".join(f"CAST(strpos(padded, :gram{n}) > 0 AS int)" for n in range(len(grams))),
        runs=" OR ".join(f"grams @> CAST(:run{n} AS text[])" for n in range(len(runs))),
    )
    rows = run(
        sql,
        user=user,
        word=word,
        count=len(grams),
        near=NEAR,
        nearest=NEAREST,
        most=CANDIDATES,
        **{f"gram{n}": gram for n, gram in enumerate(grams)},
        **{f"run{n}": each for n, each in enumerate(runs)},
    )
    names = [row[0] for row in rows]
    if not rows or rows[0][1]:
        return tuple(names[:ALTERNATIVES]), bool(rows)
    best = max(row[2] for row in rows)
    alike = [name for name, _, similarity in rows if similarity >= max(NEAREST, best - 0.1)]
    slips = difflib.get_close_matches(word, names, n=5, cutoff=CLOSE)
    return tuple(dict.fromkeys((*slips, *alike)))[:ALTERNATIVES], False


def newest(
    run: Executor, user: str, query: str, size: int, conditions: str, values: Mapping[str, Any]
) -> list[uuid.UUID]:
    """The ids of the newest of the user's pictures that the tsquery finds, and the `conditions` allow."""
    given = dict(user=user, query=query, size=size, **values)
    rows = run(WALK.format(conditions=conditions), rows=NEWEST, **given)
    if len(rows) < size:
        rows = run(ASK.format(conditions=conditions), most=MOST_FOUND + 1, **given)
        if rows and rows[0][1] > MOST_FOUND:
            rows = run(THROUGH.format(conditions=conditions), **given)
    return [row[0] for row in rows]


def _salt(user: str) -> str:
    """Keeps the trigrams of users apart, as far as an index on all of them goes."""
    return hashlib.md5(user.encode(), usedforsecurity=False).hexdigest()[:6]


def _quoted(lexeme: str) -> str:
    """As a tsquery has it, whatever characters there are."""
    doubled = lexeme.replace("\\", "\\\\").replace("'", "''")
    return f"'{doubled}'"
