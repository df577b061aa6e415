"""``mmt doctor``: what it finds, and what it advises."""

import importlib.machinery
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import sacrebleu
import torch

import mmt as package
from mmt.cli import doctor
from tests.cli.command import REPOSITORY, mmt


def test_everything_of_the_core_is_shown_with_its_version() -> None:
    finished = mmt("doctor")

    assert finished.returncode == 0
    for name, version in (
        ("Python", platform.python_version()),
        ("torch", torch.__version__),
        ("sacrebleu", sacrebleu.__version__),
        ("mmt", package.__version__),
    ):
        assert any(line.split()[:2] == [name, version] for line in finished.stdout.splitlines()), name
    for text in ("fairseq", "gloo (CPU)", "NVIDIA apex", "memory allocator", "fairseq-train", "The core works."):
        assert text in finished.stdout


def test_a_missing_core_package_fails_and_says_how_to_mend_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "CORE", ("torch", "no-such-package"))

    code = doctor.run(None)  # type: ignore[arg-type]

    assert code == 1
    output = capsys.readouterr().out
    assert "no-such-package        MISSING   mend: pip install no-such-package" in output
    assert "1 things that the core needs are missing or broken." in output


def test_a_broken_fairseq_is_reported_in_words(tmp_path: Path) -> None:
    (tmp_path / "fairseq").mkdir()
    (tmp_path / "fairseq" / "__init__.py").write_text("raise ValueError('mutable default for field common')\n")

    def real_mmt(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{REPOSITORY}"}
        script = Path(sys.executable).with_name("mmt")
        return subprocess.run([script, *arguments], env=environment, capture_output=True, text=True)

    doctor_finished, train_finished = real_mmt("doctor"), real_mmt("train", "demo")

    assert doctor_finished.returncode == 1, doctor_finished.stderr
    assert "not loaded, ValueError: mutable default for field common" in doctor_finished.stdout
    assert "mend: pip install --force-reinstall ve-fairseq" in doctor_finished.stdout
    assert "CPU" in doctor_finished.stdout
    assert train_finished.returncode == 2
    assert train_finished.stderr.count("\n") == 1
    assert "mmt doctor says what is missing" in train_finished.stderr


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["normalization/fused_layer_norm.py", "amp/__init__.py"], "NVIDIA"),
        (["interfaces.py", "models.py"], "unrelated"),  # the package of that name on PyPI
    ],
)
def test_nvidia_apex_is_told_from_the_unrelated_package_without_running_it(
    files: list[str], expected: str, tmp_path: Path
) -> None:
    folder = tmp_path / "apex"
    for name in ["__init__.py", *files]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("raise RuntimeError('this must not run')\n")

    spec = importlib.machinery.PathFinder.find_spec("apex", [str(tmp_path)])

    assert doctor.apex_kind(spec) == expected
    assert doctor.apex_kind(None) is None


def test_extras_are_read_from_the_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    requirements = [
        "torch>=2.10",
        "jinja2>=3.1; extra == 'report'",
        'matplotlib>=3.9; extra == "report"',
        'submitit>=1.5 ; extra == "slurm"',
    ]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: requirements)

    assert doctor.optional_packages() == {"report": ["jinja2", "matplotlib"], "slurm": ["submitit"]}


def test_missing_optional_packages_are_advised_but_do_not_fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.metadata.requires", lambda name: ["no-such-package>=3.1; extra == 'report'"])

    code = doctor.run(None)  # type: ignore[arg-type]

    assert code == 0
    assert "pip install -e '.[report]'   (missing: no-such-package)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor: 0\nflags\t\t: fpu avx2 amx_bf16\nbugs: x\n", {"fpu", "avx2", "amx_bf16"}),
        ("Features\t: fp asimd bf16\n", {"fp", "asimd", "bf16"}),
        ("", set()),
    ],
)
def test_cpu_flags_are_those_of_the_kernel(text: str, expected: set[str], tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(text)

    assert doctor.cpu_flags(path) == expected
    assert doctor.cpu_flags(tmp_path / "none") == set()
