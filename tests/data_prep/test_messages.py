"""From raw catalog messages to plain segments."""

import pytest

from data_prep.accelerators import strip_accelerators
from data_prep.messages import segments


@pytest.mark.parametrize(
    ("style", "source", "target", "expected"),
    [
        ("gtk", "_File", "_Datei", ("File", "Datei")),
        ("gtk", "Sho_w all", "_Alle zeigen", ("Show all", "Alle zeigen")),
        ("gtk", "Save _As", "名前を付けて保存(_A)", ("Save As", "名前を付けて保存")),
        ("gtk", "Set gtk_theme now", "gtk_theme jetzt setzen", ("Set gtk_theme now", "gtk_theme jetzt setzen")),
        ("gtk", "Save as", "_Speichern als", ("Save as", "Speichern als")),  # only the translation has a mark
        ("qt", "&Open…", "Ö&ffnen…", ("Open…", "Öffnen…")),
        ("qt", "Bold & italic", "Fett & kursiv", ("Bold & italic", "Fett & kursiv")),
        ("qt", "Cut && &paste", "Ausschneiden && &einfügen", ("Cut & paste", "Ausschneiden & einfügen")),
        ("qt", "A &lt; B", "A &lt; B", ("A &lt; B", "A &lt; B")),  # an entity, no mark
        ("libreoffice", "~Edit", "編集(~E)", ("Edit", "編集")),
        ("none", "_blank & ~", "_leer & ~", ("_blank & ~", "_leer & ~")),
    ],
)
def test_accelerators_go_in_the_style_of_their_toolkit(style: str, source: str, target: str, expected: tuple) -> None:
    assert strip_accelerators(source, target, style) == expected


def test_paragraphs_are_paired_and_wrapped_lines_joined() -> None:
    source = "First line\nof one.\n\nSecond   one."
    target = "第一行\n接着。\n\n第二。"

    assert segments(source, target, "none", {}) == [("First line of one.", "第一行接着。"), ("Second one.", "第二。")]


def test_different_numbers_of_paragraphs_are_no_pair() -> None:
    assert segments("One.\n\nTwo.", "Eins.", "none", {}) is None


def test_inline_markup_goes_and_product_names_are_filled_in() -> None:
    source = 'Open <b>%PRODUCTNAME</b>&nbsp;now, <a href="x">see</a> [the guide](http://x.y/z)'
    target = "<b>%PRODUCTNAME</b> jetzt &ouml;ffnen, [siehe](http://x.y/de)"

    assert segments(source, target, "none", {"%PRODUCTNAME": "LibreOffice"}) == [
        ("Open LibreOffice now, see the guide", "LibreOffice jetzt öffnen, siehe")
    ]
