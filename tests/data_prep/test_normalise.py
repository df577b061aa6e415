"""The characters that cleaning and the SentencePiece model treat alike."""

import pytest

from data_prep.normalise import CHARACTER_TABLE, normalise


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\u00a0b\u3000c\t\n d ", "a b c d"),  # all kinds of space
        ("soft\u00adhyphen\u200bed", "softhyphened"),
        ("\u200fשלום\u200e \u202bעולם\u202c", "שלום עולם"),  # direction marks
        ("می\u200cخواهم क्\u200dष", "می\u200cخواهم क्\u200dष"),  # joiners spell words
        ("e\u0301", "é"),  # NFC
        ("e\u200b\u0301", "é"),  # also where something invisible stood in between
        ("全角，標點！", "全角，標點！"),  # no NFKC: full-width punctuation stays
    ],
)
def test_text_is_normalised(text: str, expected: str) -> None:
    assert normalise(text) == expected


def test_normalising_twice_changes_nothing() -> None:
    between = "".join(f" e{chr(code)}\u0301" for code in CHARACTER_TABLE)
    text = "".join(map(chr, CHARACTER_TABLE)) + "x e\u0301 y" + between

    assert normalise(normalise(text)) == normalise(text)
