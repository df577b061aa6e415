"""The translator: same translations as fairseq's own command, order, lengths, languages."""

import dataclasses
import math
import re
import shutil
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mmt.errors import UserError
from mmt.inference import translator as translator_module
from mmt.inference.loading import find_checkpoint, load_model
from mmt.inference.translator import DecodingOptions, Translator
from mmt.tasks.vocabulary_files import FILES
from tests.evaluation.tiny_model import LANGUAGES, MAX_POSITIONS, aligned_text
from tests.system.commands import LANGUAGE_TOKENS, PLUGIN, run

LINES = aligned_text(30, seed=7)["en"]
# Whatever the model has learnt, long lines must be worth batching apart from short ones.
MIXED = [line * (1 + i % 3) for i, line in enumerate(LINES)]


@pytest.fixture(scope="module")
def translator(tiny: Path) -> Translator:
    return Translator.from_checkpoint(tiny / "run", options=DecodingOptions(beam=2, max_len_a=0.5, max_len_b=4))


def with_options(translator: Translator, **changes: object) -> Translator:
    """The same model with other options."""
    changed = object.__new__(Translator)
    changed.__dict__.update(translator.__dict__)
    changed.options = dataclasses.replace(translator.options, **changes)  # type: ignore[arg-type]
    changed._generators = {}
    return changed


def test_translations_and_scores_are_those_of_fairseq_interactive(translator: Translator, tiny: Path) -> None:
    command = [
        *["fairseq-interactive", tiny / "bin", *PLUGIN, "--task", "multilingual_moe_translation", *LANGUAGE_TOKENS],
        *["--path", tiny / "run" / "checkpoint_last.pt", "--source-lang", "en", "--target-lang", "ru", "--cpu"],
        *["--beam", "2", "--max-len-a", "0", "--max-len-b", "12", "--buffer-size", "100", "--max-sentences", "1"],
        *["--bpe", "sentencepiece", "--sentencepiece-model", tiny / "bin" / "spm.model"],
    ]
    result = run(command, input="\n".join(LINES[:6]))
    assert result.returncode == 0, result.stderr[-2000:]
    expected = {
        int(number): (float(score), text)
        for number, score, text in re.findall(r"^H-(\d+)\t(\S+)\t(.*)$", result.stdout, re.MULTILINE)
    }

    found = with_options(translator, max_len_a=0, max_len_b=12).translate_window(LINES[:6], "en", "ru")

    assert len(expected) == 6
    for i, translation in enumerate(found):
        score, pieces = expected[i]
        assert translation.text == translator.task.sentencepiece.decode_pieces(pieces.split())
        # fairseq's commands print logarithms to base 2.
        assert translation.score / math.log(2) == pytest.approx(score, abs=1e-4)


def test_translations_do_not_depend_on_the_window_or_the_batch(translator: Translator) -> None:
    whole = list(translator.translate(MIXED, "en", "de"))

    assert list(translator.translate(MIXED, "en", "de", window=7)) == whole
    assert list(with_options(translator, max_tokens=1).translate(MIXED, "en", "de")) == whole


def test_batches_hold_lines_of_similar_length_and_stay_under_the_limit() -> None:
    lengths = {0: 9, 1: 2, 2: 8, 3: 10, 4: 2, 5: 50, 6: 10}

    batches = list(translator_module._batches(lengths, 24))

    # 3 x 8 = 24; 9 has another limit than 8; 3 x 10 > 24; a single line may be longer.
    assert batches == [[1, 4, 2], [0, 3], [6], [5]]


def test_each_line_has_its_own_translation_and_empty_lines_stay_empty(translator: Translator) -> None:
    lines = ["", MIXED[2], "   ", MIXED[0], "\t", ""]

    found = translator.translate_window(lines, "en", "de")

    assert [translation.text == "" for translation in found] == [True, False, True, False, True, True]
    assert found[1] == translator.translate_window([MIXED[2]], "en", "de")[0]
    assert found[3] == translator.translate_window([MIXED[0]], "en", "de")[0]


def test_characters_typed_in_two_parts_are_those_of_the_training_text(translator: Translator) -> None:
    whole = "Größe: é ए़ 한국어"
    in_parts = unicodedata.normalize("NFD", whole)
    assert in_parts != unicodedata.normalize("NFC", whole)

    translated = [list(translator.translate([text], "de", "en")) for text in (whole, in_parts)]

    assert translated[0] == translated[1]


def test_words_of_a_dictionary_without_a_sentencepiece_model_are_looked_up_as_they_are(
    translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = unicodedata.normalize("NFD", "é क़")
    monkeypatch.setitem(translator.task.__dict__, "sentencepiece", None)
    monkeypatch.setattr(translator.task.source_dictionary, "index", lambda word: word)

    assert translator._encode(text) == text.split()


def test_endless_input_is_translated_window_by_window(translator: Translator) -> None:
    taken = []

    def endless() -> Iterator[str]:
        while True:
            taken.append(None)
            yield LINES[len(taken) % 5]

    translations = translator.translate(endless(), "en", "de", window=3)
    for _ in range(4):
        next(translations)

    assert len(taken) == 6


def test_the_direction_can_change_from_call_to_call(translator: Translator) -> None:
    german, russian = (translator.translate_window(LINES[:4], "en", target) for target in ("de", "ru"))
    again = translator.translate_window(LINES[:4], "en", "de")

    assert [translation.score for translation in german] == [translation.score for translation in again]
    assert [translation.score for translation in german] != [translation.score for translation in russian]


@pytest.mark.parametrize("policy", ["skip", "truncate"])
def test_lines_with_more_pieces_than_positions_are_skipped_or_truncated(policy: str, translator: Translator) -> None:
    fits = "€" * ((MAX_POSITIONS - 4) // 3)  # three bytes each, after the piece for the beginning of a word
    assert len(translator._encode(fits)) <= translator.max_pieces < len(translator._encode(fits + "€"))

    found = with_options(translator, too_long=policy).translate_window(
        [fits, fits + "€", "€" * 100_000, LINES[0]], "en", "de"
    )

    assert [translation.too_long for translation in found] == [False, True, True, False]
    assert [translation.score is None for translation in found] == [False, policy == "skip", policy == "skip", False]
    assert found[0].text
    if policy == "skip":
        assert found[1].text == found[2].text == ""


def test_a_line_break_in_a_translation_becomes_a_space() -> None:
    assert translator_module._in_one_line("a\nb\r\nc\u2028d") == "a b c d"
    assert translator_module._in_one_line("") == ""


def test_progress_counts_every_line_once(translator: Translator) -> None:
    counts: list[int] = []

    with_options(translator, max_tokens=60).translate_window(["", *MIXED, ""], "en", "de", on_batch=counts.append)

    assert sum(counts) == len(MIXED) + 2
    assert len(counts) > 2


def test_bfloat16_changes_scores_a_little(translator: Translator) -> None:
    exact = translator.translate_window(LINES[:3], "en", "de")
    try:
        rough = with_options(translator, bf16=True)
        rough.task.autocast_dtype = torch.bfloat16
        found = rough.translate_window(LINES[:3], "en", "de")
    finally:
        translator.task.autocast_dtype = None

    assert [a.score for a in exact] != [b.score for b in found]
    assert [b.score for b in found] == pytest.approx([a.score for a in exact], abs=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam": 0}, "--beam must be at least 1, but is 0"),
        ({"max_len_b": 0}, "--max-len-b must be at least 1, but is 0"),
        ({"max_len_a": -1.0}, "--max-len-a must be a finite number of at least 0, but is -1.0"),
        ({"max_tokens": 0}, "--max-tokens must be at least 1, but is 0"),
        ({"too_long": "split"}, "--too-long must be one of skip, truncate, but is 'split'"),
    ],
)
def test_wrong_options_are_refused_by_name(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        DecodingOptions(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("source", "target", "option"), [("xx", "de", "--from"), ("en", "xx", "--to")])
def test_an_unknown_language_is_named_with_the_known_ones(
    translator: Translator, source: str, target: str, option: str
) -> None:
    with pytest.raises(UserError, match=f"^{option}: unknown language 'xx'; the model knows {', '.join(LANGUAGES)}$"):
        translator.translate_window(["a"], source, target)


def test_a_run_folder_means_its_best_checkpoint_else_its_last(tmp_path: Path) -> None:
    (tmp_path / "checkpoint_last.pt").touch()
    assert find_checkpoint(tmp_path).name == "checkpoint_last.pt"
    (tmp_path / "checkpoint_best.pt").touch()
    assert find_checkpoint(tmp_path).name == "checkpoint_best.pt"
    assert find_checkpoint(tmp_path / "checkpoint_last.pt").name == "checkpoint_last.pt"


def test_a_data_folder_that_was_moved_can_be_given(tiny: Path, tmp_path: Path, translator: Translator) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("dict.txt", "spm.model", "lang_list.txt", "lang_pairs.txt"):
        (moved / name).write_bytes((tiny / "bin" / name).read_bytes())

    loaded = load_model(tiny / "run", data=moved)

    assert loaded.data == moved
    assert loaded.task.args.fixed_dictionary == str(moved / "dict.txt")
    assert Translator(loaded, translator.options).translate_window(
        LINES[:3], "en", "de"
    ) == translator.translate_window(LINES[:3], "en", "de")


def test_a_run_keeps_what_goes_with_its_checkpoints(tiny: Path, tmp_path: Path, translator: Translator) -> None:
    for name in FILES:
        assert (tiny / "run" / name).read_bytes() == (tiny / "bin" / name).read_bytes()
    given_away = tmp_path / "given away"
    given_away.mkdir()
    for name in ("checkpoint_last.pt", *FILES):
        shutil.copy(tiny / "run" / name, given_away)
    state = torch.load(given_away / "checkpoint_last.pt")
    state["cfg"]["task"]["data"] = "no/such/bin"  # as on the machine of somebody else
    torch.save(state, given_away / "checkpoint_last.pt")

    loaded = load_model(given_away)

    assert (loaded.data, loaded.vocabulary) == (Path("no/such/bin"), given_away)
    assert Translator(loaded, translator.options).translate_window(
        LINES[:3], "en", "de"
    ) == translator.translate_window(LINES[:3], "en", "de")


def test_a_checkpoint_knows_its_directions(tiny: Path, tmp_path: Path) -> None:
    for name in ("dict.txt", "spm.model", "lang_list.txt"):
        shutil.copy(tiny / "bin" / name, tmp_path)
    assert load_model(tiny / "run", data=tmp_path).task.trained_lang_pairs == ["en-de", "de-en", "en-ru", "ru-en"]


def test_a_file_for_other_programs_is_refused_by_its_ending(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError, match="model.safetensors: .safetensors is for other programs; mmt and fairseq read"):
        find_checkpoint(tmp_path / "model.safetensors")


def test_cuda_on_a_machine_without_it_is_refused(tiny: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(UserError, match="--device cuda: this machine, or this build of torch, has no CUDA device"):
        load_model(tiny / "run", device="cuda")
