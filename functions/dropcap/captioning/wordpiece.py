"""The tokenizer of bert-base-uncased, which BLIP uses: text to token ids and back."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path


class WordPiece:
    """The tokenizer of bert-base-uncased. Ids outside `vocab.txt` ([DEC], [ENC]) are special: never shown."""

    def __init__(self, vocabulary: Path) -> None:
        self.words = vocabulary.read_text(encoding="utf-8").splitlines()
        self.ids = {word: i for i, word in enumerate(self.words)}
        self.special = {self.ids.get(word) for word in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")}

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without special tokens; "[SEP]" in the text is normal text."""
        # 100 is max_input_chars_per_word of the reference: a longer word is unknown.
        words = (word if len(word) <= 100 else "[UNK]" for word in _split(text))
        return [i for word in words for i in self._pieces(word)]

    def _pieces(self, word: str) -> list[int]:
        pieces: list[int] = []
        mark = ""
        while word:
            length = next((n for n in range(len(word), 0, -1) if mark + word[:n] in self.ids), 0)
            if not length:
                return [self.ids["[UNK]"]]
            pieces.append(self.ids[mark + word[:length]])
            word, mark = word[length:], "##"
        return pieces

    def word_end(self, ids: Sequence[int], length: int) -> int:
        """Return the largest number of ids, at most `length`, after which no piece of a word is missing."""
        while 0 < length < len(ids) and self._continues(ids[length]):
            length -= 1
        return length

    def _continues(self, token: int) -> bool:
        return 0 <= token < len(self.words) and self.words[token].startswith("##")

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids, with spaces cleaned up as by `clean_up_tokenization` of transformers."""
        shown = (self.words[i] for i in ids if 0 <= i < len(self.words) and i not in self.special)
        text = " ".join(shown).replace(" ##", "")
        for wide in (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're"):
            text = text.replace(wide, "'" if wide == " ' " else wide[1:])
        return text


def _split(text: str) -> list[str]:
    """Return lower-case words and single punctuation marks, without accents and control characters."""
    out = []
    for c in unicodedata.normalize("NFD", text):
        kind = unicodedata.category(c)
        if c in "\t\n\r" or kind == "Zs":
            out.append(" ")
        elif kind == "Mn" or kind[0] == "C" or c == "\ufffd":
            continue
        elif kind[0] == "P" or c in "$+<=>^`|~" or unicodedata.name(c, "").startswith("CJK UNIFIED"):
            out.append(f" {c} ")  # punctuation, other ASCII symbols and ideographs are words of their own
        else:
            out.append(c.lower())
    return "".join(out).split()
