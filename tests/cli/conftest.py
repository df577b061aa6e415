"""A scored tiny model, for the tests of ``mmt evaluate``."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import Finished, mmt

QUICK = ["--beam", "1", "--max-len-b", "4", "--max-len-a", "1"]


def records(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (results / "scores.jsonl").read_text().splitlines()]


@pytest.fixture(scope="session")
def evaluated(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    """Results of the trained directions on the text beside the data, and what the command printed."""
    results = tmp_path_factory.mktemp("evaluated") / "results"
    return results, mmt("evaluate", tiny / "run", "--output", results, *QUICK)
