"""What kernels take of the stack on Cortex-M: the deepest chain of calls, from what gcc tells.

``python -m tests.backends.stack_use`` prints the table of ``backends/native/stack.py``.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from qcompiler.backends.native.codes import SIGNED
from qcompiler.backends.native.emitter import kernel_sources
from qcompiler.backends.native.rendering import template
from tests.backends.cortex_m_image import GCC, MACHINES, Machine

OPTIMIZATIONS = ("-Os", "-O2", "-O3")
# What functions of libgcc and of the C library take: __aeabi_ldivmod is the deepest of them.
LIBRARY = 64
_NODE = re.compile(r'node: \{ title: "([^"]+)" label: "[^"]*?(\d+) bytes \((\w[\w,]*)\)')
_EDGE = re.compile(r'edge: \{ sourcename: "([^"]+)" targetname: "([^"]+)"')
_KERNEL = re.compile(r"^qc_\w+$")
# Loops in assembly push registers that gcc does not know of.
_FUNCTION = re.compile(r"static void (dot_\w+)\(.*?\n}", re.DOTALL)
_PUSHED = re.compile(r"push \{([^}]*)\}")
_PROTOTYPE = re.compile(r"^void (qc_\w+)\(", re.MULTILINE)


@dataclass
class CallGraph:
    """Functions of some units: what each takes of the stack, and what it calls.

    A function that takes an array whose size is known at run time only counts without that.
    """

    own: dict[str, int] = field(default_factory=dict)
    unit: dict[str, str] = field(default_factory=dict)
    calls: dict[str, set[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, paths: Iterable[Path]) -> CallGraph:
        """Returns the graph of what -fcallgraph-info=su has written."""
        graph = cls()
        for path in paths:
            for line in path.read_text(encoding="utf-8").splitlines():
                if node := _NODE.match(line):
                    graph.own[node[1]] = int(node[2])
                    graph.unit[node[1]] = path.stem
                elif edge := _EDGE.match(line):
                    graph.calls.setdefault(edge[1], set()).add(edge[2])
        return graph

    def depth(self, name: str) -> int:
        """Returns the bytes of a function and of the deepest chain of calls that it makes.

        What qc_parallel calls is among the functions of its caller's unit that nobody calls: a
        kernel never gives it one of another unit. A recursive call counts as often as a value has
        dimensions, less the two that the innermost call takes.
        """
        return self._depth(name, frozenset())

    def _depth(self, name: str, above: frozenset[str]) -> int:
        if name not in self.own:
            return 0 if name == "__indirect_call" else LIBRARY
        inside = above | {name}
        depths = [0]
        for called in self.calls.get(name, ()):
            if called == name:
                depths.append(6 * self.own[name])
            elif called == "qc_parallel":
                tasks = self._tasks(self.unit[name]) - inside
                found = [self._depth(task, inside) for task in tasks]
                depths.append(self.own["qc_parallel"] + max(found, default=0))
            elif called not in inside:
                depths.append(self._depth(called, inside))
        return self.own[name] + max(depths)

    def _tasks(self, unit: str) -> set[str]:
        called = set().union(*self.calls.values())
        return {
            name
            for name, place in self.unit.items()
            if place == unit and name not in called and not _KERNEL.match(name)
        }


def pushed(text: str) -> dict[str, int]:
    """Returns the bytes that functions of a C file push in assembly, by their names."""
    return {
        found[1]: 4 * sum(_registers(names) for names in _PUSHED.findall(found[0]))
        for found in _FUNCTION.finditer(text)
    }


def _registers(names: str) -> int:
    """Returns how many registers a list such as ``r4-r11, lr`` has."""
    ranges = [name.strip().split("-r") for name in names.split(",")]
    return sum(int(last[0]) - int(first[1:]) + 1 if last else 1 for first, *last in ranges)


@cache
def kernels(machine: Machine, optimization: str) -> Mapping[str, int]:
    """Returns the bytes of the stack that each kernel of qc.h takes on a machine."""
    sources = {**kernel_sources(SIGNED), "serial.c": template("serial.c.jinja").render().encode()}
    names = _PROTOTYPE.findall(sources["qc.h"].decode())
    with tempfile.TemporaryDirectory(prefix="qcompiler-") as folder:
        for name, content in sources.items():
            (Path(folder) / name).write_bytes(content)
        units = [n for n in sources if n.endswith(".c") and n not in ("threads.c", "peak.c")]
        flags = [*machine.flags, "-std=c11", "-fwrapv", "-DQC_SIGNED_CODES=1", optimization]
        command = [GCC, *flags, "-fcallgraph-info=su", "-c"]

        def compile_unit(unit: str) -> None:
            subprocess.run([*command, unit], cwd=folder, check=True)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(compile_unit, units))
        graph = CallGraph.read(sorted(Path(folder).glob("*.ci")))
    for unit in units:
        for function, size in pushed(sources[unit].decode()).items():
            if (name := f"{unit}:{function}") in graph.own:
                graph.own[name] += size
    found = {name: graph.depth(name) for name in names if name in graph.own}
    return {name: size for name, size in found.items() if name != "qc_parallel"}


def table(optimizations: Iterable[str] = OPTIMIZATIONS) -> dict[str, dict[str, int]]:
    """Returns the most bytes of each kernel at each level, over its cores and ways to compile."""
    most: dict[str, dict[str, int]] = {}
    chosen = list(optimizations)
    for machine in MACHINES.values():
        level = most.setdefault(machine.level, {})
        for optimization in chosen:
            for name, size in kernels(machine, optimization).items():
                level[name] = max(size, level.get(name, 0))
    return most


if __name__ == "__main__":
    for level, sizes in table().items():
        print(f'    "{level}": {{')
        for name, size in sorted(sizes.items()):
            print(f'        "{name}": {-(-size // 64) * 64},')
        print("    },")
