"""Where values of known sizes go in one arena: greedy orders first, then a bounded search.

Placing values that are alive for intervals of time is dynamic storage allocation, which is NP-hard
(Garey and Johnson, 1979, SR2). Greedy by size is the rule of TFLite's arena planner (Pisarchyk and
Lee, 2020, arXiv:2001.03288); where no greedy order reaches the lower bound, a search tries to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Up to so many values are searched, with so many limits, and so many placements for each of them.
_MOST_VALUES = 200
_ATTEMPTS = 5
_BUDGET = 3000


@dataclass(frozen=True)
class Block:
    """A value to be placed: its bytes, and the first and last step at which it is alive."""

    size: int
    start: int
    end: int

    def meets(self, other: Block) -> bool:
        """Says whether both blocks are alive at some step."""
        return self.start <= other.end and other.start <= self.end


def lower_bound(blocks: Sequence[Block]) -> int:
    """Returns the largest sum of sizes alive at one step: no arena can be smaller."""
    return max((sum(b.size for b in _alive(blocks, step)) for step in _steps(blocks)), default=0)


def arrange(blocks: Sequence[Block]) -> list[int]:
    """Returns an offset for each block so that no two alive together overlap.

    The same blocks in the same order give the same offsets.
    """
    bound = lower_bound(blocks)
    best: list[int] = []
    least = -1
    for order in _orders(blocks):
        offsets = _place(blocks, order)
        size = arena_size(blocks, offsets)
        if least < 0 or size < least:
            best, least = offsets, size
        if least == bound:
            return best
    missed, limit = bound - 1, bound
    for _ in range(_ATTEMPTS if len(blocks) <= _MOST_VALUES else 0):
        found = _Search(blocks, limit).run()
        if found is None:
            missed = limit
        else:
            best, least = found, arena_size(blocks, found)
        limit = (missed + least) // 2
        if limit <= missed:
            break
    return best


def arena_size(blocks: Sequence[Block], offsets: Sequence[int]) -> int:
    """Returns the bytes that the blocks take at the given offsets."""
    return max((offset + b.size for b, offset in zip(blocks, offsets, strict=True)), default=0)


def _steps(blocks: Sequence[Block]) -> list[int]:
    """Returns the steps at which a block begins: what is alive together is so at one of them."""
    return sorted({b.start for b in blocks})


def _alive(blocks: Sequence[Block], step: int) -> list[Block]:
    return [b for b in blocks if b.start <= step <= b.end]


def _orders(blocks: Sequence[Block]) -> list[list[int]]:
    """Returns the orders in which to place the blocks greedily, the best one on average first."""
    load = {step: sum(b.size for b in _alive(blocks, step)) for step in _steps(blocks)}
    heaviest = [max(load[s] for s in load if b.start <= s <= b.end) for b in blocks]
    steps = [b.end - b.start + 1 for b in blocks]
    keys = (
        [(-b.size, b.start) for b in blocks],
        [(-heavy, -b.size) for heavy, b in zip(heaviest, blocks, strict=True)],
        [(-b.size * alive, b.start) for alive, b in zip(steps, blocks, strict=True)],
        [(-alive, -b.size) for alive, b in zip(steps, blocks, strict=True)],
        [(b.start, -b.size) for b in blocks],
    )
    return [sorted(range(len(blocks)), key=lambda i, key=key: (key[i], i)) for key in keys]  # type: ignore[misc]  # mypy infers no type for a lambda with a default


def _place(blocks: Sequence[Block], order: Sequence[int]) -> list[int]:
    """Places blocks one by one at the lowest offset that is free for all of their time."""
    offsets = [0] * len(blocks)
    placed: list[int] = []
    for i in order:
        block, offset = blocks[i], 0
        rivals = (j for j in placed if blocks[j].meets(block))
        for j in sorted(rivals, key=lambda j: (offsets[j], j)):
            if offset + block.size <= offsets[j]:
                break
            offset = max(offset, offsets[j] + blocks[j].size)
        offsets[i] = offset
        placed.append(i)
    return offsets


class _Search:
    """Depth-first search for an arrangement within a limit.

    Blocks are placed in the order of time, each at an end of a gap, where it leaves least of it: a
    chain of values then takes turns at the two ends of the arena. What does not fit goes back to
    the last choice.
    """

    def __init__(self, blocks: Sequence[Block], limit: int) -> None:
        self._blocks = blocks
        self._limit = limit
        self._budget = _BUDGET
        self._order = sorted(
            range(len(blocks)), key=lambda i: (blocks[i].start, -blocks[i].size, i)
        )
        self._rivals = [
            [j for j in self._order[:place] if blocks[j].meets(blocks[i])]
            for place, i in enumerate(self._order)
        ]
        self._offsets = [0] * len(blocks)

    def run(self) -> list[int] | None:
        """Returns offsets within the limit, None where it finds none within its budget."""
        return self._offsets if self._place_from(0) else None

    def _place_from(self, place: int) -> bool:
        if place == len(self._order):
            return True
        for offset in self._choices(place):
            self._budget -= 1
            if self._budget < 0:
                return False
            self._offsets[self._order[place]] = offset
            if self._place_from(place + 1):
                return True
        return False

    def _choices(self, place: int) -> list[int]:
        size, found, at = self._blocks[self._order[place]].size, [], 0
        taken = sorted(
            (self._offsets[j], self._offsets[j] + self._blocks[j].size) for j in self._rivals[place]
        )
        for start, end in (*taken, (self._limit, self._limit)):
            spare = start - at - size
            if spare >= 0:
                found.append((spare, at > 0, at))
            if spare > 0:
                found.append((spare, start < self._limit, start - size))
            at = max(at, end)
        return [offset for *_, offset in sorted(found)]
