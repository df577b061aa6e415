"""Scores are those of sacreBLEU's own command, signatures included."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmt.evaluation.scores import score
from mmt.sacrebleu_metrics import METRICS, score_of_sums, segment_statistics, tokenizer_for_language

TEXTS = {
    "de": (
        ["Das Fenster öffnen.", "", "Die Datei wurde nicht gespeichert, weil sie leer ist."],
        ["Ein neues Fenster öffnen.", "Seite drucken", "Die Datei wurde nicht gespeichert, da sie leer ist."],
    ),
    "zh": (["打开新窗口", "文件未保存"], ["打开一个新窗口", "文件没有保存"]),
    "ja": (
        ["新しいウィンドウを開きます。", "ファイルは保存されません"],
        ["新しいウィンドウを開く。", "ファイルは保存されませんでした"],
    ),
    "ko": (["새 창을 엽니다", "파일이 저장되지 않았습니다"], ["새 창 열기", "파일이 저장되지 않았습니다."]),
    "th": (["เปิดหน้าต่างใหม่", "ไฟล์ไม่ได้บันทึก"], ["เปิดหน้าต่างใหม่ขึ้นมา", "ไม่ได้บันทึกไฟล์"]),
}


@pytest.mark.parametrize("language", TEXTS)
def test_scores_and_signatures_are_those_of_the_sacrebleu_command(language: str, tmp_path: Path) -> None:
    hypotheses, references = TEXTS[language]
    for name, lines in (("hypotheses", hypotheses), ("references", references)):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
    options = [
        "-m",
        "bleu",
        "chrf",
        "--chrf-word-order",
        "2",
        "--tokenize",
        tokenizer_for_language(language),
        "-w",
        "8",
    ]
    command = [sys.executable, "-m", "sacrebleu", tmp_path / "references", "-i", tmp_path / "hypotheses", *options]
    expected = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)

    found = score(hypotheses, references, language)

    assert [found.bleu, found.chrf] == pytest.approx([metric["score"] for metric in expected], abs=1e-6)
    assert [found.bleu_signature, found.chrf_signature] == [metric["signature"] for metric in expected]
    assert f"ratio = {found.length_ratio:.3f}" in expected[0]["verbose_score"]


def test_each_language_has_its_tokenizer() -> None:
    expected = {
        "13a": ["de", "hi", "deu_Latn"],
        "zh": ["zh", "zh_CN", "zho_Hans", "cmn_Hans", "yue_Hant"],
        "char": ["th", "lo", "km", "my", "bo", "dz", "mya_Mymr", "bod_Tibt", "dzo_Tibt"],
    }

    for tokenizer, languages in expected.items():
        assert {language: tokenizer_for_language(language) for language in languages} == dict.fromkeys(
            languages, tokenizer
        )


@pytest.mark.parametrize("metric", METRICS)
def test_scores_from_summed_statistics_are_the_scores_of_the_corpus(metric: str) -> None:
    hypotheses, references = TEXTS["de"]
    statistics = segment_statistics(metric, hypotheses, references, "de")

    assert len(statistics) == len(references)
    assert score_of_sums(metric, statistics.sum(axis=0), "de") == pytest.approx(
        getattr(score(hypotheses, references, "de"), metric)
    )


def test_perfect_and_empty_hypotheses() -> None:
    references = TEXTS["de"][1]

    assert (score(references, references, "de").bleu, score(references, references, "de").chrf) == pytest.approx(
        (100, 100)
    )
    assert (score([""] * 3, references, "de").bleu, score([""] * 3, references, "de").length_ratio) == (0, 0)
    assert np.isfinite(score(["a"], [""], "de").length_ratio)
