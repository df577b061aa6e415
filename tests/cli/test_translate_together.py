"""``mmt translate`` on several processes, which share out the target languages, and from a file."""

import argparse
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from mmt.cli import decoding_arguments
from tests.cli.command import REPOSITORY, mmt, start_together
from tests.evaluation.tiny_model import aligned_text, write_lines
from tests.system.commands import launcher, run
from tests.system.launched import TIMEOUT_SECONDS, wait_until

QUICK = ["--beam", "1", "--max-len-a", "0", "--max-len-b", "4"]
LANGUAGES = ["de", "ru", "en"]


def translated(folder: Path) -> dict[str, str]:
    """Return all files of a folder, and what is in them."""
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}


def test_several_processes_write_the_files_of_one(tiny: Path, tmp_path: Path) -> None:
    text, together, alone = tmp_path / "text", tmp_path / "together", tmp_path / "alone"
    text.write_bytes(b"Open window.\n\xff page\n\nSave.\n")
    for folder in (together, alone):
        folder.mkdir()
        (folder / "out.ru").write_text("of an earlier translation\n")
    arguments = ["translate", "--model", tiny / "run", "--to", ",".join(LANGUAGES), *QUICK, "--input", text]

    one = mmt(*arguments, "--output-prefix", alone / "out")
    torchrun = [*launcher(2), "-m", "mmt.cli.main"]
    two = run([*torchrun, *arguments, "--output-prefix", together / "out"], cwd=REPOSITORY, timeout=TIMEOUT_SECONDS)

    assert (one.returncode, two.returncode) == (0, 0), two.stderr
    assert translated(together) == translated(alone)
    assert sorted(translated(together)) == ["out.de", "out.en", "out.ru"]
    assert one.stderr.startswith("mmt translate: invalid UTF-8") and one.stderr.count("\n") == 1
    assert two.stderr.count(one.stderr) == two.stderr.count("mmt translate: ") == 1


def test_what_a_killed_process_had_begun_is_translated_by_another(tiny: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "text", aligned_text(100, seed=5)["en"])
    slow = ["--beam", "5", "--max-len-a", "3", "--max-len-b", "50"]
    arguments = ["translate", "--model", tiny / "run", "--to", ",".join(LANGUAGES), *slow, "--input", tmp_path / "text"]
    together, alone = tmp_path / "together", tmp_path / "alone"
    together.mkdir()
    alone.mkdir()
    processes = start_together(2, *arguments, "--output-prefix", together / "out")
    wait_until(lambda: len(list(together.glob(".*.partial"))) == 2, "each to be at one language", interval_s=0.005)
    processes[0].send_signal(signal.SIGKILL)
    processes[0].communicate()
    _, errors = processes[1].communicate(timeout=240)

    assert processes[1].returncode == 0, errors
    mmt(*arguments, "--output-prefix", alone / "out")
    assert translated(together) == translated(alone)


@pytest.mark.parametrize(
    ("processes", "arguments", "expected"),
    [
        (2, [], "2 processes need --input FILE and --output-prefix PREFIX, since they cannot share stdin and stdout"),
        (2, ["--input", "text.de"], "2 processes need --output-prefix PREFIX, since they"),
        (2, ["--output-prefix", "out"], "2 processes need --input FILE, since they"),
        (2, ["--input", "text.de", "--output-prefix", "text"], "--output-prefix text would write over --input text.de"),
        (1, ["--input", "text.de", "--output-prefix", "text"], "--output-prefix text would write over --input text.de"),
        (1, ["--input", "no/such"], "--input no/such: no such file"),
    ],
)
def test_input_and_output_that_cannot_be_are_one_line(
    processes: int, arguments: list[str], expected: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lines(tmp_path / "text.de", ["Open."])
    monkeypatch.setenv("WORLD_SIZE", str(processes))

    line = mmt("translate", "--model", tiny / "run", "--to", "ru,de", *arguments, cwd=tmp_path).error_line()

    assert line.startswith(f"mmt: error: {expected}")
    assert (tmp_path / "text.de").read_text() == "Open.\n"


@pytest.mark.parametrize(("local_rank", "device"), [("0", 0), ("3", 3), ("5", 1)])
def test_every_process_takes_a_gpu_of_its_own(local_rank: str, device: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    fakes: dict[str, Any] = {"is_available": lambda: True, "device_count": lambda: 4, "set_device": chosen.append}
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(decoding_arguments.Translator, "from_checkpoint", lambda *args, **options: options["device"])
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    parser = argparse.ArgumentParser()
    decoding_arguments.add_model_arguments(parser, required=True)
    decoding_arguments.add_decoding_arguments(parser)

    found: Any = decoding_arguments.translator_from(parser.parse_args(["--model", "run"]), too_long="skip")

    assert (found, chosen) == ("cuda", [device])
