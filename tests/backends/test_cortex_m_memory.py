"""RAM of a Cortex-M: a run touches the whole arena and nothing else, and the stack as declared."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from qcompiler.api import resolve_target
from qcompiler.backends.arm.cortex_m import CortexMTarget
from qcompiler.backends.native.arena import find_arena
from qcompiler.backends.native.emitter import describe
from qcompiler.backends.native.stack import CALLER, STACK
from qcompiler.backends.native.values import SLACK
from qcompiler.ir.graph import QGraph
from tests.backends.cortex_m_image import GCC, MACHINES, Machine, has_tools, run_image
from tests.backends.stack_use import OPTIMIZATIONS, CallGraph, table
from tests.backends.test_native_program import small_network

pytestmark = pytest.mark.skipif(
    not has_tools() and "CI" not in os.environ, reason="no compiler or emulator for Cortex-M"
)
HERE = Path(__file__).parent
# Paints arena and stack, runs the model, and prints the bytes that it has written of either: up to
# the last byte that changed of one paint or another.
PROGRAM = r"""
#include "model.h"
#include <stdio.h>
#include <string.h>

enum { GUARD = 64, PAINTED = 16 << 10 };
extern const uint8_t model_weights[];
static _Alignas(64) uint8_t memory[GUARD + MODEL_ARENA_BYTES + GUARD];
static _Alignas(64) uint8_t tensors[MODEL_INPUTS + MODEL_OUTPUTS][32768];

__attribute__((noinline)) static void paint(uint8_t *end, int color)
{
    volatile uint8_t *at = end - PAINTED;
    for (int i = 0; i < PAINTED - 64; i++)
        at[i] = (uint8_t)color;
}

static int run(void) { return model_run(RUN, memory + GUARD, MODEL_ARENA_BYTES); }

int main(void)
{
    uint8_t *const end = __builtin_frame_address(0);
    int first = sizeof memory, last = 0, deepest = 0, status = 0;
    for (int round = 0; round < 2; round++) {
        const int color = round ? 0x5a : 0xa5;
        memset(memory, color, sizeof memory);
        status |= model_init(model_weights, MODEL_WEIGHT_BYTES);
        paint(end, color);
        status |= run();
        for (int i = PAINTED; i > deepest; i--)
            if (*(volatile uint8_t *)(end - i) != color && i > deepest)
                deepest = i;
        for (int i = 0; i < (int)sizeof memory; i++)
            if (memory[i] != color) {
                last = i > last ? i : last;
                first = i < first ? i : first;
            }
    }
    printf("%d %d %d %d\n", status, first - GUARD, last + 1 - GUARD, deepest);
    return 0;
}
"""


def target_of(machine: Machine) -> CortexMTarget:
    """Returns the target of a machine's core."""
    target = resolve_target(machine.core)
    assert isinstance(target, CortexMTarget)
    return target


def image(graph: QGraph, machine: Machine, folder: Path, optimization: str) -> Path:
    """Builds a program that runs a model's project in painted memory."""
    project = target_of(machine).project(graph, "model", weights_array=True)
    for place, content in project.files().items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(content)
    (folder / "main.c").write_text(PROGRAM)
    start, places = HERE / "cortex_m", {"code": machine.code, "fast": machine.fast}
    tensors = range(len(graph.inputs) + len(graph.results))
    run = ",".join(["1"] * len(graph.symbols) + [f"(void*)tensors[{i}]" for i in tensors])
    flags = [*machine.flags, "-std=gnu11", "-fwrapv", "-DQC_SIGNED_CODES=1", f"-DRUN={run}"]
    flags += ["-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections", "-fcallgraph-info=su"]
    flags += ["-Iinclude", "-Isrc/kernels", "-nostartfiles", f"-T{start / 'image.ld'}"]
    flags += [f"-Wl,--defsym={key}={value}" for key, value in places.items()]
    flags += [f"-Wl,--defsym=large={machine.large}", optimization, "-dumpdir", "info-"]
    sources = sorted(path.relative_to(folder) for path in folder.glob("src/**/*.c"))
    files = ["main.c", *map(str, sources), str(start / "start.c")]
    subprocess.run([GCC, *flags, *files, "-o", "image.elf"], cwd=folder, check=True)
    return folder / "image.elf"


def check_memory(
    graph: QGraph, machine: Machine, folder: Path, optimization: str, rest: int = 128
) -> None:
    """Asserts that a run touches what its project declares, but fewer than ``rest`` bytes."""
    built = image(graph, machine, folder, optimization)
    done = run_image(machine, built, ())
    status, first, last, stack = map(int, done.stderr.split())
    assert graph.memory_plan is not None
    described = describe(graph, graph.memory_plan, form=target_of(machine).form)
    arena = find_arena(graph, graph.memory_plan, described).bytes({})
    # What ends the arena may be a value of fewer bytes than whole lines.
    assert (status, first) == (0, 0)
    assert arena - SLACK - rest < last <= arena - SLACK
    header = (folder / "include/model.h").read_text()
    assert f"#define MODEL_ARENA_BYTES {arena}\n" in header
    declared = int(header.partition("MODEL_STACK_BYTES ")[2].split()[0])
    assert declared / 3 < stack <= declared
    assert CallGraph.read(folder.glob("info-model.ci")).depth("model_run") <= CALLER


@pytest.mark.parametrize(
    ("core", "optimization"),
    [("cortex-m4", "-O2"), ("cortex-m33", "-Os"), ("cortex-m55", "-O3")],
)
def test_a_run_touches_what_its_project_declares(
    core: str, optimization: str, tmp_path: Path
) -> None:
    check_memory(small_network(), MACHINES[core], tmp_path, optimization)


def test_the_table_of_the_stack_is_what_gcc_tells() -> None:
    found = table(("-O2",) if "CI" not in os.environ else OPTIMIZATIONS)
    assert {level: set(sizes) for level, sizes in found.items()} == {
        level: set(sizes) for level, sizes in STACK.items()
    }
    for level, sizes in found.items():
        for kernel, size in sizes.items():
            assert size <= STACK[level][kernel] <= 2 * size + 256, f"{level} {kernel}"
