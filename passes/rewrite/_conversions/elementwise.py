"""Conversions of arithmetic and of functions of one variable."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx

from qcompiler.ir.annotations import type_of
from qcompiler.ir.graph import is_call, is_constant
from qcompiler.rewrite.conversion import ConversionTable, Converted, Site, refuse

TABLE = ConversionTable()

# Torch operator -> function and the names of the arguments that are its parameters.
_FUNCTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "leaky_relu": ("leaky_relu", ("negative_slope",)),
    "selu": ("selu", ()),
    "celu": ("celu", ("alpha",)),
    "hardswish": ("hardswish", ()),
    "hardsigmoid": ("hardsigmoid", ()),
    "sigmoid": ("sigmoid", ()),
    "log_sigmoid": ("logsigmoid", ()),
    "tanh": ("tanh", ()),
    "silu": ("silu", ()),
    "mish": ("mish", ()),
    "softplus": ("softplus", ("beta", "threshold")),
    "exp": ("exp", ()),
    "expm1": ("expm1", ()),
    "log": ("log", ()),
    "log1p": ("log1p", ()),
    "sqrt": ("sqrt", ()),
    "rsqrt": ("rsqrt", ()),
    "reciprocal": ("reciprocal", ()),
    "square": ("square", ()),
    "abs": ("abs", ()),
    "neg": ("neg", ()),
    "sign": ("sign", ()),
    "sin": ("sin", ()),
    "cos": ("cos", ()),
    "erf": ("erf", ()),
    "special_erf": ("erf", ()),
    "hardshrink": ("hardshrink", ("lambd",)),
    "softshrink": ("softshrink", ("lambd",)),
    "threshold": ("threshold", ("threshold", "value")),
    "round": ("round", ()),
    "floor": ("floor", ()),
    "ceil": ("ceil", ()),
}


def _function(function: str, params: tuple[str, ...]) -> Callable[[Site], Converted]:
    def convert(site: Site) -> Converted:
        values = [site.number(site.arg(p)) for p in params]
        x = site.floating(site.node.all_input_nodes[0])
        return site.unary(x, function, *[float(v) for v in values if v is not None])

    return convert


for _name, (_unary, _params) in _FUNCTIONS.items():
    TABLE.add(f"aten.{_name}.default")(_function(_unary, _params))


@TABLE.add("aten.gelu.default")
def gelu(site: Site) -> Converted:
    """Converts both forms of GELU."""
    name = "gelu_tanh" if site.arg("approximate") == "tanh" else "gelu"
    return site.unary(site.tensor("self"), name)


@TABLE.add("aten.elu.default")
def elu(site: Site) -> Converted:
    """Converts ELU and, from its scale, SELU."""
    x, alpha, scale = site.tensor("self"), float(site.arg("alpha")), float(site.arg("scale"))
    if float(site.arg("input_scale")) != 1.0:
        refuse("it scales the negative branch's argument")
    return site.affine(site.unary(x, "elu", alpha), scale, 0.0)


def _clamp(site: Site, x: fx.Node, low: float | None, high: float | None) -> Converted:
    if low is None and high is None:
        return x
    if low is not None and high is not None and low > high:  # torch: the upper bound wins
        low = high
    return site.emit("qfloat::clamp", x, low, high)


@TABLE.add("aten.relu.default")
def relu(site: Site) -> Converted:
    """Converts ReLU to a clamp."""
    return _clamp(site, site.tensor("self"), 0.0, None)


@TABLE.add("aten.relu6.default")
def relu6(site: Site) -> Converted:
    """Converts ReLU6 to a clamp."""
    return _clamp(site, site.tensor("self"), 0.0, 6.0)


@TABLE.add("aten.hardtanh.default")
def hardtanh(site: Site) -> Converted:
    """Converts hardtanh to a clamp."""
    low, high = site.number(site.arg("min_val")), site.number(site.arg("max_val"))
    return _clamp(site, site.tensor("self"), low, high)


@TABLE.add("aten.clamp.default", "aten.clamp.Tensor")
def clamp(site: Site) -> Converted:
    """Converts a clamp whose bounds are numbers."""
    bounds = []
    for name in ("min", "max"):
        given = site.arg(name)
        bounds.append(site.number(given))
        if given is not None and bounds[-1] is None:
            refuse(f"its bound {name!r} is no single number")
    return _clamp(site, site.tensor("self"), *bounds)


@TABLE.add("aten.clamp_min.default")
def clamp_min(site: Site) -> Converted:
    """Converts a clamp from below."""
    return _clamp(site, site.tensor("self"), site.number(site.arg("min")), None)


@TABLE.add("aten.clamp_max.default")
def clamp_max(site: Site) -> Converted:
    """Converts a clamp from above."""
    return _clamp(site, site.tensor("self"), None, site.number(site.arg("max")))


@TABLE.add("aten.maximum.default", "aten.max.other", "aten.minimum.default", "aten.min.other")
def extremum(site: Site) -> Converted:
    """Converts the larger or smaller of a value and a number to a clamp."""
    is_upper = "min" in str(site.node.target)
    for x, other in ((site.arg("self"), site.arg("other")), (site.arg("other"), site.arg("self"))):
        bound = site.number(other)
        if bound is not None and type_of(x).shape == site.result.shape:
            return _clamp(site, site.floating(x), *((None, bound) if is_upper else (bound, None)))
    refuse("it compares two computed values")


@TABLE.add("aten.add.Tensor", "aten.add.Scalar", "aten.sub.Tensor", "aten.sub.Scalar")
def add(site: Site) -> Converted:
    """Converts a sum or difference; with a number it is an affine function."""
    sign = -1.0 if "sub" in str(site.node.target) else 1.0
    factor = sign * float(site.number(site.arg("alpha")) or 0.0)
    return _sum(site, site.arg("self"), 1.0, site.arg("other"), factor)


@TABLE.add("aten.rsub.Tensor", "aten.rsub.Scalar")
def rsub(site: Site) -> Converted:
    """Converts other - alpha * self."""
    factor = -float(site.number(site.arg("alpha")) or 0.0)
    return _sum(site, site.arg("self"), factor, site.arg("other"), 1.0)


def _is_plain(site: Site, x: object) -> bool:
    """Says whether an operand has the shape of the result, so that no broadcast is needed."""
    return isinstance(x, fx.Node) and type_of(x).shape == site.result.shape


def _sum(site: Site, a: object, fa: float, b: object, fb: float) -> Converted:
    """Emits a * fa + b * fb."""
    for x, fx_, other, fo in ((a, fa, b, fb), (b, fb, a, fa)):
        number = site.number(other)
        if number is not None and isinstance(x, fx.Node) and _is_plain(site, x):
            return site.affine(site.floating(x), fx_, fo * number)
    if not isinstance(a, fx.Node) or not isinstance(b, fx.Node):
        refuse("it adds no tensors")
    x, y = site.floating(a), site.floating(b)
    if fa == 1.0 and fb == -1.0:
        return site.emit("qfloat::sub", x, y)
    if fa == -1.0 and fb == 1.0:
        return site.emit("qfloat::sub", y, x)
    return site.emit("qfloat::add", _scaled(site, x, fa), _scaled(site, y, fb))


def _scaled(site: Site, x: fx.Node, factor: float) -> fx.Node:
    if is_constant(x) and factor != 1.0:
        return site.constant(site.graph.constant(x) * factor, str(x.target))
    return site.affine(x, factor, 0.0)


@TABLE.add("aten.mul.Tensor", "aten.mul.Scalar")
def mul(site: Site) -> Converted:
    """Converts a product; with a number it is an affine function."""
    return _times(site, site.arg("self"), site.arg("other"))


def _times(site: Site, a: object, b: object) -> Converted:
    for x, other in ((a, b), (b, a)):
        number = site.number(other)
        if number is not None and isinstance(x, fx.Node) and _is_plain(site, x):
            return site.affine(site.floating(x), number, 0.0)
    if not isinstance(a, fx.Node) or not isinstance(b, fx.Node):
        refuse("it multiplies no tensors")
    return site.emit("qfloat::mul", site.floating(a), site.floating(b))


@TABLE.add("aten.div.Tensor", "aten.div.Scalar", "aten.true_divide.Tensor")
def div(site: Site) -> Converted:
    """Converts a quotient to a product with the reciprocal; x / (1 + |x|) is softsign."""
    x, other = site.tensor("self"), site.arg("other")
    number = site.number(other)
    if number is not None:
        return _times(site, x, 1.0 / number)
    divisor = site.floating(other)
    if is_constant(divisor):
        inverse = site.constant(1.0 / site.graph.constant(divisor), str(divisor.target))
        return _times(site, x, inverse)
    if _is_softsign_divisor(divisor, x):
        return site.unary(x, "softsign")
    return _times(site, x, site.unary(divisor, "reciprocal"))


def _is_softsign_divisor(divisor: fx.Node, x: fx.Node) -> bool:
    unary = torch.ops.qfloat.unary.default
    if not is_call(divisor, unary) or list(divisor.args[1:]) != ["affine", [1.0, 1.0]]:
        return False
    inner = divisor.args[0]
    return is_call(inner, unary) and inner.args[:2] == (x, "abs")  # type: ignore[union-attr]  # a call


@TABLE.add("aten.pow.Tensor_Scalar")
def power(site: Site) -> Converted:
    """Converts a power with a number as exponent."""
    x, exponent = site.tensor("self"), site.number(site.arg("exponent"))
    named = {2.0: "square", 0.5: "sqrt", -0.5: "rsqrt", -1.0: "reciprocal"}
    if exponent is None:
        refuse("its exponent is no number")
    if exponent == 1.0:
        return x
    if exponent in named:
        return site.unary(x, named[exponent])
    return site.unary(x, "pow", exponent)
