"""Tables of the benchmarks: printed, and kept as text together with what they were measured on."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

import torch

import qcompiler

RESULTS = Path(__file__).parent / "results"


def machine() -> str:
    """Returns one line on what the measurement ran on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    return (
        f"{cpu}, {os.cpu_count()} cores; Python {platform.python_version()}, "
        f"torch {torch.__version__}, qcompiler {qcompiler.__version__}"
    )


def write_table(name: str, title: str, rows: Sequence[Sequence[str]]) -> Path:
    """Prints rows in aligned columns and writes them to results/NAME.txt.

    Args:
        name: of the file.
        title: what was measured and how.
        rows: the first one holds the headings.
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
    text = "\n".join([title, machine(), "", *lines]) + "\n"
    print(text)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.txt"
    path.write_text(text, encoding="utf-8")
    return path
