# ruff: noqa: S608  the SQL is composed of this module's constants; users, words and keys are parameters
"""Search in captions, descriptions, alt texts, tags and texts of a user's pictures, tolerating typing errors.

    documents     the words of a picture, without accents; each tag as `#tag`, its user as `@user`. No word
                  begins so, and an index finds one user's pictures among all. Scripts without spaces
                  between words are indexed by letters and by pairs of adjacent letters
    vocabulary    each word and tag of a user, with the number of pictures; for words also the trigrams. The
                  row of the word '' records that the user's documents are indexed, and by which VERSION

Recording a picture does not index it. Pictures that are not `searchable` yet are indexed when their user
next searches, newest first, in bounded steps (`refresh`). A picture that is changed or deleted is removed
first (`remove`), with every word that no other picture has. Users without a row for '' of this VERSION are
reindexed, so neither a repair of the tables nor a new VERSION needs a migration.

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
USER_LOCKS = 0x53656172  # "Sear": the class of the advisory locks on users, other than that of rollup.py
BATCH = 1000  # pictures indexed in one transaction: 0.4 s, or 2 s if each has 150 letters without spaces
LONGEST_WORD = 64  # characters; a longer word is found only by exact match
MOST_WORDS = 10  # per search
ALTERNATIVES = 20  # words that one query word may match
# Least similarity of an alternative beside words with the prefix, and of a correction (pg_trgm's default).
SIMILAR, TYPO = 0.5, 0.3
CLOSE = 0.75  # difflib's ratio: one slip in a short word, which changes most of its trigrams
CANDIDATES = 200  # words that are compared by difflib
LONG = 9  # trigrams of a word in which any one slip leaves three in a row intact
NEWEST = 2000  # pictures that are scanned before the index is used: they contain a common word
MOST_SORTED = 40_000  # matches that are sorted by time: 25 ms

# Whether the user's documents are indexed by this VERSION, and how many pictures are not.
STATE = """
SELECT EXISTS (SELECT FROM vocabulary
               WHERE user_id = :user AND NOT tag AND word = '' AND pictures = :version),
       (SELECT count(*) FROM analyses WHERE user_id = :user AND NOT searchable)
"""
# Reindex a user after a new VERSION or a repair: RESET in steps, CLEAR, then MARK_INDEXED.
RESET = """
UPDATE analyses SET searchable = false
WHERE id IN (SELECT id FROM analyses WHERE user_id = :user AND searchable LIMIT :batch)
RETURNING 1
"""
CLEAR = "DELETE FROM vocabulary WHERE user_id = :user"
MARK_INDEXED = "INSERT INTO vocabulary (user_id, tag, word, pictures) VALUES (:user, false, '', :version)"
SPLIT = "starts_with(lexeme, '#') AS tag, substr(lexeme, 1 + CAST(starts_with(lexeme, '#') AS int)) AS word"
# Words with digits are left out: each receipt has its own.
COUNTED = f"""
(starts_with(lexeme, '#') OR lexeme !~ '^@|[0-9{UNSPACED}]' AND length(lexeme) <= {LONGEST_WORD})
"""
# Index the newest pictures that are not searchable, and add their words to the vocabulary.
INDEX = f"""
WITH few AS MATERIALIZED (
  SELECT id, analyzed_at, tags, {FOLDED} AS folded FROM (
    SELECT id, analyzed_at, tags,
           concat_ws(' ', coalesce(own_caption, caption), coalesce(own_alt_text, alt_text), description,
                     array_to_string(tags, ' '), picture_text) AS words
    FROM analyses WHERE user_id = :user AND NOT searchable
    ORDER BY analyzed_at DESC, id DESC LIMIT :batch FOR UPDATE SKIP LOCKED
  ) AS texts
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
# Remove a picture, and the words that no other picture has.
REMOVE = f"""
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
# Words that begin with :word or are similar. The index finds the few words that share adjacent trigrams; the
# number of shared trigrams is then counted for these.
SIMILAR_WORDS = """
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
  ) AS compared
) AS candidates
WHERE CASE WHEN any_begins THEN begins OR similarity >= :similar
      ELSE similarity >= :typo OR abs(length(word) - length(:word)) <= 1 END
ORDER BY word = :word DESC, CASE WHEN any_begins THEN pictures END DESC, similarity DESC, word LIMIT :most
"""
# Three plans for the newest matches. SCAN_NEWEST finds them among the user's latest pictures. SORT_MATCHES
# uses the index and sorts, which is fast for few matches. SCAN_ALL is fast for many: the newest come soon.
SCAN_NEWEST = """
SELECT id FROM (
  SELECT id, analyzed_at, document FROM documents WHERE user_id = :user {conditions}
  ORDER BY analyzed_at {order}, id {order} LIMIT :rows
) AS newest
WHERE document @@ CAST(:query AS tsquery) ORDER BY analyzed_at {order}, id {order} LIMIT :size
"""
SORT_MATCHES = """
WITH found AS MATERIALIZED (
  SELECT id, analyzed_at FROM documents
  WHERE user_id = :user AND document @@ CAST(:query AS tsquery) {conditions}
)
SELECT id, count(*) OVER () FROM (SELECT * FROM found LIMIT :most) AS some_or_all
ORDER BY analyzed_at {order}, id {order} LIMIT :size
"""
SCAN_ALL = """
SELECT id FROM documents WHERE user_id = :user AND document @@ CAST(:query AS tsquery) {conditions}
ORDER BY analyzed_at {order}, id {order} LIMIT :size
"""


@dataclass(frozen=True, slots=True)
class Query:
    """A tsquery, empty if nothing can match; `corrected` maps mistyped words to what is searched instead."""

    text: str
    corrected: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def refresh(database: Database, user: str, seconds: float) -> int:
    """Index pictures that are not searchable yet, for about `seconds`; return how many are left.

    Does not wait if another request of the user is indexing.
    """
    ends = time.monotonic() + seconds
    while True:
        left, more = database.transaction(lambda execute: index(execute, user))
        if not more or time.monotonic() > ends:
            return left


def index(execute: Executor, user: str) -> tuple[int, bool]:
    """Index at most BATCH pictures. Returns how many are left, and whether to call this again."""
    lock = {"class": USER_LOCKS}
    [[locked]] = execute("SELECT pg_try_advisory_xact_lock(:class, hashtext(:user))", **lock, user=user)
    [[indexed, left]] = execute(STATE, user=user, version=VERSION)
    if not locked or (indexed and not left):
        return left, False
    if not indexed:
        reset = len(execute(RESET, user=user, batch=BATCH))
        left += reset
        if not left or reset == BATCH:
            return left, bool(left)
        execute(CLEAR, user=user)
        execute(MARK_INDEXED, user=user, version=VERSION)
    execute(INDEX, user=user, batch=BATCH, salt=_salt(user), at_user=f"@{user}")
    return max(0, left - BATCH), left > BATCH


def remove(execute: Executor, user: str, id: uuid.UUID) -> None:
    """Remove a picture from the index, in the transaction that then changes or deletes its row."""
    execute("SELECT pg_advisory_xact_lock(:class, hashtext(:user))", **{"class": USER_LOCKS}, user=user)
    execute(REMOVE, user=user, id=id)


def tags(execute: Executor, user: str, most: int) -> list[tuple[str, int]]:
    """Return the user's tags and their numbers of indexed pictures, the most frequent first."""
    rows = execute(
        "SELECT word, pictures FROM vocabulary WHERE user_id = :user AND tag "
        "ORDER BY pictures DESC, word LIMIT :most",
        user=user,
        most=most,
    )
    return [(word, pictures) for word, pictures in rows]


def query(execute: Executor, user: str, words: str, tag: str) -> Query:
    """Return the query for the user's pictures that have all the words and the tag, if given."""
    parts, corrected = [_quoted(f"@{user}")], {}
    if words:
        parsed = execute(PARSE, words=words)[:MOST_WORDS]
        if not parsed:
            return Query("")
        for unspaced, word in parsed:
            if unspaced:
                pairs = [word[at : at + 2] for at in range(len(word) - 1)] or [word]
                parts.append(" <-> ".join(map(_quoted, pairs)))
                continue
            matches, begins = _similar_words(execute, user, word)
            if matches and not begins:
                corrected[word] = matches
            parts.append(" | ".join(map(_quoted, dict.fromkeys((word, *matches)))))
    if tag:
        parts.append(_quoted(f"#{tag}"))
    return Query(" & ".join(f"({part})" for part in parts), corrected)


def _similar_words(execute: Executor, user: str, word: str) -> tuple[tuple[str, ...], bool]:
    """Return the user's words that match a query word, and whether any of them begins with it."""
    if len(word) > LONGEST_WORD or re.search("[0-9]", word):
        return (), True
    padded = f"  {word} "
    grams = list(dict.fromkeys(padded[start : start + 3] for start in range(len(word) + 1)))
    length = 1 if len(word) == 1 else 2 if len(grams) < LONG else 3
    salt = _salt(user)
    runs = [[salt + gram for gram in grams[at : at + length]] for at in range(len(grams) - length + 1)]
    if len(word) == 1:
        runs = runs[:1]
    sql = SIMILAR_WORDS.format(
        same=" + ".join(f"CAST(strpos(padded, :gram{n}) > 0 AS int)" for n in range(len(grams))),
        runs=" OR ".join(f"grams @> CAST(:run{n} AS text[])" for n in range(len(runs))),
    )
    rows = execute(
        sql,
        user=user,
        word=word,
        count=len(grams),
        similar=SIMILAR,
        typo=TYPO,
        most=CANDIDATES,
        **{f"gram{n}": gram for n, gram in enumerate(grams)},
        **{f"run{n}": grams_run for n, grams_run in enumerate(runs)},
    )
    names = [row[0] for row in rows]
    if not rows or rows[0][1]:
        return tuple(names[:ALTERNATIVES]), bool(rows)
    best = max(row[2] for row in rows)
    alike = [name for name, _, similarity in rows if similarity >= max(TYPO, best - 0.1)]
    slips = difflib.get_close_matches(word, names, n=5, cutoff=CLOSE)
    return tuple(dict.fromkeys((*slips, *alike)))[:ALTERNATIVES], False


def newest(
    execute: Executor,
    user: str,
    query: str,
    size: int,
    conditions: str,
    values: Mapping[str, Any],
    order: str = "DESC",
) -> list[uuid.UUID]:
    """Return the ids of the user's newest pictures that match the tsquery and the SQL `conditions`.

    With the order ASC, of the oldest.
    """
    parts = {"conditions": conditions, "order": order}
    parameters = dict(user=user, query=query, size=size, **values)
    rows = execute(SCAN_NEWEST.format(**parts), rows=NEWEST, **parameters)
    if len(rows) < size:
        rows = execute(SORT_MATCHES.format(**parts), most=MOST_SORTED + 1, **parameters)
        if rows and rows[0][1] > MOST_SORTED:
            rows = execute(SCAN_ALL.format(**parts), **parameters)
    return [row[0] for row in rows]


def _salt(user: str) -> str:
    """Return a prefix for the user's trigrams, so that the shared index rarely finds other users' words."""
    return hashlib.md5(user.encode(), usedforsecurity=False).hexdigest()[:6]


def _quoted(lexeme: str) -> str:
    """Return the lexeme quoted for a tsquery."""
    doubled = lexeme.replace("\\", "\\\\").replace("'", "''")
    return f"'{doubled}'"
