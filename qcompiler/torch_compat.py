"""Every private torch import of the project; no other module has one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sympy
import torch
from torch import fx
from torch._dynamo.exc import TorchDynamoException, UserError
from torch._dynamo.source import ConstantSource
from torch._ops import HigherOrderOperator, OpOverload
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import (
    DimDynamic,
    GuardOnDataDependentSymNode,
    ShapeEnv,
    StatelessSymbolicContext,
)
from torch.utils._sympy.functions import FloorDiv, Mod, PythonMod

from qcompiler.ir.types import Dim, SymbolRange, TensorType, evaluate_dim, simplify_dim, symbol

__all__ = [
    "FakeTensor",
    "FloorDiv",
    "GuardOnDataDependentSymNode",
    "HigherOrderOperator",
    "Mod",
    "OpOverload",
    "PythonMod",
    "ShapeInference",
    "TorchDynamoException",
    "UserError",
    "is_erased",
    "symbol_of",
    "symbolic_dim",
]

# Sizes that stand for symbols while shapes are inferred: distinct, and unlikely as static sizes.
_HINTS = (1009, 1013, 1019, 1021, 1031, 1033, 1039, 1049)


def is_erased(node: fx.Node) -> bool:
    """Says whether a node was taken out of its graph."""
    return bool(node._erased)


def symbolic_dim(size: object, names: Mapping[sympy.Symbol, str]) -> Dim:
    """Returns a size from torch (int or SymInt) as a dimension over the named symbols."""
    if isinstance(size, int):
        return size
    expr = size.node.expr  # type: ignore[attr-defined]  # SymInt has no public access to it
    return simplify_dim(expr.subs({s: symbol(name) for s, name in names.items()}))


def symbol_of(size: object) -> sympy.Symbol | None:
    """Returns torch's symbol of a size that is one; None for a number or an expression."""
    expr = getattr(getattr(size, "node", None), "expr", None)
    return expr if isinstance(expr, sympy.Symbol) else None


class ShapeInference:
    """Infers the type of an operator's result from the types of its arguments with fake tensors."""

    def __init__(self, symbols: Mapping[str, SymbolRange]) -> None:
        self._env = ShapeEnv(duck_shape=False)
        self._mode = FakeTensorMode(shape_env=self._env, allow_non_fake_inputs=True)
        self._to_ours: dict[sympy.Symbol, str] = {}
        self._sizes: dict[str, Any] = {}
        self._hints: dict[str, int] = {}
        self._known: dict[tuple[Any, str, str], TensorType | None] = {}
        for name, hint in zip(sorted(symbols), _HINTS, strict=False):
            self._add_symbol(name, hint)

    def _add_symbol(self, name: str, hint: int) -> None:
        probe = self._mode.from_tensor(
            torch.empty(hint, device="meta"),
            source=ConstantSource(f"symbol_{name}"),
            symbolic_context=StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC]),
        )
        size: Any = probe.shape[0]
        self._sizes[name] = size
        self._to_ours[size.node.expr] = name
        self._hints[name] = hint

    def _size(self, dim: Dim) -> Any:
        if isinstance(dim, int):
            return dim
        theirs = {symbol(name): expr for expr, name in self._to_ours.items()}
        return self._env.create_symintnode(
            dim.subs(theirs), hint=evaluate_dim(dim, self._hints), source=None
        )

    def fake(self, tensor_type: TensorType) -> torch.Tensor:
        """Returns a fake CPU tensor of the given type."""
        with self._mode:
            return torch.empty([self._size(d) for d in tensor_type.shape], dtype=tensor_type.dtype)

    def type_of(self, value: torch.Tensor) -> TensorType:
        """Returns the type of a fake or real tensor."""
        dims = tuple(symbolic_dim(size, self._to_ours) for size in value.shape)
        return TensorType(value.dtype, dims)

    def infer(
        self, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> TensorType | None:
        """Returns the result type of a call whose tensor arguments are given as TensorTypes.

        Models repeat their blocks, so results are remembered: a call costs milliseconds.
        """
        key = (target, repr(args), repr(kwargs))
        if key not in self._known:
            self._known[key] = self._infer(target, args, kwargs)
        return self._known[key]

    def _infer(
        self, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> TensorType | None:
        def to_fake(arg: Any) -> Any:
            if isinstance(arg, TensorType):
                return self.fake(arg)
            if isinstance(arg, (list, tuple)):
                return type(arg)(to_fake(a) for a in arg)
            return arg

        with self._mode:
            result = target(
                *(to_fake(a) for a in args), **{k: to_fake(v) for k, v in kwargs.items()}
            )
        return self.type_of(result) if isinstance(result, torch.Tensor) else None
