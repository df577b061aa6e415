#!/usr/bin/env python3
"""Print the averages of one or more models and of the baselines as a Markdown table, and draw them.

    python scripts/show_scores.py dense=runs/software6/full/dense/results token=... --plot docs/scores.svg

Each argument is LABEL=FOLDER, a folder that `mmt evaluate` has written. Baselines come from the first one. If a folder
has a file compared.jsonl (`mmt compare FIRST FOLDER --output FOLDER/compared.jsonl`), its differences from the first
one are shown with their 95% intervals. --plot needs matplotlib: pip install -e '.[report]'
"""

import argparse
import json
import sys
from pathlib import Path

from tabulate import tabulate

GROUPS = {"en→xx": "from English", "xx→en": "into English", "other": "without English"}
BASELINES = ("copy source", "nearest training sentence")
METRICS = {"chrf": "chrF++", "bleu": "BLEU"}

Scores = dict[str, dict[str, float]]  # by system and group


def averages(folder: Path, test_set: str, metric: str) -> Scores:
    """Return the averages in a results folder, by system and group of directions."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    if test_set not in summary:
        sys.exit(f"show_scores: {folder} has no test set {test_set!r}, but {', '.join(summary)}")
    found: Scores = {}
    for line in summary[test_set]:
        if line["metric"] == metric and line["score"] is not None:
            found.setdefault(line["system"], {})[line["group"]] = line["score"]
    return found


def collect(folders: dict[str, Path], test_set: str, metric: str) -> Scores:
    """Return the averages of the baselines and of each model under its label."""
    by_label = {label: averages(folder, test_set, metric) for label, folder in folders.items()}
    first = next(iter(by_label.values()))
    baselines = {name: first[name] for name in BASELINES if name in first}
    return {**baselines, **{label: found["model"] for label, found in by_label.items()}}


def differences(folder: Path, test_set: str, metric: str) -> dict[str, str]:
    """Return what ``mmt compare`` has found, by group of directions, such as "(+0.5 [+0.2, +0.8])"."""
    file = folder / "compared.jsonl"
    lines = map(json.loads, file.read_text(encoding="utf-8").splitlines()) if file.is_file() else []
    return {
        line["group"]: f"({line['delta']:+.1f} [{line['low']:+.1f}, {line['high']:+.1f}])"
        for line in lines
        if (line["test_set"], line["metric"]) == (test_set, metric) and "group" in line
    }


def table(scores: Scores, compared: dict[str, dict[str, str]], groups: list[str], metric: str) -> str:
    """Return a Markdown table with a row for each system."""
    header = [METRICS[metric], *(GROUPS[group] for group in groups)]
    rows = []
    for label, of in scores.items():
        intervals = compared.get(label, {})
        rows.append([label])
        rows[-1] += [f"{of[group]:.1f} {intervals.get(group, '')}".strip() if group in of else "" for group in groups]
    return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def plot(scores: Scores, groups: list[str], metric: str, path: Path) -> None:
    """Draw a group of bars for each group of directions."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 3.6), layout="constrained")
    colours = ["0.85", "0.65", *pyplot.get_cmap("tab10").colors]
    width = 0.85 / len(scores)
    for number, (label, of) in enumerate(scores.items()):
        places = [x + (number - (len(scores) - 1) / 2) * width for x, group in enumerate(groups) if group in of]
        values = [of[group] for group in groups if group in of]
        drawn = axes.bar(places, values, width * 0.92, label=label, color=colours[number % len(colours)])
        axes.bar_label(drawn, fmt="%.0f", fontsize=8)
    axes.set_xticks(range(len(groups)), [GROUPS[group] for group in groups])
    axes.set_ylabel(METRICS[metric])
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    # Without a date and with fixed ids, so that the same scores give the same file.
    matplotlib.rcParams["svg.hashsalt"] = "mmt"
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", metavar="LABEL=FOLDER")
    parser.add_argument("--test-set", default="test")
    parser.add_argument("--metric", choices=list(METRICS), default="chrf")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them into this .svg or .png file")
    options = parser.parse_args()
    folders: dict[str, Path] = {}
    for argument in options.results:
        label, separator, folder = argument.partition("=")
        if not separator:
            sys.exit(f"show_scores: {argument!r} is not of the form LABEL=FOLDER")
        folders[label] = Path(folder)
    scores = collect(folders, options.test_set, options.metric)
    groups = [group for group in GROUPS if any(group in of for of in scores.values())]
    compared = {label: differences(folder, options.test_set, options.metric) for label, folder in folders.items()}
    print(table(scores, compared, groups, options.metric))
    if options.plot:
        plot(scores, groups, options.metric, options.plot)


if __name__ == "__main__":
    main()
