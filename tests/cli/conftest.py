"""A tiny trained model for all tests of this folder."""

from pathlib import Path

import pytest

from tests.evaluation.tiny_model import write_tiny_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``run/``, ``bin/``, ``text/`` and ``multi/``; the same for all test folders of a session."""
    return write_tiny_model(tmp_path_factory.getbasetemp() / "tiny_model")
