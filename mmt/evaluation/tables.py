"""Tables of scores as text, and the averages in them."""

from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from mmt.evaluation.directions import ALL, FROM_ENGLISH, INTO_ENGLISH, OTHER, group, split, tier
from mmt.evaluation.results import Record
from mmt.sacrebleu_metrics import METRIC_NAMES, METRICS

# For each system the scores by direction: {"model": {"en-de": {"bleu": 12.3, "chrf": 45.6}}}.
SystemScores = Mapping[str, Mapping[str, Mapping[str, float]]]
MISSING = ""


def groups(directions: Sequence[str], tiers: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the groups over which averages are taken, with their directions: all, by direction, by tier.

    Groups without directions are left out. Tiers are those of the language beside English, so directions without
    English belong to none.
    """
    found: dict[str, list[str]] = {ALL: list(directions)}
    for name in (FROM_ENGLISH, INTO_ENGLISH, OTHER):
        found[name] = [direction for direction in directions if group(direction) == name]
    for name in dict.fromkeys(tiers.values()):
        found[name] = [direction for direction in directions if tier(direction, dict(tiers)) == name]
    kept = {name: members for name, members in found.items() if members}
    if len(kept.get(ALL, [])) == len(kept.get(OTHER, [])):
        kept.pop(ALL, None)  # it would say the same twice
    return kept


def average(scores: Mapping[str, Mapping[str, float]], directions: Sequence[str], metric: str) -> float | None:
    """Return the mean over directions, each counting the same (macro average); None unless all of them have a score."""
    if not all(direction in scores for direction in directions):
        return None
    return sum(scores[direction][metric] for direction in directions) / len(directions)


def averages(systems: SystemScores, directions: Sequence[str], tiers: Mapping[str, str]) -> list[Record]:
    """Return one record for each metric, system and group."""
    return [
        {
            "metric": metric,
            "system": system,
            "group": name,
            "directions": len(members),
            "score": average(scores, members, metric),
        }
        for metric in reversed(METRICS)
        for system, scores in systems.items()
        for name, members in groups(directions, tiers).items()
    ]


def direction_table(records: Sequence[Record], systems: SystemScores, tiers: Mapping[str, str]) -> str:
    """Return the table with one row for each direction."""
    baselines = [name for name in systems if name != "model"]
    header = [
        "direction",
        "tier",
        "BLEU",
        "chrF++",
        *(f"chrF++ {name.split()[0]}" for name in baselines),
        "length",
        "empty",
        "seconds",
    ]
    rows = []
    for record in records:
        direction = record["direction"]
        note = "" if record["trained"] else " (zero-shot)"
        rows.append(
            [
                direction + note,
                tier(direction, dict(tiers)) or MISSING,
                _one_digit(record["bleu"]),
                _one_digit(record["chrf"]),
                *(_one_digit(systems[name].get(direction, {}).get("chrf")) for name in baselines),
                f"{record['length_ratio']:.2f}",
                record["empty_hypotheses"],
                round(record["wall_s"]),
            ]
        )
    return _table(header, rows, num_text_columns=2)


def average_table(systems: SystemScores, directions: Sequence[str], tiers: Mapping[str, str]) -> str:
    """Return the table of averages: a row for each metric and system, a column for each group."""
    members = groups(directions, tiers)
    header = ["average of", "", *(f"{name} ({len(found)})" for name, found in members.items())]
    rows = []
    for metric in reversed(METRICS):
        for system, scores in systems.items():
            cells = [_one_digit(average(scores, found, metric)) for found in members.values()]
            rows.append([METRIC_NAMES[metric], system, *cells])
    return _table(header, rows, num_text_columns=2)


def signature_lines(records: Sequence[Record]) -> list[str]:
    """Return each signature once, those of BLEU with the target languages that they stand for."""
    targets: dict[str, list[str]] = {}
    for record in records:
        targets.setdefault(record["bleu_signature"], []).append(split(record["direction"])[1])
    by_count = sorted(targets.items(), key=lambda item: -len(item[1]))
    lines = [f"BLEU    {signature}" for signature, _ in by_count[:1]]
    lines += [
        f"BLEU    {signature} (into {', '.join(dict.fromkeys(languages))})" for signature, languages in by_count[1:]
    ]
    return lines + [
        f"chrF++  {signature}" for signature in dict.fromkeys(record["chrf_signature"] for record in records)
    ]


def _one_digit(value: float | None) -> str:
    return MISSING if value is None else f"{value:.1f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]], *, num_text_columns: int) -> str:
    align = ["left"] * num_text_columns + ["right"] * (len(header) - num_text_columns)
    # Cells are texts already: tabulate would read "1e5" or "nan" as numbers.
    return tabulate(rows, headers=header, colalign=align if rows else None, disable_numparse=True)
