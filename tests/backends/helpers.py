"""Small graphs of integer operators, and their comparison with the reference implementation."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

import qcompiler.ir.integer_ops  # noqa: F401  # defines the operators
from qcompiler.backends.arm import isa
from qcompiler.backends.arm.cross import LINK_FLAGS, emulator, find_cross_compiler
from qcompiler.backends.arm.remote import Launch, RemoteProgram
from qcompiler.backends.arm.target import FatTarget, runner_files
from qcompiler.backends.cpu import CpuTarget
from qcompiler.backends.cpu.isa import supported_levels
from qcompiler.backends.native.emitter import emit, plan_sequentially
from qcompiler.backends.native.levels import Isa
from qcompiler.backends.native.runtime import NativeProgram
from qcompiler.backends.native.toolchain import build
from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import set_type
from qcompiler.ir.graph import QGraph, arguments
from qcompiler.ir.stages import Stage
from qcompiler.ir.types import TensorType

LEVELS: tuple[Isa, ...] = supported_levels()
# The portable kernels with the small stacks of microcontrollers.
SMALL = Isa("small", (), defines=("QC_SMALL",))
# A model of a processor for each level of ARM, the oldest one that has it.
MODELS = {"portable": "cortex-a53", "neon": "cortex-a53", "dotprod": "cortex-a76", "i8mm": "max"}


def _has_arm() -> bool:
    """Returns whether programs for ARM run here; where CI is set they must."""
    try:
        find_cross_compiler()
        emulator("max")
    except QCompilerError:
        return "CI" in os.environ
    return "QCOMPILER_CFLAGS" not in os.environ  # of sanitizers, which watch this process


HAS_ARM = _has_arm()


@dataclass(frozen=True)
class Const:
    """Marks an argument that becomes a constant of the graph."""

    tensor: torch.Tensor


@dataclass(frozen=True)
class Case:
    """One operator call; bare tensors among the arguments become inputs of the graph."""

    op: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def case(op: str, *args: Any, **kwargs: Any) -> Case:
    """Returns a call of a qcompiler operator."""
    return Case(op, args, kwargs)


def build_graph(cases: Iterable[Case]) -> tuple[QGraph, list[torch.Tensor]]:
    """Returns a graph that computes all cases side by side, and its inputs."""
    graph = fx.Graph()
    module = torch.nn.Module()
    inputs: list[torch.Tensor] = []
    calls: list[tuple[Case, Any, Any]] = []

    def argument(value: Any) -> Any:
        if isinstance(value, Const):
            name = f"const_{len(module.state_dict())}"
            module.register_buffer(name, value.tensor)
            node = graph.get_attr(name)
            set_type(node, TensorType(value.tensor.dtype, tuple(value.tensor.shape)))
            return node
        if isinstance(value, torch.Tensor):
            node = graph.placeholder(f"x{len(inputs)}")
            set_type(node, TensorType(value.dtype, tuple(value.shape)))
            inputs.append(value)
            return node
        if isinstance(value, list) and value and isinstance(value[0], (torch.Tensor, Const)):
            return [argument(v) for v in value]
        return value

    for one in cases:
        args = tuple(argument(a) for a in one.args)
        calls.append((one, args, {k: argument(v) for k, v in one.kwargs.items()}))
    graph.output(())
    wrapped = QGraph(fx.GraphModule(module, graph), Stage.TARGETED)
    results = []
    last = next(n for n in reversed(wrapped.module.graph.nodes) if n.op == "output")
    copies = dict(zip(graph.nodes, wrapped.module.graph.nodes, strict=True))

    def rename(value: Any) -> Any:
        return fx.node.map_arg(value, copies.__getitem__)

    for one, args, kwargs in calls:
        target = getattr(torch.ops.qcompiler, one.op).default
        results.append(wrapped.call(target, rename(args), rename(kwargs), before=last))
    last.args = (tuple(results),)
    wrapped.recompile()
    return wrapped, inputs


def compile_for_arm(graph: QGraph) -> dict[str, RemoteProgram]:
    """Builds a graph as one executable for every level of ARM, run on the cores that have them."""
    levels = (isa.PORTABLE, *isa.LEVELS)
    form = FatTarget().form
    sources = emit(graph, plan_sequentially(graph), form=form)
    sources.files.update(runner_files())
    binary = build(sources.files, levels, find_cross_compiler(), LINK_FLAGS)
    return {
        f"arm {level.name}": RemoteProgram(
            graph,
            sources.ops,
            binary,
            sources.blob,
            form=form,
            launch=Launch(emulator(MODELS[level.name]), arguments=(level.name,)),
        )
        for level in levels
    }


def compile_graph(graph: QGraph, levels: Sequence[Isa] = LEVELS) -> dict[str, NativeProgram]:
    """Builds a graph with a plan that reuses nothing; one library, one program for each level."""
    sources = emit(graph, plan_sequentially(graph))
    binary = build(sources.files, levels)
    return {
        isa.name: NativeProgram(graph, sources.ops, binary, sources.blob, level=isa.name)
        for isa in levels
    }


def check(cases: Sequence[Case], levels: Sequence[Isa] = LEVELS) -> None:
    """Asserts that every case gives the reference's integers on every level and thread count.

    Each case runs as part of the whole program, alone, and over each operand that the datasheet
    lets it overwrite; on the levels of ARM and with small stacks too, unless levels are named.
    """
    graph, inputs = build_graph(cases)
    expected = graph.run(*inputs)
    values = {node.name: x for node, x in zip(graph.inputs, inputs, strict=True)}
    small = (SMALL,) if levels is LEVELS else ()
    programs: dict[str, NativeProgram | RemoteProgram] = {**compile_graph(graph, (*small, *levels))}
    if levels is LEVELS and HAS_ARM:
        programs |= compile_for_arm(graph)
    for level, program in programs.items():
        alone = [program.run_op(op.node, [values[n] for n in op.operands]) for op in program.ops]
        runs = {"alone": alone} | {f"x{n}": program.run(inputs, n) for n in (1, 2, 4)}
        for name, results in runs.items():
            for one, want, have in zip(cases, expected, results, strict=True):
                assert torch.equal(want, have), f"{level} {name}: {describe(one, want, have)}"
        for i, place in overwritable(graph):
            op = program.ops[i]
            for threads in (1, 3):
                have = program.run_op(
                    op.node, [values[n] for n in op.operands], threads, over=place
                )
                same = torch.equal(expected[i], have)
                assert same, f"{level} in place: {describe(cases[i], expected[i], have)}"


def overwritable(graph: QGraph) -> Iterator[tuple[int, int]]:
    """Yields each call's place with that of an operand over which it may write its result."""
    for i, node in enumerate(graph.calls):
        operands = [n for n in node.all_input_nodes if n.op != "get_attr"]
        for name in CpuTarget().in_place(node):
            operand = arguments(node)[name]
            if operand in operands:
                yield i, operands.index(operand)


def describe(one: Case, want: torch.Tensor, have: torch.Tensor) -> str:
    """Returns the call and its first differing element."""

    def text(value: Any) -> str:
        value = value.tensor if isinstance(value, Const) else value
        return str(tuple(value.shape)) if isinstance(value, torch.Tensor) else str(value)

    named = [f"{key}={text(value)}" for key, value in one.kwargs.items()]
    arguments = ", ".join([*map(text, one.args), *named])
    wrong = (want != have).nonzero()
    at = tuple(wrong[0].tolist()) if len(wrong) else ()
    return (
        f"{one.op}({arguments}): {len(wrong)} of {want.numel()} differ,"
        f" first at {at}: {want[at].item()} expected, got {have[at].item()}"
    )
