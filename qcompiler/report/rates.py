"""The table of a measurement: time and rates of each operator beside what the machine can do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qcompiler.target.base import Limits

# Columns of text: of a table with a frame, and of one whose lines are not wrapped.
_WIDTH, _UNWRAPPED = 160, 2000
_HEADS = ("node", "kernel", "us", "share", "MMAC", "GMAC/s", "of peak", "kB", "GB/s", "of read")


@dataclass(frozen=True)
class OpRate:
    """What one operator did: its least time, and its work at the measured sizes.

    ``macs`` are multiply-accumulates and ``bytes`` those of operands, parameters and result.
    """

    node: str
    kernel: str
    microseconds: float
    macs: int
    bytes: int

    @property
    def macs_per_second(self) -> float:
        """Multiply-accumulates per second of all threads together."""
        return self.macs / self.microseconds * 1e6 if self.microseconds else 0.0

    @property
    def bytes_per_second(self) -> float:
        """Bytes per second of all threads together; more than memory gives come from caches."""
        return self.bytes / self.microseconds * 1e6 if self.microseconds else 0.0


def rates_text(rates: Sequence[OpRate], limits: Limits | None, *, plain: bool = False) -> str:
    """Returns the table; a plain one has no frame and one line for each operator.

    The last line is that of all operators together. Shares of the limits are left out where these
    were not measured.
    """
    total = OpRate(
        "total",
        "",
        sum(r.microseconds for r in rates),
        sum(r.macs for r in rates),
        sum(r.bytes for r in rates),
    )
    last = _cells(total, total, limits)
    table = Table(show_footer=True, box=None if plain else Table().box, pad_edge=not plain)
    for name, footer in zip(_HEADS, last, strict=True):
        left = name in _HEADS[:2]
        table.add_column(name, footer, justify="left" if left else "right", no_wrap=not left)
    for rate in rates:
        table.add_row(*_cells(rate, total, limits))
    text = StringIO()
    Console(file=text, width=_UNWRAPPED if plain else _WIDTH).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def _cells(rate: OpRate, total: OpRate, limits: Limits | None) -> list[str]:
    peak, read = (limits.macs_per_second, limits.bytes_per_second) if limits else (0.0, 0.0)
    return [
        escape(rate.node),
        escape(rate.kernel),
        f"{rate.microseconds:.1f}",
        _percent(rate.microseconds, total.microseconds),
        f"{rate.macs / 1e6:.2f}" if rate.macs else "",
        f"{rate.macs_per_second / 1e9:.1f}" if rate.macs else "",
        _percent(rate.macs_per_second, peak) if rate.macs else "",
        f"{rate.bytes / 1e3:.1f}",
        f"{rate.bytes_per_second / 1e9:.1f}",
        _percent(rate.bytes_per_second, read),
    ]


def _percent(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else ""
