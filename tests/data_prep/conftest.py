"""A small data set built once from the shipped sample corpus, by the command a user types."""

from pathlib import Path

import pytest

from tests.data_prep.helpers import run_step

SAMPLE_LANGUAGES = ["en", "de", "el", "hi", "th", "zh"]


@pytest.fixture(scope="session")
def prepared_sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder ``data`` with ``software50/sample/{text,spm,bin}`` and ``evalsets/software50``."""
    data = tmp_path_factory.mktemp("sample") / "data"
    result = run_step(
        "run", "--recipe", "software50", "--preset", "sample", "--languages", ",".join(SAMPLE_LANGUAGES),
        "--vocab-size", 5000, "--data", data, "--jobs", 2,
    )  # fmt: skip
    assert result.returncode == 0, result
    return data
