"""Normalized float operators: the function of torch that each stands for, and sound ranges."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.ir.float_ops import FLOAT_OPS, FloatOp, float_op_of, named_params
from qcompiler.ir.integer_ops import INTEGER_OPS
from qcompiler.ir.queries import PARAMETERS
from qcompiler.numerics.intervals import Interval
from qcompiler.numerics.unary import UNARY
from tests.ir.pooling import POOLS, Pool, positions

MOVEMENT = ("reshape", "permute", "slice", "expand", "concat", "pad")
# Seeds of random operands: with a scale, so that ranges are tried far from 1 too.
SEEDS = st.tuples(st.integers(0, 2**31), st.sampled_from([1e-3, 1.0, 1e3]))

Case = Callable[["Maker"], tuple[list[Any], torch.Tensor]]
CASES: dict[str, Case] = {}


class Maker:
    """Makes random operands."""

    def __init__(self, seed: tuple[int, float]) -> None:
        self.random = torch.Generator().manual_seed(seed[0])
        self.scale = seed[1]

    def tensor(self, *shape: int) -> torch.Tensor:
        """Returns normal numbers around a random centre."""
        centre = torch.randn((), generator=self.random)
        return (torch.randn(shape, generator=self.random) + centre) * self.scale

    def number(self, low: int, high: int) -> int:
        """Returns an integer of a range."""
        return int(torch.randint(low, high + 1, (), generator=self.random))


def case(name: str) -> Callable[[Case], Case]:
    """Registers the operands of an operator with torch's result."""

    def register(make: Case) -> Case:
        CASES[f"qfloat::{name}"] = make
        return make

    return register


@case("conv2d")
def _conv2d(make: Maker) -> tuple[list[Any], torch.Tensor]:
    groups = make.number(1, 2)
    x, weight = make.tensor(2, 2 * groups, 6, 5), make.tensor(2 * groups, 2, 3, 2)
    bias = make.tensor(2 * groups) if make.number(0, 1) else None
    top, bottom, left, right = padding = [make.number(0, 2) for _ in range(4)]
    stride, dilation = [make.number(1, 2), 1], [1, make.number(1, 2)]
    padded = F.pad(x, (left, right, top, bottom))
    wanted = F.conv2d(padded, weight, bias, stride, 0, dilation, groups)
    return [x, weight, bias, stride, padding, dilation, groups], wanted


@case("linear")
def _linear(make: Maker) -> tuple[list[Any], torch.Tensor]:
    x, weight = make.tensor(2, 3, 5), make.tensor(4, 5)
    bias = make.tensor(4) if make.number(0, 1) else None
    return [x, weight, bias], F.linear(x, weight, bias)


@case("dequantize_weight")
def _dequantize_weight(make: Maker) -> tuple[list[Any], torch.Tensor]:
    weight = torch.randint(-127, 128, (3, 2, 4), generator=make.random).to(torch.int8)
    axis = make.number(0, 2)
    scale = make.tensor(weight.shape[axis]).abs().double()
    wide = weight.double().movedim(axis, -1) * scale
    return [weight, scale, axis], wide.movedim(-1, axis).float()


@case("matmul")
def _matmul(make: Maker) -> tuple[list[Any], torch.Tensor]:
    a, b = make.tensor(2, 3, 4, 5), make.tensor(3, 5, 2)
    return [a, b], torch.matmul(a, b)


@case("batch_norm")
def _batch_norm(make: Maker) -> tuple[list[Any], torch.Tensor]:
    x, mean, var = make.tensor(2, 3, 4, 4), make.tensor(3), make.tensor(3).abs()
    weight = make.tensor(3) if make.number(0, 1) else None
    bias = make.tensor(3) if make.number(0, 1) else None
    wanted = F.batch_norm(x, mean, var, weight, bias, eps=1e-3)
    return [x, weight, bias, mean, var, 1e-3], wanted


@case("add")
def _add(make: Maker) -> tuple[list[Any], torch.Tensor]:
    a, b = make.tensor(2, 3, 4), make.tensor(3, 1)
    return [a, b], torch.add(a, b)


@case("sub")
def _sub(make: Maker) -> tuple[list[Any], torch.Tensor]:
    a, b = make.tensor(2, 3, 4), make.tensor(3, 1)
    return [a, b], torch.sub(a, b)


@case("mul")
def _mul(make: Maker) -> tuple[list[Any], torch.Tensor]:
    a, b = make.tensor(2, 3, 4), make.tensor(3, 1)
    return [a, b], torch.mul(a, b)


@case("clamp")
def _clamp(make: Maker) -> tuple[list[Any], torch.Tensor]:
    x = make.tensor(3, 4)
    low, high = [(0.0, None), (0.0, 6.0), (None, -1.0), (-0.5, 0.25)][make.number(0, 3)]
    return [x, low, high], torch.clamp(x, low, high)


@case("unary")
def _unary(make: Maker) -> tuple[list[Any], torch.Tensor]:
    x = make.tensor(4, 5)
    choices: list[tuple[str, list[float], torch.Tensor]] = [
        ("hardswish", [], F.hardswish(x)),
        ("silu", [], F.silu(x)),
        ("leaky_relu", [0.1], F.leaky_relu(x, 0.1)),
        ("sigmoid", [], torch.sigmoid(x)),
        ("affine", [2.0, -1.0], x * 2 - 1),
    ]
    name, params, wanted = choices[make.number(0, 4)]
    return [x, name, params], wanted


@case("max_pool2d")
def _max_pool2d(make: Maker) -> tuple[list[Any], torch.Tensor]:
    x = make.tensor(2, 3, 7, 6)
    p, q = make.number(0, 1), make.number(0, 1)
    wanted = F.max_pool2d(x, (3, 2), (2, 1), (p, q), (1, 2))
    return [x, [3, 2], [2, 1], [p, p, q, q], [1, 2]], wanted


@case("avg_pool2d")
def _avg_pool2d(make: Maker) -> tuple[list[Any], torch.Tensor]:
    x = make.tensor(2, 3, 7, 9)
    pool = POOLS[make.number(0, len(POOLS) - 1)]
    return [
        x,
        list(pool.kernel),
        list(pool.stride),
        pool.paddings(x),
        pool.counted(x),
    ], pool.of_torch(x)


@case("adaptive_avg_pool2d")
def _adaptive_avg_pool2d(make: Maker) -> tuple[list[Any], torch.Tensor]:
    x, size = make.tensor(2, 3, 7, 5), [make.number(1, 8), make.number(1, 8)]
    return [x, size], F.adaptive_avg_pool2d(x, (size[0], size[1]))


@case("mean")
def _mean(make: Maker) -> tuple[list[Any], torch.Tensor]:
    x, keep = make.tensor(2, 3, 4, 5), bool(make.number(0, 1))
    dims = [[2, 3], [1], [-1], [0, 1, 2, 3]][make.number(0, 3)]
    return [x, dims, keep], torch.mean(x, dims, keep)


@case("resize_nearest")
def _resize_nearest(make: Maker) -> tuple[list[Any], torch.Tensor]:
    x, wanted = make.tensor(2, 3, 4, 6), [(8, 12), (2, 3), (6, 4), (1, 9)][make.number(0, 3)]
    mode = ["nearest", "nearest-exact"][make.number(0, 1)]
    return [x, list(wanted), *positions((4, 6), wanted, mode)], F.interpolate(x, wanted, mode=mode)


@case("resize_bilinear")
def _resize_bilinear(make: Maker) -> tuple[list[Any], torch.Tensor]:
    x, wanted = make.tensor(2, 3, 4, 6), [(8, 12), (2, 3), (5, 7), (1, 9)][make.number(0, 3)]
    corners = bool(make.number(0, 1))
    place = positions((4, 6), wanted, "cornered" if corners else "centered")
    return [x, list(wanted), *place], F.interpolate(
        x, wanted, mode="bilinear", align_corners=corners
    )


# Where torch evaluates in another order of additions and divisions.
ROUNDED = {"conv2d", "avg_pool2d", "resize_bilinear"}


def test_each_operator_has_a_case() -> None:
    ours = {name for name in FLOAT_OPS if name.startswith(("qfloat::", "qcompiler::"))}
    assert ours == set(CASES) | {f"qcompiler::{name}" for name in MOVEMENT}


@pytest.mark.parametrize("name", sorted(CASES))
@settings(max_examples=12)
@given(SEEDS)
def test_eager_is_torch_and_its_range_is_sound(name: str, seed: tuple[int, float]) -> None:
    op = FLOAT_OPS[name]
    args, wanted = CASES[name](Maker(seed))
    got = op.overload(*args)
    if op.name in ROUNDED:
        slack = 1e-5 * max(float(wanted.abs().max()), float(args[0].abs().max()), 1e-30)
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=slack)
    else:
        assert torch.equal(got, wanted)
    assert torch.equal(op.eager(*args), got)
    found = op.interval(facts(op, args))
    low, high = (end.item() for end in got.aminmax())
    # Rules of averages and functions hold for real numbers; fp32 may leave them by its rounding.
    slack = 1e-6 * max(abs(found.lo), abs(found.hi))
    assert found.lo - slack <= low <= high <= found.hi + slack, f"{low} to {high}, not {found}"


def facts(op: FloatOp, args: list[Any]) -> dict[str, Any]:
    """Returns what a range rule sees of the operands: the tightest intervals."""
    found: dict[str, Any] = {}
    for declared, value in zip(op.overload._schema.arguments, args, strict=True):
        is_value = isinstance(value, torch.Tensor) and declared.name not in PARAMETERS
        found[declared.name] = Interval(*(e.item() for e in value.aminmax())) if is_value else value
    if op.name == "matmul":
        found["inner_size"] = args[0].shape[-1]
    return found


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_averages_count_what_torch_counts(pool: Pool) -> None:
    x = torch.arange(126, dtype=torch.float64).reshape(1, 2, 7, 9)
    args = [list(pool.kernel), list(pool.stride), pool.paddings(x), pool.counted(x)]
    got = torch.ops.qfloat.avg_pool2d(x, *args)
    torch.testing.assert_close(got, pool.of_torch(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", sorted(UNARY))
def test_unary_is_the_function_of_the_table(name: str) -> None:
    function = UNARY[name]
    x = torch.linspace(-3, 3, 61)
    x = x[(x > function.domain.lo) & (x < function.domain.hi)]
    params = [value for _, value in function.defaults]
    got = torch.ops.qfloat.unary(x, name, params)
    assert torch.equal(got, function(x))
    operands = {"x": Interval(-2.5, 2.75), "function": name, "params": params}
    found = FLOAT_OPS["qfloat::unary"].interval(operands)
    inside = got[(x >= -2.5) & (x <= 2.75) & ~got.isnan()]
    wide = found.widen(1e-6)
    assert all(wide.contains(value) for value in inside.tolist())


def test_ranges_of_unbounded_operands() -> None:
    nothing = Interval.everything()
    weight, ones = torch.ones(2, 3), torch.ones(2)
    for name, operands in (
        ("conv2d", {"x": nothing, "weight": weight, "bias": None}),
        ("linear", {"x": nothing, "weight": weight, "bias": None}),
        ("add", {"a": nothing, "b": Interval(0.0, 1.0)}),
        ("mul", {"a": nothing, "b": Interval(0.5, 1.0)}),
        ("batch_norm", {"x": nothing, "mean": ones, "var": ones, "weight": None, "bias": None}),
    ):
        assert FLOAT_OPS[f"qfloat::{name}"].interval(operands) == nothing


def test_range_of_a_clamp() -> None:
    found = FLOAT_OPS["qfloat::clamp"].interval
    x = Interval(-2.0, 9.0)
    assert found({"x": x, "min": 0.0, "max": 6.0}) == Interval(0.0, 6.0)
    assert found({"x": x, "min": None, "max": None}) == x
    assert found({"x": x, "min": 20.0, "max": None}) == Interval(20.0, 20.0)
    assert found({"x": Interval.everything(), "min": 0.0, "max": None}).lo == 0.0


def test_padding_can_make_a_weighted_sum_smaller() -> None:
    # All inputs are positive; a window at the border has fewer of them.
    x, weight = torch.full((1, 1, 2, 2), 5.0), torch.ones(1, 1, 3, 3)
    op = FLOAT_OPS["qfloat::conv2d"]
    args = [x, weight, None, [1, 1], [2, 2, 2, 2], [1, 1], 1]
    found = op.interval(facts(op, args))
    assert found.contains(float(op.overload(*args).min()))
    assert op.overload(*args).min() == 5.0
    assert found.lo <= 0.0


def test_movement_is_shared_with_the_integer_operators() -> None:
    for name in MOVEMENT:
        assert (
            FLOAT_OPS[f"qcompiler::{name}"].overload is INTEGER_OPS[f"qcompiler::{name}"].overload
        )


def test_sharing_rules() -> None:
    rules = {op.name: op.sharing for op in FLOAT_OPS.values() if op.sharing != "own"}
    hard = {"max_pool2d", "resize_nearest", "reshape", "permute", "slice", "expand"}
    soft = {"clamp", "concat", "pad"}
    assert rules == {**dict.fromkeys(hard, "hard"), **dict.fromkeys(soft, "soft")}


def test_operators_with_weights_name_them() -> None:
    weighted = {op.name for op in FLOAT_OPS.values() if op.weight is not None}
    assert weighted == {"conv2d", "linear"}


def test_float_op_of_targets() -> None:
    assert float_op_of(torch.ops.qfloat.add.default) is FLOAT_OPS["qfloat::add"]
    assert float_op_of(torch.ops.aten.add.Tensor) is None
    assert float_op_of(math.floor) is None


def test_named_parameters() -> None:
    assert named_params(UNARY["softplus"], [2.0, 9.0]) == {"beta": 2.0, "threshold": 9.0}
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        named_params(UNARY["softplus"], [2.0])
