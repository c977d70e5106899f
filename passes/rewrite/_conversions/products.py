"""Conversions of convolutions, linear layers, matrix products and normalization."""

from __future__ import annotations

from typing import Any

from torch import fx

from qcompiler.ir.annotations import type_of
from qcompiler.ir.graph import is_constant
from qcompiler.rewrite.conversion import ConversionTable, Converted, Site, refuse

TABLE = ConversionTable()

BATCH_STATISTICS = "it normalizes by the statistics of the batch"


def same_padding(site: Site, kernel: list[int], dilation: list[int]) -> list[int]:
    """Returns the padding before and after of each axis for a result of the input's size."""
    kind = site.arg("padding")
    if kind == "valid":
        return [0, 0] * len(kernel)
    totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    return [part for total in totals for part in (total // 2, total - total // 2)]


def _bias(site: Site, name: str) -> fx.Node | None:
    bias = site.arg(name)
    return site.tensor(name) if bias is not None else None


def _convolve(site: Site, axes: int, symmetric: bool) -> Converted:
    """Emits conv2d for one or two axes; ``symmetric`` padding is a list, another one a word."""
    x, weight, bias = site.tensor("input"), site.tensor("weight"), _bias(site, "bias")
    if not is_constant(weight):
        refuse("its weight is computed, not constant")
    kernel = [int(k) for k in type_of(weight).shape[2:]]
    dilation, stride = site.ints("dilation", axes), site.ints("stride", axes)
    if symmetric:
        padding = [p for p in site.ints("padding", axes) for _ in (0, 1)]
    else:
        padding = same_padding(site, kernel, dilation)
    groups = int(site.arg("groups"))
    if axes == 1:
        held = site.graph.constant(weight).unsqueeze(2)
        weight = site.constant(held, str(weight.target))
        stride, dilation, padding = [1, *stride], [1, *dilation], [0, 0, *padding]
    shape = type_of(x).shape
    is_single = len(shape) == axes + 1
    wide = shape[:-axes] if not is_single else (1, shape[0])
    rows = (1,) if axes == 1 else ()
    image = site.reshape(x, (*wide, *rows, *shape[-axes:]))
    made = site.emit("qfloat::conv2d", image, weight, bias, stride, padding, dilation, groups)
    return site.reshape(made, site.result.shape)


@TABLE.add("aten.conv2d.default")
def conv2d(site: Site) -> Converted:
    """Converts a convolution of images."""
    return _convolve(site, 2, symmetric=True)


@TABLE.add("aten.conv2d.padding")
def conv2d_same(site: Site) -> Converted:
    """Converts a convolution of images with padding="same" or "valid"."""
    return _convolve(site, 2, symmetric=False)


@TABLE.add("aten.conv1d.default")
def conv1d(site: Site) -> Converted:
    """Converts a convolution of sequences to one of images of height 1."""
    return _convolve(site, 1, symmetric=True)


@TABLE.add("aten.conv1d.padding")
def conv1d_same(site: Site) -> Converted:
    """Converts a convolution of sequences with padding="same" or "valid"."""
    return _convolve(site, 1, symmetric=False)


@TABLE.add("aten.convolution.default")
def convolution(site: Site) -> Converted:
    """Converts the general convolution of one or two axes."""
    axes = type_of(site.tensor("weight")).rank - 2
    if site.arg("transposed") or axes not in (1, 2):
        refuse("it is transposed or has more than two axes")
    return _convolve(site, axes, symmetric=True)


@TABLE.add("aten.linear.default")
def linear(site: Site) -> Converted:
    """Converts a linear layer."""
    x, weight = site.tensor("input"), site.tensor("weight")
    return _product(site, x, weight, _bias(site, "bias"))


def _product(site: Site, x: fx.Node, weight: fx.Node, bias: fx.Node | None) -> fx.Node:
    """Emits x @ weight.T + bias, as a linear layer where the weight is constant."""
    fits = bias is None or (is_constant(bias) and type_of(bias).rank == 1)
    if is_constant(weight) and type_of(weight).rank == 2:
        made = site.emit("qfloat::linear", x, weight, bias if fits else None)
    else:
        swapped = _transposed(site, weight)
        made = site.emit("qfloat::matmul", x, swapped)
        fits = bias is None
    return made if fits else site.emit("qfloat::add", made, bias)


def _transposed(site: Site, x: fx.Node) -> fx.Node:
    rank = type_of(x).rank
    if is_constant(x):
        return site.constant(site.graph.constant(x).mT, str(x.target))
    return site.permute(x, [*range(rank - 2), rank - 1, rank - 2])


def _multiply(site: Site, a: fx.Node, b: fx.Node) -> fx.Node:
    """Emits a @ b for two values of rank 2 or more."""
    if is_constant(b) and type_of(b).rank == 2:
        return _product(site, a, _transposed(site, b), None)
    if is_constant(a) and type_of(a).rank == 2:
        return _transposed(site, _product(site, _transposed(site, b), a, None))
    return site.emit("qfloat::matmul", a, b)


@TABLE.add("aten.matmul.default", "aten.mm.default", "aten.bmm.default")
def matmul(site: Site) -> Converted:
    """Converts a matrix product; vectors become matrices of one row or column."""
    names = [a.name for a in _schema(site).arguments]
    a, b = site.tensor(names[0]), site.tensor(names[1])
    if type_of(a).rank == 1:
        a = site.reshape(a, (1, *type_of(a).shape))
    if type_of(b).rank == 1:
        b = site.reshape(b, (*type_of(b).shape, 1))
    return site.reshape(_multiply(site, a, b), site.result.shape)


def _schema(site: Site) -> Any:
    return site.node.target._schema  # type: ignore[union-attr]  # calls target OpOverloads


@TABLE.add("aten.addmm.default", "aten.baddbmm.default")
def addmm(site: Site) -> Converted:
    """Converts beta * input + alpha * (a @ b)."""
    names = [a.name for a in _schema(site).arguments]
    bias, a, b = (site.tensor(name) for name in names[:3])
    beta, alpha = float(site.arg("beta")), float(site.arg("alpha"))
    if is_constant(b) and type_of(b).rank == 2 and (alpha, beta) == (1.0, 1.0):
        return _product(site, a, _transposed(site, b), bias)
    made = site.affine(_multiply(site, a, b), alpha, 0.0)
    return site.emit("qfloat::add", site.affine(bias, beta, 0.0), made)


@TABLE.add("aten.batch_norm.default")
def batch_norm(site: Site) -> Converted:
    """Converts a batch normalization by stored statistics."""
    return _batch_norm(site, bool(site.arg("training")))


@TABLE.add("aten._native_batch_norm_legit_no_training.default", "aten.native_batch_norm.default")
def native_batch_norm(site: Site) -> Converted:
    """Converts the forms with three results, of which the first is the value."""
    names = [a.name for a in _schema(site).arguments]
    made = _batch_norm(site, "training" in names and bool(site.arg("training")))
    return (made,)


def _batch_norm(site: Site, training: bool) -> fx.Node:
    if training or site.arg("running_mean") is None or site.arg("running_var") is None:
        refuse(BATCH_STATISTICS)
    held = {n: site.held(n) for n in ("weight", "bias", "running_mean", "running_var")}
    nodes = [site.tensor(n) if held[n] is not None else None for n in held]
    return site.emit("qfloat::batch_norm", site.tensor("input"), *nodes, float(site.arg("eps")))
