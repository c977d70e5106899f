"""Lowering of convolution, linear and matmul."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch

from qcompiler.backends.cuda.choices import Product, Tile, default_tile, power_at_least, tile_key
from qcompiler.backends.cuda.launch import Constant, Pointer, Stride
from qcompiler.backends.cuda.lower_elementwise import limits, shift_facts
from qcompiler.backends.cuda.lower_movement import copy, plain_strides
from qcompiler.backends.cuda.op_lowering import OpLowering
from qcompiler.backends.native.packing import fold_zero_point

# Rows that gemv computes one by one; more of them go through the matrix units.
GEMV_ROWS = 2
# Codes that are loaded at once at least; a pixel of fewer channels is copied to as many.
WORD = 4
# Of a block without a number of its own.
THREADS = 128
_NO_ADD = (0, 0, 0, 0, 1, 0, 0, 0)


def lower_conv2d(op: OpLowering) -> None:
    """Lowers conv2d and conv2d_requant."""
    weight, groups = op.constant("weight"), op.args["groups"]
    channels_out, depth_channels, kernel_h, kernel_w = weight.shape
    n, channels, height, width = op.shape_of("x")
    _, _, out_height, out_width = op.shape
    stride, padding, dilation = (op.args[name] for name in ("stride", "padding", "dilation"))
    geometry: dict[str, Constant] = {
        **{"CHANNELS": channels, "HEIGHT": height, "WIDTH": width},
        **{"OUT_HEIGHT": out_height, "OUT_WIDTH": out_width},
        **{"KERNEL_H": kernel_h, "KERNEL_W": kernel_w},
        **{"STRIDE_H": stride[0], "STRIDE_W": stride[1]},
        **{"DILATION_H": dilation[0], "DILATION_W": dilation[1]},
        **{"PAD_TOP": padding[0], "PAD_LEFT": padding[2]},
    }
    pixels = n * out_height * out_width
    if groups == channels == channels_out and "multiplier" in op.args:
        geometry["PAD_VALUE"] = int(op.args["x_zero_point"])
        _lower_depthwise(op, geometry, pixels)
        return
    geometry["PADDED"] = any(padding)
    taps, pointers = weight.permute(0, 2, 3, 1), None
    if groups == 1 and depth_channels < WORD and kernel_h * kernel_w > 1:
        pointers = {"x": _in_words(op, n * height * width, channels)}
        geometry["CHANNELS"] = depth_channels = WORD
        taps = torch.nn.functional.pad(taps, (0, WORD - channels))
    packed = taps.reshape(channels_out, -1)
    _lower_product(op, packed, geometry, pixels, groups, depth_channels, pointers)


def _in_words(op: OpLowering, pixels: int, channels: int) -> Pointer:
    """Copies the operand to where each pixel has a word, so that a tap is read at once.

    What stands behind the channels is arbitrary: the weights there are zero.
    """
    words = op.scratch(pixels * WORD, torch.int8)
    shape = [pixels, channels]
    copy(op, op.tensor("x"), words, shape, [channels, 1], [WORD, 1])
    return words


def lower_linear(op: OpLowering) -> None:
    """Lowers linear and linear_requant: a 1x1 convolution over all but the last dimension."""
    weight = op.constant("weight")
    shape = op.shape_of("x")
    rows, depth = prod(shape[:-1]), shape[-1]
    if len(shape) == 4:
        _lower_linear_of_images(op, weight)
        return
    if rows <= GEMV_ROWS:
        _lower_gemv(op, weight, rows)
        return
    _lower_product(op, weight, _point(depth), rows, 1, depth)


def _point(channels: int) -> dict[str, Constant]:
    """Returns the geometry of a 1x1 convolution of images of one pixel."""
    ones = ("HEIGHT", "WIDTH", "OUT_HEIGHT", "OUT_WIDTH", "KERNEL_H", "KERNEL_W")
    steps = ("STRIDE_H", "STRIDE_W", "DILATION_H", "DILATION_W")
    geometry: dict[str, Constant] = dict.fromkeys((*ones, *steps), 1)
    return geometry | {"CHANNELS": channels, "PAD_TOP": 0, "PAD_LEFT": 0, "PADDED": False}


def _lower_linear_of_images(op: OpLowering, weight: torch.Tensor) -> None:
    """Lowers linear over rank 4, stored as NHWC: the last logical dimension is the width.

    The operand is read, and the result and a residual are kept, in logical order on the way.
    """
    x_shape, out_shape = op.shape_of("x"), op.shape
    staged_x = op.scratch(prod(x_shape), torch.int8)
    copy(op, op.tensor("x"), staged_x, x_shape, op.strides_of("x"), plain_strides(x_shape))
    pointers: dict[str, Pointer] = {"x": staged_x}
    residual = op.args.get("residual")
    if residual is not None:
        staged = op.scratch(prod(out_shape), torch.int8)
        copy(op, op.tensor(residual), staged, out_shape, op.strides, plain_strides(out_shape))
        pointers["residual"] = staged
    pointers["out"] = op.scratch(prod(out_shape), op.type.dtype)
    geometry = _point(x_shape[-1])
    rows = prod(x_shape[:-1])
    _lower_product(op, weight, geometry, rows, 1, x_shape[-1], pointers)
    copy(op, pointers["out"], op.out, out_shape, plain_strides(out_shape), op.strides)


def _epilogue(
    op: OpLowering, weight: torch.Tensor, pointers: Mapping[str, Pointer]
) -> tuple[dict[str, Pointer | Stride | int], dict[str, Constant]]:
    """Returns the arguments and constants behind the sums of a product with weights."""
    folded = fold_zero_point(
        weight.numpy(), op.constant("bias").numpy(), int(op.args["x_zero_point"]), 0
    )
    bias = op.packed(torch.from_numpy(folded))
    out = pointers.get("out", op.out)
    if "multiplier" not in op.args:
        unused: dict[str, Pointer | Stride | int] = dict.fromkeys(
            ("multiplier", "shift", "table", "residual"), bias
        )
        nothing: dict[str, Constant] = {
            **dict.fromkeys(("ZERO_POINT", "QMIN", "QMAX"), 0),
            **dict.fromkeys(("SATURATES", "HIGH", "HAS_TABLE", "HAS_RESIDUAL"), False),
            **{"ADD": _NO_ADD, "RAW": True},
        }
        return {**unused, "bias": bias, "out": out}, nothing
    shape = (weight.shape[0],)
    multiplier = op.constant("multiplier").reshape(-1).expand(shape)
    shift = op.constant("shift").reshape(-1).expand(shape)
    table, residual = op.args.get("table"), op.args.get("residual")
    places: dict[str, Pointer | Stride | int] = {
        **{"bias": bias, "out": out},
        **{"multiplier": op.int32(multiplier), "shift": op.int32(shift)},
        "table": bias if table is None else op.packed(op.constant("table").reshape(-1)),
        "residual": bias,
    }
    if residual is not None:
        places["residual"] = pointers.get("residual", op.tensor(residual))
    constants: dict[str, Constant] = {
        **limits(op),
        **shift_facts(shift),
        **{"HAS_TABLE": table is not None, "HAS_RESIDUAL": residual is not None},
        "ADD": _NO_ADD if residual is None else tuple(int(v) for v in op.args["add"]),
        "RAW": False,
    }
    return places, constants


def _lower_product(
    op: OpLowering,
    weight: torch.Tensor,
    geometry: Mapping[str, Constant],
    rows: int,
    groups: int,
    channels: int,
    pointers: Mapping[str, Pointer] | None = None,
) -> None:
    columns, depth = weight.shape[0] // groups, weight.shape[1]
    places, constants = _epilogue(op, weight, pointers or {})
    shape = Product(rows, columns, depth, channels, groups)
    tile = op.tiles.get(tile_key(op.node.name, rows)) or default_tile(shape, op.architecture)
    tiles = -(-rows // tile.block_m) * -(-columns // tile.block_n)
    split = tile.split_k if tile.split_k > 1 else 1
    partial = arrivals = places["bias"]
    if split > 1:
        partial, arrivals = op.zeroed(rows * weight.shape[0]), op.zeroed(tiles * groups)
    padding = places["bias"]
    if geometry["PADDED"]:
        zero_point = int(op.args["x_zero_point"])
        padding = op.packed(torch.full((channels,), zero_point, dtype=torch.int8))
    op.launch(
        "conv2d_s8",
        (tiles, groups, split),
        {
            "x": (pointers or {}).get("x", op.tensor("x")),
            "weight": op.packed(weight.to(torch.int8)),
            **places,
            **{"padding": padding, "partial": partial, "arrivals": arrivals, "rows": rows},
        },
        {
            **geometry,
            **{"GROUP_CHANNELS": channels, "GROUP_OUT": columns, "OUT_CHANNELS": weight.shape[0]},
            **constants,
            **tile_constants(tile),
        },
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )


def tile_constants(tile: Tile) -> dict[str, Constant]:
    """Returns the constants of a product's kernel that say how it is cut."""
    names = ("block_m", "block_n", "block_k", "group_m", "split_k")
    return {name.upper(): getattr(tile, name) for name in names}


def _lower_gemv(op: OpLowering, weight: torch.Tensor, rows: int) -> None:
    columns, depth = weight.shape
    places, constants = _epilogue(op, weight, {})
    block_k = power_at_least(depth, 64, 512)
    block_n = max(1, 4096 // block_k) if columns >= 4 * op.architecture.multiprocessors else 4
    op.launch(
        "gemv_s8",
        (-(-columns // block_n), rows),
        {"x": op.tensor("x"), "weight": op.packed(weight.to(torch.int8)), **places},
        {
            **{"DEPTH": depth, "OUT_CHANNELS": columns},
            **constants,
            **{"BLOCK_N": block_n, "BLOCK_K": block_k},
        },
    )


def _lower_depthwise(op: OpLowering, geometry: Mapping[str, Constant], pixels: int) -> None:
    weight = op.constant("weight")
    channels = weight.shape[0]
    places, constants = _epilogue(op, weight, {})
    del constants["RAW"]
    taps = weight.reshape(channels, -1).t().contiguous()
    block_c, block_p = depthwise_block(channels, pixels, op.architecture.multiprocessors)
    op.launch(
        "depthwise_s8",
        (-(-pixels // block_p), -(-channels // block_c)),
        {"x": op.tensor("x"), "weight": op.packed(taps.to(torch.int8)), **places, "pixels": pixels},
        {**geometry, **constants, "BLOCK_P": block_p, "BLOCK_C": block_c},
    )


def depthwise_block(channels: int, pixels: int, multiprocessors: int) -> tuple[int, int]:
    """Returns the channels and pixels of a block, with few channels that are none.

    A thread computes 16 channels of a pixel, and of as many pixels as leave blocks for all
    multiprocessors: the weights it has loaded serve all of them.
    """
    block_c = min((64, 32, 16), key=lambda size: -(-channels // size) * size)
    block_p = power_at_least(pixels, 16, 4 * THREADS * 16 // block_c)
    while block_p > 16 and -(-pixels // block_p) * -(-channels // block_c) < 2 * multiprocessors:
        block_p //= 2
    return block_c, block_p


def lower_matmul(op: OpLowering) -> None:
    """Lowers matmul and matmul_requant at the strides of what is stored."""
    shape, out = op.shape, op.strides
    rows, columns, depth = shape[-2], shape[-1], op.shape_of("a")[-1]
    constants: dict[str, Constant] = {
        **{"BATCH": shape[:-2], "OUT_BATCH": out[:-2]},
        **{"A_BATCH": _batch_strides(op, "a"), "B_BATCH": _batch_strides(op, "b")},
        **{"A_ZERO": int(op.args["a_zero_point"]), "B_ZERO": int(op.args["b_zero_point"])},
    }
    a, b = op.strides_of("a"), op.strides_of("b")
    places: dict[str, Any] = {"a": op.tensor("a"), "b": op.tensor("b"), "out": op.out}
    places |= {"rows": rows, "columns": columns, "depth": depth}
    places |= {"a_row": a[-2], "a_depth": a[-1], "b_depth": b[-2], "b_column": b[-1]}
    places |= {"out_row": out[-2], "out_column": out[-1]}
    if "multiplier" in op.args:
        both = (op.constant(name).reshape(-1) for name in ("multiplier", "shift"))
        multiplier, shift = torch.broadcast_tensors(*both)
        constants |= {"PER_COLUMN": multiplier.numel() > 1, "RAW": False}
        constants |= {**limits(op), **shift_facts(shift)}
        places |= {"multiplier": op.int32(multiplier), "shift": op.int32(shift)}
    else:
        constants |= {"PER_COLUMN": False, "RAW": True, "SATURATES": False, "HIGH": False}
        constants |= dict.fromkeys(("ZERO_POINT", "QMIN", "QMAX"), 0)
        places |= dict.fromkeys(("multiplier", "shift"), op.out)
    block_m, block_n = power_at_least(rows, 16, 64), power_at_least(columns, 16, 64)
    block_k = power_at_least(depth, 32, 64)
    tiles = -(-rows // block_m) * -(-columns // block_n)
    constants |= {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k}
    # Each code has a place of its own: more threads share them, or they do not fit in registers.
    warps = 8 if block_m * block_n * block_k >= 64**3 else 4
    grid = (tiles, prod(shape[:-2]))
    op.launch("matmul_s8", grid, places, constants, num_warps=warps, num_stages=2)


def _batch_strides(op: OpLowering, name: str) -> tuple[int, ...]:
    """Returns the strides of an operand's matrices, 0 where they are broadcast."""
    shape, strides = op.shape_of(name)[:-2], op.strides_of(name)[:-2]
    missing = len(op.shape) - 2 - len(shape)
    own = (0 if size == 1 else step for size, step in zip(shape, strides, strict=True))
    return (*([0] * missing), *own)
