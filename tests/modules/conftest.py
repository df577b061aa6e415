from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _the_same_random_numbers_in_every_run() -> None:
    torch.manual_seed(0)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
