"""fairseq's own commands use our models, from any folder.

All of them start anew: fairseq imports the plugin while it imports itself.
"""

import math
import subprocess
from pathlib import Path

import pytest
import torch

from tests.system.commands import LANGUAGE_TOKENS, PLUGIN, ROUTINGS, records, run_anew, train_command

NAMED = ["--user-dir", "mmt"]  # found by its name from any folder
TASK = [*NAMED, "--task", "multilingual_moe_translation", *LANGUAGE_TOKENS, "--num-workers", "0", "--cpu"]
VALID_SENTENCES = 4  # of each of the tiny model's four directions


def hypotheses_of(result: subprocess.CompletedProcess[str]) -> dict[str, tuple[float, str]]:
    """Return the score and text of each hypothesis that ``fairseq-generate`` has printed."""
    lines = [line.split("\t") for line in result.stdout.splitlines() if line.startswith("H-")]
    return {name: (float(score), text) for name, score, text in lines}


def test_fairseq_generate_translates_every_sentence(tiny: Path, tmp_path: Path) -> None:
    direction = ["--source-lang", "en", "--target-lang", "de", "--gen-subset", "valid"]
    options = ["--path", tiny / "run" / "checkpoint_last.pt", "--remove-bpe", "sentencepiece"]
    result = run_anew(["fairseq-generate", tiny / "bin", *TASK, *direction, *options], cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:] + result.stdout[-2000:]
    hypotheses = hypotheses_of(result)
    assert sorted(hypotheses) == [f"H-{i}" for i in range(VALID_SENTENCES)]
    for score, text in hypotheses.values():
        assert score < 0
        assert "__de__" not in text

    options += ["--bf16"]
    rough = hypotheses_of(run_anew(["fairseq-generate", tiny / "bin", *TASK, *direction, *options], cwd=tmp_path))
    assert sorted(rough) == sorted(hypotheses)
    differences = [abs(rough[name][0] - score) for name, (score, _) in hypotheses.items()]
    assert 0 < max(differences) < 0.1


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


def test_fairseq_interactive_translates_what_it_is_told(tiny: Path, tmp_path: Path) -> None:
    direction = ["--source-lang", "en", "--target-lang", "ru", "--bpe", "sentencepiece"]
    model = ["--path", tiny / "run" / "checkpoint_last.pt", "--sentencepiece-model", tiny / "bin" / "spm.model"]
    command = ["fairseq-interactive", tiny / "bin", *TASK, *direction, *model]
    result = run_anew(command, cwd=tmp_path, input="Open the file.\nClose it.\n")
    assert result.returncode == 0, result.stderr[-3000:]
    assert [line.split("\t")[0] for line in result.stdout.splitlines() if line.startswith("D-")] == ["D-0", "D-1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"caf\xe9\n", "--input {}: not valid UTF-8"),
        (b"a " * 50_000 + b"\n", "Size of sample #0 is invalid"),
    ],
    ids=["bad bytes", "too long"],
)
def test_text_that_fairseq_interactive_cannot_translate_is_one_line(
    text: bytes, message: str, tiny: Path, tmp_path: Path
) -> None:
    (tmp_path / "input").write_bytes(text)
    direction = ["--source-lang", "en", "--target-lang", "ru", "--input", tmp_path / "input"]
    model = ["--path", tiny / "run" / "checkpoint_last.pt"]
    result = run_anew(["fairseq-interactive", tiny / "bin", *TASK, *direction, *model], cwd=tmp_path)
    assert result.returncode == 2, result.stderr[-3000:]
    assert message.format(tmp_path / "input") in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


SCRIPT = "import mmt; from fairseq_cli.train import cli_main; cli_main()"


@pytest.mark.parametrize(
    ("start", "user_dir"),
    [
        (["fairseq-train"], NAMED),
        (["python", "-c", SCRIPT], []),
        (["python", "-c", SCRIPT], PLUGIN),
        (["python", "-c", SCRIPT], NAMED),
    ],
    ids=["named", "imported", "imported-and-user-dir", "imported-and-named"],
)
def test_our_trainer_trains_whichever_way_the_plugin_is_found(
    start: list[str], user_dir: list[str], toy_data: Path, tmp_path: Path
) -> None:
    options = [*ROUTINGS["token_task"], "--max-update", "1", "--disable-validation"]
    command = train_command(toy_data, tmp_path / "run", *options)
    arguments = [word for word in command[1:] if word not in PLUGIN]
    result = run_anew([*start, *arguments, *user_dir], cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:] + result.stdout[-2000:]
    # Not from the log: whoever imports fairseq's models first gets the logging of one of them, at level DEBUG.
    saved = torch.load(tmp_path / "run" / "checkpoint_last.pt")
    assert saved["optimizer_history"][-1]["num_updates"] == 1
    # fairseq's own trainer does not save it.
    assert "early_stopping" in saved["extra_state"]
