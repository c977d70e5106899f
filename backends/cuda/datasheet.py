"""The datasheet of the CUDA targets: one line per operator that has a kernel."""

from __future__ import annotations

from qcompiler.backends.cuda.lowering import LOWERINGS
from qcompiler.target.base import OpSupport

_PER_CHANNEL = "i8 per output channel, bias i32"
_EPILOGUE = ("clamp", "table", "residual add of the same shape")
_LINES = (
    OpSupport("quantize", "f32"),
    OpSupport("dequantize_accumulator", "i32", "f32 scale per tensor or channel"),
    OpSupport("requantize", "i8 or i32", "multiplier per tensor or channel", in_place=("x",)),
    OpSupport("conv2d", weights=_PER_CHANNEL),
    OpSupport("linear", weights=_PER_CHANNEL),
    OpSupport("conv2d_requant", weights=_PER_CHANNEL, fuses=_EPILOGUE, in_place=("residual",)),
    OpSupport("linear_requant", weights=_PER_CHANNEL, fuses=_EPILOGUE, in_place=("residual",)),
    OpSupport("matmul_requant", fuses=("clamp",), note="a fixed number of columns"),
    OpSupport("add", fuses=("clamp",), in_place=("a", "b")),
    OpSupport("mul", fuses=("clamp",), in_place=("a", "b")),
    OpSupport("table", fuses=("clamp", "table"), in_place=("x",)),
    OpSupport("clamp", in_place=("x",)),
)

DATASHEET = (
    *_LINES,
    *(OpSupport(name) for name in LOWERINGS if name not in {line.name for line in _LINES}),
)
