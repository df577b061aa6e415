"""From the packages of a source to messages by language: which members to read, and which locale is which language."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data_prep.archives import read_members
from data_prep.errors import DataError
from data_prep.evalsets import check_hash
from data_prep.files import read_json
from data_prep.readers.ddtp import read_ddtp
from data_prep.readers.mallard import read_pages
from data_prep.readers.mo import read_mo
from data_prep.readers.pak import read_pak
from data_prep.readers.table import read_table
from data_prep.recipe import PIVOT, REPOSITORY, Language, Source
from data_prep.steps import add_counts

Messages = tuple[str, Iterable[tuple[str, str]]]

_ENGLISH = {"en", "en-US"}
_LOCALE = r"(?P<locale>[a-z]{2,3}(?:[_-][A-Za-z]+)?)"


def archives_of(source: Source, downloads: Path) -> list[Path]:
    """The files of a source that are there: in the repository, or among the downloads of today's packages."""
    if source.path:
        path = REPOSITORY / source.path
        if not path.is_file():
            raise DataError(f"source {source.name}: no such file: {path}")
        check_hash(path)
        return [path]
    manifest = read_json(downloads / "manifest.json")
    entries = manifest if isinstance(manifest, list) else []
    wanted = (e for e in entries if e["source"] == source.name and e["package"] in source.packages)
    return sorted(downloads / source.name / entry["file"] for entry in wanted)


def _count(counts: dict[str, int], kind: str, number: int) -> None:
    if number:
        add_counts(counts, {kind: number})


def _by_locale(languages: list[Language]) -> dict[str, tuple[int, str]]:
    """``locale -> (rank, code)``; the best rank of a language is 0."""
    return {locale: (rank, lang.code) for lang in languages for rank, locale in enumerate(lang.locales)}


def read_catalogs(
    source: Source, archives: list[Path], languages: list[Language], counts: dict[str, int]
) -> Iterator[Messages]:
    """All ``.mo`` catalogs; ``source.files`` is the pattern of their names, with ``LOCALE`` for the locale."""
    pattern = re.compile((source.files or r".*/LOCALE/LC_MESSAGES/[^/]+\.mo").replace("LOCALE", _LOCALE))
    locales = _by_locale(languages)
    # Of de and de_DE a package has one; where it has both, the better-named one fills in first.
    found: dict[tuple[str, str], list[tuple[int, list[tuple[str, str]]]]] = {}
    for archive in archives:
        for name, data in read_members(archive, lambda n: n.endswith(".mo")):
            match = pattern.fullmatch(name)
            if match is None or match["locale"] not in locales:
                continue
            rank, code = locales[match["locale"]]
            start, end = match.span("locale")
            catalog = name[:start] + name[end:]
            try:
                messages = list(read_mo(data))
            except DataError:
                add_counts(counts, {"damaged_catalogs": 1})
                continue
            add_counts(counts, {"catalogs": 1})
            found.setdefault((code, catalog), []).append((rank, messages))
    for (code, _), ranked in sorted(found.items()):
        best: dict[str, str] = {}
        repeated = 0  # in another context, or in a catalog of another name of the language
        for _, messages in sorted(ranked, key=lambda r: r[0]):
            for message, translation in messages:
                if best.setdefault(message, translation) is not translation:
                    repeated += 1
        _count(counts, "repeated_messages", repeated)
        yield code, best.items()


def read_packs(
    source: Source, archives: list[Path], languages: list[Language], counts: dict[str, int]
) -> Iterator[Messages]:
    """Chromium's packs, aligned by resource number with the English of the same package."""
    locales = _by_locale(languages)
    packs: dict[str, dict[int, str]] = {}
    english: dict[int, str] = {}
    for archive in archives:
        for name, data in read_members(archive, lambda n: n.endswith(".pak")):
            locale = Path(name).stem
            is_english = locale in {"en-US", "en-GB"}
            if not is_english and locale not in locales:
                continue
            try:
                strings = read_pak(data)
            except DataError:
                add_counts(counts, {"damaged_catalogs": 1})
                continue
            add_counts(counts, {"catalogs": 1})
            if is_english:  # the translations lack en-US; en-GB differs in spelling only
                english = strings if locale == "en-US" else {**strings, **english}
            else:
                packs.setdefault(locales[locale][1], {}).update(strings)
    if not english:
        raise DataError(f"source {source.name}: no en-GB.pak or en-US.pak in {', '.join(p.name for p in archives)}")
    for code, strings in sorted(packs.items()):
        _count(counts, "without_english", len(strings.keys() - english.keys()))
        yield code, [(english[number], strings[number]) for number in sorted(strings) if number in english]


def read_json_messages(
    source: Source, archives: list[Path], languages: list[Language], counts: dict[str, int]
) -> Iterator[Messages]:
    """Message files in JSON, ``<folder>/<locale>.json`` beside the English one; ``source.files`` is the pattern."""
    pattern = re.compile(
        (source.files or r".*/i18n/(.*/)?LOCALE\.json").replace("LOCALE", r"(?P<locale>[A-Za-z0-9-]+)")
    )
    locales = _by_locale(languages)
    folders: dict[str, dict[str, dict[str, str]]] = {}
    for archive in archives:
        for name, data in read_members(archive, lambda n: n.endswith(".json")):
            match = pattern.fullmatch(name)
            if match is None or not (match["locale"] in _ENGLISH or match["locale"] in locales):
                continue
            try:
                entries = json.loads(data)
            except (ValueError, RecursionError):
                entries = None
            if not isinstance(entries, dict):
                add_counts(counts, {"damaged_catalogs": 1})
                continue
            add_counts(counts, {"catalogs": 1})
            locale = PIVOT if match["locale"] in _ENGLISH else match["locale"]
            folders.setdefault(str(Path(name).parent), {})[locale] = _json_texts(entries)
    for _, by_locale in sorted(folders.items()):
        english = by_locale.pop(PIVOT, {})
        for locale in sorted(by_locale, key=lambda loc: locales[loc]):
            texts = by_locale[locale]
            _count(counts, "without_english", len(texts.keys() - english.keys()))
            yield locales[locale][1], [(english[k], texts[k]) for k in english if k in texts]


def _json_texts(entries: dict[str, Any]) -> dict[str, str]:
    """``{"key": "text"}`` or ``{"key": {"message": "text"}}``; keys with ``@`` hold data about the file."""
    flat = {k: v["message"] if isinstance(v, dict) and "message" in v else v for k, v in entries.items()}
    return {k: v for k, v in flat.items() if isinstance(v, str) and not k.startswith("@")}


def read_descriptions(
    source: Source, archives: list[Path], languages: list[Language], counts: dict[str, int]
) -> Iterator[Messages]:
    """Package descriptions: the files are called ``...Translation-<locale>``."""
    locales = _by_locale(languages)
    by_locale: dict[str, list[Path]] = {}
    for path in archives:
        by_locale.setdefault(path.name.rpartition("Translation-")[2].replace("%5f", "_"), []).append(path)
    if PIVOT not in by_locale:
        raise DataError(f"source {source.name}: no Translation-{PIVOT} among its files")
    for locale in sorted(by_locale, key=lambda loc: locales.get(loc, (0, ""))):
        if locale in locales:
            add_counts(counts, {"catalogs": len(by_locale[locale])})
            yield locales[locale][1], read_ddtp(by_locale[PIVOT], by_locale[locale], counts)


def read_help_pages(
    source: Source, archives: list[Path], languages: list[Language], counts: dict[str, int]
) -> Iterator[Messages]:
    """GNOME help: ``usr/share/help/<locale>/<document>/<page>``, in English under ``C``."""
    pattern = re.compile(r"usr/share/help/(?P<locale>[^/]+)/(?P<page>.+\.page)")
    locales = _by_locale(languages)
    pages: dict[str, dict[str, bytes]] = {}
    for archive in archives:
        for name, data in read_members(archive, lambda n: n.endswith(".page")):
            match = pattern.fullmatch(name)
            if match and (match["locale"] == "C" or match["locale"] in locales):
                pages.setdefault(match["locale"], {})[match["page"]] = data
    english = pages.get("C", {})
    for locale in sorted(pages.keys() & locales.keys(), key=lambda loc: locales[loc]):
        for page, data in sorted(pages[locale].items()):
            aligned = read_pages(english[page], data) if page in english else None
            add_counts(counts, {"catalogs" if aligned is not None else "pages_of_other_structure": 1})
            if aligned is not None:
                yield locales[locale][1], aligned


def read_tables(
    source: Source, archives: list[Path], languages: list[Language], counts: dict[str, int]
) -> Iterator[Messages]:
    """A table (see ``readers.table``); pairs without English, or with a language that is not wanted, are counted."""
    wanted = {lang.code for lang in languages}
    by_language: dict[str, list[tuple[str, str]]] = {}
    for path in archives:
        for source_language, language, text, translation in read_table(path, counts):
            if language == PIVOT:
                source_language, language, text, translation = language, source_language, translation, text
            if source_language != PIVOT:
                add_counts(counts, {"without_english": 1})
            elif language not in wanted:
                add_counts(counts, {"other_language": 1})
            else:
                by_language.setdefault(language, []).append((text, translation))
    yield from sorted(by_language.items())
