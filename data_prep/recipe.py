"""A recipe's data settings: ``recipes/<name>/data.yaml`` and its table of languages ``langs.tsv``."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml

from data_prep.accelerators import check_style
from data_prep.errors import DataError
from data_prep.lines import read_text
from data_prep.writing_systems import SCRIPT_CLASSES

REPOSITORY = Path(__file__).resolve().parent.parent
LANGUAGE_CODE = re.compile(r"[a-z]{2,3}(_[A-Za-z0-9]+)*")
PIVOT = "en"
TEXT_KEYS = {"extends", "languages", "evalsets", "valid_set", "test_set"}
RECIPE_KEYS = TEXT_KEYS | {"cleaning", "sources", "corpora", "presets"}


@dataclass(frozen=True)
class Language:
    """One row of ``langs.tsv``; ``locales`` are the names the language has in the sources, best first."""

    code: str
    flores: str
    name: str
    family: str
    script: str
    tier: str
    locales: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """One source of pairs: where it comes from and how its messages are written."""

    name: str
    kind: str
    packages: tuple[str, ...] = ()
    accelerator: str = "none"
    registry: str = "apt"
    path: str = ""
    files: str = ""
    cap: int = 0
    licence: str = ""
    product_names: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Preset:
    """How much of a corpus is used."""

    name: str
    corpus: str
    vocab_size: int
    max_pairs: int = 0
    languages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """Everything ``data_prep.run`` needs to know."""

    name: str
    version_files: tuple[Path, ...]
    work_name: str
    languages: dict[str, Language]
    sources: dict[str, Source]
    corpora: dict[str, tuple[str, ...]]
    presets: dict[str, Preset]
    evalsets: str
    valid_set: str
    test_set: str
    cleaning: dict[str, Any]

    def preset(self, name: str) -> Preset:
        """The preset called ``name``."""
        if name not in self.presets:
            raise DataError(f"--preset: recipe {self.name} has no preset {name!r}; it has {', '.join(self.presets)}")
        return self.presets[name]

    def sources_of(self, preset: Preset) -> list[Source]:
        """The sources of a preset, most trusted first."""
        return [self.sources[name] for name in self.corpora[preset.corpus]]


def check_code(code: str, where: str) -> str:
    """Return ``code`` if fairseq can use it, which joins two of them with a hyphen and puts them in file names."""
    if not LANGUAGE_CODE.fullmatch(code):
        raise DataError(
            f"{where}: {code!r} is not a language code like de, pt or zh_Hans: it must be 2 or 3 lower-case letters, "
            "after which _ with letters or digits may follow (no hyphen)"
        )
    return code


def read_languages(path: Path) -> dict[str, Language]:
    """Read ``langs.tsv``: a header line, then one language a line; each code and each locale is there once."""
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    lines = enumerate(read_text(path).splitlines(), start=1)
    rows = [(number, line.split("\t")) for number, line in lines if line and not line.startswith("#")]
    header = [f.name for f in fields(Language)]
    if not rows or rows[0][1] != header:
        raise DataError(f"{path}: the first line must be the tab-separated names {' '.join(header)}")
    languages: dict[str, Language] = {}
    owners: dict[str, str] = {}
    for number, row in rows[1:]:
        where = f"{path}, line {number}"
        if len(row) != len(header):
            raise DataError(f"{where}: {row[0]!r} has {len(row)} fields, but the header has {len(header)}")
        code, flores, name, family, script, tier, names = row
        if script not in SCRIPT_CLASSES:
            raise DataError(f"{where}: unknown script {script!r} of {code}; known are {', '.join(SCRIPT_CLASSES)}")
        if check_code(code, where) in languages:
            raise DataError(f"{where}: the language {code!r} must have one row, but has another above")
        locales = tuple(filter(None, names.split(",")))
        for locale in locales:
            if owners.setdefault(locale, code) != code:
                raise DataError(
                    f"{where}: the locale {locale!r} of {code} must belong to one language, but {owners[locale]} has it"
                )
        languages[code] = Language(code, flores, name, family, script, tier, locales)
    return languages


# What a value must be, by the type of the field that it fills.
_RULES: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    str: ("text", lambda v: isinstance(v, str)),
    int: ("a whole number of at least 0", lambda v: type(v) is int and v >= 0),
    tuple[str, ...]: (
        "a list of names like [a, b]",
        lambda v: isinstance(v, list) and all(isinstance(name, str) for name in v),
    ),
    dict[str, str]: (
        "keys and values that are text",
        lambda v: isinstance(v, dict) and all(isinstance(word, str) for item in v.items() for word in item),
    ),
}


def _checked(value: Any, kind: Any, where: str) -> Any:
    rule, holds = _RULES[kind]
    if not holds(value):
        raise DataError(f"{where} must be {rule}, but is {value!r}")
    return tuple(value) if isinstance(value, list) else value


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where} must hold keys and values, but is {value!r}")
    if odd := [key for key in value if not isinstance(key, str)]:
        raise DataError(f"{where} must have keys that are text, in quotes if need be, but has {odd[0]!r}")
    return value


def _check_keys(entry: dict[str, Any], known: set[str], where: str) -> None:
    if unknown := set(entry) - known:
        raise DataError(f"{where} unknown key {min(unknown)!r}; known are {', '.join(sorted(known))}")


Entry = TypeVar("Entry", Source, Preset)


def _entry(kind: type[Entry], name: str, value: Any, where: str) -> Entry:
    """The source or the preset ``name``: every key is one of its fields, every value of that field's type."""
    values = _mapping(value, where)
    types = get_type_hints(kind)
    of_entry = [f for f in fields(kind) if f.name != "name"]
    _check_keys(values, {f.name for f in of_entry}, f"{where}:")
    for f in of_entry:
        if f.name not in values and f.default is MISSING and f.default_factory is MISSING:
            raise DataError(f"{where} needs the key {f.name!r}")
    return kind(name=name, **{key: _checked(v, types[key], f"{where}: {key}") for key, v in values.items()})


def _check_source(source: Source, where: str) -> None:
    check_style(source.accelerator, where)
    if source.files:
        try:
            re.compile(source.files)
        except re.error as error:
            raise DataError(f"{where}: files must be a regular expression, but {source.files!r} has {error}") from None
        if source.files.count("LOCALE") != 1:
            raise DataError(f"{where}: files must hold LOCALE once, in place of the locale, but is {source.files!r}")


def load_recipe(name_or_path: str) -> Recipe:
    """Load ``recipes/<name>/data.yaml``, or a ``data.yaml`` given by its path.

    ``extends: other`` takes languages, sources and corpora (and the downloaded and cleaned text) of another recipe.
    """
    return _load(name_or_path, ())


def _load(name_or_path: str, extending: tuple[Path, ...]) -> Recipe:
    """Load a recipe for those that extend it, the outermost first."""
    path = Path(name_or_path)
    if path.suffix not in {".yaml", ".yml"}:
        path = REPOSITORY / "recipes" / name_or_path / "data.yaml"
    if not path.is_file():
        known = sorted(p.parent.name for p in (REPOSITORY / "recipes").glob("*/data.yaml"))
        raise DataError(f"--recipe: no such file {path}; recipes with data are {', '.join(known) or 'none'}")
    here = Path(os.path.abspath(path))  # the folder of "data.yaml" has a name, too
    if here in extending:
        raise DataError(f"{path}: a recipe must not extend itself: {' > '.join(map(str, (*extending, here)))}")
    if not here.parent.name:
        raise DataError(f"--recipe: {path} must lie in a folder with a name, which its data gets")
    try:
        config = _mapping(yaml.safe_load(read_text(path)), f"{path}:")
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not valid YAML: {error}") from None
    _check_keys(config, RECIPE_KEYS, f"{path}:")
    for key in TEXT_KEYS & config.keys():
        _checked(config[key], str, f"{path}: {key}")
    base = _load(config["extends"], (*extending, here)) if "extends" in config else None
    if base and "languages" in config:
        raise DataError(f"{path}: languages has no effect with extends, which takes those of {base.name}")

    languages = base.languages if base else read_languages(path.parent / config.get("languages", "langs.tsv"))
    sources = dict(base.sources) if base else {}
    for name, entry in _mapping(config.get("sources", {}), f"{path}: sources").items():
        sources[name] = _entry(Source, name, entry, f"{path}: source {name}")
        _check_source(sources[name], f"{path}: source {name}")
    corpora = dict(base.corpora) if base else {}
    for corpus, names in _mapping(config.get("corpora", {}), f"{path}: corpora").items():
        corpora[corpus] = _checked(names, tuple[str, ...], f"{path}: corpus {corpus}")
    for corpus, of_corpus in corpora.items():
        if missing := [n for n in of_corpus if n not in sources]:
            raise DataError(f"{path}: corpus {corpus} names the source {missing[0]!r}, which is not under 'sources'")
    presets: dict[str, Preset] = {}
    for name, entry in _mapping(config.get("presets", {}), f"{path}: presets").items():
        presets[name] = preset = _entry(Preset, name, entry, f"{path}: preset {name}")
        if preset.corpus not in corpora:
            raise DataError(f"{path}: preset {name} names the corpus {preset.corpus!r}, which is not under 'corpora'")
        check_languages(preset.languages, languages, f"{path}: preset {name}")
    if not presets:
        raise DataError(f"{path}: has no presets")

    def value(key: str, default: Any) -> Any:
        return config.get(key, getattr(base, key) if base else default)

    named = [f"{key} {value(key, '')!r}" for key in ("valid_set", "test_set") if value(key, "")]
    if named and not value("evalsets", ""):
        raise DataError(
            f"{path}: evalsets must name the evaluation set that has {' and '.join(named)}, but is empty; without one, "
            "valid_set and test_set must be empty too"
        )
    cleaning = _mapping(value("cleaning", {}), f"{path}: cleaning")
    _check_keys(cleaning, {"placeholders"}, f"{path}: cleaning:")
    if (placeholders := cleaning.get("placeholders", "drop")) not in ("drop", "keep"):
        raise DataError(f"{path}: cleaning: placeholders must be drop or keep, but is {placeholders!r}")
    return Recipe(
        name=here.parent.name,
        version_files=(*(base.version_files if base else ()), path.parent / "versions.tsv"),
        work_name=base.work_name if base else here.parent.name,
        languages=languages,
        sources=sources,
        corpora=corpora,
        presets=presets,
        evalsets=value("evalsets", ""),
        valid_set=value("valid_set", ""),
        test_set=value("test_set", ""),
        cleaning=cleaning,
    )


def check_languages(codes: tuple[str, ...] | list[str], known: dict[str, Language], where: str) -> None:
    """Refuse a language that the recipe does not have, or a list without English."""
    for code in codes:
        if code not in known:
            raise DataError(f"{where}: unknown language {code!r}; known are {', '.join(sorted(known))}")
    if codes and PIVOT not in codes:
        raise DataError(f"{where}: the list of languages must hold {PIVOT}: every pair is with English")
