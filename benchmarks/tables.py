"""Tables of the benchmarks: printed, and kept as text together with what they were measured on."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import torch

import qcompiler

RESULTS = Path(__file__).parent / "results"


def machine() -> str:
    """Returns one line on when and on what the measurement ran."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8").splitlines()
        facts = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
        cpu = facts.get("model name", cpu)
        if "cpu family" in facts:
            cpu += f" (family {facts['cpu family']}, model {facts['model']})"
    return (
        f"{datetime.date.today()}; {cpu}, {os.cpu_count()} cores; "
        f"Python {platform.python_version()}, "
        f"torch {torch.__version__}, qcompiler {qcompiler.__version__}"
    )


def write_table(
    name: str,
    title: str,
    rows: Sequence[Sequence[str]],
    *,
    notes: Sequence[str] = (),
    folder: Path | None = RESULTS,
) -> None:
    """Prints rows in aligned columns and writes them to the file NAME.txt of a folder.

    Args:
        name: of the file.
        title: what was measured and how.
        rows: the first one holds the headings.
        notes: lines below the table.
        folder: where the file goes; None prints alone.
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    below = ["", *notes] if notes else []
    text = "\n".join([title, machine(), "", *lines, *below]) + "\n"
    print(text)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
