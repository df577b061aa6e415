"""The job scripts on a real SLURM of one node: two tasks train together, and a job that ends early loses nothing."""

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.commands import REPOSITORY
from tests.system.launched import saved_updates, updates, wait_for_updates
from tests.system.local_slurm import PACKAGES, PROGRAMS, LocalSlurm, install_packages, local_slurm

# What a cluster with GPUs would not be asked.
TWO_TASKS = ["--ntasks-per-node=2", "--gpus-per-node=0", "--cpus-per-task=1"]
TINY = """\
# @package _global_
common: {log_interval: 1}
task: {data: %s}
model:
  encoder_layers: 2
  decoder_layers: 2
  encoder_embed_dim: 16
  encoder_ffn_embed_dim: 32
  encoder_attention_heads: 2
  decoder_attention_heads: 2
dataset: {max_tokens: 400, num_workers: 1, disable_validation: true}
optimization: {max_update: %d, lr: [0.001]}
lr_scheduler: {_name: fixed}
checkpoint: {save_dir: %s, save_interval: 1000000, save_interval_updates: 0}
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSlurm]:
    reason = install_packages(PROGRAMS, PACKAGES)
    if reason is None and os.getuid() != 0:
        reason = "only root can start SLURM's daemons"
    if reason is not None:
        pytest.skip(reason)
    with local_slurm(tmp_path_factory.mktemp("slurm")) as slurm:
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        modules = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
        slurm.environment |= {"PATH": programs, "PYTHONPATH": modules}
        yield slurm


class TinyRecipe:
    """A copy of the demo recipe whose length can be changed while its job is in the queue."""

    def __init__(self, folder: Path, data: Path) -> None:
        for name in ("demo", "common"):
            shutil.copytree(REPOSITORY / "recipes" / name, folder / "recipes" / name)
        self.folder, self.save_dir, self._data = folder / "recipes" / "demo", folder / "run", data
        self.words = [str(self.folder), "run=tiny", "task.expert_parallel_size=2"]
        self.set_max_update(1_000_000)

    def set_max_update(self, number: int) -> None:
        (self.folder / "run" / "tiny.yaml").write_text(TINY % (self._data, number, self.save_dir))


@pytest.fixture
def recipe(tmp_path: Path, toy_data: Path) -> TinyRecipe:
    return TinyRecipe(tmp_path, toy_data)


def train(slurm: LocalSlurm, log: Path, recipe: TinyRecipe, *options: str) -> str:
    """Submit ``scripts/train.slurm`` and return the job's number."""
    command = ["sbatch", "--parsable", *TWO_TASKS, f"--output={log}", *options, "scripts/train.slurm", *recipe.words]
    return slurm.ask(*command, cwd=REPOSITORY).strip()


def test_a_job_whose_time_is_over_saves_and_is_finished_by_the_next(
    slurm: LocalSlurm, recipe: TinyRecipe, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    # SLURM looks at the clock twice a minute, so that the signal may come even while the training is starting.
    job = train(slurm, log, recipe, "--time=1", "--signal=USR1@40")
    slurm.wait(job, ("PENDING",), begin_again=False)
    saved = saved_updates(recipe.save_dir)
    assert updates(log) == list(range(1, saved + 1))
    recipe.set_max_update(saved + 3)

    assert slurm.wait(job, ("COMPLETED",))["Restarts"] == "1"
    assert updates(log) == list(range(1, saved + 4))
    assert saved_updates(recipe.save_dir) == saved + 3
    assert "2 processes: 2 experts" in log.read_text()


def test_a_cancelled_job_loses_nothing(slurm: LocalSlurm, recipe: TinyRecipe, tmp_path: Path) -> None:
    log = tmp_path / "log"
    job = train(slurm, log, recipe)
    wait_for_updates(5, log)
    slurm.ask("scancel", job)
    slurm.wait_until_gone(job)
    assert slurm.job(job)["JobState"] == "CANCELLED"
    saved = saved_updates(recipe.save_dir)
    assert updates(log) == list(range(1, saved + 1))

    recipe.set_max_update(saved + 3)
    slurm.wait(train(slurm, log, recipe), ("COMPLETED",))
    assert updates(log) == list(range(1, saved + 4))


def test_submitit_puts_a_job_back_into_the_queue_until_it_is_finished(
    slurm: LocalSlurm, recipe: TinyRecipe, tmp_path: Path
) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed (pip install -e '.[slurm]')")
    options = ["--tasks-per-node=2", "--gpus-per-node=0", "--cpus-per-task=1", f"--logs={tmp_path}/logs/%j"]
    printed = slurm.ask(sys.executable, "scripts/submit.py", *recipe.words, *options, cwd=REPOSITORY)
    job = re.search(r"job (\d+), logs in (\S+)", printed)
    assert job is not None
    log = Path(job[2]) / f"{job[1]}_0_log.out"
    wait_for_updates(5, log)
    slurm.ask("scancel", "--signal=USR1", job[1])
    slurm.wait(job[1], ("PENDING",), begin_again=False)
    saved = saved_updates(recipe.save_dir)
    recipe.set_max_update(saved + 3)

    assert slurm.wait(job[1], ("COMPLETED",))["Restarts"] == "1"
    assert updates(log) == list(range(1, saved + 4))


def test_submit_shows_what_it_would_submit() -> None:
    pytest.importorskip("submitit", reason="submitit is not installed (pip install -e '.[slurm]')")
    words = ["demo", "run=minutes", "--nodes", "2", "--hours", "1.5", "--dry-run"]
    shown = LocalSlurm(Path()).ask(sys.executable, "scripts/submit.py", *words, cwd=REPOSITORY)
    for line in ("nodes=2", "timeout_min=90", "mmt train demo run=minutes"):
        assert line in shown.splitlines()


def test_two_tasks_score_a_model_together(slurm: LocalSlurm, tiny: Path, tmp_path: Path) -> None:
    log, results = tmp_path / "log", tmp_path / "results"
    options = ["--output", results, "--no-baselines", "--beam", "1"]
    command = ["sbatch", "--parsable", *TWO_TASKS, f"--output={log}", "scripts/evaluate.slurm", tiny / "run", *options]

    job = slurm.ask(*command, cwd=REPOSITORY).strip()

    slurm.wait(job, ("COMPLETED",))
    scored = [json.loads(line)["direction"] for line in (results / "scores.jsonl").read_text().splitlines()]
    assert sorted(scored) == ["de-en", "en-de", "en-ru", "ru-en"]
    assert log.read_text().count("Results, one line for each direction") == 1  # of the first task
