"""Allocation: the bits that each group of weights got, why, and what else was possible."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from io import StringIO
from typing import Any

from qcompiler.errors import QCompilerError


@dataclass(frozen=True)
class AllocatedGroup:
    """A group of weights that are decided together.

    ``errors`` has the measured error by bits; ``why`` the reason of the choice in words.
    """

    name: str
    layers: tuple[str, ...]
    bits: int
    elements: int
    bytes: int
    errors: Mapping[int, float]
    why: str


@dataclass(frozen=True)
class FrontPoint:
    """One point of the Pareto front: no choice of fewer bytes has a lower predicted error."""

    bytes: int
    average_bits: float
    error: float
    bits: tuple[int, ...]
    seconds: float | None = None


@dataclass(frozen=True)
class Allocation:
    """The chosen bits, the Pareto front around them, and what was measured at the end.

    ``error`` is the sum of the groups' errors, ``joint_error`` the output noise with all groups at
    their bits, measured. ``is_optimal`` says that the integer program was solved
    to its proven optimum within the time limit; ``chosen_by`` how the final choice came about.
    ``measured`` is what the finished program does: lines by name.
    """

    budget: str
    metric: str
    groups: tuple[AllocatedGroup, ...]
    front: tuple[FrontPoint, ...]
    bytes: int
    error: float
    joint_error: float
    is_optimal: bool
    chosen_by: str
    seconds: float | None = None
    measured: Mapping[str, str] | None = None

    @property
    def bits(self) -> dict[str, int]:
        """The bits of each layer, by its module path."""
        return {layer: group.bits for group in self.groups for layer in group.layers}

    @property
    def average_bits(self) -> float:
        """The mean bits of a weight."""
        elements = sum(g.elements for g in self.groups)
        return sum(g.bits * g.elements for g in self.groups) / max(elements, 1)

    def with_measured(self, measured: Mapping[str, str]) -> Allocation:
        """Returns the allocation with what was measured of the finished program."""
        return replace(self, measured=dict(measured))

    def to_json(self) -> dict[str, Any]:
        """Returns what JSON holds of it."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Allocation:
        """Returns the allocation of a manifest."""
        groups = tuple(
            AllocatedGroup(
                **{
                    **g,
                    "layers": tuple(g["layers"]),
                    "errors": {int(bits): error for bits, error in g["errors"].items()},
                }
            )
            for g in value["groups"]
        )
        front = tuple(FrontPoint(**{**p, "bits": tuple(p["bits"])}) for p in value["front"])
        return cls(**{**value, "groups": groups, "front": front})

    def __str__(self) -> str:
        from rich.console import Console
        from rich.table import Table

        title = f"budget {self.budget}: {self.average_bits:.2f} bits, {self.bytes / 1e3:.1f} kB"
        table = Table(title=title)
        for name in ("layers", "bits", "weights", "kB", "error", "why"):
            table.add_column(name, justify="left" if name in ("layers", "why") else "right")
        for g in self.groups:
            error = g.errors.get(g.bits)
            shown = "" if error is None else f"{error:.2e}"
            row = (", ".join(g.layers), str(g.bits), str(g.elements), f"{g.bytes / 1e3:.1f}")
            table.add_row(*row, shown, g.why)
        text = StringIO()
        Console(file=text, width=160).print(table)
        proof = "proven optimal" if self.is_optimal else "the best found in the time limit"
        lines = [f"metric {self.metric}; integer program {proof}; chosen: {self.chosen_by}"]
        lines += [f"measured {name}: {value}" for name, value in (self.measured or {}).items()]
        return text.getvalue() + "\n".join(lines) + "\n"

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Draws the Pareto front and the bits of each group; returns the figure.

        Args:
            path: where to write the figure, too; None writes nothing.

        Raises:
            QCompilerError: QC0802 without matplotlib.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as cause:
            raise QCompilerError(
                "QC0802",
                "matplotlib, which draws the allocation, is not installed",
                remedy="pip install 'qcompiler[plots]'",
            ) from cause
        figure = Figure(figsize=(10, 8), layout="constrained")
        front, bars = figure.subplots(2, 1)
        points = [p for p in self.front if p.error > 0]
        front.plot([p.bytes / 1e3 for p in points], [p.error for p in points], "o-", label="front")
        if self.error > 0:
            front.plot([self.bytes / 1e3], [self.error], "*", markersize=14, label="chosen")
        front.set(xlabel="kB", ylabel=f"predicted error ({self.metric})", title=self.budget)
        if points:
            front.set_yscale("log")
        front.legend()
        bars.bar(range(len(self.groups)), [g.bits for g in self.groups])
        bars.set(ylabel="bits")
        bars.set_xticks(range(len(self.groups)), [g.name for g in self.groups], rotation=90)
        bars.tick_params(axis="x", labelsize=6)
        if path is not None:
            figure.savefig(path)
        return figure
