"""A recipe's data settings: ``recipes/<name>/data.yaml`` and its table of languages ``langs.tsv``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from data_prep.errors import DataError
from data_prep.lines import read_text
from data_prep.writing_systems import SCRIPT_CLASSES

REPOSITORY = Path(__file__).resolve().parent.parent
LANGUAGE_CODE = re.compile(r"[a-z]{2,3}(_[A-Za-z0-9]+)*")
PIVOT = "en"
RECIPE_KEYS = {
    "extends", "languages", "evalsets", "valid_set", "test_set", "cleaning", "sources", "corpora", "presets",
}  # fmt: skip


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
            f"{where}: {code!r} is not a language code like de, pt or zh_Hans (letters, then _ and letters; no hyphen)"
        )
    return code


def read_languages(path: Path) -> dict[str, Language]:
    """Read ``langs.tsv``: a header line, then one language a line."""
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    rows = [line.split("\t") for line in read_text(path).splitlines() if line and not line.startswith("#")]
    header = [f.name for f in fields(Language)]
    if not rows or rows[0] != header:
        raise DataError(f"{path}: the first line must be the tab-separated names {' '.join(header)}")
    languages = {}
    for row in rows[1:]:
        if len(row) != len(header):
            raise DataError(f"{path}: {row[0]!r} has {len(row)} fields, but the header has {len(header)}")
        if row[4] not in SCRIPT_CLASSES:
            raise DataError(f"{path}: unknown script {row[4]!r} of {row[0]}; known are {', '.join(SCRIPT_CLASSES)}")
        code, flores, name, family, script, tier, locales = row
        check_code(code, str(path))
        languages[code] = Language(code, flores, name, family, script, tier, tuple(locales.split(",")))
    return languages


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where} must hold keys and values, but is {value!r}")
    return value


def _check_keys(entry: dict[str, Any], known: set[str], where: str) -> None:
    if unknown := set(entry) - known:
        raise DataError(f"{where} unknown key {min(unknown)!r}; known are {', '.join(sorted(known))}")


def _names(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise DataError(f"{where} must be a list of names like [a, b], but is {value!r}")
    return tuple(value)


def _source(name: str, entry: dict[str, Any], path: Path) -> Source:
    _check_keys(entry, {f.name for f in fields(Source)} - {"name"}, f"{path}: source {name}:")
    if "kind" not in entry:
        raise DataError(f"{path}: source {name} needs the key 'kind'")
    values = dict(entry, packages=_names(entry.get("packages", []), f"{path}: source {name}: packages"))
    return Source(name=name, **values)


def load_recipe(name_or_path: str) -> Recipe:
    """Load ``recipes/<name>/data.yaml``, or a ``data.yaml`` given by its path.

    ``extends: other`` takes languages, sources and corpora (and the downloaded and cleaned text) of another recipe.
    """
    path = Path(name_or_path)
    if path.suffix not in {".yaml", ".yml"}:
        path = REPOSITORY / "recipes" / name_or_path / "data.yaml"
    if not path.is_file():
        known = sorted(p.parent.name for p in (REPOSITORY / "recipes").glob("*/data.yaml"))
        raise DataError(f"--recipe: no such file {path}; recipes with data are {', '.join(known) or 'none'}")
    try:
        config = _mapping(yaml.safe_load(read_text(path)), f"{path}:")
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not valid YAML: {error}") from None
    _check_keys(config, RECIPE_KEYS, f"{path}:")
    base = load_recipe(str(config["extends"])) if "extends" in config else None

    languages = base.languages if base else read_languages(path.parent / config.get("languages", "langs.tsv"))
    sources = dict(base.sources) if base else {}
    for name, entry in _mapping(config.get("sources", {}), f"{path}: sources").items():
        sources[name] = _source(name, _mapping(entry, f"{path}: source {name}"), path)
    corpora = dict(base.corpora) if base else {}
    for corpus, names in _mapping(config.get("corpora", {}), f"{path}: corpora").items():
        corpora[corpus] = _names(names, f"{path}: corpus {corpus}")
    for corpus, of_corpus in corpora.items():
        if missing := [n for n in of_corpus if n not in sources]:
            raise DataError(f"{path}: corpus {corpus} names the source {missing[0]!r}, which is not under 'sources'")
    presets = {}
    for preset, entry in _mapping(config.get("presets", {}), f"{path}: presets").items():
        entry = _mapping(entry, f"{path}: preset {preset}")
        entry = dict(entry, languages=_names(entry.get("languages", []), f"{path}: preset {preset}: languages"))
        try:
            presets[preset] = Preset(name=preset, **entry)
        except TypeError as error:
            raise DataError(f"{path}: preset {preset}: {error}") from None
        if presets[preset].corpus not in corpora:
            raise DataError(
                f"{path}: preset {preset} names the corpus {entry['corpus']!r}, which is not under 'corpora'"
            )
        check_languages(presets[preset].languages, languages, f"{path}: preset {preset}")
    if not presets:
        raise DataError(f"{path}: has no presets")

    def value(key: str, default: Any) -> Any:
        return config.get(key, getattr(base, key) if base else default)

    cleaning = _mapping(value("cleaning", {}), f"{path}: cleaning")
    _check_keys(cleaning, {"placeholders"}, f"{path}: cleaning:")
    if (placeholders := cleaning.get("placeholders", "drop")) not in ("drop", "keep"):
        raise DataError(f"{path}: cleaning: placeholders must be drop or keep, but is {placeholders!r}")
    return Recipe(
        name=path.parent.name,
        version_files=(*(base.version_files if base else ()), path.parent / "versions.tsv"),
        work_name=base.work_name if base else path.parent.name,
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
