# ruff: noqa: S608  the SQL is composed of this module's constants; the words are parameters
"""SQL that splits a text into words, and text in scripts without spaces into letters.

Increase `search.VERSION` with each change.
"""

import re
import unicodedata

# Letters of scripts without spaces between words, from Unicode 16.0: Han, Hiragana, Katakana, Bopomofo and Yi
# (unicode.org/Public/16.0.0/ucd/Scripts.txt), those of line breaking class SA (LineBreak.txt: Thai, Lao,
# Myanmar, Khmer, Tai), and Tibetan, which puts marks between syllables.
UNSPACED = (
    r"\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3038-\u303b\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    r"\U00020000-\U000323af\u3041-\u3096\u3099-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
    r"\U0001aff0-\U0001b16f\u02ea\u02eb\u3105-\u312f\u31a0-\u31bf\ua000-\ua4cf"
    r"\u0e01-\u0e3a\u0e40-\u0e4e\u0e50-\u0e59\u0e81-\u0edf\u1000-\u1049\u1050-\u109f\ua9e0-\ua9fe\uaa60-\uaa7f"
    r"\u1780-\u17d3\u17dc-\u17e9\u1950-\u1974\u1980-\u19df\u1a20-\u1a99\uaa80-\uaadf\u0f20-\u0f33\u0f40-\u0fbc"
)
MOST_LETTERS = 10_000  # letters indexed per text: a tsvector holds 1 MB and positions up to 16,383

# Removes accents and punctuation. In ASCII punctuation the parser would see paths, hosts and tags; other
# punctuation counts as letters if the database's locale is C.
FOLDED = r"""
regexp_replace(
  CASE WHEN octet_length(words) = length(words) THEN words
       ELSE normalize(regexp_replace(normalize(words, NFKD), '[\u0300-\u036f]+', '', 'g'), NFC) END,
  '[!-/:-@[-`{-~\u00a0-\u00bf\u2000-\u206f'
  '\u3000-\u3004\u3008-\u3020\u302a-\u3030\u3036\u3037\u303c-\u303f\u30fb]+', ' ', 'g'
)
"""
LEXEMES = f"to_tsvector('simple', regexp_replace(folded, '[{UNSPACED}]+', ' ', 'g'))"
# The words of a query; true: text in a script without spaces.
PARSE = f"""
WITH given AS MATERIALIZED (
  SELECT {FOLDED} AS folded FROM (SELECT CAST(:words AS text)) AS given (words)
)
SELECT false, unnest(tsvector_to_array({LEXEMES})) FROM given
UNION ALL SELECT true, found[1] FROM given, regexp_matches(folded, '[{UNSPACED}]+', 'g') AS found
"""
# Letters and pairs of letters with their positions, in the text format of tsvector, in which none is special.
LETTERS = f"""
SELECT CAST(coalesce(string_agg(
         substr(run, at, 1) || CASE WHEN at < length(run) THEN ' ' || substr(run, at, 2) || ':' || before + at
                               ELSE '' END, ' '
       ), '') AS tsvector)
FROM (
  SELECT found[1] AS run, sum(length(found[1]) + 1) OVER (ORDER BY number) - length(found[1]) AS before
  FROM regexp_matches(left(folded, {MOST_LETTERS}), '[{UNSPACED}]+', 'g')
       WITH ORDINALITY AS runs (found, number)
) AS runs, generate_series(1, length(run)) AS at
"""


def count(words: str) -> int:
    """Return the number of words in a search; combining marks, as in Thai, belong to their word."""
    return len(re.findall(r"\w+", "".join(c for c in words if not unicodedata.category(c).startswith("M"))))
