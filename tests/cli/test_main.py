"""The dispatcher: verbs, exit codes, one-line errors."""

import signal
import subprocess

import pytest
import torch

from mmt.cli import main as dispatcher
from mmt.errors import UserError
from tests.cli.command import mmt, start_mmt


OUT_OF_MEMORY = "mmt: error: out of memory: "


@pytest.mark.parametrize("verb", dispatcher.VERBS)
def test_every_verb_has_a_help_page(verb: str) -> None:
    finished = mmt(verb, "--help")

    assert finished.returncode == 0
    assert finished.stdout.startswith(f"usage: mmt {verb} ")


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_without_a_verb_all_verbs_are_shown(arguments: list[str]) -> None:
    finished = mmt(*arguments)

    assert finished.returncode == 0
    for verb, text in dispatcher.VERBS.items():
        assert verb in finished.stdout and text in finished.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["tranlsate"], "unknown verb 'tranlsate'; did you mean translate?"),
        (["fly"], "unknown verb 'fly'; verbs are train, translate, evaluate, compare, consolidate, plan, doctor"),
        (["--fast"], "unrecognized arguments: --fast"),
        (["translate", "--to", "de"], "the following arguments are required: --model"),
        (["translate", "--model", "x", "--to", "de", "--beam", "wide"], "argument --beam: invalid int value: 'wide'"),
    ],
)
def test_a_wrong_command_line_is_one_line_that_names_what_is_wrong(arguments: list[str], expected: str) -> None:
    assert expected in mmt(*arguments).error_line()


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("--beam must be at least 1, but is 0"), 2, "mmt: error: --beam must be at least 1, but is 0\n"),
        (OSError(28, "No space left on device", "out.de"), 1, "mmt: error: No space left on device: out.de\n"),
        (KeyboardInterrupt(), 130, ""),
        (torch.OutOfMemoryError("CUDA out of memory."), 1, f"{OUT_OF_MEMORY}CUDA out of memory.\n"),
        (RuntimeError("can't allocate memory: 9 bytes"), 1, f"{OUT_OF_MEMORY}can't allocate memory: 9 bytes\n"),
        (MemoryError(), 1, f"{OUT_OF_MEMORY}MemoryError\n"),
    ],
)
def test_errors_become_exit_codes(
    error: BaseException, code: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(arguments: list[str]) -> int:
        raise error

    monkeypatch.setattr(dispatcher, "_run", fail)

    assert dispatcher.main(["translate"]) == code
    assert capsys.readouterr().err == message


def test_other_errors_of_torch_are_not_taken_for_want_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(arguments: list[str]) -> int:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(dispatcher, "_run", fail)

    with pytest.raises(RuntimeError, match="shapes differ"):
        dispatcher.main(["translate"])


def test_a_reader_that_goes_away_ends_the_command_without_a_traceback() -> None:
    process = start_mmt("doctor", stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read().decode()

    assert process.wait() == 128 + signal.SIGPIPE
    assert "Traceback" not in errors and "BrokenPipe" not in errors


def test_a_full_disk_is_one_line_and_exit_code_1() -> None:
    with open("/dev/full", "wb") as full:
        process = start_mmt("doctor", stdout=full)
        _, errors = process.communicate()

    assert process.returncode == 1
    assert errors.decode().splitlines()[-1] == "mmt: error: No space left on device"
    assert b"Traceback" not in errors and b"Exception ignored" not in errors
