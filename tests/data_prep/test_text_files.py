"""What the names of text files say."""

import pytest

from data_prep.text_files import parse_name


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("train.en-de.de", ("train", "en", "de", "de")),
        ("news-2014.en-de.fr", ("news-2014", "en", "de", "fr")),
        ("train.zh-Hans-en.en", ("train", "zh-Hans", "en", "en")),
        ("test.zh_Hans", ("test", "", "", "zh_Hans")),
        ("test.log", ("test", "", "", "log")),
        ("test.tsv", None),
        ("test.en-US", None),
        ("test.sentences", None),
        ("train.en-de.de.gz", None),
        ("train.-de.de", None),
        (".de", None),
        ("test", None),
    ],
)
def test_a_name_says_the_set_the_pair_if_any_and_the_language(name: str, parsed: tuple[str, ...] | None) -> None:
    assert parse_name(name) == parsed
