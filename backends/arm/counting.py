"""Executed instructions of each operator, counted by a plugin of qemu: exact and repeatable."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import torch

from qcompiler.backends.arm.remote import RemoteProgram
from qcompiler.backends.native.toolchain import shared_object
from qcompiler.errors import QCompilerError
from qcompiler.ir.graph import QGraph
from qcompiler.runtime.interpreter import operands_of
from qcompiler.target.base import VIEW

_SOURCE = "count.c"
# Versions of the plugin interface: qemu refuses those that it no longer knows.
VERSIONS = (1, 2, 3, 4)
# What qemu says of a version that it does not take.
_REFUSED = "plugin requires API version"


@dataclass(frozen=True)
class Executed:
    """What an operator executes: instructions, and how often each block of code up to a jump."""

    instructions: int
    blocks: Mapping[bytes, int]


def count_instructions(
    graph: QGraph, program: RemoteProgram, inputs: Sequence[torch.Tensor]
) -> dict[str, Executed]:
    """Returns what each operator executes on one thread, for checked inputs.

    Views execute nothing and are left out.

    Args:
        graph: the program.
        program: what runs it; a process of its own is started under the plugin.
        inputs: of the whole program; each operator gets the operands that it has there.

    Raises:
        QCompilerError: QC0801 without a compiler for the plugin, QC0822 when qemu takes none.
    """
    values = dict(graph.trace(*inputs))
    wanted = [op.node for op in program.ops if op.kernel != VIEW]
    for version in VERSIONS:
        with tempfile.TemporaryDirectory(prefix="qcompiler-") as name:
            folder = Path(name)
            (folder / "count.so").write_bytes(counting_plugin(version))
            out = folder / "counts.txt"
            watched = program.under("-plugin", f"{folder / 'count.so'},out={out}")
            try:
                for node in wanted:
                    operands = [values[n] for n in operands_of(graph.node(node))]
                    watched.run_op(node, operands, 1)
            except QCompilerError as error:
                if _REFUSED not in error.problem or version == VERSIONS[-1]:
                    raise
                continue
            return dict(zip(wanted, _read(out), strict=True))
    raise AssertionError


def _read(path: Path) -> list[Executed]:
    """Returns the counts of each operator; a block that was translated again is there again."""
    found: list[Executed] = []
    blocks: dict[bytes, int] = {}
    for line in path.read_text(encoding="ascii").splitlines():
        number, _, code = line.partition(" ")
        if not code:
            blocks = {}
            found.append(Executed(int(number), blocks))
            continue
        block = bytes.fromhex(code)
        blocks[block] = blocks.get(block, 0) + int(number)
    return found


@lru_cache(maxsize=len(VERSIONS))
def counting_plugin(version: int) -> bytes:
    """Returns the plugin for a version of the interface.

    Raises:
        QCompilerError: QC0801 without a compiler for it.
    """
    source = (files(__package__) / _SOURCE).read_bytes()
    return shared_object(_SOURCE, source, (f"-DAPI={version}",))
