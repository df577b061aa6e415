"""Write docs/options.md: every option of mmt's model, task, criterion and optimizer, from their dataclasses."""

import argparse
import dataclasses
import sys
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Any, get_args

import mmt  # noqa: F401  (its workarounds must be in place before fairseq is used)
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterionConfig
from fairseq.optim import OPTIMIZER_REGISTRY
from mmt.criterions.moe_label_smoothed_cross_entropy import MoELabelSmoothedCrossEntropyConfig
from mmt.errors import as_typed
from mmt.models.architectures import ARCHITECTURES
from mmt.models.config import FlatTransformerConfig, MoETransformerConfig
from mmt.tasks.config import MultilingualMoETranslationConfig

DOCS = Path(__file__).resolve().parents[1] / "docs" / "options.md"

HEAD = """\
# Options

Every option has two names: `--moe-top-k` for `fairseq-train`, and `model.moe_top_k` for recipes (`mmt train`) and
`fairseq-hydra-train`. What they mean together is explained in [training.md](training.md). Other options of
`fairseq-train` work as ever, but for these, which are refused by name:

- with experts `--encoder-layerdrop`, `--decoder-layerdrop`, `--offload-activations`, `--quant-noise-pq`,
  `--quant-noise-scalar`, and activation functions other than relu and gelu;
- with `fused_adam` `--use-old-adam`, `--fp16-adam-stats`, `--memory-efficient-fp16` and `--memory-efficient-bf16`;
- `--bf16` together with `--fp16` or `--amp`;
- on a mesh of several processes `--fp16`, `--amp`, `--memory-efficient-fp16`, `--memory-efficient-bf16`, `--store-ema`,
  `--use-bmuf`, `--encoder-layerdrop`, `--decoder-layerdrop`, and the optimizers adafactor and lamb; with
  `--tensor-parallel-size` also `--stop-time-hours`;
- fairseq's own ways to share out a model, which `--zero`, `--expert-parallel-size` and `--tensor-parallel-size`
  replace.

These of `fairseq-train` mean something else here:

- `--bf16`: matrix products in bfloat16, weights in 32 bits (`--memory-efficient-bf16` means what it means in fairseq);
- `--heartbeat-timeout`, with several processes: 600 seconds if not set, at least 5, and never off;
- `--cpu-offload`: with `--zero` and several processes, without fairscale;
- `--save-async`: `--save-in-background`;
- `--restore-file`, `--reset-optimizer` and the other `--reset-*`, `--finetune-from-model`, `--continue-once`: at the
  first start only;
- `--adam-eps` with `fused_adam`: added after the correction of bias.

This page is made from the code by `make docs`.
"""


def names(config: type) -> list[str]:
    """Name the fields of a dataclass that are options of their own, not references to others."""
    return [
        field.name
        for field in dataclasses.fields(config)
        if not field.name.startswith("_") and not str(field.default).startswith("${")
    ]


def table(config: type, chosen: Iterable[str]) -> str:
    """Return a Markdown table of some fields of a dataclass."""
    fields = {field.name: field for field in dataclasses.fields(config)}
    rows = ["| option | default | meaning |", "|---|---|---|"]
    for name in chosen:
        field = fields[name]
        option = name if name == "data" else as_typed(name)
        help_text = field.metadata.get("help") or ""
        meaning = help_text + choices(field.type)
        rows.append(f"| `{option}` | {default(field)} | {escape(meaning)} |")
    return "\n".join(rows)


def choices(kind: Any) -> str:
    """Return ``(a, b or c)`` for an enum or an optional enum, else nothing."""
    for candidate in (kind, *get_args(kind)):
        if isinstance(candidate, type) and issubclass(candidate, Enum):
            values = [str(member.value) for member in candidate]
            return f" ({', '.join(values[:-1])} or {values[-1]})"
    return ""


def default(field: dataclasses.Field[Any]) -> str:
    """Return the default of a field as a reader would type it."""
    value = field.default
    if value == "???" or value is dataclasses.MISSING:
        return "needed"
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"`{value}`"


def escape(text: str) -> str:
    """Keep a text within its cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def page() -> str:
    """Return the whole page."""
    shared_by_fairseq = names(FlatTransformerConfig)
    own_model = [name for name in names(MoETransformerConfig) if name not in shared_by_fairseq]
    of_fairseq = names(LabelSmoothedCrossEntropyCriterionConfig)
    criterion = [name for name in names(MoELabelSmoothedCrossEntropyConfig) if name not in of_fairseq]
    task_names = names(MultilingualMoETranslationConfig)
    optimizer = OPTIMIZER_REGISTRY["fused_adam"]
    optimizer_config = getattr(optimizer, "__dataclass")
    parts = [
        HEAD,
        "## Model: `--arch moe_transformer`",
        "The options of the mixture of experts:",
        table(MoETransformerConfig, own_model),
        "Those of fairseq's `transformer`, under its names:",
        table(MoETransformerConfig, shared_by_fairseq),
        "### Named architectures",
        "`--arch NAME`, where an option given beside it wins; `mmt train RECIPE model=NAME`.",
        architectures(),
        "## Criterion: `--criterion moe_label_smoothed_cross_entropy`",
        table(MoELabelSmoothedCrossEntropyConfig, criterion + of_fairseq),
        "## Task: `--task multilingual_moe_translation`",
        table(MultilingualMoETranslationConfig, task_names),
        "## Optimizer: `--optimizer fused_adam`",
        table(optimizer_config, names(optimizer_config)),
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def architectures() -> str:
    """Return a table of the named architectures."""
    rows = ["| name | options |", "|---|---|"]
    for name, values in ARCHITECTURES.items():
        shown = ", ".join(f"{key}={value}" for key, value in values.items())
        rows.append(f"| `{name}` | {shown} |")
    return "\n".join(rows)


def main() -> int:
    """Write the page, or with --check tell whether it is up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is out of date")
    args = parser.parse_args()
    text = page()
    if args.check:
        if not DOCS.is_file() or DOCS.read_text(encoding="utf-8") != text:
            print(f"{DOCS.name} is out of date; run: make docs", file=sys.stderr)
            return 1
        return 0
    DOCS.parent.mkdir(exist_ok=True)
    DOCS.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
