"""Turns a TARGETED graph into C sources and a blob of packed constants."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, reduce
from importlib.resources import files
from typing import Any, Protocol

import torch
from torch import fx

from qcompiler.backends.native import emit_depthwise as depthwise
from qcompiler.backends.native import emit_elementwise as elementwise
from qcompiler.backends.native import emit_movement as movement
from qcompiler.backends.native import emit_products as products
from qcompiler.backends.native.batching import Batching, find_batching
from qcompiler.backends.native.choices import Setting, default_setting
from qcompiler.backends.native.codes import UNSIGNED, CodeForm
from qcompiler.backends.native.cprint import c_dim, symbols_in
from qcompiler.backends.native.op_writer import OpWriter
from qcompiler.backends.native.packing import Blob
from qcompiler.backends.native.program_view import Layout, aligned, batch_view, work_sizes
from qcompiler.backends.native.rendering import template
from qcompiler.ir.annotations import type_of
from qcompiler.ir.graph import QGraph, arguments
from qcompiler.ir.types import Dim, simplify_dim
from qcompiler.target.base import VIEW

Emission = Callable[[OpWriter], None]

EMITTERS: dict[str, Emission] = {
    "quantize": elementwise.emit_quantize,
    "dequantize": elementwise.emit_dequantize,
    "dequantize_accumulator": elementwise.emit_dequantize_accumulator,
    "requantize": elementwise.emit_requantize,
    "conv2d": products.emit_conv2d,
    "conv2d_requant": products.emit_conv2d,
    "pointwise_depthwise_requant": depthwise.emit_pointwise_depthwise,
    "linear": products.emit_linear,
    "linear_requant": products.emit_linear,
    "matmul": products.emit_matmul,
    "matmul_requant": products.emit_matmul,
    "add": elementwise.emit_add,
    "mul": elementwise.emit_mul,
    "table": elementwise.emit_table,
    "clamp": elementwise.emit_clamp,
    "max_pool2d": elementwise.emit_max_pool2d,
    "avg_pool2d": elementwise.emit_avg_pool2d,
    "adaptive_avg_pool2d": elementwise.emit_adaptive_avg_pool2d,
    "mean": elementwise.emit_mean,
    "resize_nearest": elementwise.emit_resize_nearest,
    "resize_bilinear": elementwise.emit_resize_bilinear,
    "reshape": movement.emit_reshape,
    "permute": movement.emit_permute,
    "slice": movement.emit_slice,
    "expand": movement.emit_expand,
    "concat": movement.emit_concat,
    "pad": movement.emit_pad,
}
ISLAND = "island"
# Limits of the kernels: QC_MAX_RANK, and rows of a filter, whose pointers stand on the stack.
MAX_RANK, MAX_KERNEL_ROWS = 8, 4096
CONSTANTS = (
    *("weight", "bias", "multiplier", "shift", "table", "scale"),
    *("dw_weight", "dw_bias", "dw_multiplier", "dw_shift", "mid_table"),
)


class Plan(Protocol):
    """Where values live in the arena: byte offsets by node name, and the size of all of them."""

    @property
    def offsets(self) -> Mapping[str, Dim]:
        """Byte offset of each value that a call produces."""
        ...

    @property
    def size(self) -> Dim:
        """Bytes of the arena that the values take."""
        ...

    @property
    def aliases(self) -> Mapping[str, str]:
        """Input or result of the program in whose memory a value outside of the arena lies."""
        ...


@dataclass(frozen=True)
class OpDescriptor:
    """One operator of a native program.

    ``operands`` names the nodes whose values it reads, in the order of the C operand array; the
    result follows them. ``choices`` is the setting of what its kernel leaves open, the first one
    where the program carries several.
    """

    node: str
    kernel: str
    operands: tuple[str, ...]
    choices: Setting = field(default_factory=dict)


@dataclass(frozen=True)
class NativeSources:
    """A program as text: C files by relative name, packed constants, and its operators in order."""

    files: dict[str, bytes]
    blob: bytes
    ops: tuple[OpDescriptor, ...]


@dataclass(frozen=True)
class Description:
    """A program before it is text: what templates are told, packed constants, and operators.

    ``arena`` is the bytes of values, ``scratch`` those of each operator's scratch memory on one
    thread, ``kernels`` all that the program calls.
    """

    values: dict[str, Any]
    blob: bytes
    ops: tuple[OpDescriptor, ...]
    arena: Dim = 0
    scratch: tuple[Dim, ...] = ()
    kernels: frozenset[str] = frozenset()


@dataclass(frozen=True)
class SequentialPlan:
    """A plan that never reuses memory: one value after another."""

    offsets: Mapping[str, Dim] = field(default_factory=dict)
    size: Dim = 0
    aliases: Mapping[str, str] = field(default_factory=dict)


def plan_sequentially(graph: QGraph) -> SequentialPlan:
    """Places each call's result behind the one before, for tests and for debugging."""
    offsets: dict[str, Dim] = {}
    at: Dim = 0
    for node in graph.calls:
        offsets[node.name] = at
        at = simplify_dim(at + aligned(type_of(node).nbytes()))
    return SequentialPlan(offsets, at)


def why_not(node: fx.Node) -> str | None:
    """Returns the reason why no kernel covers a call, None when one does; others are islands."""
    name = _op_name(node)
    if name not in EMITTERS:
        return f"there is no kernel for {node.target}"
    if reason := _too_large(node):
        return reason
    args = arguments(node)
    for parameter in CONSTANTS:
        value = args.get(parameter)
        if isinstance(value, fx.Node) and value.op != "get_attr":
            return f"{name} takes its {parameter} as a constant only"
    residual = args.get("residual")
    if residual is not None and type_of(residual).shape != type_of(node).shape:
        return f"the residual of {name} has another shape than the result"
    if name == "dequantize" and type_of(args["x"]).dtype != torch.int8:
        return "dequantize takes int8 codes only"
    if name == "matmul_requant" and not isinstance(type_of(node).shape[-1], int):
        return "matmul_requant needs a fixed number of columns"
    return None


def _too_large(node: fx.Node) -> str | None:
    """Returns what of a call exceeds the limits of ``qc.h``, None when nothing does."""
    for value in (node, *node.all_input_nodes):
        if type_of(value).rank > MAX_RANK:
            return f"{value.name} has {type_of(value).rank} dimensions, kernels take {MAX_RANK}"
    for name in ("weight", "dw_weight"):
        weight = arguments(node).get(name)
        if isinstance(weight, fx.Node) and type_of(weight).rank == 4:
            height = type_of(weight).shape[2]
            if isinstance(height, int) and height > MAX_KERNEL_ROWS:
                return f"its filter has {height} rows, kernels take {MAX_KERNEL_ROWS}"
    return None


def emit(
    graph: QGraph,
    plan: Plan,
    batching: Batching | None = None,
    settings: Mapping[str, Sequence[Setting]] | None = None,
    form: CodeForm = UNSIGNED,
) -> NativeSources:
    """Emits a graph; the sources serve every instruction set, the build chooses one.

    Args:
        graph: the program.
        plan: places of its values.
        batching: how threads share the samples of a batch; None for what ``find_batching`` says.
        settings: what the kernel of a node is to do with its choices, those of the cost model for
            other nodes. A program with several settings of a node runs the first one until
            qc_choose, which only such a program has, names another one.
        form: how codes are stored.

    Raises:
        QCompilerError: QC0203 when an operator's arguments are outside what its kernel covers.
    """
    described = describe(graph, plan, batching, settings, form)
    sources = dict(kernel_sources(form))
    sources["program.c"] = template("program.c.jinja").render(described.values).encode()
    return NativeSources(sources, described.blob, described.ops)


def describe(
    graph: QGraph,
    plan: Plan,
    batching: Batching | None = None,
    settings: Mapping[str, Sequence[Setting]] | None = None,
    form: CodeForm = UNSIGNED,
) -> Description:
    """Returns what ``emit`` writes, before it is text; arguments and errors are the same."""
    blob = Blob()
    variants = [_variants(graph, node, blob, settings or {}, form) for node in graph.calls]
    writers = [several[0] for several in variants]
    program = Layout(graph, plan, blob, form)
    views = {w.node for w in writers if program.is_view(w.node)}
    batching = batching or find_batching(graph, plan.size)
    work = work_sizes(graph)
    values = {
        "ops": [_op_view(i, several, list(graph.symbols)) for i, several in enumerate(variants)],
        "is_open": any(len(several) > 1 for several in variants),
        "steps": [program.step(i, w) for i, w in enumerate(writers) if w.node not in views],
        "copies": program.copies,
        "symbols": list(graph.symbols),
        "arena_size": program.dim(aligned(plan.size)),
        "arena_symbols": [name for name in graph.symbols if name in symbols_in(plan.size)],
        "step_symbols": [name for name in graph.symbols if name in program.symbols],
        "has_islands": any(ISLAND in w.kernels for w in writers),
        "work": {name: c_dim(size) for name, size in work.items()},
        "work_symbols": set[str]().union(*(symbols_in(size) for size in work.values())),
        "batch": None if batching is None else batch_view(graph, batching),
    }
    ops = tuple(
        OpDescriptor(
            w.node.name,
            VIEW if w.node in views else _kernel_name(w),
            tuple(n.name for n in w.operands),
            w.choices,
        )
        for w in writers
    )
    scratch = tuple(simplify_dim(w.scratch + w.thread_scratch) for w in writers)
    kernels = frozenset(kernel for w in writers for kernel in w.kernels)
    return Description(values, blob.finish(), ops, aligned(plan.size), scratch, kernels)


@cache
def kernel_sources(form: CodeForm = UNSIGNED) -> Mapping[str, bytes]:
    """Returns the files of the kernel library by name, with names for a form of codes."""
    folder = files(__package__) / "kernels"
    names = sorted(f.name for f in folder.iterdir() if f.name.endswith((".c", ".h")))
    texts = {name: (folder / name).read_text(encoding="utf-8") for name in names}
    return {name: form.text(text).encode() for name, text in texts.items()}


def _op_name(node: fx.Node) -> str:
    namespace, _, name = str(node.target).partition(".")
    return name.removesuffix(".default") if namespace == "qcompiler" else ""


def _variants(
    graph: QGraph,
    node: fx.Node,
    blob: Blob,
    settings: Mapping[str, Sequence[Setting]],
    form: CodeForm,
) -> list[OpWriter]:
    """Returns an operator written with each of its settings."""
    chosen = settings.get(node.name) or [default_setting(graph, node)]
    return [_write(OpWriter(graph, node, blob, setting, form)) for setting in chosen]


def _write(writer: OpWriter) -> OpWriter:
    node = writer.node
    emission = EMITTERS.get(_op_name(node))
    if emission is not None:
        if reason := why_not(node):
            writer.refuse(reason)
        emission(writer)
        return writer
    writer.kernels.append(ISLAND)
    return writer


def _kernel_name(writer: OpWriter) -> str:
    """Returns the kernel that does the work: the last one that is no copy."""
    work = [k for k in writer.kernels if k not in ("qc_copy_nd", "qc_fill")]
    return (work or writer.kernels)[-1]


def _op_view(index: int, variants: Sequence[OpWriter], symbols: Sequence[str]) -> dict[str, Any]:
    writer = variants[0]
    used = set[str]().union(*(variant.symbols for variant in variants))
    return {
        "index": index,
        "node": writer.node.name,
        "target": str(writer.node.target),
        "type": str(writer.type),
        "out": len(writer.operands),
        "variants": [variant.lines for variant in variants],
        "island": ISLAND in writer.kernels,
        "scratch": _largest([size for size in map(_scratch, variants) if size]),
        "symbols": [(i, s) for i, s in enumerate(symbols) if s in used],
    }


def _scratch(writer: OpWriter) -> str | None:
    """Returns the bytes of scratch memory as C; ``parts`` is the number of threads."""
    if writer.scratch == 0 == writer.thread_scratch:
        return None
    shared, own = c_dim(writer.scratch), c_dim(writer.thread_scratch)
    return shared if writer.thread_scratch == 0 else f"{shared} + parts * ({own})"


def _largest(sizes: Sequence[str]) -> str | None:
    return reduce("qc_max({}, {})".format, sizes) if sizes else None
