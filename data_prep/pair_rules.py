"""Which pairs are kept: the first rule that a pair breaks is the reason it is dropped for.

The rules were chosen on software catalogs, where the text is translated by people and the faults are placeholders, half
translated messages and wrong encodings. Users' own text (``catalog=False``) only must not be empty or too long.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from data_prep.writing_systems import UNSPACED_CLASS, count_letters

_PLACEHOLDER = re.compile(
    r"%[-+#0]*(?:\d+\$)?[-+#0]*\d*(?:\.[\d*]+)?(?:hh|h|ll|l|q|L|j|z|t)?[A-Za-z@]"  # %s %1$d %-5.2f %PRODUCTNAME
    r"|%\d+|%\([^)]*\)|%%|%\{|%\[|\$\{|\$\(|\$\[|\$\d|\$[A-Za-z_]{2,}"  # %1 %(x)s %{x} ${x} $(ARG1) $1 $name
    r"|\{\{?[^{}]*\}?\}|\[\[|\]\]|[{}]|@[A-Z_]+@|#[A-Z_]{2,}#?|__\w+__|\[\w+\]"
)
_CODE = re.compile(
    r"[<>|\\^~`]|https?:|ftp:|file:|www\.|\w@\w+\.\w|''|\"\"|==|--\w|~~|::|->|\+\+\w|/\w+/\w|\w/\w+/|"
    r"\.(?:com|org|net|html?|php|conf|cfg|xml|ini|py|txt)\b|\b\w+\(\)|[A-Za-z]_[A-Za-z]|"
    r"\b[a-z]+[A-Z][a-z]+[A-Z]\w*|&\w+;"
)
_WORD = re.compile(r"\w+")
_ALPHABETIC = re.compile(r"[^\W\d_]+")
_UNSPACED = re.compile(f"[{UNSPACED_CLASS}]")
_DIGIT = re.compile(r"\d")

# Of catalogs, whose source is English.
SOURCE_SCRIPT = "Latin"
MIN_SOURCE_WORDS = 2
MAX_WORDS, MAX_CHARACTERS = 100, 800
# Of text that a user brings: what a model's 1,024 positions still hold.
MAX_OWN_WORDS, MAX_OWN_CHARACTERS = 250, 2_000
MAX_COPIED_SHARE = 0.65


@dataclass(frozen=True)
class Rules:
    """The rules for one language.

    Args:
        script: writing system of the target, a key of ``SCRIPT_CLASSES``; empty if not known.
        catalog: apply the rules for software catalogs too.
        keep_placeholders: keep a pair whose placeholders are the same on both sides, instead of dropping all.
    """

    script: str
    catalog: bool = True
    keep_placeholders: bool = False

    def fault(self, source: str, target: str) -> str | None:
        """The name of the first rule that the pair breaks; None for a good pair."""
        if not source or not target:
            return "empty"
        words, characters = (MAX_WORDS, MAX_CHARACTERS) if self.catalog else (MAX_OWN_WORDS, MAX_OWN_CHARACTERS)
        if max(len(source), len(target)) > characters or max(source.count(" "), target.count(" ")) >= words:
            return "too_long"
        for name, broken in _CATALOG_RULES if self.catalog else []:
            if broken(self, source, target):
                return name
        return None


def _is_short(rules: Rules, source: str, target: str) -> bool:
    return len(_WORD.findall(_UNSPACED.sub(" x ", source))) < MIN_SOURCE_WORDS


def _has_code(text: str) -> bool:
    return _CODE.search(text) is not None


def _lacks_letters(text: str) -> bool:
    return 2 * count_letters(text) < len(text) - text.count(" ")


def _mostly_other(text: str, script: str) -> bool:
    return bool(script) and 2 * count_letters(text, script) < count_letters(text)


# The same source text comes again with every language: what is found out about it is kept.
_remember = lru_cache(maxsize=1 << 18)
_source_placeholders = _remember(_PLACEHOLDER.findall)
_source_has_code = _remember(_has_code)
_source_lacks_letters = _remember(_lacks_letters)
_source_mostly_other = _remember(_mostly_other)


def _has_placeholder(rules: Rules, source: str, target: str) -> bool:
    in_source, in_target = _source_placeholders(source), _PLACEHOLDER.findall(target)
    if not rules.keep_placeholders:
        return bool(in_source or in_target)
    return sorted(in_source) != sorted(in_target)


def _is_code(rules: Rules, source: str, target: str) -> bool:
    return _source_has_code(source) or _has_code(target)


def _is_copied(rules: Rules, source: str, target: str) -> bool:
    return source.casefold() == target.casefold()


def _has_few_letters(rules: Rules, source: str, target: str) -> bool:
    return _source_lacks_letters(source) or _lacks_letters(target)


def _is_in_wrong_script(rules: Rules, source: str, target: str) -> bool:
    return _source_mostly_other(source, SOURCE_SCRIPT) or _mostly_other(target, rules.script)


def _is_half_translated(rules: Rules, source: str, target: str) -> bool:
    if rules.script != SOURCE_SCRIPT:
        return False
    words = set(_ALPHABETIC.findall(source.casefold()))
    shared = sum(1 for word in set(_ALPHABETIC.findall(target.casefold())) if word in words)
    return shared > MAX_COPIED_SHARE * len(words) and len(words) > 1


def _digits(text: str) -> list[int]:
    return sorted(unicodedata.digit(c, 0) for c in _DIGIT.findall(text))


def _digits_differ(rules: Rules, source: str, target: str) -> bool:
    return bool(_DIGIT.search(source) or _DIGIT.search(target)) and _digits(source) != _digits(target)


_Rule = tuple[str, Callable[[Rules, str, str], bool]]
_CATALOG_RULES: list[_Rule] = [
    ("one_word", _is_short),
    ("placeholder", _has_placeholder),
    ("code_or_markup", _is_code),
    ("identical", _is_copied),
    ("few_letters", _has_few_letters),
    ("wrong_script", _is_in_wrong_script),
    ("half_translated", _is_half_translated),
    ("digits_differ", _digits_differ),
]
