"""Fixtures that several test folders share."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

# Tests run tiny models: more threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What was typed for `make test` is not meant for the `make` that a test runs.
for name in ("MAKEFLAGS", "MAKELEVEL", "ARGS"):
    os.environ.pop(name, None)

# `make test &` ignores Ctrl-C, and so would all that a test starts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import torch  # noqa: E402

from tests.evaluation.tiny_model import write_tiny_model  # noqa: E402
from tests.toy_data import write_toy_data  # noqa: E402

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A binarized toy corpus: reversal (en-aa) and copying (en-bb), both directions."""
    return write_toy_data(tmp_path_factory.mktemp("toy") / "bin")


@pytest.fixture(scope="session")
def sample_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """English, German and Russian of the sample corpus, 500 pairs each, binarized; the folder ``text`` is beside it."""
    data = tmp_path_factory.mktemp("sample")
    options = ["--recipe", "demo", "--preset", "sample", "--languages", "en,de,ru", "--vocab-size", "1000"]
    options += ["--max-pairs", "500", "--jobs", "1", "--data", str(data)]
    subprocess.run([sys.executable, "-m", "data_prep.run", *options], check=True, cwd=Path(__file__).parents[1])
    return data / "demo" / "sample" / "bin"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny trained model: a folder with ``run/``, ``bin/``, ``text/`` and ``multi/``."""
    return write_tiny_model(tmp_path_factory.mktemp("tiny_model") / "tiny")
