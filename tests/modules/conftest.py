import pytest
import torch


@pytest.fixture(autouse=True)
def _the_same_random_numbers_in_every_run() -> None:
    torch.manual_seed(0)
