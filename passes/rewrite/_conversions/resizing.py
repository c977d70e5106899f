"""Conversions of nearest and bilinear interpolation, with exact rational positions."""

from __future__ import annotations

from fractions import Fraction
from math import gcd

from qcompiler.ir.annotations import type_of
from qcompiler.rewrite.conversion import ConversionTable, Converted, Site, refuse

TABLE = ConversionTable()

# A factor of a user, as 0.3, stands for the rational next to it with a denominator up to this.
_DENOMINATOR = 1000


def _reduced(numerator: int, step: int, offset: int) -> tuple[int, int, int]:
    """Returns n, d, offset of the position (o * d + offset) / n in lowest terms."""
    common = gcd(numerator, step, offset) or 1
    return numerator // common, step // common, offset // common


def _step(size: int, output: int, factor: float | None) -> Fraction:
    """Returns how far an output pixel is from the next one, in input pixels."""
    if factor is not None:
        return 1 / Fraction(factor).limit_denominator(_DENOMINATOR)
    return Fraction(size, output)


def nearest(step: Fraction) -> tuple[int, int, int]:
    """Returns the position floor(o * step)."""
    return _reduced(step.denominator, step.numerator, 0)


def nearest_exact(step: Fraction) -> tuple[int, int, int]:
    """Returns the position floor((o + 1/2) * step)."""
    return _reduced(2 * step.denominator, 2 * step.numerator, step.numerator)


def centered(step: Fraction) -> tuple[int, int, int]:
    """Returns the position (o + 1/2) * step - 1/2."""
    n, d = step.denominator, step.numerator
    return _reduced(2 * n, 2 * d, d - n)


def cornered(size: int, output: int) -> tuple[int, int, int]:
    """Returns the position at which the corners of input and output coincide."""
    # Any step is right for one pixel: then there is only position 0, or only pixel 0.
    step = Fraction(size - 1, output - 1) if output > 1 and size > 1 else Fraction(1)
    return _reduced(step.denominator, step.numerator, 0)


def _factors(site: Site, axes: int) -> list[float | None]:
    names = {a.name for a in site.node.target._schema.arguments}  # type: ignore[union-attr]  # an operator
    if "scale_factors" in names:
        given = site.arg("scale_factors")
        return [float(f) for f in given] if given is not None else [None] * axes
    if axes == 1:
        return [site.arg("scales")]
    return [site.arg("scales_h"), site.arg("scales_w")]


def _resize(site: Site, axes: int, kind: str) -> Converted:
    x = site.floating(site.node.all_input_nodes[0])
    shape, wanted = type_of(x).shape, site.result.shape
    sizes, outputs = shape[-axes:], wanted[-axes:]
    positions = []
    for size, output, factor in zip(sizes, outputs, _factors(site, axes), strict=True):
        if not isinstance(size, int) or not isinstance(output, int):
            refuse("its image has a dynamic size")
        step = _step(size, output, factor)
        if kind == "linear":
            is_cornered = bool(site.arg("align_corners"))
            positions.append(cornered(size, output) if is_cornered else centered(step))
        else:
            positions.append(nearest(step) if kind == "nearest" else nearest_exact(step))
    if axes == 1:
        positions.insert(0, (1, 1, 0))
    image = site.reshape(x, (*shape[:2], 1, *sizes)) if axes == 1 else x
    (ny, dy, oy), (nx, dx, ox) = positions
    output_size = [int(o) for o in outputs] if axes == 2 else [1, *(int(o) for o in outputs)]
    op = "qfloat::resize_bilinear" if kind == "linear" else "qfloat::resize_nearest"
    made = site.emit(op, image, output_size, [ny, dy, nx, dx], [oy, ox])
    return site.reshape(made, wanted)


@TABLE.add("aten.upsample_nearest2d.vec", "aten.upsample_nearest2d.default")
def nearest2d(site: Site) -> Converted:
    """Converts nearest interpolation of images."""
    return _resize(site, 2, "nearest")


@TABLE.add("aten.upsample_nearest1d.vec", "aten.upsample_nearest1d.default")
def nearest1d(site: Site) -> Converted:
    """Converts nearest interpolation of sequences."""
    return _resize(site, 1, "nearest")


@TABLE.add("aten._upsample_nearest_exact2d.vec", "aten._upsample_nearest_exact2d.default")
def nearest_exact2d(site: Site) -> Converted:
    """Converts nearest interpolation that counts from the centers of pixels."""
    return _resize(site, 2, "nearest-exact")


@TABLE.add("aten.upsample_bilinear2d.vec", "aten.upsample_bilinear2d.default")
def bilinear2d(site: Site) -> Converted:
    """Converts bilinear interpolation, with aligned corners or centers."""
    return _resize(site, 2, "linear")


@TABLE.add("aten.upsample_linear1d.vec", "aten.upsample_linear1d.default")
def linear1d(site: Site) -> Converted:
    """Converts linear interpolation of sequences."""
    return _resize(site, 1, "linear")
