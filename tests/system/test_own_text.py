"""A user's own files become a model that is scored and that translates."""

import json
from pathlib import Path

import pytest

from tests.system.commands import REPOSITORY, run

TINY = [
    *["model.encoder_layers=2", "model.decoder_layers=2", "model.encoder_embed_dim=16"],
    *["model.encoder_ffn_embed_dim=32", "model.encoder_attention_heads=2", "model.decoder_attention_heads=2"],
    *["optimization.max_update=2", "dataset.max_tokens=400", "task.valid_sentences_per_direction=2"],
]


def as_folder(text: Path, folder: Path) -> Path:
    """Write ``train.en-xx.*`` and ``test.en-xx.*`` files."""
    folder.mkdir()
    for file in [*text.glob("train.en-*"), *text.glob("test.en-*")]:
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def as_table(text: Path, folder: Path) -> Path:
    """Write one table, with gaps where a sentence has no translation into a language."""
    rows = []
    for column, language in enumerate(("de", "ru")):
        sides = [(text / f"train.en-{language}.{side}").read_text().splitlines() for side in ("en", language)]
        rows += [[english, *(other if i == column else "" for i in range(2))] for english, other in zip(*sides)]
    folder.mkdir()
    table = folder / "mine.tsv"
    table.write_text("".join("\t".join(row) + "\n" for row in [["en", "de", "ru"], *rows]))
    return table


@pytest.mark.parametrize("layout", [as_folder, as_table])
def test_own_text_becomes_a_model_with_the_same_commands(layout, sample_data: Path, tmp_path: Path) -> None:
    own = layout(sample_data.parent / "text", tmp_path / "own")
    data, model = tmp_path / "data", tmp_path / "model"

    prepared = run(
        ["python", "-m", "data_prep.run", "--input", own, "--name", "own_data", "--data", data, "--vocab-size", "600"],
        cwd=REPOSITORY,
    )
    assert prepared.returncode == 0, prepared.stderr[-3000:]
    binarized = data / "own_data" / "default" / "bin"
    overrides = [*TINY, f"task.data={binarized}", f"checkpoint.save_dir={model}"]
    trained = run(["mmt", "train", "own_data", *overrides], cwd=REPOSITORY)
    assert trained.returncode == 0, trained.stderr[-3000:]

    translated = run(["mmt", "translate", "--model", model, "--to", "de,ru"], input="Open\n\nClose the window\n")
    assert translated.returncode == 0, translated.stderr
    assert [len(line.split("\t")) for line in translated.stdout.splitlines()] == [2, 2, 2]

    evaluated = run(["mmt", "evaluate", model, "--max-segments", "5"])
    if layout is as_table:  # it has no test sentences, and training sentences are no replacement
        assert evaluated.returncode == 2
        assert "no files test.LANG" in evaluated.stderr
        return
    assert evaluated.returncode == 0, evaluated.stderr
    lines = (model / "results" / "scores.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["direction"] for line in lines) == ["de-en", "en-de", "en-ru", "ru-en"]
