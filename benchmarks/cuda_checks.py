"""Small graphs for benchmarks.cuda: each operator alone, and products of given sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from qcompiler.api import resolve_target
from qcompiler.ir.graph import QGraph
from qcompiler.runtime.verify import verify_executable
from qcompiler.target.base import Target
from tests.backends.helpers import Case, Const, build_graph, case

Check = Callable[[list[torch.Tensor]], str]


def operator_program() -> Iterator[tuple[str, Callable[[str], Check], list[torch.Tensor]]]:
    """Yields each operator with what builds its check for a target, and its inputs."""
    for one in cases():
        graph, inputs = build_graph([one])
        yield one.op, _checked(graph), inputs


def _checked(graph: QGraph) -> Callable[[str], Check]:
    def build(target: str) -> Check:
        executable = _target(target).build(graph)
        return lambda inputs: str(verify_executable(graph, executable, inputs, 0))

    return build


def _target(name: str) -> Target:
    return resolve_target(name)


def product_program(
    target: str, m: int, n: int, k: int, device: torch.device
) -> tuple[Callable[[torch.Tensor], object], torch.Tensor, torch.Tensor]:
    """Returns a product with requantization, its input, and the weights as torch takes them."""
    random = torch.Generator().manual_seed(0)
    x = torch.randint(-128, 128, (m, k), dtype=torch.int8, generator=random)
    weight = torch.randint(-127, 128, (n, k), dtype=torch.int8, generator=random)
    graph, _ = build_graph([_linear(x, weight)])
    run = _target(target).build(graph).prepare({})
    return lambda x: run([x], 1), x.to(device), weight.to(device).t()


def _linear(x: torch.Tensor, weight: torch.Tensor) -> Case:
    return case("linear_requant", x, Const(weight), *_parameters(len(weight)), 3, -5, -128, 127)


def _parameters(channels: int, shift: int = 42) -> list[Const]:
    values = (torch.arange(channels), torch.full((channels,), 2**30 + 99))
    shifts = torch.full((channels,), shift)
    return [Const(v.to(torch.int32)) for v in (*values, shifts)]


def cases() -> Iterator[Case]:
    """Yields a call of every operator that has a kernel."""
    random = torch.Generator().manual_seed(1)

    def codes(*shape: int) -> torch.Tensor:
        return torch.randint(-127, 128, shape, dtype=torch.int8, generator=random)

    def one(multiplier: int, shift: int) -> list[Const]:
        return [Const(torch.tensor([v], dtype=torch.int32)) for v in (multiplier, shift)]

    table, add = Const(codes(256)), [3, 2**20, -4, 2**19, 21, 7, -128, 127]
    limits = [5, -3, -128, 127]
    geometry = [3, [2, 1], [1, 1, 0, 2], [1, 1], 1, -5, -128, 127]
    whole = [3, [1, 1], [1] * 4, [1, 1], 16, -5, -128, 127]
    point = [-128, [1, 1], [0] * 4, [1, 1], 1, -5, -128, 127]
    yield case("quantize", torch.randn(2, 3, 9, 7, generator=random), 20.0, 4, -128, 127)
    yield case("dequantize", codes(2, 5, 3, 3), 0.25, -7)
    sums = torch.randint(-(2**31), 2**31, (3, 70), generator=random).to(torch.int32)
    yield case("dequantize_accumulator", sums, Const(torch.rand(70, generator=random)), 1)
    yield case("requantize", sums, *_parameters(70)[1:], 1, 0, 3, -128, 127)
    weights = Const(codes(40, 64, 3, 3))
    yield case("conv2d_requant", codes(2, 64, 9, 7), weights, *_parameters(40), *geometry)
    small = Const(codes(20, 3, 3, 3))
    yield case("conv2d_requant", codes(1, 3, 9, 7), small, *_parameters(20, 39), *geometry)
    depthwise = Const(codes(16, 1, 3, 3))
    yield case("conv2d_requant", codes(2, 16, 8, 8), depthwise, *_parameters(16, 37), *whole)
    extra = {"table": table, "residual": codes(2, 48, 8, 8), "add": add}
    pointwise = Const(codes(48, 32, 1, 1))
    yield case("conv2d_requant", codes(2, 32, 8, 8), pointwise, *_parameters(48), *point, **extra)
    yield case("conv2d", codes(2, 32, 8, 8), pointwise, _parameters(48)[0], *point[:5])
    # One sum short of 31 bits: 66311 terms of 127 * 255.
    deep = torch.full((5, 66311), 127, dtype=torch.int8)
    full = Const(torch.full((4, 66311), 127, dtype=torch.int8))
    yield case("linear", deep, full, Const(torch.zeros(4, dtype=torch.int32)), -128)
    yield case("linear", deep[:1], full, Const(torch.zeros(4, dtype=torch.int32)), -128)
    yield _linear(codes(1, 700), codes(30, 700))
    yield _linear(codes(37, 300), codes(50, 300))
    yield case("matmul", codes(2, 3, 5, 70), codes(3, 70, 9), 2, -3)
    scaling = one(2**30 + 99, 41)
    yield case("matmul_requant", codes(2, 3, 5, 70), codes(3, 70, 9), *scaling, 2, -3, 1, -128, 127)
    yield case("add", codes(2, 4, 3, 3), codes(4, 1, 1), *add)
    yield case("mul", codes(2, 4, 3, 3), codes(2, 4, 1, 1), 1, 2, 2**30 + 5, 38, 0, -128, 127)
    yield case("table", codes(3, 55), table)
    yield case("clamp", codes(3, 55), -10, 20)
    yield case("max_pool2d", codes(1, 40, 9, 9), [3, 3], [2, 2], [1] * 4, [1, 1])
    counts = [Const(torch.full((9,), v, dtype=torch.int32)) for v in (2**30 + 7, 33)]
    yield case("avg_pool2d", codes(1, 4, 9, 9), *counts, [3, 3], [2, 2], [1] * 4, [1] * 4, *limits)
    counts = [Const(torch.full((81,), v, dtype=torch.int32)) for v in (2**30 + 7, 33)]
    yield case("adaptive_avg_pool2d", codes(1, 4, 9, 9), *counts, [4, 2], *limits)
    yield case("mean", codes(2, 5, 7, 7), *one(2**30 + 1, 35), [2, 3], False, *limits)
    yield case("resize_nearest", codes(1, 8, 3, 4), [6, 9], [4, 2, 4, 2], [1, 0])
    bilinear = [[6, 9], [4, 2, 4, 2], [-1, 0]]
    yield case("resize_bilinear", codes(1, 8, 3, 4), *one(2**30 + 9, 35), *bilinear, *limits)
    yield case("reshape", codes(1, 4, 3, 3), [1, 36])
    yield case("permute", codes(2, 3, 4, 5), [0, 2, 3, 1])
    yield case("slice", codes(1, 8, 3, 3), 1, 1, 7, 2)
    yield case("expand", codes(1, 8, 1, 3), [2, 8, 5, 3])
    yield case("concat", [codes(1, 4, 3, 3), codes(1, 2, 3, 3)], 1)
    yield case("pad", codes(1, 2, 3, 3), [1, 2, 0, 1], 7)
