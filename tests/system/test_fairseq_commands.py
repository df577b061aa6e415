"""fairseq's own commands use our models, from any folder.

All of them start anew: fairseq imports the plugin while it imports itself.
"""

import math
from pathlib import Path

import pytest
import torch

from tests.system.commands import LANGUAGE_TOKENS, PLUGIN, ROUTINGS, records, run_anew, train_command

TASK = [*PLUGIN, "--task", "multilingual_moe_translation", *LANGUAGE_TOKENS, "--num-workers", "0", "--cpu"]
VALID_SENTENCES = 4  # of each of the tiny model's four directions


def test_fairseq_generate_translates_every_sentence(tiny: Path, tmp_path: Path) -> None:
    direction = ["--source-lang", "en", "--target-lang", "de", "--gen-subset", "valid"]
    options = ["--path", tiny / "run" / "checkpoint_last.pt", "--remove-bpe", "sentencepiece"]
    result = run_anew(["fairseq-generate", tiny / "bin", *TASK, *direction, *options], cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:] + result.stdout[-2000:]
    hypotheses = [line.split("\t") for line in result.stdout.splitlines() if line.startswith("H-")]
    assert sorted(name for name, *_ in hypotheses) == [f"H-{i}" for i in range(VALID_SENTENCES)]
    for _, score, text in hypotheses:
        assert float(score) < 0
        assert "__de__" not in text


@pytest.mark.parametrize(
    "options, names",
    [
        ([], ["loss", "nll_loss", "moe_imbalance", "encoder.0_entropy"]),
        (["--eval-bleu"], ["loss", "moe_imbalance", "bleu", "bleu_en-de", "chrf", "chrf_ru-en"]),
    ],
    ids=["loss", "scores"],
)
def test_fairseq_validate_logs_finite_numbers(options: list[str], names: list[str], tiny: Path, tmp_path: Path) -> None:
    options = [*options, "--valid-subset", "valid", "--batch-size", "4", "--log-format", "json", "--log-interval", "1"]
    checkpoint = ["--path", tiny / "run" / "checkpoint_last.pt"]
    result = run_anew(["fairseq-validate", tiny / "bin", *TASK, *checkpoint, *options], cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:] + result.stdout[-2000:]
    (record,) = records(result, "valid")
    assert float(record["valid_bsz"]) == 4 * VALID_SENTENCES
    assert all(math.isfinite(float(record[f"valid_{name}"])) for name in names), record


@pytest.mark.parametrize("user_dir", [[], PLUGIN], ids=["imported", "imported-and-user-dir"])
def test_a_script_that_imports_mmt_trains_with_our_trainer(user_dir: list[str], toy_data: Path, tmp_path: Path) -> None:
    script = "import mmt; from fairseq_cli.train import cli_main; cli_main()"
    options = [*ROUTINGS["token_task"], "--max-update", "1", "--disable-validation"]
    command = train_command(toy_data, tmp_path / "run", *options)
    arguments = [word for word in command[1:] if word not in PLUGIN]
    result = run_anew(["python", "-c", script, *arguments, *user_dir], cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:] + result.stdout[-2000:]
    # Not from the log: whoever imports fairseq's models first gets the logging of one of them, at level DEBUG.
    saved = torch.load(tmp_path / "run" / "checkpoint_last.pt")
    assert saved["optimizer_history"][-1]["num_updates"] == 1
    # fairseq's own trainer does not save it.
    assert "early_stopping" in saved["extra_state"]
