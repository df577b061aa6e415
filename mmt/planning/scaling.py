"""How speed grows with the number of GPUs, up to thousands: the best mesh for each number, simulated."""

import dataclasses
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from tabulate import tabulate

from mmt.errors import UserError
from mmt.files import check_folder
from mmt.planning.activations import Batch
from mmt.planning.cluster import Cluster
from mmt.planning.model import PlannedModel
from mmt.planning.plan import Plan, plans

MOST_GPUS = 4096
PLOTS = (".svg", ".png", ".pdf")


def scale(
    model: PlannedModel, batch: Batch, cluster: Cluster, *, bf16: bool, update_freq: int, most: int = MOST_GPUS
) -> dict[int, Plan | None]:
    """Plan for 1, 2, 4, ... nodes of the cluster's kind with the same batch on every GPU; None where nothing fits."""
    found: dict[int, Plan | None] = {}
    nodes = 1
    while nodes * cluster.gpus_per_node <= most:
        best = plans(model, batch, dataclasses.replace(cluster, nodes=nodes), bf16=bf16, update_freq=update_freq)[0]
        found[nodes * cluster.gpus_per_node] = best if best.fits else None
        nodes *= 2
    return found


def scaling_table(found: dict[int, Plan | None]) -> str:
    """Words per second, and how much of it each GPU keeps of what it does in the smallest cluster that works."""
    rows, first = [], 0.0
    for gpus, plan in found.items():
        if plan is None:
            rows.append([str(gpus), "nothing fits"])
            continue
        first = first or plan.words_per_s / gpus
        time = plan.time
        shares = [time.all_to_all, max(0.0, time.sharing + time.host - time.compute), time.optimizer]
        rows.append(
            [str(gpus), str(plan.layout), f"{plan.words_per_s:,.0f}", f"{plan.words_per_s / gpus / first:.0%}"]
            + [f"{1000 * time.total:.0f}", *(f"{share / time.total:.0%}" for share in shares)]
        )
    header = ["GPUs", "fastest mesh", "words/s", "efficiency", "ms", "all-to-all", "waiting for sharing", "optimizer"]
    return tabulate(rows, header, disable_numparse=True, stralign="right")


def check_plot(path: Path) -> None:
    """Look, before the work, whether a plot can be drawn.

    Raises:
        UserError: if matplotlib is not installed, the file's ending is none of its, or its folder is not there.
    """
    if find_spec("matplotlib") is None:
        raise UserError("--scaling needs matplotlib for its plot: pip install -e '.[report]'")
    if path.suffix not in PLOTS:
        raise UserError(f"--scaling {path}: must end in {' or '.join(PLOTS)}")
    check_folder(f"--scaling {path}", path.parent)


def draw_scaling(found: dict[int, Plan | None], path: Path) -> None:
    """Draw words per second over GPUs, beside a straight line.

    Raises:
        UserError: if there is nothing to draw.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    gpus: Sequence[int] = [number for number, plan in found.items() if plan is not None]
    words = [plan.words_per_s for plan in found.values() if plan is not None]
    if not gpus:
        raise UserError("--scaling: the model fits no number of these GPUs, so that there is nothing to draw")
    figure, axes = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    axes.loglog(gpus, words, "o-", label="estimate")
    axes.loglog(gpus, [words[0] * number / gpus[0] for number in gpus], "--", color="0.6", label="in proportion")
    axes.set_xticks(gpus, [str(number) for number in gpus])
    axes.minorticks_off()
    axes.set_xlabel("GPUs")
    axes.set_ylabel("words/s")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    # Without a date and with fixed ids, so that the same figures give the same file.
    matplotlib.rcParams["svg.hashsalt"] = "mmt"
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)
