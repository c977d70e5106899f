"""ordered_map: order, how far it reads ahead, errors, and the threads of torch."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from qcompiler.runtime.workers import ordered_map


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_come_in_the_order_of_the_items(threads: int) -> None:
    def slow_at_first(item: int) -> int:
        time.sleep(0.02 / (1 + item))
        return item * item

    assert list(ordered_map(slow_at_first, range(9), threads)) == [i * i for i in range(9)]
    assert list(ordered_map(slow_at_first, [], threads)) == []


def test_items_are_worked_on_at_the_same_time_by_threads_of_one_torch_thread() -> None:
    meeting = threading.Barrier(2, timeout=20)

    def meet(item: int) -> int:
        meeting.wait()
        return torch.get_num_threads()

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert list(ordered_map(meet, range(4), 2)) == [1] * 4
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2])
def test_few_items_are_read_ahead_of_the_results_taken(threads: int) -> None:
    read = []

    def items() -> Iterator[int]:
        for item in range(20):
            read.append(item)
            yield item

    results = ordered_map(lambda item: item, items(), threads)
    for taken in range(1, 5):
        next(results)
        assert len(read) <= taken + threads
    results.close()  # type: ignore[attr-defined]  # a generator
    assert len(read) < 8


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_of_the_function_reaches_the_caller(threads: int) -> None:
    with pytest.raises(ZeroDivisionError):
        list(ordered_map(lambda item: 1 // item, [1, 0, 1], threads))
