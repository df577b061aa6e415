"""Steps of a save that are done later, in their order, by a thread."""

import threading

import pytest

from mmt.distributed.background import Background, do_or_put_off


def test_outside_of_a_background_save_a_step_is_done_at_once() -> None:
    done: list[str] = []
    do_or_put_off(lambda: done.append("step"))
    assert done == ["step"]


def test_steps_are_done_in_their_order_after_the_block_and_by_another_thread() -> None:
    background = Background()
    done: list[tuple[str, bool]] = []
    with background.collecting():
        for name in ("shards", "head", "links"):
            do_or_put_off(lambda name=name: done.append((name, threading.current_thread() is threading.main_thread())))
        assert not done
    background.wait()
    assert done == [("shards", False), ("head", False), ("links", False)]


def test_after_a_step_that_fails_none_is_done_and_its_error_is_raised_once() -> None:
    background = Background()
    done: list[str] = []

    def fail() -> None:
        raise OSError("disk full")

    with background.collecting():
        do_or_put_off(fail)
        do_or_put_off(lambda: done.append("links"))
    with pytest.raises(OSError, match="disk full"):
        background.wait()
    background.wait()
    assert not done


def test_a_block_that_fails_begins_nothing() -> None:
    background = Background()
    done: list[str] = []
    with pytest.raises(ValueError, match="named"), background.collecting():
        do_or_put_off(lambda: done.append("step"))
        raise ValueError("named")
    background.wait()
    assert not done
