"""Conversions of pooling and of means."""

from __future__ import annotations

from math import ceil, prod

from torch import fx

from qcompiler.ir.annotations import type_of
from qcompiler.rewrite.conversion import ConversionTable, Converted, Site, refuse

TABLE = ConversionTable()

_DYNAMIC_SIZE = "it pools over a dynamic dimension"


def _image(site: Site, x: fx.Node, axes: int) -> fx.Node:
    """Returns the value as [N, C, H, W]; a missing batch or height becomes 1."""
    shape = type_of(x).shape
    front = shape[:-axes] if len(shape) == axes + 2 else (1, *shape[:-axes])
    rows = (1,) if axes == 1 else ()
    return site.reshape(x, (*front, *rows, *shape[-axes:]))


def _sizes(x: fx.Node) -> list[int]:
    height, width = type_of(x).shape[2:]
    if not isinstance(height, int) or not isinstance(width, int):
        refuse(_DYNAMIC_SIZE)
    return [height, width]


def _extra(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Returns the padding that ceil_mode adds behind the last row.

    The last window must start within the input or the padding before it, as in torch.
    """
    reach = dilation * (kernel - 1) + 1
    outputs = ceil((size + 2 * padding - reach) / stride) + 1
    if (outputs - 1) * stride >= size + padding:
        outputs -= 1
    return max(0, (outputs - 1) * stride + reach - size - 2 * padding)


class _Window:
    """Kernel, stride, padding (before = after), dilation of a pooling of one or two axes."""

    def __init__(self, site: Site, axes: int, *, dilated: bool) -> None:
        lead = 2 - axes
        self.kernel = [1] * lead + site.ints("kernel_size", axes)
        given = site.arg("stride")
        self.stride = [1] * lead + site.ints("stride", axes) if given else self.kernel
        self.padding = [0] * lead + site.ints("padding", axes)
        self.dilation = [1] * lead + (site.ints("dilation", axes) if dilated else [1] * axes)
        self.ceil_mode = bool(site.arg("ceil_mode"))

    def borders(self, x: fx.Node) -> tuple[list[int], list[int]]:
        """Returns the padding (top, bottom, left, right) with and without what ceil_mode adds."""
        plain = [p for p in self.padding for _ in (0, 1)]
        if not self.ceil_mode:
            return plain, plain
        full = list(plain)
        for axis, size in enumerate(_sizes(x)):
            full[2 * axis + 1] += _extra(
                size,
                self.kernel[axis],
                self.stride[axis],
                self.padding[axis],
                self.dilation[axis],
            )
        return full, plain


def _max_pool(site: Site, axes: int) -> fx.Node:
    window = _Window(site, axes, dilated=True)
    x = _image(site, site.tensor("self"), axes)
    made = site.emit(
        "qfloat::max_pool2d",
        x,
        window.kernel,
        window.stride,
        window.borders(x)[0],
        window.dilation,
    )
    return made


@TABLE.add("aten.max_pool2d.default")
def max_pool2d(site: Site) -> Converted:
    """Converts max pooling of images."""
    return site.reshape(_max_pool(site, 2), site.result.shape)


@TABLE.add("aten.max_pool1d.default")
def max_pool1d(site: Site) -> Converted:
    """Converts max pooling of sequences."""
    return site.reshape(_max_pool(site, 1), site.result.shape)


@TABLE.add("aten.max_pool2d_with_indices.default")
def max_pool2d_with_indices(site: Site) -> Converted:
    """Converts max pooling whose indices are not used."""
    made = _max_pool(site, 2)
    if type_of(site.tensor("self")).rank == 3:
        made = site.reshape(made, type_of(made).shape[1:])
    return (made,)


def _avg_pool(site: Site, axes: int) -> Converted:
    window = _Window(site, axes, dilated=False)
    x = _image(site, site.tensor("self"), axes)
    full, plain = window.borders(x)
    counted = plain if site.arg("count_include_pad") else [0, 0, 0, 0]
    divisor = site.arg("divisor_override") if axes == 2 else None
    if divisor is not None:
        counted = full  # every window has the same count, which the divisor replaces
    made = site.emit("qfloat::avg_pool2d", x, window.kernel, window.stride, full, counted)
    if divisor is not None:
        made = site.affine(made, prod(window.kernel) / divisor, 0.0)
    return site.reshape(made, site.result.shape)


@TABLE.add("aten.avg_pool2d.default")
def avg_pool2d(site: Site) -> Converted:
    """Converts average pooling of images."""
    return _avg_pool(site, 2)


@TABLE.add("aten.avg_pool1d.default")
def avg_pool1d(site: Site) -> Converted:
    """Converts average pooling of sequences."""
    return _avg_pool(site, 1)


def _adaptive(site: Site, axes: int, kind: str) -> fx.Node:
    """Emits an adaptive pooling as a fixed one where the output divides the input."""
    x = _image(site, site.tensor("self"), axes)
    output = [1] * (2 - axes) + site.ints("output_size", axes)
    height, width = _sizes(x)
    fits = height % output[0] == 0 and width % output[1] == 0
    kernel = [height // output[0], width // output[1]]
    if fits and kernel == [1, 1]:
        return x
    if fits and kind == "avg" and output == [1, 1]:
        return site.emit("qfloat::mean", x, [2, 3], True)
    if fits and kind == "avg":
        return site.emit("qfloat::avg_pool2d", x, kernel, kernel, [0] * 4, [0] * 4)
    if fits:
        return site.emit("qfloat::max_pool2d", x, kernel, kernel, [0] * 4, [1, 1])
    if kind == "max":
        refuse("its windows have different sizes")
    return site.emit("qfloat::adaptive_avg_pool2d", x, output)


@TABLE.add("aten.adaptive_avg_pool2d.default")
def adaptive_avg_pool2d(site: Site) -> Converted:
    """Converts adaptive average pooling of images; to one pixel it is a mean."""
    return site.reshape(_adaptive(site, 2, "avg"), site.result.shape)


@TABLE.add("aten.adaptive_avg_pool1d.default")
def adaptive_avg_pool1d(site: Site) -> Converted:
    """Converts adaptive average pooling of sequences."""
    return site.reshape(_adaptive(site, 1, "avg"), site.result.shape)


@TABLE.add("aten.adaptive_max_pool2d.default")
def adaptive_max_pool2d(site: Site) -> Converted:
    """Converts adaptive max pooling whose indices are not used."""
    if type_of(site.tensor("self")).rank != 4:
        refuse("its input has no batch dimension")
    return (_adaptive(site, 2, "max"),)


def _mean(site: Site, dims: list[int], keepdim: bool) -> tuple[fx.Node, int]:
    """Emits a mean and returns it with the number of averaged elements."""
    x = site.tensor("self")
    shape = type_of(x).shape
    places = sorted(site.dim(d, len(shape)) for d in dims) or list(range(len(shape)))
    sizes = [shape[d] for d in places]
    fixed = [size for size in sizes if isinstance(size, int)]
    if len(fixed) < len(sizes):
        refuse("it averages over a dynamic dimension")
    return site.emit("qfloat::mean", x, places, keepdim), prod(fixed)


def _check_dtype(site: Site) -> None:
    if site.arg("dtype") not in (None, site.result.dtype):
        refuse("it computes in another dtype")


@TABLE.add("aten.mean.dim")
def mean_dim(site: Site) -> Converted:
    """Converts a mean over dimensions."""
    _check_dtype(site)
    return _mean(site, list(site.arg("dim") or ()), bool(site.arg("keepdim")))[0]


@TABLE.add("aten.mean.default")
def mean(site: Site) -> Converted:
    """Converts a mean over everything."""
    _check_dtype(site)
    return _mean(site, [], False)[0]


@TABLE.add("aten.sum.dim_IntList")
def sum_dim(site: Site) -> Converted:
    """Converts a sum over dimensions to a scaled mean."""
    _check_dtype(site)
    made, count = _mean(site, list(site.arg("dim") or ()), bool(site.arg("keepdim")))
    return site.affine(made, float(count), 0.0)
