"""The data settings of recipes: what they say reaches the steps, and mistakes in them are named."""

from pathlib import Path

import pytest

from data_prep.errors import DataError
from data_prep.recipe import load_recipe
from tests.data_prep.helpers import run_step


def test_software50_has_fifty_languages_seventeen_scripts_and_three_tiers() -> None:
    recipe = load_recipe("software50")
    others = [language for code, language in recipe.languages.items() if code != "en"]

    assert len(others) == 50
    assert len({language.script for language in others}) == 17
    assert {language.tier for language in others} == {"high", "mid", "low"}
    assert {"sample", "small", "full"} <= recipe.presets.keys()
    assert recipe.presets["small"].max_pairs == 10_000


LANGUAGES = b"code\tflores\tname\tfamily\tscript\ttier\tlocales\n"
RECIPE = """
extends: software50
presets:
  six: {corpus: sample, vocab_size: 4000, languages: [en, de, ru]}
"""


def test_recipe_can_extend_another_and_share_its_downloads(tmp_path: Path) -> None:
    (tmp_path / "six").mkdir()
    (tmp_path / "six" / "data.yaml").write_text(RECIPE)

    result = run_step(
        "run", "--recipe", tmp_path / "six" / "data.yaml", "--preset", "six", "--data", "data", "--dry-run"
    )

    assert "--output data/software50/corpus-sample/clean" in result.stdout
    assert "--output data/six/six/bin" in result.stdout
    assert "--pairs en-de,en-ru --evalsets data/evalsets/software50" in result.stdout


def test_a_recipe_of_this_folder_is_called_after_the_folder(tmp_path: Path) -> None:
    (tmp_path / "six").mkdir()
    (tmp_path / "six" / "data.yaml").write_text(RECIPE)

    result = run_step("run", "--recipe", "data.yaml", "--preset", "six", "--dry-run", cwd=tmp_path / "six")

    assert "--output data/six/six/bin" in result.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: software50\npresets: {a: {corpus: none, vocab_size: 1}}", "names the corpus 'none'"),
        (
            "extends: software50\npresets: {a: {corpus: sample, vocab_size: 1, languages: [en, xx]}}",
            "unknown language 'xx'",
        ),
        ("extends: software50\npresets: {a: {corpus: sample, vocab: 1}}", "preset a: unknown key 'vocab'; known are"),
        ("extends: software50\npresets: {a: {corpus: sample}}", "preset a needs the key 'vocab_size'"),
        ("extends: software50\npresets: {a: {corpus: sample, vocab_size: yes}}", "whole number .*, but is True"),
        ("extends: software50\npresets: {a: {corpus: sample, vocab_size: -1}}", "at least 0, but is -1"),
        ("extends: software50\npresets: {2024: {corpus: sample, vocab_size: 1}}", "keys that are text.* but has 2024"),
        ("extends: software50\nsources: {s: {packages: [x]}}", "source s needs the key 'kind'"),
        ("extends: software50\nsources: {s: {kind: mo, accelerator: gkt}}",
         "source s: unknown accelerator style 'gkt'; known are none, gtk, qt, libreoffice"),
        ("extends: software50\nsources: {s: {kind: mo, cap: '20000'}}",
         "source s: cap must be a whole number of at least 0, but is '20000'"),
        ("extends: software50\nsources: {s: {kind: mo, product_names: [a]}}",
         r"source s: product_names must be keys and values that are text, but is \['a'\]"),
        ("extends: software50\nsources: {s: {kind: mo, product_names: {V: 7}}}", "that are text, but is {'V': 7}"),
        ("extends: software50\nsources: {s: {kind: mo, files: '(LOCALE'}}", r"regular expression, but '\(LOCALE' has"),
        ("extends: software50\nsources: {s: {kind: mo, files: de.mo}}", "files must hold LOCALE once"),
        ("languages: [x]", r"data.yaml: languages must be text, but is \['x'\]"),
        ("extends: [software50]", r"data.yaml: extends must be text, but is \['software50'\]"),
        ("extends: software50\nlanguages: langs.tsv", "languages has no effect with extends"),
        ("extends: software50\nsources: {s: {kind: mo, packges: [x]}}", "source s: unknown key 'packges'"),
        ("extends: software50\ncorpora: {c: [s]}\npresets: {}", "names the source 's'"),
        ("extends: software50", "has no presets"),
        ("a: [", "not valid YAML"),
        ("just words", "must hold keys and values"),
        ("", "must hold keys and values, but is None"),
        ("extends: software50\npresets:", "presets must hold keys and values, but is None"),
        ("extends: software50\npresets: [a, b]", r"presets must hold keys and values, but is \['a', 'b'\]"),
        ("extends: software50\npresets: {a: }", "preset a must hold keys and values, but is None"),
        ("extends: software50\npresets: {a: {corpus: sample, vocab_size: 1, languages: de}}", "must be a list"),
        ("extends: software50\npresets: {a: {corpus: sample, vocab_size: 1, languages: [no]}}", r"but is \[False\]"),
        ("extends: software50\nsources: {s: {kind: mo, packages: foo}}", "packages must be a list .*, but is 'foo'"),
        ("extends: software50\nsources: {s: mo}", "source s must hold keys and values, but is 'mo'"),
        ("extends: software50\ncorpora: {c: sample}", "corpus c must be a list .*, but is 'sample'"),
        ("extends: software50\ncleaning: a\npresets: {a: {corpus: sample, vocab_size: 1}}", "cleaning must hold keys"),
        ("extends: software50\nevalset: software50\npresets: {}", "unknown key 'evalset'; known are cleaning, corpora"),
        ("extends: software50\ncleaning: {placeholder: keep}\npresets: {a: {corpus: sample, vocab_size: 1}}",
         "cleaning: unknown key 'placeholder'; known are placeholders"),
        ("extends: software50\ncleaning: {placeholders: kept}\npresets: {a: {corpus: sample, vocab_size: 1}}",
         "placeholders must be drop or keep, but is 'kept'"),
        ("extends: software50\nevalsets: ''\ntest_set: ''\npresets: {a: {corpus: sample, vocab_size: 1}}",
         "evalsets must name the evaluation set that has valid_set 'dev', but is empty"),
        ("extends: software50\nevalsets: ''\npresets: {a: {corpus: sample, vocab_size: 1}}",
         "that has valid_set 'dev' and test_set 'test', but is empty; without one, valid_set and test_set must be"),
        ("extends: software50 # \udcff", "data.yaml: must be UTF-8 text, but its byte 22 is not"),
    ],
)  # fmt: skip
def test_mistakes_in_a_recipe_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "data.yaml"
    path.write_text(text, errors="surrogateescape")

    with pytest.raises(DataError, match=message):
        load_recipe(str(path))


def test_a_recipe_that_extends_itself_is_refused_with_the_way_back(tmp_path: Path) -> None:
    one, two = (tmp_path / name / "data.yaml" for name in ("one", "two"))
    for path, other in ((one, two), (two, one)):
        path.parent.mkdir()
        path.write_text(f"extends: {other}")

    with pytest.raises(DataError, match=f"{one}: a recipe must not extend itself: {one} > {two} > {one}"):
        load_recipe(str(one))
    one.write_text(f"extends: {one}")
    with pytest.raises(DataError, match=f"must not extend itself: {one} > {one}"):
        load_recipe(str(one))


DE = b"de\tdeu_Latn\tGerman\tIE\tLatin\thigh\tde,de_DE\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff", "langs.tsv: must be UTF-8 text, but its byte 0 is not"),
        (b"", "langs.tsv: the first line must be"),
        (LANGUAGES + b"de\tGerman\n", "langs.tsv, line 2: 'de' has 2 fields, but the header has 7"),
        (LANGUAGES + b"# a\nde\t\t\t\tRunes\thigh\tde\n", "langs.tsv, line 3: unknown script 'Runes' of de"),
        (LANGUAGES + b"deutsch\t\t\t\tLatin\thigh\tde\n",
         "line 2: 'deutsch' is not a language code .*: it must be 2 or 3 lower-case letters"),
        (LANGUAGES + DE + DE, "langs.tsv, line 3: the language 'de' must have one row, but has another above"),
        (LANGUAGES + DE + b"nds\t\t\t\tLatin\tlow\tnds,de_DE\n",
         "langs.tsv, line 3: the locale 'de_DE' of nds must belong to one language, but de has it"),
    ],
)  # fmt: skip
def test_mistakes_in_a_table_of_languages_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "data.yaml").write_text("sources: {}")
    (tmp_path / "langs.tsv").write_bytes(content)

    with pytest.raises(DataError, match=message):
        load_recipe(str(tmp_path / "data.yaml"))
