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
        ("Send an e-mail to your administrator now", "Send an email to your administrator now", "exact"),
        ("повторного під'єднання пристрою", "повторного під\u02bcєднання пристрою", "exact"),  # a letter for it
        ("\u0641\u0627\u064a\u0644 \u0643", "\u0641\u0627\u06cc\u0644 \u06a9", "exact"),  # Arabic and Persian
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
        # What stands beside a held-out sentence, or in it, does not hide it.
        (ENGLISH, f"{ENGLISH} (设备)", "near"),
        (ENGLISH, f"{ENGLISH} อ", "near"),
        (f"{ENGLISH} (设备)", ENGLISH, "near"),
        (f"{ENGLISH} (设备)", ENGLISH.replace("administrator", "manager"), "near"),
        (CHINESE, f"{CHINESE} Your administrator has turned it off", "near"),
        (CHINESE, f"ก {CHINESE}", "near"),
        (THAI, f"{THAI} Chrome OS", "near"),
        (THAI, f"设 {THAI}", "near"),
        (f"{THAI} 设", THAI, "near"),
        (f"{THAI} 设", THAI[:14], None),  # a mere phrase of Thai, though a long one of Chinese
        (f"{CHINESE} {ENGLISH} until tomorrow", f"{ENGLISH} until tomorrow", "near"),
        (f"{CHINESE} {ENGLISH}", "请检查您的网络连接 before you turn off your device", None),
        ("请检查网络 your device settings before you turn off", "请检查网络吧", None),  # two words of Chinese
    ],
)
def test_sentence_is_matched_or_not(held_out: str, sentence: str, match: str | None) -> None:
    assert HeldOut([held_out]).match(sentence) == match


def test_vowel_signs_belong_to_their_word() -> None:
    assert tokens("किया जाना है।") == ["किया", "जाना", "है"]
    assert tokens("The café's 25 files") == ["the", "cafe", "s", "0", "files"]


@pytest.mark.parametrize(
    ("text", "length"),
    [
        (ENGLISH, 3),
        (f"{ENGLISH} (设备)", 3),
        (CHINESE, 5),
        (f"{CHINESE} Chrome OS", 5),
        (f"{CHINESE} ก", 5),
        (THAI, 10),
        (f"{THAI} 设 Chrome OS", 10),
        ("", 3),
    ],
)
def test_what_most_of_a_sentence_is_written_in_decides_how_long_a_shingle_is(text: str, length: int) -> None:
    assert shape(tokens(text))[0] == length


def test_the_index_agrees_with_comparing_every_pair() -> None:
    rng = random.Random(3)
    scripts = [list("abcdefghijkl"), list("设备文件夹网络连接错误"), list("กขคงจฉชซญดตถ")]

    def sentence() -> str:
        words = rng.choices(rng.choice(scripts), k=rng.randint(1, 20))
        for _ in range(rng.choice([0, 0, 1, 3])):
            words.insert(rng.randint(0, len(words)), rng.choice(rng.choice(scripts)))
        return " ".join(words)

    held_out = [sentence() for _ in range(100)]
    others = [sentence() for _ in range(200)] + held_out[:5]
    for words in map(str.split, held_out):  # edited copies
        others.append(" ".join(words[: rng.randint(3, 20)] + rng.choices(scripts[0], k=1)))
        others.append(" ".join([*words, rng.choice(rng.choice(scripts))]))
    split_up = {text: tokens(text) for text in held_out + others}

    def slowly(sentence: str) -> str | None:
        found = None
        for other in held_out:
            if split_up[other] == split_up[sentence]:
                return "exact"
            length, least = shape(split_up[other])
            own, its = shingles(split_up[sentence], length), shingles(split_up[other], length)
            common, smaller = len(own & its), min(len(own), len(its))
            contained = smaller >= least and common >= CONTAINMENT * smaller
            if common and (common / len(own | its) >= JACCARD or contained):
                found = "near"
        return found

    index = HeldOut(held_out)
    expected = [slowly(s) for s in others]
    assert [index.match(s) for s in others] == expected
    assert set(expected) == {"exact", "near", None}


def test_only_equal_sentences_match_where_near_duplicates_are_allowed() -> None:
    index = HeldOut(["3 1 4 1 5 9 2", ENGLISH], near=False)

    assert index.match("3 1 4 1 5 9 2") == "exact"
    assert index.match("2 7 1 8 2 8 1") is None
    assert index.match(ENGLISH + " now") is None
