"""No evaluation sentence in training, as told without anything of the program that keeps them out."""

from pathlib import Path

from data_prep.pairs import write_rows
from data_prep.split import SplitOptions, split
from tests.data_prep.conftest import SAMPLE_LANGUAGES


def only_letters(text: str) -> str:
    return "".join(c for c in text.casefold() if c.isalpha())


def word_distance(first: list[str], second: list[str]) -> int:
    """Levenshtein's: how many words must be put in, left out or changed."""
    row = list(range(len(second) + 1))
    for i, word in enumerate(first, 1):
        above, row = row, [i]
        for j, other in enumerate(second, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (word != other)))
    return row[-1]


def leaks(train: list[str], held_out: list[str]) -> list[str]:
    """The training sentences that are a held-out one, or one word away from it, told without anything of data_prep."""
    letters = {only_letters(text) for text in held_out if len(only_letters(text)) >= FEWEST_LETTERS}
    found = [text for text in train if only_letters(text) in letters]
    long = [text.casefold().split() for text in held_out]
    long = [words for words in long if len(words) >= FEWEST_WORDS][::5]
    for text in train:
        words = text.casefold().split()
        if len(words) >= FEWEST_WORDS:
            alike = (w for w in long if len(set(w) ^ set(words)) <= 2 and abs(len(w) - len(words)) <= 1)
            found += [text for w in alike if word_distance(words, w) <= 1]
    return found


# Of shorter ones "Sign in" and "Sign-in", and sentences one word apart, are no leak but two sentences.
FEWEST_LETTERS, FEWEST_WORDS = 20, 12


def test_word_distance_agrees_with_cases_counted_by_hand() -> None:
    assert word_distance("a b c".split(), "a b c".split()) == 0
    assert word_distance("a b c".split(), "a x c".split()) == 1
    assert word_distance("a b c".split(), "b c d".split()) == 2
    assert word_distance([], "a b".split()) == 2


def test_an_independent_check_finds_no_leak_in_the_sample_nor_planted_ones_after_the_split(
    tmp_path: Path, prepared_sample: Path
) -> None:
    text, sets = prepared_sample / "software50" / "sample" / "text", prepared_sample / "evalsets" / "software50"
    held_out = {
        language: [line for path in sets.rglob(f"*.{language}") for line in path.read_text().splitlines()]
        for language in SAMPLE_LANGUAGES
    }
    (tmp_path / "unique").mkdir()
    lines = {}
    for language in SAMPLE_LANGUAGES[1:]:
        both = ("en", language)
        clean = [(text / f"train.en-{language}.{side}").read_text().splitlines() for side in both]
        frozen = [(sets / "test" / f"test.{side}").read_text().splitlines() for side in both]
        planted = []
        for i, (source, target) in enumerate(zip(*frozen)):
            planted += [(source.upper() + "!", f"anything at all {i}"), (f"something else entirely {i}", f"«{target}»")]
            words = source.split()
            if len(words) >= FEWEST_WORDS:
                planted.append((" ".join([*words[:5], "surely", *words[5:]]), f"whatever {i}"))
        write_rows(tmp_path / "unique" / f"en-{language}.tsv", [(*row, "x") for row in [*planted, *zip(*clean)]])
        for side, name in enumerate(both):
            assert leaks(clean[side], held_out[name]) == [], language
            assert len(leaks([row[side] for row in planted], held_out[name])) > 200, language
        lines[language] = len(clean[0])

    options = SplitOptions(evalsets=(sets,), valid=sets / "dev", test=sets / "test")
    split(tmp_path / "unique", tmp_path / "text", [f"en-{language}" for language in lines], options, jobs=1)

    for language, at_least in lines.items():
        for name in ("en", language):
            kept = (tmp_path / "text" / f"train.en-{language}.{name}").read_text().splitlines()
            assert len(kept) >= at_least and leaks(kept, held_out[name]) == []
