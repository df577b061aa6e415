"""``mmt train`` and ``make train``: every shipped recipe trains on real text, scaled down in size only."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
RECIPES = sorted(path.parent.name for path in (REPOSITORY / "recipes").glob("*/train.yaml"))
# The size of everything, and nothing else.
TINY = [
    *["model.encoder_layers=2", "model.decoder_layers=2", "model.moe_experts=4"],
    *["model.encoder_embed_dim=16", "model.encoder_ffn_embed_dim=32"],
    *["model.encoder_attention_heads=2", "model.decoder_attention_heads=2"],
    *["dataset.max_tokens=400", "dataset.num_workers=0", "task.valid_sentences_per_direction=2"],
    *["optimization.max_update=2", "optimization.update_freq=[1]", "common.log_interval=1"],
]


def mmt_train(*arguments: str | Path, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    """Run ``mmt train`` with one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "mmt.cli.main", "train", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd)


def updates(result: subprocess.CompletedProcess[str]) -> list[int]:
    """Return the numbers of the updates that the log shows."""
    return [int(number) for number in re.findall(r"train_inner.*?num_updates=(\d+)", result.stdout + result.stderr)]


@pytest.fixture(scope="module")
def sample_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two languages of the shipped sample corpus, binarized."""
    data = tmp_path_factory.mktemp("data")
    options = ["--recipe", "demo", "--preset", "sample", "--languages", "en,de,ru", "--vocab-size", "1000"]
    options += ["--max-pairs", "500", "--jobs", "1", "--data", str(data)]
    command = [sys.executable, "-m", "data_prep.run", *options]
    result = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert result.returncode == 0, result.stderr
    return data / "demo" / "sample" / "bin"


@pytest.mark.parametrize(("recipe", "routing"), zip(RECIPES, ["token_task", "dense", "sentence", "task"], strict=True))
def test_a_recipe_runs_two_updates_and_goes_on(recipe: str, routing: str, sample_data: Path, tmp_path: Path) -> None:
    overrides = [f"model={routing}", *TINY, f"task.data={sample_data}", f"checkpoint.save_dir={tmp_path}"]
    if routing == "dense":
        overrides.append("model.moe_experts=0")

    first = mmt_train(recipe, *overrides)

    assert first.returncode == 0, first.stderr[-3000:]
    assert updates(first) == [1, 2]
    assert (tmp_path / "checkpoint_last.pt").is_file()
    assert "valid" in first.stdout + first.stderr

    if recipe == "demo":
        second = mmt_train(recipe, *overrides, "optimization.max_update=3")
        assert second.returncode == 0, second.stderr[-3000:]
        assert updates(second) == [3]


def test_fairseq_hydra_train_runs_the_same_recipe(sample_data: Path, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("fairseq-hydra-train")
    overrides = ["model=task", *TINY, f"task.data={sample_data}", f"checkpoint.save_dir={tmp_path}"]
    command = [program, "--config-dir", "recipes/software50", "--config-name", "train"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    result = subprocess.run(
        [*command, *(f"++{override}" if "." in override else override for override in overrides)],
        capture_output=True, text=True, env=environment, cwd=REPOSITORY,
    )  # fmt: skip

    assert result.returncode == 0, result.stderr[-3000:]
    assert updates(result) == [1, 2]
    assert (tmp_path / "checkpoint_last.pt").is_file()


def test_the_printed_command_is_the_one_that_runs_and_can_be_typed(sample_data: Path, tmp_path: Path) -> None:
    overrides = [*TINY, f"task.data={sample_data}", f"checkpoint.save_dir={tmp_path}"]
    printed = mmt_train("demo", *overrides, "--dry-run").stdout

    assert not list(tmp_path.iterdir())
    words = shlex.split(printed)
    command = words[words.index("fairseq-train") :]
    program = str(Path(sys.executable).with_name("fairseq-train"))
    result = subprocess.run([program, *command[1:]], capture_output=True, text=True, cwd=REPOSITORY)
    assert result.returncode == 0, result.stderr[-3000:]
    assert updates(result) == [1, 2]


def test_it_works_from_another_directory(tmp_path: Path) -> None:
    result = mmt_train(REPOSITORY / "recipes" / "demo", "--dry-run", cwd=tmp_path)

    assert result.returncode == 0, result.stderr
    assert f"--user-dir {REPOSITORY / 'mmt'}" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "recipe 'nothing': no train.yaml"),
        (["demo", "model.dropot=1"], "did you mean dropout?"),
        (["demo", "task.data=data/no/such/bin"], "(no dict.txt); prepare it with: make data RECIPE=no PRESET=such"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments: Sequence[str], message: str) -> None:
    result = mmt_train(*arguments)

    assert result.returncode == 2
    assert message in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_choices_lists_the_groups() -> None:
    assert mmt_train("software50", "--choices").stdout.splitlines() == [
        "model=dense|sentence|task|token|token_task",
        "preset=full|sample|small",
        "run=cpu|gpu|quick",
    ]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["train", "PRESET=full", "ROUTING=task", "RUN=quick", "ARGS=optimization.max_update=7"],
            r"fairseq-train data/software50/full/bin .* --max-update 7 .* --decoder-routing task",
        ),
        (["data", "RECIPE=software50", "PRESET=sample"], "data_prep.binarize --input data/software50/sample/text"),
        (["data", "RECIPE=own_data", f"INPUT={REPOSITORY}/tests"], "binarize --input data/own_data/default/text"),
        (["evaluate", "RECIPE=demo"], "mmt evaluate runs/demo/sample/token_task"),
        (["demo"], "scripts/demo.sh"),
    ],
)
def test_dry_make_prints_and_runs_nothing(arguments: Sequence[str], expected: str, tmp_path: Path) -> None:
    for name in ("python", "mmt"):  # this Python's environment in place of .venv
        program = tmp_path / name
        module = "-m mmt.cli.main " if name == "mmt" else ""
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {module}"$@"\n')
        program.chmod(0o755)

    command = ["make", "--old-file", ".venv/.installed", f"BIN={tmp_path}", "DRY=1", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)

    assert result.returncode == 0, result.stderr
    assert re.search(expected, result.stdout)


def test_make_alone_shows_the_targets() -> None:
    shown = subprocess.run(["make"], capture_output=True, text=True, cwd=REPOSITORY).stdout

    for target in ("demo", "test", "checks", "data", "train", "evaluate"):
        assert f"\n  {target} " in shown
