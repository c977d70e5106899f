"""Lowering of pooling, mean and resize."""

from __future__ import annotations

from math import prod

from qcompiler.backends.cuda.indexing import collapse
from qcompiler.backends.cuda.launch import Constant
from qcompiler.backends.cuda.lower_elementwise import limits
from qcompiler.backends.cuda.op_lowering import OpLowering

_REDUCED = 64


def _images(op: OpLowering) -> dict[str, Constant]:
    _, channels, height, width = op.shape_of("x")
    _, _, out_height, out_width = op.shape
    return {
        **{"CHANNELS": channels, "HEIGHT": height, "WIDTH": width},
        **{"OUT_HEIGHT": out_height, "OUT_WIDTH": out_width},
    }


def _window(op: OpLowering) -> dict[str, Constant]:
    kernel, stride, padding = (op.args[name] for name in ("kernel", "stride", "padding"))
    return {
        **_images(op),
        **{"KERNEL_H": kernel[0], "KERNEL_W": kernel[1]},
        **{"STRIDE_H": stride[0], "STRIDE_W": stride[1]},
        **{"PAD_TOP": padding[0], "PAD_LEFT": padding[2]},
    }


def _average(op: OpLowering) -> dict[str, Constant]:
    return {"X_ZERO_POINT": int(op.args["x_zero_point"]), **limits(op)}


def _scalars(op: OpLowering) -> dict[str, Constant]:
    one = {n.upper(): int(op.constant(n).reshape(-1)[0]) for n in ("multiplier", "shift")}
    return {**one, **_average(op)}


def lower_max_pool2d(op: OpLowering) -> None:
    """Lowers max_pool2d."""
    dilation = op.args["dilation"]
    constants = {**_window(op), "DILATION_H": dilation[0], "DILATION_W": dilation[1]}
    op.by_elements("max_pool2d_s8", prod(op.shape), {"x": op.tensor("x"), "out": op.out}, constants)


def lower_avg_pool2d(op: OpLowering) -> None:
    """Lowers avg_pool2d."""
    counted = tuple(int(size) for size in op.args["counted"])
    _by_count(op, "avg_pool2d_s8", {**_window(op), "COUNTED": counted})


def lower_adaptive_avg_pool2d(op: OpLowering) -> None:
    """Lowers adaptive_avg_pool2d."""
    _by_count(op, "adaptive_avg_pool2d_s8", _images(op))


def _by_count(op: OpLowering, kernel: str, constants: dict[str, Constant]) -> None:
    arguments = {
        **{"x": op.tensor("x"), "out": op.out},
        **{"multiplier": op.int32(op.constant("multiplier"))},
        **{"shift": op.int32(op.constant("shift"))},
    }
    op.by_elements(kernel, prod(op.shape), arguments, {**constants, **_average(op)})


def lower_mean(op: OpLowering) -> None:
    """Lowers mean: kept dimensions in the order of the result, then the reduced ones."""
    shape, strides = op.shape_of("x"), op.strides_of("x")
    rank = len(shape)
    reduced = {d % rank for d in op.args["dims"]} or set(range(rank))
    kept = [d for d in range(rank) if d not in reduced]
    own = [op.strides[d] for d in kept] if op.args["keepdim"] else list(op.strides)
    place = dict(zip(kept, own, strict=True))
    kept.sort(key=lambda d: -place[d])
    sizes, (x, out) = collapse(
        [shape[d] for d in kept], [strides[d] for d in kept], [place[d] for d in kept]
    )
    gone = sorted(reduced, key=lambda d: -strides[d])
    inner, (steps,) = collapse([shape[d] for d in gone], [strides[d] for d in gone])
    constants: dict[str, Constant] = {
        **{"KEPT": sizes[1:], "X_STRIDES": x, "OUT_STRIDES": out},
        **{"REDUCED": inner[1:], "REDUCED_STRIDES": steps, "BLOCK_R": _REDUCED},
        **_scalars(op),
    }
    arguments = {"x": op.tensor("x"), "out": op.out, "elements": prod(shape[d] for d in gone)}
    op.by_elements("mean_s8", prod(op.shape), arguments, constants, block=32)


def _resize(op: OpLowering) -> dict[str, Constant]:
    scale, offset = (tuple(int(v) for v in op.args[name]) for name in ("scale", "offset"))
    return {**_images(op), "SCALE": scale, "OFFSET": offset}


def lower_resize_nearest(op: OpLowering) -> None:
    """Lowers resize_nearest."""
    arguments = {"x": op.tensor("x"), "out": op.out}
    op.by_elements("resize_nearest_s8", prod(op.shape), arguments, _resize(op))


def lower_resize_bilinear(op: OpLowering) -> None:
    """Lowers resize_bilinear."""
    arguments = {"x": op.tensor("x"), "out": op.out}
    constants = {**_resize(op), **_scalars(op)}
    op.by_elements("resize_bilinear_s8", prod(op.shape), arguments, constants)
