"""The sources' formats, read from small files made by hand."""

import gettext
import gzip
import io
import json
import lzma
import random
from pathlib import Path

import pytest

from data_prep.errors import DataError
from data_prep.extract import extract
from data_prep.files import write_json
from data_prep.pairs import read_rows
from data_prep.readers.ddtp import read_ddtp
from data_prep.readers.mallard import read_pages
from data_prep.readers.mo import read_mo
from data_prep.readers.pak import read_pak
from data_prep.readers.table import read_table
from data_prep.recipe import Language, Source
from data_prep.source_readers import read_catalogs, read_tables
from tests.data_prep.helpers import mo_catalog, pak_file, tar_bytes, write_lines

GERMAN = Language("de", "deu_Latn", "German", "IE Germanic", "Latin", "high", ("de",))

MESSAGES = {
    "Open file": "Datei öffnen",
    "menu\x04Close": "Schließen",
    "%d file\0%d files": "%d Datei\0%d Dateien",
    "Two\nlines": "Zwei\nZeilen",
}


@pytest.mark.parametrize("order", ["<", ">"])
def test_catalog_of_either_byte_order_is_read_without_contexts_and_with_both_plural_forms(order: str) -> None:
    assert dict(read_mo(mo_catalog(MESSAGES, order=order))) == {
        "Open file": "Datei öffnen",
        "Close": "Schließen",
        "%d file": "%d Datei",
        "%d files": "%d Dateien",
        "Two\nlines": "Zwei\nZeilen",
    }


def test_catalog_reader_agrees_with_pythons_gettext() -> None:
    data = mo_catalog({"One sentence.": "Ein Satz.", "Grüße": "Hälsningar"}, charset="iso-8859-1")
    catalog = gettext.GNUTranslations(io.BytesIO(data))

    for message, translation in read_mo(data):
        assert catalog.gettext(message) == translation
    assert len(list(read_mo(data))) == 2


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", mo_catalog(MESSAGES)[:60], mo_catalog(MESSAGES)[:-5]])
def test_what_is_no_whole_catalog_is_refused(data: bytes) -> None:
    with pytest.raises(DataError, match="catalog"):
        list(read_mo(data))


def test_bytes_of_another_character_set_are_marked_and_an_unknown_one_is_refused() -> None:
    data = mo_catalog({"A greeting": "Gr\u00fc\u00dfe"}, charset="iso-8859-1").replace(b"iso-8859-1", b"utf-8     ")
    assert dict(read_mo(data)) == {"A greeting": "Gr\ufffd\ufffde"}
    with pytest.raises(DataError, match="unknown character set 'utf-9'"):
        list(read_mo(mo_catalog(MESSAGES).replace(b"charset=utf-8", b"charset=utf-9")))


@pytest.mark.parametrize("code", ["ca", "sr", "de"])  # ca is in "locale" too, sr in "usr"
def test_catalogs_of_two_locales_of_a_language_are_one_in_which_the_better_named_comes_first(
    tmp_path: Path, code: str
) -> None:
    catalogs = {code: {"Open": "first"}, f"{code}_XX": {"Open": "second", "Close": "further"}}
    names = {locale: f"usr/share/locale/{locale}/LC_MESSAGES/a.mo" for locale in catalogs}
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(tar_bytes({names[locale]: mo_catalog(of_locale) for locale, of_locale in catalogs.items()}))
    language = Language(code, "", "", "", "Latin", "high", tuple(catalogs))

    counts: dict[str, int] = {}
    found = [(code, dict(pairs)) for code, pairs in read_catalogs(Source("s", "mo"), [archive], [language], counts)]

    assert counts == {"catalogs": 2, "repeated_messages": 1}
    assert found == [(code, {"Open": "first", "Close": "further"})]


@pytest.mark.parametrize("version", [4, 5])
def test_pack_gives_strings_by_number_and_no_aliases(version: int) -> None:
    strings = {7: "Datei öffnen", 9: "", 300: "सेटिंग"}

    assert read_pak(pak_file(strings, version)) == strings


def test_pack_that_is_cut_off_or_of_another_kind_is_refused() -> None:
    whole = pak_file({1: "one", 2: "two"})
    with pytest.raises(DataError, match="cut off"):
        read_pak(whole[:-2])
    with pytest.raises(DataError, match="version 4 or 5, but has 3"):
        read_pak(b"\3\0\0\0" + whole[4:])
    with pytest.raises(DataError, match=r"UTF-8 text \(encoding 1\), but has encoding 2"):
        read_pak(whole[:4] + b"\2" + whole[5:])


def test_pack_with_damaged_compression_is_refused() -> None:
    packed = gzip.compress(pak_file({1: "one", 2: "two"}))
    for damaged in (packed[:-12], packed[:12] + b"\xff" * 8 + packed[20:], packed[:-8] + bytes(8)):
        with pytest.raises(DataError, match="a .pak file that is damaged"):
            read_pak(damaged)


def test_texts_with_broken_bytes_are_skipped_and_counted(tmp_path: Path) -> None:
    packs = {"en-GB": {1: b"Open", 2: b"Close"}, "de": {1: b"\xd6ffnen", 2: "Schließen".encode(), 3: b"more"}}
    members = {
        f"{locale}.pak": pak_file({n: f"text{n}" for n in texts}).replace(b"text1", texts[1].ljust(5)[:5])
        for locale, texts in packs.items()
    }
    downloads = tmp_path / "downloads"
    (downloads / "chromium").mkdir(parents=True)
    (downloads / "chromium" / "a.tar.gz").write_bytes(tar_bytes(members))
    (downloads / "ddtp").mkdir()
    for locale, texts in (("en", [b"short one", b"short two"]), ("de", [b"kurz eins", b"k\xfcrzer"])):
        entries = [
            b"Description-md5: %d\nDescription-%s: %s\n\n" % (i, locale.encode(), t) for i, t in enumerate(texts)
        ]
        (downloads / "ddtp" / f"Translation-{locale}").write_bytes(b"".join(entries))
    files = {"chromium": ("c", ["a.tar.gz"]), "ddtp": ("d", ["Translation-en", "Translation-de"])}
    manifest = [{"source": s, "package": package, "file": file} for s, (package, of) in files.items() for file in of]
    write_json(downloads / "manifest.json", manifest)

    sources = [Source("chromium", "pak", packages=("c",)), Source("ddtp", "ddtp", packages=("d",))]
    counts = extract(downloads, tmp_path / "raw", [GERMAN], sources, jobs=1)

    assert (counts["invalid_utf8"], counts["without_english"]) == (2, 1)
    assert list(read_rows(tmp_path / "raw" / "chromium" / "en-de.tsv", fields=2)) == [["text2", "text2"]]
    assert list(read_rows(tmp_path / "raw" / "ddtp" / "en-de.tsv", fields=2)) == [["short one", "kurz eins"]]


def test_message_files_of_another_structure_and_halves_of_characters_are_counted(tmp_path: Path) -> None:
    files = {
        "a/i18n/en.json": json.dumps({"one": "Open it", "two": "Close it"}),
        "a/i18n/de.json": r'{"one": "\ud83d", "two": "Zumachen", "three": "Drei"}',
        "b/i18n/en.json": json.dumps(["Open it"]),
        "c/i18n/en.json": "[" * 100_000,
    }
    folder = tmp_path / "downloads" / "web"
    folder.mkdir(parents=True)
    (folder / "a.tgz").write_bytes(tar_bytes({name: text.encode() for name, text in files.items()}))
    write_json(folder.parent / "manifest.json", [{"source": "web", "package": "w", "file": "a.tgz"}])

    source = Source("web", "json", packages=("w",))
    counts = extract(tmp_path / "downloads", tmp_path / "raw", [GERMAN], [source], jobs=1)

    assert counts == {
        "catalogs": 2, "damaged_catalogs": 2, "without_english": 1, "invalid_utf8": 1, "messages": 1,
    }  # fmt: skip
    assert list(read_rows(tmp_path / "raw" / "web" / "en-de.tsv", fields=2)) == [["Close it", "Zumachen"]]


@pytest.mark.parametrize(
    ("rows", "pairs", "counts"),
    [
        (
            ["de\ten\tHallo\tHello", "en\tde\tBye\tAde", "fr\tde\tOui\tJa", "en\tfr\tYes\tOui"],
            [("de", [("Hello", "Hallo"), ("Bye", "Ade")])],
            {"without_english": 1, "other_language": 1},
        ),
        (["de\tfr", "Ja\tOui", "Nein\tNon"], [], {"without_english": 2}),
    ],
)
def test_pairs_of_a_table_are_turned_round_to_english_or_counted(
    tmp_path: Path, rows: list[str], pairs: list, counts: dict[str, int]
) -> None:
    table = write_lines(tmp_path / "a.tsv", rows)
    counted: dict[str, int] = {}

    assert list(read_tables(Source("s", "table"), [table], [GERMAN], counted)) == pairs
    assert counted == counts


@pytest.mark.parametrize(
    ("rows", "pairs", "counts"),
    [
        (b"en\tde\tx\ty\nen\tde\ta\t\xff\nen\tde\t\xff\t\xff\n", 1, {"invalid_utf8": 2}),
        (b"en\tde\tx\ty\nen\tde\ta\t\n\n\xff\n", 1, {"empty": 2, "invalid_utf8": 1}),
        (b"en\tde\tru\na\tb\t\na\t\tc\na\tb\t\xff\n", 3, {"invalid_utf8": 1}),
        (b"en\tde\tru\na\t\t\n\tb\tc\na\t\t\xff\n", 0, {"empty": 2, "invalid_utf8": 1}),
    ],
)
def test_table_counts_a_row_without_a_pair_once_and_an_empty_field_never(
    tmp_path: Path, rows: bytes, pairs: int, counts: dict[str, int]
) -> None:
    (tmp_path / "a.tsv").write_bytes(rows)
    counted: dict[str, int] = {}

    assert len(list(read_table(tmp_path / "a.tsv", counted))) == pairs
    assert counted == counts


@pytest.mark.parametrize("name", ["mine.tsv.gz", "mine.tsv.xz"])
def test_damaged_table_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    text = b"en\tde\n" + random.Random(1).randbytes(50_000).hex().encode() + b"\n"
    packed = bytearray(gzip.compress(text) if name.endswith("gz") else lzma.compress(text))
    packed[20_000:30_000] = b"\xff" * 10_000
    (tmp_path / name).write_bytes(packed)

    with pytest.raises(DataError, match=f"{name}: damaged"):
        list(read_table(tmp_path / name, {}))


def test_descriptions_are_aligned_by_checksum_and_paragraph(tmp_path: Path) -> None:
    english = write_lines(
        tmp_path / "en",
        [
            "Package: a", "Description-md5: 11", "Description-en: short one", " First line", " goes on.", " .",
            " Second paragraph:", "  * an item", "  * another", "",
            "Package: b", "Description-md5: 22", "Description-en: short two", " Only one.", "",
        ],
    )  # fmt: skip
    german = write_lines(
        tmp_path / "de",
        [
            "Package: b", "Description-md5: 22", "Description-de: kurz zwei", " Eins.", " .", " Zwei.", "",
            "Package: a", "Description-md5: 11", "Description-de: kurz eins", " Erste Zeile", " geht weiter.", " .",
            " Zweiter Absatz:", "  * ein Punkt", "  * noch einer", "",
            "Package: c", "Description-md5: 33", "Description-de: unbekannt", "",
        ],
    )  # fmt: skip

    counts: dict[str, int] = {}
    assert list(read_ddtp([english], [german], counts)) == [
        ("short two", "kurz zwei"),
        ("short one", "kurz eins"),
        ("First line\ngoes on.", "Erste Zeile\ngeht weiter."),
        ("Second paragraph:", "Zweiter Absatz:"),
        ("an item", "ein Punkt"),
        ("another", "noch einer"),
    ]
    assert counts == {"descriptions_of_other_structure": 1, "descriptions_without_english": 1}


PAGE = '<page xmlns="http://projectmallard.org/1.0/"><title>{}</title><p>{} <gui>{}</gui>.</p><code>x</code>{}</page>'


def test_help_pages_of_the_same_structure_are_aligned_and_others_are_not() -> None:
    english = PAGE.format("Print a page", "Press", "Print", "").encode()
    same = PAGE.format("Seite drucken", "Drücken Sie", "Drucken", "").encode()
    longer = PAGE.format("Seite drucken", "Drücken Sie", "Drucken", "<p>Mehr.</p>").encode()

    aligned = read_pages(english, same)

    assert aligned is not None
    assert list(aligned) == [("Print a page", "Seite drucken"), ("Press Print.", "Drücken Sie Drucken.")]
    assert read_pages(english, longer) is None
    assert read_pages(english, b"<page>") is None
    assert read_pages(english, b'<?xml version="1.0" encoding="no-such"?>' + same) is None
    assert read_pages(english, b"<page>" + b"<a>" * 5000 + b"</a>" * 5000 + b"</page>") is None


def test_help_page_with_entities_of_its_own_is_not_read() -> None:
    bomb = b'<!DOCTYPE page [<!ENTITY a "aaaaaaaaaa">]><page><p>&a;</p></page>'

    assert read_pages(bomb, bomb) is None
