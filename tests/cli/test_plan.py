"""``mmt plan``: tables for people, and mistakes in one line."""

import re
from pathlib import Path

import pytest

from tests.cli.command import REPOSITORY, mmt

ZCODE = ["plan", "--arch", "moe_transformer_zcode_64e"]


def test_a_plan_shows_memory_time_and_the_options_to_use() -> None:
    finished = mmt("plan", "--recipe", "zcode50", "--cluster", "a100x8", cwd=REPOSITORY)

    assert finished.returncode == 0, finished.stderr
    assert "10.155B parameters" in finished.stdout
    assert re.search(r"The fastest: --expert-parallel-size 8 --zero 1\n", finished.stdout)
    assert "The recipe's own mesh, 8 experts, zero 2, fits" in finished.stdout


def test_options_may_stand_on_both_sides_of_overrides() -> None:
    finished = mmt(*ZCODE, "model.dropout=1e-1", "--cluster", "a100x8", "model.moe_experts=32", "--top", "1")

    assert finished.returncode == 0, finished.stderr
    assert "32 experts" in finished.stdout


def test_a_model_that_fits_nowhere_is_said_to() -> None:
    finished = mmt(*ZCODE, "--cluster", "t4")

    assert finished.returncode == 0
    assert "those that want least" in finished.stdout
    assert "Nothing fits." in finished.stdout


def test_the_largest_models_come_with_the_reasons() -> None:
    finished = mmt(*ZCODE, "--cluster", "a100x512", "--largest")

    assert finished.returncode == 0, finished.stderr
    assert "A parameter costs 16 bytes" in finished.stdout
    assert "host memory is the limit" in finished.stdout
    assert "about 400B parameters without and over 3.5T with host memory" in finished.stdout


def test_scaling_is_a_table_and_a_plot(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(
        (REPOSITORY / "mmt/planning/clusters/h100x64.yaml").read_text(encoding="utf-8"), encoding="utf-8"
    )
    arguments = ["plan", "--arch", "moe_transformer_base_32e", "--cluster", tmp_path / "small.yaml"]

    finished = mmt(*arguments, "--scaling", tmp_path / "plot.svg")

    assert finished.returncode == 0, finished.stderr
    assert re.search(r"^ +4096 ", finished.stdout, flags=re.MULTILINE)
    assert (tmp_path / "plot.svg").read_text(encoding="utf-8").startswith("<?xml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "--cluster", "t4"], "one of the arguments --recipe --arch is required"),
        (["plan", "--arch", "zcode", "--cluster", "t4"], "--arch zcode: no such architecture; there are moe_"),
        ([*ZCODE, "--cluster", "t5"], "--cluster t5: no such file, nor one of a100x512, a100x8"),
        ([*ZCODE, "--cluster", "t4", "--top", "0"], "--top must be 1 or more, but is 0"),
        ([*ZCODE, "--cluster", "t4", "--tokens-per-gpu", "8"], "--tokens-per-gpu must be at least --sentence-"),
        ([*ZCODE, "--cluster", "t4", "moe_experts=2"], "'moe_experts=2': with --arch, options are model.KEY=VALUE"),
        ([*ZCODE, "--cluster", "t4", "model.moe_top_k=99"], "--moe-top-k must be between 1 and --moe-experts (64)"),
        ([*ZCODE, "--cluster", "t4", "--largest", "model.moe_experts=0"], "--largest grows the experts"),
        ([*ZCODE, "--cluster", "t4", "model.moe_experts=many"], "'model.moe_experts=many': Value 'many'"),
        ([*ZCODE, "--cluster", "t4", "--scaling", "no/plot.svg"], "--scaling no/plot.svg: there is no folder no"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_option(arguments: list[str], message: str) -> None:
    assert message in mmt(*arguments).error_line()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nodes: 1.5", "nodes must be a whole number above 0, but is 1.5"),
        ("nodes: 0", "nodes must be a whole number above 0, but is 0"),
        ("efficiency: 0", "efficiency must be a number above 0, but is 0"),
        ("reserved_gib: -3", "reserved_gib must be a number from 0 on, but is -3"),
        ("nodes: [", "not YAML: while parsing"),
    ],
)
def test_a_mistake_in_a_cluster_is_one_line_that_names_the_file(line: str, message: str, tmp_path: Path) -> None:
    text = (REPOSITORY / "mmt/planning/clusters/t4.yaml").read_text(encoding="utf-8")
    key = line.partition(":")[0]
    (tmp_path / "mine.yaml").write_text(re.sub(rf"^{key}: .*$", line, text, flags=re.MULTILINE), encoding="utf-8")

    error_line = mmt(*ZCODE, "--cluster", tmp_path / "mine.yaml").error_line()

    assert error_line.startswith(f"mmt: error: --cluster {tmp_path / 'mine.yaml'}: {message}")
