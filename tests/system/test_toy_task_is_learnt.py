"""Every routing learns to reverse and to copy through the real commands."""

from pathlib import Path

import pytest

from tests.system.commands import ROUTINGS, records, train


@pytest.mark.parametrize("routing", list(ROUTINGS))
def test_reversal_is_learnt_to_bleu_above_90(routing: str, toy_data: Path, tmp_path: Path) -> None:
    result = train(
        toy_data,
        tmp_path,
        *ROUTINGS[routing],
        *[
            "--max-update",
            "700",
            "--eval-bleu",
            "--best-checkpoint-metric",
            "bleu",
            "--maximize-best-checkpoint-metric",
        ],
        *["--validate-interval-updates", "350", "--no-last-checkpoints", "--log-interval", "50"],
    )
    last = records(result, "valid")[-1]
    assert float(last["valid_bleu_en-aa"]) > 90, last
    assert float(last["valid_bleu"]) > 90, last
    assert float(last["valid_chrf"]) > 90, last
