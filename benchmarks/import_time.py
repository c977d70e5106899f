"""What ``import qcompiler`` adds to ``import torch``: python -m benchmarks.import_time."""

from __future__ import annotations

import statistics
import subprocess
import sys

from benchmarks.tables import write_table

_ROUNDS = 7
_TIMED = (
    "import time; start = time.perf_counter(); import torch; middle = time.perf_counter(); "
    "import qcompiler; {use}; end = time.perf_counter(); print(middle - start, end - middle)"
)
_USES = {
    "import qcompiler": "pass",
    "import qcompiler; qcompiler.load": "qcompiler.load",
    "import qcompiler; qcompiler.compile": "qcompiler.compile",
}


def main() -> None:
    """Measures each use in fresh processes, in turns."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in _USES}
    for _ in range(_ROUNDS):
        for name, use in _USES.items():
            command = [sys.executable, "-c", _TIMED.format(use=use)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            torch_seconds, ours = map(float, done.stdout.split())
            seconds[name].append((torch_seconds, ours))
    rows = [["", "import torch", "added, minimum", "added, median"]]
    for name, pairs in seconds.items():
        added = [ours for _, ours in pairs]
        cells = (min(t for t, _ in pairs), min(added), statistics.median(added))
        rows.append([name, *(f"{cell:.3f} s" for cell in cells)])
    write_table("import_time", f"import time, {_ROUNDS} fresh processes each", rows)


if __name__ == "__main__":
    main()
