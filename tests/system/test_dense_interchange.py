"""A dense model goes from fairseq to mmt and back: the same weights, the same logits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq import checkpoint_utils

from tests.models.tiny import batch
from tests.system.commands import LANGUAGE_TOKENS, ROUTINGS, SHAPE, installed, run, train_command


def stock(data: Path, save_dir: Path, *options: str | Path) -> list[str]:
    """Return a training command of fairseq alone, without the plugin."""
    return [
        *[installed("fairseq-train"), str(data), "--task", "translation_multi_simple_epoch", *LANGUAGE_TOKENS],
        *["--lang-dict", str(data / "lang_list.txt"), "--lang-pairs", str(data / "lang_pairs.txt")],
        *["--fixed-dictionary", str(data / "dict.txt"), "--arch", "transformer", *SHAPE],
        *["--criterion", "label_smoothed_cross_entropy", "--optimizer", "adam", "--lr", "0.004"],
        *["--max-tokens", "1000", "--cpu", "--no-epoch-checkpoints", "--num-workers", "0"],
        *["--save-dir", str(save_dir), *map(str, options)],
    ]


def ours(data: Path, save_dir: Path, *options: str | Path) -> list[str]:
    """Return a training command of mmt for a dense model."""
    return train_command(data, save_dir, *ROUTINGS["dense"], *options)


def checkpoint_of(command: Callable[..., list[str]], data: Path, save_dir: Path, *options: str | Path) -> Path:
    """Train, and return the last checkpoint."""
    # fairseq alone cannot read any of its checkpoints with today's torch.
    readable = {"env": {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}} if command is stock else {}
    result = run(command(data, save_dir, *options, "--disable-validation"), **readable)
    assert result.returncode == 0, result.stderr[-3000:] + result.stdout[-2000:]
    return save_dir / "checkpoint_last.pt"


def load(checkpoint: Path) -> Any:
    (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)])
    return model.eval()


PRE_NORM = ["--encoder-normalize-before", "--decoder-normalize-before"]


@pytest.mark.parametrize(
    ("first", "second", "norms"),
    [(stock, ours, []), (ours, stock, PRE_NORM)],
    ids=["to-mmt-post-norm", "to-fairseq-pre-norm"],
)
def test_a_dense_model_goes_on_in_the_other_program_with_equal_logits(
    first: Callable[..., list[str]],
    second: Callable[..., list[str]],
    norms: list[str],
    toy_data: Path,
    tmp_path: Path,
) -> None:
    # With another seed, no initial weights are those of the checkpoint by chance.
    before = checkpoint_of(first, toy_data, tmp_path / "first", *norms, "--max-update", "2", "--seed", "2")
    go_on = [*norms, "--finetune-from-model", before, "--max-update", "1", "--lr", "0"]
    after = checkpoint_of(second, toy_data, tmp_path / "second", *go_on)

    weights, weights_after = (torch.load(path)["model"] for path in (before, after))
    assert weights_after.keys() == weights.keys()
    for name, weight in weights.items():
        assert torch.equal(weights_after[name], weight), name

    models = [load(before), load(after)]
    assert {type(model).__module__.split(".")[0] for model in models} == {"fairseq", "mmt"}
    sample = batch([[5, 6, 7, 8], [9, 10]], [[11, 12, 13], [14, 15, 16]])
    net_input = {key: value for key, value in sample.items() if not key.endswith("lang_id")}  # fairseq takes none
    with torch.no_grad():
        logits, logits_after = (model(**net_input)[0] for model in models)
    torch.testing.assert_close(logits_after, logits, rtol=1e-5, atol=1e-5)
