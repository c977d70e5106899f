"""fold-pad on small programs, before and after."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qcompiler.ir.graph import argument
from tests.passes.rewrite.helpers import Calls, check_equal, run_passes, targets

PASSES = "normalize-ops,fold-pad"
IMAGE = (4, 6, 8)
WEIGHT = torch.linspace(-1, 1, 3 * 4 * 9).reshape(3, 4, 3, 3)
LOWEST = float("-inf")

FOLDS: list[tuple[str, Callable[[Tensor], Tensor], list[int]]] = [
    ("conv2d", lambda x: F.conv2d(F.pad(x, (0, 1, 2, 3)), WEIGHT, stride=2), [2, 3, 0, 1]),
    ("conv2d padded", lambda x: F.conv2d(F.pad(x, (0, 1)), WEIGHT, padding=1), [1, 1, 1, 2]),
    ("max", lambda x: F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=LOWEST), 2, 2), [0, 1, 0, 1]),
    ("avg", lambda x: F.avg_pool2d(F.pad(x, (1, 0, 0, 1)), 3, 2), [0, 1, 1, 0]),
    (
        "avg, own border not counted",
        lambda x: F.avg_pool2d(F.pad(x, (1, 0, 0, 1)), 3, 2, 1, count_include_pad=False),
        [1, 2, 2, 1],
    ),
    ("two pads", lambda x: F.conv2d(F.pad(F.pad(x, (1, 0)), (0, 2)), WEIGHT), [0, 0, 1, 2]),
]


@pytest.mark.parametrize(("function", "padding"), [c[1:] for c in FOLDS], ids=[c[0] for c in FOLDS])
def test_folds(function: Callable[[Tensor], Tensor], padding: list[int]) -> None:
    graph = run_passes(Calls(function), [IMAGE], PASSES)
    check_equal(Calls(function), graph, [IMAGE])
    (node,) = graph.calls
    assert argument(node, "padding") == padding


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.conv2d(F.pad(x, (1, 1), value=0.5), WEIGHT),
        lambda x: F.max_pool2d(F.pad(x, (1, 1)), 2),
        lambda x: F.conv2d(F.pad(x, (0, 0, 0, 0, 0, 1)), torch.ones(2, 5, 1, 1)),
    ],
    ids=["other value", "zero into max", "channels"],
)
def test_leaves_other_pads(function: Callable[[Tensor], Tensor]) -> None:
    graph = run_passes(Calls(function), [IMAGE], PASSES)
    check_equal(Calls(function), graph, [IMAGE])
    assert targets(graph)[0] == "qcompiler.pad"


def test_a_pad_that_others_read_stays_for_them() -> None:
    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        padded = F.pad(x, (1, 1, 1, 1))
        return F.conv2d(padded, WEIGHT), padded

    graph = run_passes(Calls(both), [IMAGE], PASSES)
    check_equal(Calls(both), graph, [IMAGE])
    conv = next(n for n in graph.calls if "conv2d" in str(n.target))
    assert argument(conv, "padding") == [1, 1, 1, 1]
