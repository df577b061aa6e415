"""The figures of docs/results.md are those of the committed results, and these are of the committed translations."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import sacrebleu
from data_prep import evalsets

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = REPOSITORY / "docs" / "results" / "software6"
LABELS = {
    "dense": "dense",
    "token": "token / token",
    "sentence": "sentence / sentence",
    "task": "task / task (target)",
    "token_task": "token / task (target)",
}


@pytest.mark.parametrize("metric", ["chrf", "bleu"])
@pytest.mark.parametrize("test_set", ["test", "udhr"])
def test_the_page_shows_what_show_scores_prints(test_set: str, metric: str) -> None:
    systems = [f"{label}={RESULTS / name}" for name, label in LABELS.items()]
    command = [sys.executable, "scripts/show_scores.py", *systems, "--test-set", test_set, "--metric", metric]

    table = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout.strip()

    assert table in (REPOSITORY / "docs" / "results.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", LABELS)
def test_the_committed_translations_have_the_committed_scores(name: str, tmp_path: Path) -> None:
    with tarfile.open(RESULTS / name / "hypotheses.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    lines = [json.loads(line) for line in (RESULTS / name / "scores.jsonl").read_text(encoding="utf-8").splitlines()]
    line = next(line for line in lines if (line["test_set"], line["direction"]) == ("udhr", "en-el"))
    hypotheses = (tmp_path / "hypotheses" / "udhr.en-el.el").read_text(encoding="utf-8").splitlines()
    references = (evalsets.unpack("software50", tmp_path) / "udhr" / "udhr.el").read_text(encoding="utf-8").splitlines()

    assert len(lines) == 32
    assert sacrebleu.corpus_bleu(hypotheses, [references]).score == pytest.approx(line["bleu"], abs=1e-4)
    assert sacrebleu.corpus_chrf(hypotheses, [references], word_order=2).score == pytest.approx(line["chrf"], abs=1e-4)
