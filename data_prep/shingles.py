"""Near-duplicates of held-out sentences, found by shared shingles: three words, or about as much text without spaces.

A sentence is near a held-out one if the two have the same :func:`key`, or if their sets of shingles have a Jaccard
similarity of at least 0.5, or if three quarters of the smaller set lie in the larger one (unless the smaller one is a
mere phrase). How long a shingle is depends on the held-out sentence alone: see :func:`shape`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

from data_prep.writing_systems import SCRIPT_CLASSES, UNSPACED_CLASS

JACCARD = 0.5
CONTAINMENT = 0.75
# Tokens in a shingle, and fewest shingles of a fragment that counts: three words and six words, or about as much in
# characters of Chinese and Japanese, or of Thai, Lao, Khmer and Burmese. A shorter phrase is in many sentences.
_WORDS, _HAN_CHARACTERS, _ALPHABETIC_CHARACTERS = (3, 4), (5, 8), (10, 15)

# \w knows no vowel signs of the Indic scripts, which belong to their word; U+0964 and U+0965 are full stops.
_TOKEN = re.compile("[\\w\u0900-\u0963\u0966-\u0dff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]+")
_UNSPACED = re.compile(f"[{UNSPACED_CLASS}]")
_ONLY_UNSPACED = re.compile(f"[{UNSPACED_CLASS} ]+")
_HAN = re.compile(f"[{SCRIPT_CLASSES['Kana+Han']}]")
# Letters that stand for apostrophes too: the others part words.
_MARKS = re.compile("[\u02b9-\u02bf\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0670\u200c\u200d\u0640]")
# Letters that are written for one another: the dotless i, and Arabic ya and kaf in Persian and Urdu.
_SAME_LETTERS = str.maketrans({"\u0131": "i", "\u064a": "\u06cc", "\u0643": "\u06a9"})
_PRODUCT = re.compile(r"google chrome|chromium|chrome|google")
_DIGITS = re.compile(r"\d+")


def tokens(text: str) -> list[str]:
    """Words (of unspaced scripts: characters) without case, accents, punctuation, product names and numbers' values."""
    text = text.casefold()
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).casefold()
        text = _MARKS.sub("", unicodedata.normalize("NFKC", _MARKS.sub("", unicodedata.normalize("NFD", text))))
        text = _UNSPACED.sub(r" \g<0> ", text.translate(_SAME_LETTERS))
    return _TOKEN.findall(_DIGITS.sub("0", _PRODUCT.sub("product", text.replace("_", " "))))


def key(words: list[str]) -> str:
    """What two sentences share that differ in case, punctuation, spacing, numbers or product name only."""
    return "".join(words)


def shape(words: list[str]) -> tuple[int, int]:
    """Tokens in a shingle of such a sentence, and fewest shingles of a fragment that counts.

    What most of its tokens are decides: a Chinese character in an English sentence does not make it Chinese.
    """
    characters = [word for word in words if len(word) == 1 and _UNSPACED.match(word)]
    if not characters or 2 * len(characters) < len(words):
        return _WORDS
    han = sum(1 for character in characters if _HAN.match(character))
    return _HAN_CHARACTERS if 2 * han >= len(characters) else _ALPHABETIC_CHARACTERS


def shingles(words: list[str], length: int) -> set[str]:
    """The set of runs of ``length`` tokens; of a shorter sentence, none.

    As long as three words, a run of characters alone says too little and is left out: three Chinese characters are two
    words of many sentences.
    """
    grams = {" ".join(words[i : i + length]) for i in range(len(words) - length + 1)}
    if length == _WORDS[0] and any(map(_UNSPACED.search, words)):
        return {gram for gram in grams if not _ONLY_UNSPACED.fullmatch(gram)}
    return grams


class HeldOut:
    """The sentences that must not be in the training text, in all languages together.

    Args:
        sentences: what is held out.
        near: match near-duplicates; otherwise only sentences that differ in case and spacing at most.
    """

    def __init__(self, sentences: Iterable[str] = (), *, near: bool = True) -> None:
        self.near = near
        self._keys: set[str] = set()
        self._sizes: list[tuple[int, int]] = []
        # Lengths of shingles: of all, and of those that are words only.
        self._lengths: set[int] = set()
        self._lengths_of_words: set[int] = set()
        # Shingles of all lengths together: no two lengths share one. Most are in one sentence: a number for each costs
        # a third of a list for each.
        self._holder: dict[str, int] = {}
        self._more_holders: dict[str, list[int]] = {}
        for sentence in sentences:
            self.add(sentence)

    def add(self, sentence: str) -> None:
        """Hold out ``sentence``, and its near-duplicates."""
        words = tokens(sentence) if self.near else sentence.casefold().split()
        name = key(words) if self.near else " ".join(words)
        if not name or name in self._keys:
            return
        self._keys.add(name)
        if self.near:
            length, least = shape(words)
            grams = shingles(words, length)
            number = len(self._sizes)
            for gram in grams:
                if self._holder.setdefault(gram, number) != number:
                    self._more_holders.setdefault(gram, []).append(number)
            self._sizes.append((len(grams), least))
            self._lengths.add(length)
            if not all(map(_UNSPACED.search, grams)):
                self._lengths_of_words.add(length)

    def match(self, sentence: str) -> str | None:
        """``"exact"`` or ``"near"`` if ``sentence`` is held out, else None.

        It is cut into shingles of every length that a held-out sentence has, and compared with each at that one's own
        length: whatever else stands in it, it cannot hide what it shares.
        """
        words = tokens(sentence) if self.near else sentence.casefold().split()
        name = key(words) if self.near else " ".join(words)
        if name in self._keys:
            return "exact"
        # Most sentences are words only, and most held-out ones of other lengths have no shingle of words only.
        lengths = self._lengths if _UNSPACED.search(name) else self._lengths_of_words
        return "near" if any(self._is_near(words, length) for length in lengths) else None

    def _is_near(self, words: list[str], length: int) -> bool:
        """Whether the sentence is near a held-out one with shingles of this length."""
        grams = shingles(words, length)
        if self._holder.keys().isdisjoint(grams):  # as of most sentences: the rest costs more than this
            return False
        shared: Counter[int] = Counter()
        for gram in grams:
            if gram in self._holder:
                shared[self._holder[gram]] += 1
                shared.update(self._more_holders.get(gram, ()))
        for index, common in shared.items():
            size, least = self._sizes[index]
            if common >= JACCARD * (len(grams) + size - common):
                return True
            smaller = min(len(grams), size)
            if smaller >= least and common >= CONTAINMENT * smaller:
                return True
        return False
