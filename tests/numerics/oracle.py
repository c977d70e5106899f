"""Graphs for the TOSA reference model, the oracle of requantization."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tosa_reference_model
import tosa_serializer as ts

Array = npt.NDArray[Any]

_TYPES = {
    "int8": (ts.DType.INT8, np.int8),
    "int32": (ts.DType.INT32, np.int32),
}


class Oracle:
    """Builds one graph and runs it; each method adds an operator and returns its output's name."""

    def __init__(self) -> None:
        self._graph = ts.TosaSerializer()
        self._block = self._graph.currRegion.currBasicBlock
        self._feeds: list[Array] = []

    def input(self, name: str, value: Array) -> str:
        """Adds an input with its value."""
        self._block.addTensor(name, list(value.shape), _TYPES[str(value.dtype)][0])
        self._block.addInput(name)
        self._feeds.append(value)
        return name

    def constant(self, values: Sequence[int], dtype: str) -> str:
        """Adds a constant vector."""
        kind, numpy_type = _TYPES[dtype]
        name: str = self._graph.addConst([len(values)], kind, np.array(values, numpy_type)).name
        return name

    def rescale(
        self,
        x: str,
        shape: Sequence[int],
        dtypes: tuple[str, str],
        multiplier: Sequence[int],
        shift: Sequence[int],
        zero_points: tuple[int, int] = (0, 0),
        output: bool = False,
    ) -> str:
        """Adds RESCALE with single rounding, per channel of the last axis if there are several."""
        operands = [
            x,
            self.constant(multiplier, "int32"),
            self.constant(shift, "int8"),
            self.constant([zero_points[0]], dtypes[0]),
            self.constant([zero_points[1]], dtypes[1]),
        ]
        attribute = ts.TosaSerializerAttribute()
        attribute.RescaleAttribute(
            True, ts.RoundingMode.SINGLE_ROUND, len(multiplier) > 1, False, False
        )
        return self._operator(ts.Op.RESCALE, operands, shape, dtypes[1], attribute, output)

    def multiply(self, a: str, b: str, shape: Sequence[int]) -> str:
        """Adds an int32 product."""
        attribute = ts.TosaSerializerAttribute()
        attribute.MulAttribute()
        operands = [a, b, self.constant([0], "int8")]
        return self._operator(ts.Op.MUL, operands, shape, "int32", attribute, False)

    def add(self, a: str, b: str, shape: Sequence[int]) -> str:
        """Adds an int32 sum."""
        attribute = ts.TosaSerializerAttribute()
        attribute.AddAttribute()
        return self._operator(ts.Op.ADD, [a, b], shape, "int32", attribute, False)

    def run(self, dtype: str, shape: Sequence[int]) -> Array:
        """Runs the graph and returns its one output."""
        outputs, status = tosa_reference_model.run(self._graph.serialize(), self._feeds)
        assert status == tosa_reference_model.GraphStatus.TOSA_VALID
        values: Array = np.asarray(outputs[0]).view(_TYPES[dtype][1]).reshape(tuple(shape))
        return values

    def _operator(
        self,
        op: Any,
        operands: Sequence[str],
        shape: Sequence[int],
        dtype: str,
        attribute: Any,
        output: bool,
    ) -> str:
        kind = _TYPES[dtype][0]
        if output:
            result = self._graph.addOutput(list(shape), kind)
        else:
            result = self._graph.addIntermediate(list(shape), kind)
        self._graph.addOperator(op, list(operands), [result.name], attribute)
        name: str = result.name
        return name
