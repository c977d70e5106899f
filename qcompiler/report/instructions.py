"""The table of counted instructions and predicted cycles: of each operator, and for its work."""

from __future__ import annotations

from dataclasses import dataclass
from io import StringIO
from math import nan

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qcompiler.report.table import Report
from qcompiler.target.base import Profile

# Columns of text: of a table with a frame, and of one whose lines are not wrapped.
_WIDTH, _UNWRAPPED = 160, 2000
_HEADS = ("node", "kernel", "instructions", "share", "MMAC", "MAC per instruction")
_PREDICTED = ("cycles", "share", "MAC per cycle")


def counts_text(report: Report, profile: Profile, *, plain: bool = False) -> str:
    """Returns the table; a plain one has no frame and one line for each operator.

    The last line is that of all operators together. ``report`` has the work at the sizes at which
    the instructions were counted. Predicted cycles have columns where there are any.
    """
    heads = (*_HEADS, *(_PREDICTED if profile.cycles else ()))
    rows = [row for row in report.rows if row.node in profile.instructions]
    every = _Work(
        sum(profile.instructions.values()),
        sum(row.macs or 0 for row in rows),
        sum(profile.cycles.values()) if profile.cycles else None,
    )
    table = Table(show_footer=True, box=None if plain else Table().box, pad_edge=not plain)
    for place, (name, footer) in enumerate(
        zip(heads, _cells("total", "", every, every), strict=True)
    ):
        left = place < 2
        table.add_column(name, footer, justify="left" if left else "right", no_wrap=not left)
    for row in rows:
        own = _Work(profile.instructions[row.node], row.macs or 0, profile.cycles.get(row.node))
        table.add_row(*_cells(row.node, row.kernel, own, every))
    text = StringIO()
    Console(file=text, width=_UNWRAPPED if plain else _WIDTH).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


@dataclass(frozen=True)
class _Work:
    instructions: int
    macs: int
    cycles: float | None


def _cells(node: str, kernel: str, own: _Work, every: _Work) -> list[str]:
    cells = [escape(node), escape(kernel), str(own.instructions)]
    cells.append(_share(own.instructions, every.instructions))
    cells.append(f"{own.macs / 1e6:.2f}" if own.macs and own.instructions else "")
    cells.append(_rate(own.macs, own.instructions))
    if every.cycles is not None:
        spent = own.cycles if own.cycles is not None else nan
        cells += [f"{spent:.0f}", _share(spent, every.cycles), _rate(own.macs, spent)]
    return cells


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else ""


def _rate(macs: int, spent: float) -> str:
    return f"{macs / spent:.2f}" if macs and spent else ""
