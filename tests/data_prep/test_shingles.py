"""Near-duplicates: hand-made cases in several scripts, and agreement with comparing everything with everything."""

import random

import pytest

from data_prep.shingles import CONTAINMENT, JACCARD, HeldOut, shape, shingles, tokens

ENGLISH = "Your administrator has turned off this feature for all managed devices"
CHINESE = "您的管理员已针对所有受管理的设备关闭此功能，请稍后再试"
THAI = "ผู้ดูแลระบบของคุณปิดฟีเจอร์นี้สำหรับอุปกรณ์ที่มีการจัดการทั้งหมด"


@pytest.mark.parametrize(
    ("held_out", "sentence", "match"),
    [
        (ENGLISH, ENGLISH, "exact"),
        (ENGLISH, "your administrator has turned off THIS feature, for all managed devices!", "exact"),
        ("Wait 5 seconds for Google Chrome", "Wait 30 seconds for Chromium", "exact"),  # numbers and product names
        ("Résumé señor façade naïve", "Resume senor facade naive", "exact"),
        (ENGLISH, "Your administrator has turned off this feature for all managed phones", "near"),
        (ENGLISH, "Your administrator has turned off this feature", "near"),  # contained in it
        (ENGLISH, "this feature", None),  # a mere phrase
        (ENGLISH, "Your administrator can turn on another feature of some devices", None),
        (CHINESE, "您的管理员已针对所有受管理的设备关闭此功能，请重试", "near"),
        (CHINESE, "此功能", None),
        (CHINESE, "请检查您的网络连接", None),
        (THAI, THAI.replace("ทั้งหมด", ""), "near"),
        (THAI, "ตรวจสอบการเชื่อมต่อเครือข่ายของคุณ", None),
        (
            "आपके एडमिन ने यह सुविधा सभी डिवाइसों के लिए बंद कर दी है।",
            "आपके एडमिन ने यह सुविधा सभी डिवाइसों के लिए बंद कर दी है",
            "exact",
        ),
    ],
)
def test_sentence_is_matched_or_not(held_out: str, sentence: str, match: str | None) -> None:
    assert HeldOut([held_out]).match(sentence) == match


def test_vowel_signs_belong_to_their_word() -> None:
    assert tokens("किया जाना है।") == ["किया", "जाना", "है"]
    assert tokens("The café's 25 files") == ["the", "cafe", "s", "0", "files"]


def test_the_index_agrees_with_comparing_every_pair() -> None:
    rng = random.Random(3)
    words = list("abcdefghijkl")
    sentences = [" ".join(rng.choices(words, k=rng.randint(1, 14))) for _ in range(300)]
    held_out, others = sentences[:100], sentences[100:]
    others += [" ".join(s.split()[: rng.randint(3, 14)] + rng.choices(words, k=1)) for s in held_out]  # edited copies

    def slowly(sentence: str) -> str | None:
        own = shingles(tokens(sentence))
        found = None
        for other in held_out:
            if tokens(other) == tokens(sentence):
                return "exact"
            its = shingles(tokens(other))
            common, smaller = len(own & its), min(len(own), len(its))
            contained = smaller >= shape(tokens(other))[1] and common >= CONTAINMENT * smaller
            if common and (common / len(own | its) >= JACCARD or contained):
                found = "near"
        return found

    index = HeldOut(held_out)
    expected = [slowly(s) for s in others]
    assert [index.match(s) for s in others] == expected
    assert {"exact", "near", None} <= set(expected) | {index.match(held_out[0])}


def test_only_equal_sentences_match_where_near_duplicates_are_allowed() -> None:
    index = HeldOut(["3 1 4 1 5 9 2", ENGLISH], near=False)

    assert index.match("3 1 4 1 5 9 2") == "exact"
    assert index.match("2 7 1 8 2 8 1") is None
    assert index.match(ENGLISH + " now") is None
