"""Fixtures that several test folders share."""

import os
from pathlib import Path

import pytest

# Tests run tiny models: more threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402

from tests.toy_data import write_toy_data  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A binarized toy corpus: reversal (en-aa) and copying (en-bb), both directions."""
    return write_toy_data(tmp_path_factory.mktemp("toy") / "bin")
