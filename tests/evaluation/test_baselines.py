"""What a system must beat: copies, and the translations of the nearest training sentences."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from mmt.errors import UserError
from mmt.evaluation import baselines as baselines_module
from mmt.evaluation.baselines import Baselines
from mmt.evaluation.nearest import nearest_sentences
from mmt.evaluation.scores import score
from tests.evaluation.tiny_model import aligned_text, write_lines

TRAIN = [
    "Open a new window",
    "Close the window",
    "打开新窗口",
    "文件未保存",
    "Print this page",
    "",
    "Hilfe",
    "Öffne das Fenster",
]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("Open a new window", 0),
        ("OPEN A NEW WINDOW.", 0),
        ("please print pages", 4),
        ("关闭窗口", 2),
        ("文件", 3),
        ("fensters", 7),  # a part of a word is enough
        ("qqqq", 0),  # nothing in common: the first
        ("", 5),
    ],
)
def test_the_nearest_sentence_shares_most_rare_character_ngrams(query: str, expected: int) -> None:
    assert nearest_sentences([query], TRAIN).tolist() == [expected]
    assert nearest_sentences([query], TRAIN, part_size=3).tolist() == [expected]


def test_every_training_sentence_is_nearest_to_itself() -> None:
    rng = random.Random(1)
    sentences = sorted(
        {
            " ".join("".join(rng.choices("abcdefgh", k=rng.randint(2, 6))) for _ in range(rng.randint(1, 8)))
            for _ in range(300)
        }
    )

    np.testing.assert_array_equal(nearest_sentences(sentences, sentences), np.arange(len(sentences)))
    np.testing.assert_array_equal(nearest_sentences(sentences, sentences, part_size=70), np.arange(len(sentences)))


def test_the_nearest_sentence_is_the_one_with_the_highest_cosine() -> None:
    rng = random.Random(2)
    sentences = [
        " ".join(rng.choices(["window", "open", "page", "list", "näme", "窗口"], k=rng.randint(1, 5)))
        for _ in range(40)
    ]
    queries = [" ".join(rng.choices(["windows", "opened", "page", "窗"], k=3)) for _ in range(20)]

    def ngrams(text: str) -> set[str]:
        padded = f" {text} "
        return {padded[i : i + order] for order in (2, 3) for i in range(len(padded) - order + 1)}

    documents = [ngrams(sentence) for sentence in sentences]
    frequency = {gram: sum(gram in document for document in documents) for gram in set.union(*documents)}
    # As rare as that an n-gram counts; those in more than a fifth of the sentences do not.
    weight = {gram: np.log(41 / (1 + count)) + 1 if count <= 8 else 0.0 for gram, count in frequency.items()}

    def cosine(query: str, document: set[str]) -> float:
        norm = np.sqrt(sum(weight[gram] ** 2 for gram in document)) or 1.0
        return sum(weight[gram] ** 2 for gram in ngrams(query) & document) / norm

    found = nearest_sentences(queries, sentences)

    for query, row in zip(queries, found, strict=True):
        best = max(cosine(query, document) for document in documents)
        assert cosine(query, documents[row]) == pytest.approx(best, rel=1e-4)


@pytest.fixture
def train_text(tmp_path: Path) -> Path:
    folder = tmp_path / "text"
    folder.mkdir()
    for language, lines in aligned_text(200, seed=1).items():
        if language != "ru":
            write_lines(folder / f"train.en-de.{language}", lines)
    return folder


def test_both_directions_of_a_pair_have_a_nearest_sentence_and_others_have_none(
    train_text: Path, tmp_path: Path
) -> None:
    test = aligned_text(20, seed=3)
    baselines = Baselines(tmp_path / "cache.json", train_text)

    forwards = baselines.nearest_sentence(test["en"], test["de"], "en-de", "x")
    backwards = baselines.nearest_sentence(test["de"], test["en"], "de-en", "x")

    assert forwards is not None and backwards is not None
    # Sentences of few words have close relatives in training; a copy of the source has not.
    assert forwards.chrf > 20 + baselines.copy_source(test["en"], test["de"], "en-de", "x").chrf
    assert backwards.chrf > 20
    assert baselines.nearest_sentence(test["de"], test["ru"], "de-ru", "x") is None
    assert Baselines(tmp_path / "cache.json", None).nearest_sentence(test["en"], test["de"], "en-de", "x") is None


def test_copying_scores_the_source_against_the_reference(tmp_path: Path) -> None:
    test = aligned_text(20, seed=3)

    found = Baselines(tmp_path / "cache.json", None).copy_source(test["en"], test["de"], "en-de", "x")

    assert found == score(test["en"], test["de"], "de")


def test_scores_are_kept_until_the_text_changes(
    train_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = aligned_text(20, seed=3)
    cache = tmp_path / "cache.json"
    first = Baselines(cache, train_text).nearest_sentence(test["en"], test["de"], "en-de", "x")
    searches = []
    monkeypatch.setattr(
        baselines_module,
        "nearest_sentences",
        lambda queries, lines: searches.append(len(lines)) or nearest_sentences(queries, lines),
    )

    assert Baselines(cache, train_text).nearest_sentence(test["en"], test["de"], "en-de", "x") == first
    assert searches == []
    Baselines(cache, train_text).nearest_sentence(test["en"], test["de"], "en-de", "another text")
    assert searches == [200]
    for language, lines in aligned_text(150, seed=4).items():
        if language != "ru":
            write_lines(train_text / f"train.en-de.{language}", lines)
    Baselines(cache, train_text).nearest_sentence(test["en"], test["de"], "en-de", "x")
    assert searches == [200, 150]
    assert len(json.loads(cache.read_text())) == 3


def test_evaluations_that_share_a_file_keep_each_others_scores(tmp_path: Path) -> None:
    test = aligned_text(20, seed=3)
    cache = tmp_path / "cache.json"
    first, second = Baselines(cache, None), Baselines(cache, None)

    first.copy_source(test["en"], test["de"], "en-de", "x")
    second.copy_source(test["de"], test["en"], "de-en", "x")

    assert [key.split("|")[1] for key in json.loads(cache.read_text())] == ["en-de", "de-en"]


def test_training_text_of_unequal_length_is_named_with_both_counts(train_text: Path, tmp_path: Path) -> None:
    write_lines(train_text / "train.en-de.de", ["only one"])

    with pytest.raises(UserError, match="train.en-de.en has 200 lines, but .*train.en-de.de has 1"):
        Baselines(tmp_path / "cache.json", train_text).nearest_sentence(["a"], ["b"], "en-de", "x")


def test_a_folder_without_training_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="^--train-text .*: no files train.en-xx.en and train.en-xx.xx in it$"):
        Baselines(tmp_path / "cache.json", tmp_path)


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', "{"])
def test_a_broken_file_of_scores_is_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "cache.json"
    path.write_text(content)

    with pytest.raises(UserError, match="cache.json is not a file of baseline scores; remove it"):
        Baselines(path, None)
