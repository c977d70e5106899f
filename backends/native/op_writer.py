"""OpWriter: what an emission function uses to write one operator as a C function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
import sympy
import torch
from numpy.typing import NDArray
from torch import fx

from qcompiler.backends.native.choices import Setting
from qcompiler.backends.native.codes import UNSIGNED, CodeForm
from qcompiler.backends.native.cprint import c_dim, c_initializer, symbols_in
from qcompiler.backends.native.layout import to_storage
from qcompiler.backends.native.packing import ALIGNMENT, Blob
from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import origin_of, type_of
from qcompiler.ir.graph import QGraph, arguments
from qcompiler.ir.types import Dim, TensorType, simplify_dim


class OpWriter:
    """Collects operands, constants, scratch memory and statements of one operator.

    In the C function, ``c`` is the context, ``t`` the operand pointers (inputs in order of
    first use, then the output), and each symbol is a local variable of its name. ``choices`` is the
    setting of what the kernels leave open, ``form`` how codes are stored.
    """

    def __init__(
        self,
        graph: QGraph,
        node: fx.Node,
        blob: Blob,
        choices: Setting,
        form: CodeForm = UNSIGNED,
    ) -> None:
        self.graph = graph
        self.node = node
        self.blob = blob
        self.choices = choices
        self.form = form
        self.args: dict[str, Any] = arguments(node)
        self.type = type_of(node)
        self.operands = [n for n in node.all_input_nodes if n.op != "get_attr"]
        self.lines: list[str] = []
        self.kernels: list[str] = []
        self.symbols: set[str] = set()
        self.scratch: Dim = 0
        self.thread_scratch: Dim = 0

    def type_of(self, name: str) -> TensorType:
        """Returns the type of the tensor argument of the given name."""
        return type_of(self.args[name])

    def tensor(self, argument: fx.Node | str) -> str:
        """Returns the C pointer to a tensor argument, given by name or as a node."""
        node = self.args[argument] if isinstance(argument, str) else argument
        if node.op == "get_attr":
            stored = to_storage(self.graph.constant(node), self.form)
            return self.array(stored.numpy(), self.form.c_type)
        return f"t[{self.operands.index(node)}]"

    @property
    def out(self) -> str:
        """The C pointer to the result."""
        return "t[OUT]"

    def constant(self, name: str) -> torch.Tensor:
        """Returns the tensor of an argument that is a constant."""
        return self.graph.constant(self.args[name])

    def array(self, values: NDArray[Any], c_type: str) -> str:
        """Stores constant data and returns the C pointer to it."""
        return f"(const {c_type} *)(qc_blob + {self.blob.add(values)})"

    def codes(self, pointer: str, *, constant: bool = True) -> str:
        """Returns a C pointer cast to one to codes."""
        return f"({'const ' if constant else ''}{self.form.c_type} *){pointer}"

    def int32(self, values: torch.Tensor) -> str:
        """Stores an int32 tensor and returns the C pointer to it."""
        return self.array(values.numpy().astype(np.int32), "int32_t")

    def dim(self, value: Dim) -> str:
        """Returns a dimension as a C expression."""
        self.symbols |= symbols_in(value)
        return c_dim(value)

    def reserve(self, size: Dim) -> str:
        """Reserves scratch bytes and returns the C expression of their offset."""
        offset = self.scratch
        self.scratch = simplify_dim(offset + _aligned(size))
        return self.dim(offset)

    def reserve_per_thread(self, size: Dim) -> tuple[Dim, Dim]:
        """Reserves scratch bytes for each thread, behind all that ``reserve`` has reserved.

        Returns the offset of the first thread's part and the step to the next thread's; part
        ``index`` of a job uses the part of that index. Called once, and after ``reserve``.
        """
        self.thread_scratch = _aligned(size)
        return self.scratch, self.thread_scratch

    def block(self, c_type: str, fields: Mapping[str, Any], name: str = "p") -> None:
        """Declares a parameter block."""
        for value in fields.values():
            self._note(value)
        self.lines.append(f"const {c_type} {name} = {{\n{c_initializer(fields)}\n    }};")

    def call(self, kernel: str, *args: str, context: str = "c") -> None:
        """Calls a kernel, whose name says u8 of codes, with the context and C arguments."""
        kernel = self.form.symbol(kernel)
        self.kernels.append(kernel)
        self.lines.append(f"{kernel}({', '.join((context, *args))});")

    def refuse(self, reason: str) -> NoReturn:
        """Raises QC0203 for arguments that the kernel does not cover."""
        raise QCompilerError(
            "QC0203",
            reason,
            node=self.node.name,
            source=origin_of(self.node).source,
            remedy="choose another target, or keep the operator in float with strict=False",
        )

    def _note(self, value: Any) -> None:
        if isinstance(value, Mapping):
            for item in value.values():
                self._note(item)
        elif isinstance(value, (list, tuple)):
            for item in value:
                self._note(item)
        else:
            self.symbols |= symbols_in(value)


def _aligned(size: Dim) -> Dim:
    rounded = sympy.floor((sympy.sympify(size) + ALIGNMENT - 1) / ALIGNMENT) * ALIGNMENT
    return simplify_dim(rounded)
