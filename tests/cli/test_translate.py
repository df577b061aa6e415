"""``mmt translate`` as a user runs it."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from tests.cli.command import REPOSITORY, mmt, start_mmt
from tests.evaluation.tiny_model import aligned_text
from tests.system.launched import TIMEOUT_SECONDS, wait_until

LINES = aligned_text(9, seed=5)["en"]
TEXT = "".join(f"{line}\n" for line in LINES).encode()
# Short and fast: what is said does not matter here.
QUICK = ["--beam", "1", "--max-len-a", "0", "--max-len-b", "4"]


class Opened:
    """What a checkpoint that runs code would do: make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


def test_one_target_goes_to_stdout_line_by_line(tiny: Path) -> None:
    finished = mmt("translate", "--model", tiny / "run", "--to", "de", *QUICK, stdin=TEXT)

    assert finished.returncode == 0
    assert finished.stderr == ""
    assert len(finished.stdout.split("\n")) == len(LINES) + 1
    for i in (0, 4):
        alone = mmt(
            "translate", "--model", tiny / "run", "--from", "en", "--to", "de", *QUICK, stdin=f"{LINES[i]}\n".encode()
        )
        assert alone.stdout == finished.stdout.split("\n")[i] + "\n"


def test_several_targets_are_columns_or_files_with_the_same_text(tiny: Path, tmp_path: Path) -> None:
    columns = mmt("translate", "--model", tiny / "run", "--to", "ru,de", *QUICK, stdin=TEXT)
    files = mmt(
        "translate", "--model", tiny / "run", "--to", "ru,de", *QUICK, "--output-prefix", tmp_path / "out", stdin=TEXT
    )

    assert columns.returncode == files.returncode == 0
    assert files.stdout == ""
    russian, german = (tmp_path / "out.ru").read_text(), (tmp_path / "out.de").read_text()
    assert columns.stdout == "".join(
        f"{ru}\t{de}\n" for ru, de in zip(russian.split("\n")[:-1], german.split("\n")[:-1], strict=True)
    )
    assert german == mmt("translate", "--model", tiny / "run", "--to", "de", *QUICK, stdin=TEXT).stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.de", "out.ru"]


def test_bad_lines_are_counted_and_all_lines_stay_aligned(tiny: Path) -> None:
    bad = [b"Open.", b"", b"\xff\xfe window", b"x" * 100_000, b"print\0page", b"Save."]

    finished = mmt("translate", "--model", tiny / "run", "--to", "de", *QUICK, "--window", "4", stdin=b"\n".join(bad))

    assert finished.returncode == 0
    translations = finished.stdout.split("\n")[:-1]
    assert [bool(line) for line in translations] == [True, False, True, False, True, True]
    assert (
        translations[5] == mmt("translate", "--model", tiny / "run", "--to", "de", *QUICK, stdin=b"Save.").stdout[:-1]
    )
    assert sorted(finished.stderr.splitlines()) == [
        "mmt translate: NUL bytes, read as spaces: 1 of 6 lines, the first is line 5",
        "mmt translate: invalid UTF-8, the wrong bytes read as U+FFFD: 1 of 6 lines, the first is line 3",
        "mmt translate: more than the 62 pieces that the model takes, skipped: 1 of 6 lines, the first is line 4",
    ]


def test_a_line_that_is_too_long_is_truncated_on_request(tiny: Path) -> None:
    finished = mmt(
        "translate", "--model", tiny / "run", "--to", "de", *QUICK, "--too-long", "truncate", stdin=b"x" * 100_000
    )

    assert len(finished.stdout) > 1
    assert (
        finished.stderr
        == "mmt translate: more than the 62 pieces that the model takes, truncated: 1 of 1 lines, the first is line 1\n"
    )


def test_empty_input_gives_empty_output(tiny: Path, tmp_path: Path) -> None:
    finished = mmt("translate", "--model", tiny / "run", "--to", "de", "--output-prefix", tmp_path / "out")

    assert finished.returncode == 0
    assert (tmp_path / "out.de").read_bytes() == b""


def test_progress_is_shown_on_request_on_stderr(tiny: Path) -> None:
    finished = mmt("translate", "--model", tiny / "run", "--to", "de,ru", *QUICK, "--progress", stdin=TEXT)

    assert "en-de,ru: 18 translations" in finished.stderr
    assert len(finished.stdout.splitlines()) >= len(LINES)


def test_a_pipe_that_stays_open_gets_its_answers(tiny: Path) -> None:
    process = start_mmt("translate", "--model", tiny / "run", "--to", "de", *QUICK)
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    try:
        for line in LINES[:2]:  # the second question comes after the first answer
            process.stdin.write(f"{line}\n".encode())
            process.stdin.flush()
            assert process.stdout.readline().strip()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=TIMEOUT_SECONDS) == 130
        assert b"Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.wait()


def test_the_input_may_be_a_named_pipe(tiny: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    process = start_mmt("translate", "--model", tiny / "run", "--to", "de", *QUICK, "--input", tmp_path / "pipe")
    try:
        # Opens when the command does, if it does.
        threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(TEXT,), daemon=True).start()
        output, errors = process.communicate(timeout=TIMEOUT_SECONDS)
    finally:
        process.kill()

    assert process.returncode == 0, errors
    assert output.decode() == mmt("translate", "--model", tiny / "run", "--to", "de", *QUICK, stdin=TEXT).stdout


def test_a_closed_stdin_is_one_line(tiny: Path) -> None:
    command = [sys.executable, "-m", "mmt.cli.main", "translate", "--model", str(tiny / "run"), "--to", "de"]
    finished = subprocess.run(
        ["sh", "-c", f"{shlex.join(command)} <&-"], capture_output=True, text=True, cwd=REPOSITORY
    )

    assert finished.returncode == 2
    assert finished.stderr == "mmt: error: stdin is closed; name a file with --input FILE\n"


def test_a_kill_leaves_no_file_under_its_final_name(tiny: Path, tmp_path: Path) -> None:
    process = start_mmt(
        "translate",
        "--model",
        tiny / "run",
        "--to",
        "de",
        *QUICK,
        "--output-prefix",
        tmp_path / "out",
        stdout=subprocess.DEVNULL,
    )
    assert process.stdin is not None
    process.stdin.write(TEXT)
    process.stdin.flush()
    partial = tmp_path / ".out.de.partial"

    def has_begun() -> bool:
        return partial.is_file() and partial.stat().st_size > 0

    wait_until(lambda: has_begun() or process.poll() is not None, "the first translations")
    assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()

    assert not (tmp_path / "out.de").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--to", "xx"], "--to: unknown language 'xx'; the model knows en, de, ru"),
        (["--to", "de,"], "--to: unknown language ''; the model knows en, de, ru"),
        (["--to", "de,de"], "--to names de twice"),
        (["--to", "de", "--from", "xx"], "--from: unknown language 'xx'; the model knows en, de, ru"),
        (["--to", "de", "--window", "0"], "--window must be at least 1, but is 0"),
        (["--to", "de", "--beam", "0"], "--beam must be at least 1, but is 0"),
        (["--to", "de", "--output-prefix", "no/such/out"], "--output-prefix no/such/out: there is no folder no/such"),
        (["--to", "de", "--output-prefix", "./"], "--output-prefix ./: a folder; what file names begin with is mis"),
        (["--to", "de", "--max-len-a", "inf"], "--max-len-a must be a finite number of at least 0, but is inf"),
        (["--to", "de", "--lenpen", "nan"], "--lenpen must be a finite number, but is nan"),
        (["--to", "de", "--input", "no/such"], "--input no/such: no such file"),
        (["--to", "de", "--input", "."], "--input .: a folder, not a file"),
        (["--to", "de", "--data", "no/such"], "--data no/such: no such folder"),
        (["--to", "de", "--data", "."], "--data .: there is no dictionary (dict.txt) in it"),
    ],
)
def test_wrong_options_are_one_line(arguments: list[str], expected: str, tiny: Path, tmp_path: Path) -> None:
    line = mmt("translate", "--model", tiny / "run", *arguments, stdin=TEXT, cwd=tmp_path).error_line()

    assert line.startswith(f"mmt: error: {expected}")


@pytest.mark.parametrize(
    "damage",
    [
        "missing",
        "empty folder",
        "empty",
        "truncated",
        "text",
        "code",
        "shorter dictionary",
        "reordered dictionary",
        "damaged dictionary",
        "damaged spm.model",
        "moved data",
        "other model",
    ],
)
def test_a_checkpoint_that_cannot_be_used_is_one_line_that_names_it(damage: str, tiny: Path, tmp_path: Path) -> None:
    checkpoint, trace = tmp_path / "model.pt", tmp_path / "trace"
    original = tiny / "run" / "checkpoint_last.pt"
    options: list[str | Path] = []
    expected = f"mmt: error: checkpoint {checkpoint} cannot be read: "
    if damage == "missing":
        expected = f"mmt: error: --model {checkpoint}: no such file or folder"
    elif damage == "empty folder":
        checkpoint = tmp_path
        expected = f"mmt: error: --model {tmp_path}: the folder holds neither checkpoint_best.pt nor checkpoint_last.pt"
    elif damage == "empty":
        checkpoint.touch()
        expected += "it is empty"
    elif damage == "truncated":
        checkpoint.write_bytes(original.read_bytes()[:-1000])
        expected += "it is truncated or not a checkpoint"
    elif damage == "text":
        checkpoint.write_text("This is a text.\n" * 100)
        expected += "it is truncated or not a checkpoint"
    elif damage == "code":
        torch.save({"model": {}, "cfg": Opened(trace)}, checkpoint)
        expected += "it holds objects other than weights and settings, which could run code, so it is refused"
    else:
        state = torch.load(original)
        expected = f"mmt: error: --model {checkpoint}"
        if damage.endswith("dictionary"):
            data = tmp_path / "data"
            data.mkdir()
            for name in ("spm.model", "lang_list.txt", "lang_pairs.txt"):
                (data / name).write_bytes((tiny / "bin" / name).read_bytes())
            lines = (tiny / "bin" / "dict.txt").read_text().splitlines(keepends=True)
            damaged = {"shorter": lines[:-3], "reordered": lines[::-1], "damaged": [*lines[:-3], "half-a-li"]}
            (data / "dict.txt").write_text("".join(damaged[damage.split()[0]]))
            options = ["--data", data]
            expected += f", data folder {data}: "
            if damage == "damaged dictionary":
                expected += f"{data}/dict.txt: not a dictionary of fairseq (Incorrect dictionary format"
            else:
                expected += f"the dictionary does not fit the checkpoint: {data} has "
        elif damage == "damaged spm.model":
            data = Path(shutil.copytree(tiny / "bin", tmp_path / "data"))
            (data / "spm.model").write_bytes((tiny / "bin" / "spm.model").read_bytes()[:1000])
            options = ["--data", data]
            expected += f", data folder {data}: {data}/spm.model: not a SentencePiece model"
        elif damage == "moved data":
            state["cfg"]["task"]["data"] = "no/such/bin"
            expected += " was trained with the data folder no/such/bin, which is not here; put its dict.txt, spm."
        else:
            del state["model"]["decoder.layers.0.self_attn.k_proj.weight"]
            expected += ": its weights do not fit its settings (Missing key(s) in state_dict: "
        torch.save(state, checkpoint)

    line = mmt("translate", "--model", checkpoint, "--to", "de", *options, stdin=TEXT).error_line()

    assert line.startswith(expected)
    assert not trace.exists()
