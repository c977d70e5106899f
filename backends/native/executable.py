"""What executables and targets of the C family share, however their programs run."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import fx

from qcompiler.backends.native.choices import Setting
from qcompiler.backends.native.datasheet import NATIVE_OPS
from qcompiler.backends.native.emit_movement import is_view
from qcompiler.backends.native.emitter import (
    NativeSources,
    OpDescriptor,
    Plan,
    plan_sequentially,
    why_not,
)
from qcompiler.backends.native.levels import Isa
from qcompiler.ir.graph import QGraph
from qcompiler.runtime.packing import has_packed_weights
from qcompiler.target.base import VIEW, Executable, OpSupport, Run, Target

BINARY, BLOB, INDEX, SOURCES = "program", "constants.bin", "native.json", "src/"
_DIGEST = "constants_sha256"


class Runner(Protocol):
    """A built program that runs: in this process, or in one of its own."""

    def run(self, inputs: Sequence[torch.Tensor], threads: int = 1) -> list[torch.Tensor]:
        """Returns the program's results."""
        ...

    def prepare(self, sizes: Mapping[str, int]) -> Run:
        """Returns what runs checked inputs of given sizes."""
        ...

    def run_op(self, node: str, operands: Sequence[torch.Tensor], threads: int = 1) -> torch.Tensor:
        """Returns one operator's result."""
        ...

    def time_ops(
        self, inputs: Sequence[torch.Tensor], threads: int, repeats: int
    ) -> Mapping[str, float]:
        """Returns the least microseconds of each node."""
        ...


class NativeExecutable(Executable):
    """A program of the C family, with the sources and constants that made it."""

    graph: QGraph
    sources: NativeSources

    @property
    @abstractmethod
    def program(self) -> Runner:
        """What runs the program."""

    @property
    @abstractmethod
    def level(self) -> Isa:
        """The level that the report names kernels for."""

    @abstractmethod
    def index(self) -> Mapping[str, Any]:
        """Returns what the artifact says of the build, beside the operators."""

    @property
    def binary(self) -> tuple[str, bytes] | None:
        """File name and bytes of what was built, None where nothing could be."""
        return None

    def run(self, inputs: Sequence[torch.Tensor], threads: int) -> list[torch.Tensor]:
        """Returns the program's results for CPU inputs of the compiled types."""
        return self.program.run(inputs, threads)

    def prepare(self, sizes: Mapping[str, int]) -> Run:
        """Returns what runs inputs whose dynamic dimensions have the given sizes."""
        return self.program.prepare(sizes)

    def run_op(self, node: str, operands: Sequence[torch.Tensor], threads: int) -> torch.Tensor:
        """Returns one call's result; operands are its distinct inputs in order, no constants."""
        return self.program.run_op(node, operands, threads)

    def time_ops(
        self, inputs: Sequence[torch.Tensor], threads: int, repeats: int
    ) -> Mapping[str, float]:
        """Returns the least microseconds of each node over repeats."""
        return self.program.time_ops(inputs, threads, repeats)

    def kernels(self) -> Mapping[str, str]:
        """Returns the kernel of each node with its instruction set and what it left open.

        The latter stands in braces, as in ``{widest=4 block_rows=200}``; backends/native/choices.py
        explains the names.
        """
        return {
            op.node: op.kernel
            if op.kernel == VIEW
            else f"{op.kernel}_{self.level.name}{_options(op.choices)}"
            for op in self.sources.ops
        }

    def files(self) -> dict[str, bytes]:
        """Returns sources, binary, constants and the index of operators.

        Constants in the form of the kernels hold weights as int8. Where the artifact has them at
        less than 8 bits, it keeps a hash of that form alone, and they are made again on loading.
        """
        index = {**self.index(), "ops": [asdict(op) for op in self.sources.ops]}
        kept = {SOURCES + name: text for name, text in sorted(self.sources.files.items())}
        if has_packed_weights(self.graph):
            index[_DIGEST] = hashlib.sha256(self.sources.blob).hexdigest()
        else:
            kept[BLOB] = self.sources.blob
        kept[INDEX] = json.dumps(index, indent=1, sort_keys=True).encode()
        if self.binary is not None:
            name, content = self.binary
            kept[name] = content
        return kept


class Kept(NamedTuple):
    """What an artifact keeps of a build; its binary is no good where ``is_same`` is false."""

    sources: NativeSources
    facts: dict[str, Any]
    is_same: bool = True


def read_files(
    files: Mapping[str, bytes], emit: Callable[[Mapping[str, Sequence[Setting]]], NativeSources]
) -> Kept:
    """Returns what ``NativeExecutable.files`` wrote.

    Args:
        files: as the artifact has them.
        emit: makes sources and constants anew with settings of operators by node. A release that
            gives the constants another form than the one that wrote the artifact gets its own
            sources, too.
    """
    index = json.loads(files[INDEX])
    ops = tuple(
        OpDescriptor(op["node"], op["kernel"], tuple(op["operands"]), op.get("choices", {}))
        for op in index["ops"]
    )
    texts = {n.removeprefix(SOURCES): t for n, t in files.items() if n.startswith(SOURCES)}
    if BLOB in files:
        return Kept(NativeSources(texts, files[BLOB], ops), index)
    made = emit({op.node: (op.choices,) for op in ops if op.choices})
    if hashlib.sha256(made.blob).hexdigest() != index.get(_DIGEST):
        return Kept(made, index, is_same=False)
    return Kept(NativeSources(texts, made.blob, ops), index)


def _options(choices: Setting) -> str:
    return f"{{{' '.join(f'{n}={v}' for n, v in sorted(choices.items()))}}}" if choices else ""


@dataclass(frozen=True)
class NativeTarget(Target):
    """A processor that runs the kernels in C."""

    ops: ClassVar[tuple[OpSupport, ...]] = NATIVE_OPS

    def why_not(self, node: fx.Node) -> str | None:
        """Returns the reason why no kernel covers a call, None when one does."""
        return why_not(node)

    def is_view(self, node: fx.Node) -> bool:
        """Says whether a call is a reshape whose result is its operand's bytes."""
        return is_view(node)


def plan_of(graph: QGraph) -> Plan:
    """Returns the memory plan of a graph, one without reuse where it has none."""
    return graph.memory_plan or plan_sequentially(graph)
