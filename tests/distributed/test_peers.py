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
    lives.note(["1 1", "1 1", "1 1"])
    clock[0] = 8
    lives.note(["9 5", "2 1", "9 5"])
    assert lives.silent(10) == []
    clock[0] = 19
    lives.note(["20 9", "2 1", "20 9"])
    assert lives.silent(10) == [1]


def test_the_process_that_holds_up_the_others_is_named(clock: list[float]) -> None:
    lives = peers._Lives(3)
    lives.note(["1 7", "1 6", "1 7"])
    clock[0] = 9
    lives.note(["9 7", "9 6", "9 7"])
    assert lives.holding_up(10) == []
    clock[0] = 11
    lives.note(["11 7", "11 6", "11 7"])
    assert (lives.silent(10), lives.holding_up(10)) == ([], [1])


def test_a_slow_batch_of_one_process_is_no_fault_while_another_gets_on(clock: list[float]) -> None:
    lives = peers._Lives(2)
    lives.note(["1 1", "1 1"])
    clock[0] = 9
    lives.note(["9 2", "9 1"])
    clock[0] = 15
    lives.note(["15 2", "15 1"])
    assert lives.holding_up(10) == []


def test_loading_the_data_may_take_longer_than_a_batch(clock: list[float]) -> None:
    lives = peers._Lives(2)
    clock[0] = 100
    lives.note(["100 0", "100 0"])
    assert lives.holding_up(10) == []
    clock[0] = 601
    lives.note(["601 0", "601 0"])
    assert lives.holding_up(10) == [0, 1]
