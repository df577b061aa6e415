"""Who is missing among the processes of a training."""

import pytest

from mmt.distributed import peers


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(peers.time, "monotonic", lambda: now[0])
    return now


def test_a_process_that_gives_no_sign_of_life_is_named(clock: list[float]) -> None:
    lives = peers._Lives(3)
    assert lives.fault(["1 1", "1 1", "1 1"], 10) is None
    clock[0] = 8
    assert lives.fault(["9 5", "2 1", "9 5"], 10) is None
    clock[0] = 19
    assert lives.fault(["20 9", "2 1", "20 9"], 10) == ([1], "has given no sign of life for 10 seconds")


def test_the_process_that_holds_up_the_others_is_named(clock: list[float]) -> None:
    lives = peers._Lives(3)
    assert lives.fault(["1 7", "1 6", "1 7"], 10) is None
    clock[0] = 9
    assert lives.fault(["9 7", "9 6", "9 7"], 10) is None
    clock[0] = 11
    assert lives.fault(["11 7", "11 6", "11 7"], 10) == ([1], "has not got on for 10 seconds")


def test_a_slow_batch_of_one_process_is_no_fault_while_another_gets_on(clock: list[float]) -> None:
    lives = peers._Lives(2)
    lives.fault(["1 1", "1 1"], 10)
    clock[0] = 9
    lives.fault(["9 2", "9 1"], 10)
    clock[0] = 15
    assert lives.fault(["15 2", "15 1"], 10) is None
