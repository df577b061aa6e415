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

from mmt.cli.main import main
from tests.system import commands

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="needs make, which is not in every container")
REPOSITORY = Path(__file__).resolve().parents[2]
RECIPES = sorted(path.parent.name for path in (REPOSITORY / "recipes").glob("*/train.yaml"))
# The size of everything, and nothing else.
TINY = [
    *["model.encoder_layers=2", "model.decoder_layers=2"],
    *["model.encoder_embed_dim=16", "model.encoder_ffn_embed_dim=32"],
    *["model.encoder_attention_heads=2", "model.decoder_attention_heads=2"],
    *["dataset.max_tokens=400", "dataset.num_workers=0", "task.valid_sentences_per_direction=2"],
    *["task.expert_parallel_size=1", "task.zero=2"],  # one process, with nothing to share out
    *["optimization.max_update=2", "optimization.update_freq=[1]", "common.log_interval=1"],
]


def run(
    command: Sequence[str | Path], cwd: Path = REPOSITORY, exit_code: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run a command with one thread; it must end with ``exit_code``."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, cwd=cwd)
    assert result.returncode == exit_code, result.stderr[-3000:]
    return result


def typed(printed: str) -> list[str]:
    """Return the words of a printed ``fairseq-train`` command, without the environment in front of them."""
    words = shlex.split(printed)
    return words[words.index("fairseq-train") :]


def updates(result: subprocess.CompletedProcess[str]) -> list[int]:
    """Return the numbers of the updates that the log shows."""
    return [int(number) for number in re.findall(r"epoch \d+: .* num_updates=(\d+)", result.stdout + result.stderr)]


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_runs_two_updates(
    recipe: str, sample_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The other recipes with routings that none of them has by itself, zcode50 and demo with their own.
    routing = {"own_data": ["model=dense"], "software50": ["model=sentence"], "software6": ["model=task"]}
    overrides = [*routing.get(recipe, []), *TINY, f"task.data={sample_data}", f"checkpoint.save_dir={tmp_path}"]

    assert main(["train", recipe, *overrides, "--dry-run"]) == 0
    assert not list(tmp_path.iterdir())  # nothing was started
    result = commands.run(typed(capsys.readouterr().out))

    assert result.returncode == 0, result.stderr[-3000:]
    assert updates(result) == [1, 2]
    assert re.search(r"valid on 'valid' subset .* num_updates 2\b", result.stdout + result.stderr)
    assert (tmp_path / "checkpoint_last.pt").is_file()


def test_mmt_train_changes_no_file_of_a_finished_training_and_goes_on_with_more_updates(
    sample_data: Path, tmp_path: Path
) -> None:
    mmt_train = [sys.executable, "-m", "mmt.cli.main", "train", "demo", *TINY]
    mmt_train += [f"task.data={sample_data}", f"checkpoint.save_dir={tmp_path}"]
    assert updates(run(mmt_train)) == [1, 2]
    written = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}

    again = run(mmt_train)

    assert updates(again) == []
    assert "training has all of its 2 updates" in again.stdout + again.stderr
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == written

    assert updates(run([*mmt_train, "optimization.max_update=3"])) == [3]


def test_fairseq_hydra_train_runs_the_same_recipe(sample_data: Path, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("fairseq-hydra-train")
    overrides = [*TINY, f"task.data={sample_data}", f"checkpoint.save_dir={tmp_path}"]

    result = run(
        [program, "--config-dir", "recipes/software50", "--config-name", "train", "model=task"]
        + [f"++{override}" for override in overrides]
    )

    assert updates(result) == [1, 2]
    assert (tmp_path / "checkpoint_last.pt").is_file()


def test_a_mistake_of_fairseq_hydra_train_is_one_line_and_exit_code_2(sample_data: Path, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("fairseq-hydra-train")
    overrides = [*TINY, f"task.data={sample_data}", f"checkpoint.save_dir={tmp_path}", "task.lang_pairs=en-xx"]

    result = run(
        [program, "--config-dir", "recipes/software50", "--config-name", "train", "model=task"]
        + [f"++{override}" for override in overrides],
        exit_code=2,
    )

    assert "mmt: error: unknown language 'xx' in en-xx" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_it_works_from_another_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    assert main(["train", str(REPOSITORY / "recipes" / "demo"), "--dry-run"]) == 0
    assert f"--user-dir {REPOSITORY / 'mmt'} " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "recipe 'nothing': no train.yaml"),
        (["demo", "model.dropot=1"], "did you mean dropout?"),
        (["demo", "task.data=data/no/such/bin"], "(no files train.xx-yy.*); prepare it with: make data RECIPE=no "),
        (["own_data", "task.data=nowhere"], "(no files train.xx-yy.*); see recipes/own_data/README.md"),
        (["demo", "common.fp16=true"], "--bf16 is one precision, and --fp16 or --amp another"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: Sequence[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *arguments]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_data_that_fairseq_preprocess_has_made_is_data_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("dict.en.txt", "dict.de.txt", "train.en-de.en.idx", "train.en-de.de.idx"):
        (tmp_path / name).touch()
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execve", lambda program, command, environment: started.append(command))

    main(["train", "own_data", f"task.data={tmp_path}", "task.langs=en,de", "task.lang_pairs=en-de,de-en"])

    assert started and started[0][:2] == ["fairseq-train", str(tmp_path)]
    assert started[0][started[0].index("--lang-pairs") + 1] == "en-de,de-en"


def test_choices_lists_the_groups(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "software50", "--choices"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "model=dense|sentence|task|token|token_task",
        "preset=chromium|full|sample|small",
        "run=cpu|gpu|quick",
    ]


@needs_make
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

    result = run(["make", "--old-file", ".venv/.installed", f"BIN={tmp_path}", "DRY=1", *arguments])

    assert re.search(expected, result.stdout)
    assert not re.search(r"^\+ ", result.stdout, re.MULTILINE)  # as data_prep.run shows what it runs


@needs_make
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "RECIPE=nope"], "RECIPE=nope: there is no such folder in recipes/ (there are demo"),
        (["data", "RECIPE=nope"], "RECIPE=nope: there is no such folder in recipes/ (there are demo"),
        (["data", "RECIPE=own_data"], "RECIPE=own_data needs INPUT=: a folder of"),
    ],
)
def test_make_names_a_mistake_before_anything_runs(arguments: Sequence[str], message: str) -> None:
    command = ["make", "--old-file=.venv/.installed", "DRY=1", *arguments]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 2
    assert message in result.stderr.splitlines()[0]


@needs_make
def test_make_names_a_python_that_it_cannot_use_and_makes_nothing(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.10.4 && exit\nexit 1\n')
    python.chmod(0o755)

    command = ["make", "venv", f"VENV={tmp_path / 'venv'}", f"PYTHON={python}"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)

    assert result.returncode == 2
    message = f"make: PYTHON={python} must be a Python 3.11 or 3.12, but is Python 3.10.4"
    assert result.stderr.splitlines()[0] == message
    assert not (tmp_path / "venv").exists()


def test_make_alone_shows_the_targets() -> None:
    shown = run(["make"]).stdout

    for target in ("demo", "test", "checks", "data", "train", "evaluate"):
        assert f"\n  {target} " in shown
