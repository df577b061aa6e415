"""``mmt consolidate``: one file out of a checkpoint with shards."""

import json
from pathlib import Path

import pytest
import torch
from fairseq import checkpoint_utils
from safetensors import safe_open
from safetensors.torch import load_file

import mmt as package  # noqa: F401  (lets fairseq read checkpoints with shards)
from tests.cli.command import mmt
from tests.system.commands import PLUGIN, ROUTINGS, run, train, train_together

OPTIONS = [*ROUTINGS["token_task"], "--disable-validation"]


@pytest.fixture(scope="module")
def run_of_two(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes, whose checkpoint is in shards."""
    folder = tmp_path_factory.mktemp("run")
    train_together(2, toy_data, folder, *OPTIONS, "--max-update", "2", "--expert-parallel-size", "2", "--zero", "3")
    return folder


def test_a_file_for_fairseq_has_the_weights_and_trains_on(run_of_two: Path, toy_data: Path, tmp_path: Path) -> None:
    output = tmp_path / "tuned" / "checkpoint_start.pt"  # in the folder of the training that begins with it
    output.parent.mkdir()
    finished = mmt("consolidate", run_of_two, "--output", output)
    assert finished.returncode == 0, finished.stderr
    saved = checkpoint_utils.load_checkpoint_to_cpu(str(output))
    assert "shards" not in saved and saved["last_optimizer_state"] is None
    expected = checkpoint_utils.load_checkpoint_to_cpu(str(run_of_two / "checkpoint_last.pt"))["model"]
    assert saved["model"].keys() == expected.keys()
    assert all(torch.equal(tensor, saved["model"][name]) for name, tensor in expected.items())
    tuning = [*OPTIONS, "--max-update", "1", "--no-save", "--finetune-from-model", output]
    train(toy_data, output.parent, *tuning)
    without_optimizer = torch.load(output)
    del without_optimizer["last_optimizer_state"]  # as an older version of mmt made such files
    torch.save(without_optimizer, output)
    train(toy_data, output.parent, *tuning)


def test_a_safetensors_file_has_the_weights_once_and_the_settings(run_of_two: Path, tmp_path: Path) -> None:
    output = tmp_path / "one.safetensors"
    finished = mmt("consolidate", run_of_two / "checkpoint_last.pt", "--output", output)
    assert finished.returncode == 0, finished.stderr
    tensors = load_file(output)
    with safe_open(output, "pt") as file:
        metadata = file.metadata()
    aliases = json.loads(metadata["aliases"])
    assert aliases["decoder.output_projection.weight"] == "encoder.embed_tokens.weight"
    expected = checkpoint_utils.load_checkpoint_to_cpu(str(run_of_two / "checkpoint_last.pt"))["model"]
    assert tensors.keys() | aliases.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensors[aliases.get(name, name)], tensor), name
    assert json.loads(metadata["cfg"])["model"]["moe_experts"] == 4


@pytest.mark.parametrize(
    "output, message",
    [("model.bin", "must end in .pt or .safetensors"), ("there.pt", "exists already"), ("no/one.pt", "no folder")],
)
def test_a_wrong_output_is_one_line(output: str, message: str, run_of_two: Path, tmp_path: Path) -> None:
    (tmp_path / "there.pt").touch()
    assert message in mmt("consolidate", run_of_two, "--output", tmp_path / output).error_line()


def test_a_model_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    line = mmt("consolidate", tmp_path / "nowhere", "--output", tmp_path / "one.pt").error_line()
    assert line == f"mmt: error: MODEL {tmp_path / 'nowhere'}: no such file or folder"


def test_fairseq_translates_with_shards_as_with_one_file(run_of_two: Path, toy_data: Path, tmp_path: Path) -> None:
    assert mmt("consolidate", run_of_two, "--output", tmp_path / "one.pt").returncode == 0
    translations = []
    for checkpoint in (run_of_two / "checkpoint_last.pt", tmp_path / "one.pt"):
        command = ["fairseq-generate", toy_data, *PLUGIN, "--path", checkpoint]
        command += ["--task", "multilingual_moe_translation"]
        command += ["--gen-subset", "valid", "--source-lang", "en", "--target-lang", "aa", "--cpu", "--beam", "2"]
        result = run([*command, "--encoder-langtok", "tgt", "--decoder-langtok"])
        assert result.returncode == 0, result.stderr
        translations.append([line for line in result.stdout.splitlines() if line.startswith(("H-", "P-"))])
    assert len(translations[0]) == 80
    assert translations[0] == translations[1]
