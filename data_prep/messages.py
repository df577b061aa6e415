"""From a raw message (with accelerators, tags, entities, hard line breaks, paragraphs) to plain pairs of segments."""

from __future__ import annotations

import html
import re
from functools import lru_cache

from data_prep.accelerators import strip_accelerators
from data_prep.normalise import normalise
from data_prep.writing_systems import UNSPACED_CLASS

_PARAGRAPH_BREAK = re.compile(r"(?:\r?\n[ \t]*){2,}")
_LINE_BREAK = re.compile(r"[ \t]*\r?\n[ \t]*")
_UNSPACED = UNSPACED_CLASS + "\u3000-\u303f\uff00-\uffef"
_UNSPACED_BREAK = re.compile(rf"(?<=[{_UNSPACED}])[ \t]*\r?\n[ \t]*(?=[{_UNSPACED}])")
_BREAK_TAG = re.compile(r"<\s*/?\s*(?:br|p|li|ul|ol|div|para|nl|tr|h[1-6])(?:\s[^<>]*)?/?\s*>", re.IGNORECASE)
_INLINE_TAG = re.compile(
    r"</?(?:a|abbr|acronym|address|application|b|big|bdi|cite|code|command|dfn|del|em|emphasis|filename|font|gui|"
    r"guimenu|guimenuitem|guilabel|html|i|icode|image|ins|interface|kbd|key|keyseq|label|link|ln|menuchoice|nobr|"
    r"note|placeholder|ph|qt|resource|s|samp|shortcut|small|span|strike|strong|sub|sup|tt|u|var|warning|"
    r"xref)(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)
_MARKDOWN_LINK = re.compile(r"\[([^\[\]]+)\]\([^()\s]+\)")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#x[0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});")


def strip_markup(text: str) -> str:
    """Remove inline tags and decode entities; what is left of ``<`` and ``>`` is no known markup."""
    if "<" in text:
        text = _INLINE_TAG.sub("", _BREAK_TAG.sub("\n", text))
    if "&" in text and _ENTITY.search(text):
        text = html.unescape(text)
        if "<" in text:
            text = _INLINE_TAG.sub("", _BREAK_TAG.sub("\n", text))
    if "](" in text:
        text = _MARKDOWN_LINK.sub(r"\1", text)
    return text


# The same source text comes again with every language.
@lru_cache(maxsize=1 << 18)
def _strip_source_markup(text: str) -> str:
    return strip_markup(text).strip()


_normalise_source = lru_cache(maxsize=1 << 18)(normalise)


def join_lines(text: str) -> str:
    """Join hard-wrapped lines: with a space, but with nothing between characters of an unspaced script."""
    if "\n" not in text:
        return text
    return _LINE_BREAK.sub(" ", _UNSPACED_BREAK.sub("", text))


def segments(source: str, target: str, style: str, product_names: dict[str, str]) -> list[tuple[str, str]] | None:
    """Plain normalised pairs, one for each paragraph; None where the two sides differ in their number of paragraphs."""
    source, target = strip_accelerators(source, target, style)
    for variable, name in product_names.items():
        if variable in source:
            source, target = source.replace(variable, name), target.replace(variable, name)
    source, target = _strip_source_markup(source), strip_markup(target).strip()
    if "\n" not in source and "\n" not in target:
        return [(_normalise_source(source), normalise(target))]
    sources, targets = _PARAGRAPH_BREAK.split(source), _PARAGRAPH_BREAK.split(target)
    if len(sources) != len(targets):
        return None
    return [(normalise(join_lines(s)), normalise(join_lines(t))) for s, t in zip(sources, targets)]
