"""Which directions to score, and in which group of the table a direction belongs."""

from collections.abc import Collection, Sequence
from pathlib import Path

import mmt
from mmt.errors import UserError
from mmt.evaluation.test_sets import TestSet

ENGLISH = ("en", "eng", "eng_Latn", "en_XX")  # two or three letters, FLORES-200, mBART
ALL, FROM_ENGLISH, INTO_ENGLISH, OTHER = "all", "en→xx", "xx→en", "other"
DEFAULT_TIERS = Path("recipes/software50/langs.tsv")
KEYWORDS = ("trained", "all", "en-xx", "xx-en", "zero-shot")


def split(direction: str) -> tuple[str, str]:
    """Split "en-de" into "en" and "de"."""
    source, _, target = direction.partition("-")
    return source, target


def group(direction: str) -> str:
    """Return whether the direction goes out of English, into English, or neither."""
    source, target = split(direction)
    return FROM_ENGLISH if source in ENGLISH else INTO_ENGLISH if target in ENGLISH else OTHER


def choose_directions(
    specification: str, *, languages: Sequence[str], trained: Sequence[str], test_set: TestSet
) -> list[str]:
    """List the directions of a test set that ``--directions`` asks for, in a fixed order.

    Args:
        specification: comma-separated: directions such as "en-de", or "trained", "all", "en-xx", "xx-en", "zero-shot"
            (all that are not trained).
        languages: the languages of the model.
        trained: its trained directions.
        test_set: directions that it has no text for are left out, unless they are named one by one.

    Raises:
        UserError: names what is unknown or missing.
    """
    every = [f"{source}-{target}" for source in languages for target in languages if source != target]
    chosen: set[str] = set()
    for word in specification.split(","):
        if word in KEYWORDS:
            chosen |= {
                direction
                for direction in every
                if _matches(word, direction, trained) and test_set.files(*split(direction))
            }
            continue
        source, target = split(word)
        for language in (source, target):
            if language not in languages:
                raise UserError(
                    f"--directions: unknown language {language!r} in {word!r}; the model knows {', '.join(languages)}, "
                    f"and {', '.join(KEYWORDS)} are choices"
                )
        if source == target:
            raise UserError(f"--directions: {word} has only one language")
        if test_set.files(source, target) is None:
            raise UserError(f"--directions {word}: test set {test_set.location} has no text for it")
        chosen.add(word)
    if not chosen:
        raise UserError(
            f"--directions {specification}: test set {test_set.location} has no text for any of these directions"
        )
    return [direction for direction in every if direction in chosen]


def _matches(word: str, direction: str, trained: Sequence[str]) -> bool:
    if word == "all":
        return True
    if word in ("trained", "zero-shot"):
        return (direction in trained) == (word == "trained")
    return group(direction) == (FROM_ENGLISH if word == "en-xx" else INTO_ENGLISH)


def read_tiers(path: Path) -> dict[str, str]:
    """Read a table's columns ``code`` and ``tier``: which languages have much, which have little training text.

    Raises:
        UserError: if the file or a column is missing.
    """
    try:
        rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError as error:
        raise UserError(f"--tiers {path}: no such file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--tiers {path}: not valid UTF-8") from error
    header = rows[0] if rows else []
    for column in ("code", "tier"):
        if column not in header:
            raise UserError(
                f"--tiers {path}: the first line must name tab-separated columns, among them code and tier, "
                f"but is {header}"
            )
    code, tier = header.index("code"), header.index("tier")
    for number, row in enumerate(rows[1:], start=2):
        if len(row) <= max(code, tier):
            raise UserError(f"--tiers {path}, line {number}: {len(row)} columns, but the first line has {len(header)}")
        if row[tier] in (ALL, FROM_ENGLISH, INTO_ENGLISH, OTHER):
            raise UserError(f"--tiers {path}, line {number}: {row[tier]!r} is the name of another average")
    return {row[code]: row[tier] for row in rows[1:]}


def read_tiers_of(path: str | None, languages: Collection[str]) -> dict[str, str]:
    """Read the tiers of these languages, in the order of the file.

    Without a path they are from the default file, if it is there.

    Raises:
        UserError: if the file that was asked for cannot be read.
    """
    if path is not None:
        chosen = Path(path)
    else:
        candidates = (DEFAULT_TIERS, Path(mmt.__file__).resolve().parents[1] / DEFAULT_TIERS)
        existing = [candidate for candidate in candidates if candidate.is_file()]
        if not existing:
            return {}
        chosen = existing[0]
    return {language: tier for language, tier in read_tiers(chosen).items() if language in languages}


def tier(direction: str, tiers: dict[str, str]) -> str | None:
    """Return the tier of the language beside English; None for directions without English, or if it is not known."""
    source, target = split(direction)
    if group(direction) == OTHER:
        return None
    return tiers.get(target if source in ENGLISH else source)
