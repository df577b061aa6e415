#!/usr/bin/env python3
"""Draw the average chrF++ of one or more models and of the baselines, by group of directions.

    python scripts/plot_scores.py dense=runs/software6/full/dense/results token=... --output docs/scores.svg

Each argument is LABEL=FOLDER, a folder that `mmt evaluate` has written. Baselines come from the first one. Needs
matplotlib: pip install -e '.[report]'
"""

import argparse
import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

GROUPS = ("en→xx", "xx→en", "other")
BASELINES = ("copy source", "nearest training sentence")
TITLES = {"en→xx": "from English", "xx→en": "into English", "other": "without English"}


def averages(folder: Path, test_set: str, metric: str) -> dict[str, dict[str, float]]:
    """Return the averages of a results folder by system and group."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    if test_set not in summary:
        sys.exit(f"plot_scores: {folder} has no test set {test_set!r}, but {', '.join(summary)}")
    found: dict[str, dict[str, float]] = {}
    for line in summary[test_set]:
        if line["metric"] == metric and line["score"] is not None:
            found.setdefault(line["system"], {})[line["group"]] = line["score"]
    return found


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", metavar="LABEL=FOLDER")
    parser.add_argument("--test-set", default="test")
    parser.add_argument("--metric", choices=["chrf", "bleu"], default="chrf")
    parser.add_argument("--output", type=Path, required=True, help="an .svg or .png file")
    options = parser.parse_args()
    bars: dict[str, dict[str, float]] = {}
    for argument in options.results:
        label, separator, folder = argument.partition("=")
        if not separator:
            sys.exit(f"plot_scores: {argument!r} is not of the form LABEL=FOLDER")
        by_system = averages(Path(folder), options.test_set, options.metric)
        if not bars:
            bars = {baseline: by_system.get(baseline, {}) for baseline in BASELINES}
        bars[label] = by_system["model"]
    groups = [group for group in GROUPS if any(group in scores for scores in bars.values())]
    figure, axes = pyplot.subplots(figsize=(8, 3.6), layout="constrained")
    colours = ["0.8", "0.6", *pyplot.get_cmap("tab10").colors]
    width = 0.8 / len(bars)
    for number, (label, scores) in enumerate(bars.items()):
        places = [x + (number - (len(bars) - 1) / 2) * width for x, group in enumerate(groups) if group in scores]
        values = [scores[group] for group in groups if group in scores]
        drawn = axes.bar(places, values, width * 0.92, label=label, color=colours[number % len(colours)])
        axes.bar_label(drawn, fmt="%.1f", fontsize=8)
    axes.set_xticks(range(len(groups)), [TITLES[group] for group in groups])
    axes.set_ylabel({"chrf": "chrF++", "bleu": "BLEU"}[options.metric])
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    # Without a date and with fixed ids, so that the same scores give the same file.
    matplotlib.rcParams["svg.hashsalt"] = "mmt"
    figure.savefig(options.output, dpi=150, metadata={"Date": None} if options.output.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
