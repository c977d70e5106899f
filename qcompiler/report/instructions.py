"""The table of counted instructions: of each operator, and for each multiply-accumulate of it."""

from __future__ import annotations

from collections.abc import Mapping
from io import StringIO

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qcompiler.report.table import Report

# Columns of text: of a table with a frame, and of one whose lines are not wrapped.
_WIDTH, _UNWRAPPED = 160, 2000
_HEADS = ("node", "kernel", "instructions", "share", "MMAC", "MAC per instruction")


def counts_text(report: Report, instructions: Mapping[str, int], *, plain: bool = False) -> str:
    """Returns the table; a plain one has no frame and one line for each operator.

    The last line is that of all operators together. ``report`` has the work at the sizes at which
    the instructions were counted.
    """
    total = sum(instructions.values())
    macs = {row.node: row.macs or 0 for row in report.rows if row.node in instructions}
    last = _cells("total", "", total, total, sum(macs.values()))
    table = Table(show_footer=True, box=None if plain else Table().box, pad_edge=not plain)
    for name, footer in zip(_HEADS, last, strict=True):
        left = name in _HEADS[:2]
        table.add_column(name, footer, justify="left" if left else "right", no_wrap=not left)
    for row in report.rows:
        if row.node in instructions:
            count = instructions[row.node]
            table.add_row(*_cells(row.node, row.kernel, count, total, macs[row.node]))
    text = StringIO()
    Console(file=text, width=_UNWRAPPED if plain else _WIDTH).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def _cells(node: str, kernel: str, count: int, total: int, macs: int) -> list[str]:
    share = f"{count / total:.1%}" if total else ""
    work = [f"{macs / 1e6:.2f}", f"{macs / count:.2f}"] if macs and count else ["", ""]
    return [escape(node), escape(kernel), str(count), share, *work]
