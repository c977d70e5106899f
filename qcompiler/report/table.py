"""The per-op report: what each operator became, at which bits, why, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from io import StringIO
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import fx

from qcompiler.ir.annotations import origin_of, quant_of, type_of
from qcompiler.ir.graph import QGraph, arguments, operator_of
from qcompiler.ir.qtypes import QType
from qcompiler.ir.queries import is_island
from qcompiler.report.counts import EXAMPLE, bytes_moved, example_sizes, macs_of
from qcompiler.runtime.packing import narrow_weights, stored_bytes
from qcompiler.target.base import VIEW, Target

# Columns of text: of a table with a frame, and of one whose lines are not wrapped.
_WIDTH = 200
_UNWRAPPED = 2000


@dataclass(frozen=True)
class Row:
    """One operator of a program.

    ``macs`` and ``bytes`` are for a batch of 1, in the report of a measurement for the measured
    sizes; ``bytes`` is what the operator moves: its operands,
    parameters and result, each once. ``stored`` is the bytes of its weights in an artifact, at
    their width and with the factors of groups. ``microseconds`` is the least measured time, None
    where it was not measured; ``sqnr`` is the signal-to-noise ratio in dB of the value against the
    float model, with all error up to here, None without a float value.
    """

    node: str
    op: str
    kernel: str
    type: str
    bits: str
    macs: int
    bytes: int
    why: str
    module: str
    source: str
    sqnr: float | None = None
    stored: int = 0
    microseconds: float | None = None


@dataclass(frozen=True)
class Report:
    """The rows of a program in execution order, with totals and the float islands.

    ``at`` says in words what sizes ``macs`` and ``bytes`` are for, and how many threads ran.
    """

    target: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    at: str = f"batch {EXAMPLE}"

    @property
    def islands(self) -> tuple[Row, ...]:
        """The operators that stayed in floating point."""
        return tuple(r for r in self.rows if r.bits == "float island")

    def measured(
        self, graph: QGraph, microseconds: Mapping[str, float], sizes: Mapping[str, int], at: str
    ) -> Report:
        """Returns the report of a measurement, with times and the work at the measured sizes."""
        nodes = {node.name: node for node in graph.calls}
        timed = (
            replace(
                row,
                microseconds=microseconds.get(row.node),
                macs=macs_of(nodes[row.node], sizes),
                bytes=0 if row.kernel == VIEW else bytes_moved(nodes[row.node], sizes),
            )
            for row in self.rows
        )
        return replace(self, rows=tuple(timed), at=at)

    def as_json(self) -> list[dict[str, Any]]:
        """Returns the rows as JSON objects."""
        return [asdict(r) for r in self.rows]

    def __str__(self) -> str:
        return self.text()

    def text(self, *, plain: bool = False) -> str:
        """Returns the table as text; a plain one has no frame and one line for each operator."""
        title = f"program for {self.target}, {self.at}"
        table = Table(title=None if plain else title, show_footer=True)
        if plain:
            table.box, table.pad_edge = None, False
        macs = sum(r.macs for r in self.rows)
        size = sum(r.bytes for r in self.rows)
        stored = sum(r.stored for r in self.rows)
        for name, footer, justify in (
            ("node", "total", "left"),
            ("op", "", "left"),
            ("kernel", "", "left"),
            ("type", "", "left"),
            ("bits", "", "left"),
            ("MMAC", f"{macs / 1e6:.2f}", "right"),
            ("kB weights", f"{stored / 1e3:.1f}", "right"),
            ("kB moved", f"{size / 1e3:.1f}", "right"),
            ("us", self._total_time(), "right"),
            ("SQNR dB", "", "right"),
            ("why", "", "left"),
            ("from", "", "left"),
        ):
            table.add_column(name, footer=footer, justify=justify, no_wrap=name == "node")  # type: ignore[arg-type]  # literals
        for r in self.rows:
            table.add_row(
                r.node,
                r.op,
                r.kernel,
                r.type.replace("[", r"\["),
                r.bits,
                f"{r.macs / 1e6:.2f}" if r.macs else "",
                f"{r.stored / 1e3:.1f}" if r.stored else "",
                f"{r.bytes / 1e3:.1f}",
                "" if r.microseconds is None else f"{r.microseconds:.1f}",
                "" if r.sqnr is None else f"{r.sqnr:.1f}",
                r.why,
                r.module or r.source,
            )
        text = StringIO()
        Console(file=text, width=_UNWRAPPED if plain else _WIDTH).print(table)
        lines = [line.rstrip() for line in text.getvalue().splitlines()]
        shown = "\n".join([title, *lines] if plain else lines) + "\n"
        return shown + "".join(f"{line}\n" for line in self.notes)

    def _total_time(self) -> str:
        times = [r.microseconds for r in self.rows if r.microseconds is not None]
        return f"{sum(times):.1f}" if times else ""


def rows_of(
    graph: QGraph, kernels: Mapping[str, str], sqnr: Mapping[str, float]
) -> tuple[Row, ...]:
    """Returns a row for each call of a lowered graph."""
    narrow = stored_bytes(graph)
    rows = (_row(n, graph, kernels.get(n.name, ""), sqnr.get(n.name)) for n in graph.calls)
    stored = (sum(_stored(w, narrow) for w in _weights_of(n)) for n in graph.calls)
    return tuple(replace(row, stored=size) for row, size in zip(rows, stored, strict=True))


def weight_notes(graph: QGraph, target: Target) -> list[str]:
    """Returns lines on the weights of less than 8 bits: what is stored of them, and what runs."""
    stored = stored_bytes(graph)
    counts: dict[int, list[int]] = {}
    for weight in narrow_weights(graph):
        sizes = counts.setdefault(weight.bits, [0, 0])
        sizes[0] += type_of(weight.node).numel()
        sizes[1] += stored[str(weight.node.target)]
    lines = []
    for bits, (count, size) in sorted(counts.items()):
        runs = "read at their width by kernels"
        if bits not in target.packed_weight_bits:
            runs = f"unpacked to int8 at load, as the kernels of {target.name} take them"
        lines.append(f"weights: {count} of {bits} bits, stored in {size / 1e3:.1f} kB, {runs}")
    return lines


def _weights_of(node: fx.Node) -> list[fx.Node]:
    held = [arguments(node).get(name) for name in ("weight", "dw_weight")]
    return [weight for weight in held if isinstance(weight, fx.Node)]


def _stored(weight: fx.Node, narrow: Mapping[str, int]) -> int:
    kind = type_of(weight)
    return narrow.get(str(weight.target), kind.numel() * kind.dtype.itemsize)


def _row(node: fx.Node, graph: QGraph, kernel: str, sqnr: float | None) -> Row:
    origin, quant = origin_of(node), quant_of(node)
    namespace, _, name = operator_of(node)._schema.name.partition("::")
    island = is_island(node)
    sizes = example_sizes(graph)
    return Row(
        node.name,
        name if namespace == "qcompiler" else f"{namespace}.{name}",
        kernel,
        str(type_of(node)),
        "float island" if island else _bits(node, graph),
        macs_of(node, sizes),
        0 if kernel == VIEW else bytes_moved(node, sizes),
        quant.why or (_default_reason(name) if not island else ""),
        origin.module or "",
        origin.source or "",
        sqnr,
    )


def _bits(node: fx.Node, graph: QGraph) -> str:
    """Returns the bits of the weight, with the size of its groups, and of the result."""
    own, qtype = type_of(node).dtype, quant_of(node).qtype
    width = f"a{own.itemsize * 8}" if not own.is_floating_point else "f32"
    if own == torch.int8 and qtype is not None:
        width = f"a{qtype.bits}"
    held = [quant_of(weight).qtype for weight in _weights_of(node)]
    return "+".join(dict.fromkeys(map(_weight_bits, held))) + width


def _weight_bits(qtype: QType | None) -> str:
    if qtype is None:
        return "w8"
    group = qtype.granularity.group
    return f"w{qtype.bits}" if group is None else f"w{qtype.bits}g{group}"


def _default_reason(name: str) -> str:
    reasons = {
        "quantize": "input border",
        "dequantize": "output border",
        "table": "unary function of 8-bit codes: 256 entries",
        "requantize": "the two sides have different scales",
    }
    return reasons.get(name, "integer form of the float operator")


def decibels(signal: float, noise: float) -> float:
    """Returns the ratio of two energies in dB; 200 stands for no noise."""
    if noise <= 0.0:
        return 200.0
    return 10.0 * math.log10(signal / noise) if signal > 0 else -200.0
