"""Experts side by side on the cores of a processor: one thread for each, instead of all for one expert after the other.

With few rows for each expert, threads that share a matrix product wait for each other more than they compute.
"""

import functools
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Segment = tuple[int, slice]  # an expert, and its rows
Scratch = TypeVar("Scratch")


@functools.cache
def _workers(num_threads: int) -> ThreadPoolExecutor:
    """Return as many threads, each of which computes with one thread."""
    pool = ThreadPoolExecutor(num_threads, "experts", initializer=torch.set_num_threads, initargs=(1,))
    everyone = threading.Barrier(num_threads + 1)
    for _ in range(num_threads):
        pool.submit(everyone.wait)
    everyone.wait()
    # What is set last is what other new threads begin with.
    torch.set_num_threads(num_threads)
    return pool


os.register_at_fork(after_in_child=_workers.cache_clear)


def run_side_by_side(
    segments: Iterable[Segment], make_scratch: Callable[[], Scratch], work: Callable[[Segment, Scratch], None]
) -> None:
    """Call ``work`` for every segment, several at a time.

    Experts with more than one thread's share of the rows come first, with all threads for each.

    Args:
        segments: the experts that have rows.
        make_scratch: makes the memory that one thread needs.
        work: computes one expert, without gradient.
    """
    num_threads = torch.get_num_threads()
    by_size = sorted(segments, key=lambda segment: segment[1].start - segment[1].stop)
    share = sum(rows.stop - rows.start for _, rows in by_size) / num_threads
    large = [segment for segment in by_size if segment[1].stop - segment[1].start > share]
    run_in_turn(large, make_scratch, work)
    # One iterator for all threads: whoever is free takes the next one.
    rest = iter(by_size[len(large) :])
    is_inference = torch.is_inference_mode_enabled()

    def take_turns() -> None:
        with torch.inference_mode(is_inference), torch.no_grad():  # both are a matter of each thread
            run_in_turn(rest, make_scratch, work)

    for result in [_workers(num_threads).submit(take_turns) for _ in by_size[len(large) :][:num_threads]]:
        result.result()


def run_in_turn(
    segments: Iterable[Segment], make_scratch: Callable[[], Scratch], work: Callable[[Segment, Scratch], None]
) -> None:
    """Call ``work`` for one segment after the other, with all threads for each."""
    scratch: Scratch | None = None
    for segment in segments:
        if scratch is None:
            scratch = make_scratch()
        work(segment, scratch)
