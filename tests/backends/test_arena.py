"""The arena of a project: scratch memory beside the values of its step, and never in them."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.backends.cpu import CpuTarget
from qcompiler.backends.cpu.isa import LEVELS, best_level
from qcompiler.backends.native.arena import find_arena
from qcompiler.backends.native.codes import SIGNED, UNSIGNED, CodeForm
from qcompiler.backends.native.emitter import (
    Description,
    Plan,
    SequentialPlan,
    describe,
    plan_sequentially,
)
from qcompiler.backends.native.footprint import at_peak, footprint
from qcompiler.backends.native.layout import from_storage, to_storage
from qcompiler.backends.native.levels import Isa
from qcompiler.backends.native.project import Project
from qcompiler.backends.native.values import SLACK
from qcompiler.ir.annotations import type_of
from qcompiler.ir.graph import QGraph
from qcompiler.ir.types import Dim, evaluate_dim, symbol
from qcompiler.passes.lowering.plan_memory import PlanMemory
from qcompiler.passmgr.context import PassContext
from tests.backends.programs import call, programs, quantized
from tests.backends.strategies import FEW

BATCH = symbol("batch")
SIZES: st.SearchStrategy[Dim] = st.one_of(
    st.just(0),
    st.integers(1, 200).map(lambda count: 64 * count),
    st.integers(1, 40).map(lambda count: 64 * count * BATCH),
    st.integers(1, 40).map(lambda count: 64 * (count * BATCH + 3)),
)
LINE = 64
# Bytes around an arena that nothing may write.
GUARD = 256


def planned(graph: QGraph) -> Plan:
    """Returns the plan of a graph for the host."""
    PlanMemory().run(graph, PassContext(target=CpuTarget()))
    assert graph.memory_plan is not None
    return graph.memory_plan


def needed(graph: QGraph, plan: Plan, sizes: Mapping[str, int]) -> dict[str, list[range]]:
    """Returns the bytes of the values that each call reads, writes or leaves for later ones."""
    order = {node: step for step, node in enumerate(graph.nodes)}
    held: dict[str, list[range]] = {node.name: [] for node in graph.calls}
    for value in graph.calls:
        if value in graph.results or value.name not in plan.offsets:
            continue
        start = evaluate_dim(plan.offsets[value.name], sizes)
        taken = range(start, start + evaluate_dim(type_of(value).nbytes(), sizes))
        last = max((order[user] for user in value.users), default=order[value])
        for node in graph.calls:
            if order[value] <= order[node] <= last:
                held[node.name].append(taken)
    return held


def check(graph: QGraph, plan: Plan, described: Description, sizes: Mapping[str, int]) -> None:
    """Checks the places of scratch memory for one value of each symbol."""
    arena = find_arena(graph, plan, described)
    total = arena.bytes(sizes)
    values = needed(graph, plan, sizes)
    for step, size in zip(arena.steps, described.scratch, strict=True):
        start = evaluate_dim(step.scratch, sizes)
        end = start + evaluate_dim(size, sizes)
        assert start % LINE == 0
        assert end + SLACK <= total
        for value in values[step.node]:
            assert value.stop + SLACK <= total
            assert start == end or not value or end <= value.start or value.stop <= start
    peak, held = at_peak(arena, sizes, str)
    assert sum(size for _, size in held) + SLACK == total
    assert peak in values


@settings(FEW, max_examples=30)
@given(programs(), st.booleans(), st.booleans(), st.data())
def test_scratch_memory_never_overlaps_a_value_that_is_needed(
    graph: QGraph, one_by_one: bool, in_order: bool, data: st.DataObject
) -> None:
    plan = plan_sequentially(graph) if in_order else planned(graph)
    described = describe(graph, plan)
    drawn = data.draw(st.tuples(*[SIZES] * len(described.scratch)))
    described = replace(described, scratch=drawn)
    if one_by_one and described.values["batch"]:
        check(graph, plan, described, {"batch": 1})
        return
    described = replace(described, values=described.values | {"batch": None})
    for batch in (1, 2, 33):
        check(graph, plan, described, {"batch": batch})


def test_scratch_memory_takes_the_lowest_gap_that_holds_it() -> None:
    graph, x = quantized(1, 64, 64)
    pooled = call(graph, "max_pool2d", x, [2, 2], [2, 2], [0] * 4, [1, 1])
    last = call(graph, "clamp", pooled, -5, 5)
    graph.output.args = ((call(graph, "dequantize", last, 0.1, 0),),)
    # 4096 bytes, then 1024 at 12288 and at 0: 8192 bytes are free between the first two
    offsets = {"quantize": 0, "max_pool2d": 12288 * BATCH, "clamp": 0}
    plan = SequentialPlan(offsets, 13312 * BATCH)
    described = describe(graph, plan)
    for size, place, total in ((8192, 4096, 13312), (8256, 13312, 13312 + 8256)):
        given = replace(described, scratch=(0, size, 0, 0))
        arena = find_arena(graph, plan, given)
        assert (arena.steps[1].scratch, arena.size) == (place, total + SLACK)
    found = footprint(graph, plan, given)
    assert (found.ram, found.peak) == (total + SLACK, "max_pool2d")
    assert found.alive == (
        ("scratch memory of max_pool2d", 8256),
        ("gaps between them", 8192),
        ("quantize", 4096),
        ("max_pool2d", 1024),
    )


@dataclass(frozen=True)
class Library:
    """Compiled kernels in a folder, and the command that compiles more C for them."""

    folder: Path
    level: Isa
    form: CodeForm
    command: tuple[str, ...]

    def load(self, graph: QGraph) -> tuple[ctypes.CDLL, torch.Tensor]:
        """Returns the library of a program's project, and the weights that it has been given."""
        files = Project(graph, self.form, (self.level,), "test").files()
        for place in ("src/model.c", "include/model.h"):
            (self.folder / place).write_bytes(files[place])
        objects = sorted(path.name for path in self.folder.glob("*.o"))
        name = f"{len(list(self.folder.glob('*.so')))}.so"
        command = [*self.command, "-shared", "-o", name, "src/model.c", *objects]
        subprocess.run(command, cwd=self.folder, check=True)
        code = ctypes.CDLL(str(self.folder / name))
        code.model_arena_bytes.restype = ctypes.c_size_t
        blob = files["data/weights.bin"]
        weights = room(len(blob))
        weights[: len(blob)] = torch.frombuffer(bytearray(blob), dtype=torch.uint8)
        assert code.model_init(address(weights), ctypes.c_size_t(len(blob))) == 0
        return code, weights


def room(size: int) -> torch.Tensor:
    """Returns bytes of no particular value, aligned, with the slack behind them."""
    memory = torch.randint(0, 256, (size + SLACK + LINE,), dtype=torch.uint8)
    return memory[-memory.data_ptr() % LINE :]


def address(memory: torch.Tensor) -> ctypes.c_void_p:
    """Returns where a tensor is, as C takes it."""
    return ctypes.c_void_p(memory.data_ptr())


def run(
    library: Library, code: ctypes.CDLL, graph: QGraph, inputs: Sequence[torch.Tensor], batch: int
) -> list[torch.Tensor]:
    """Returns a model's results; its arena has guards around it."""
    takes_batch = "for any batch" not in (library.folder / "include/model.h").read_text()
    sizes = [ctypes.c_int64(batch)] if takes_batch else []
    size = code.model_arena_bytes(*sizes)
    memory = room(size + 2 * GUARD)
    before = memory.clone()
    given = [to_storage(value, library.form).view(torch.uint8).reshape(-1) for value in inputs]
    kinds = [type_of(node) for node in graph.results]
    shapes = [kind.bind({"batch": batch}) for kind in kinds]
    stored = [
        room(torch.Size(shape).numel() * kind.dtype.itemsize)
        for kind, shape in zip(kinds, shapes, strict=True)
    ]
    read = [torch.cat([value, room(0)[:SLACK]]) for value in given]
    arena = ctypes.c_void_p(memory.data_ptr() + GUARD)
    pointers = map(address, [*read, *stored])
    assert code.model_run(ctypes.c_int64(batch), *pointers, arena, ctypes.c_size_t(size)) == 0
    assert torch.equal(memory[:GUARD], before[:GUARD])
    assert torch.equal(memory[GUARD + size :], before[GUARD + size :])
    return [
        from_storage(value, kind, shape, library.form)
        for value, kind, shape in zip(stored, kinds, shapes, strict=True)
    ]


@pytest.fixture(scope="module", params=["portable", "best"])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Library:
    """Returns the kernels of a project: portable ones for signed codes, else the fastest ones."""
    portable = request.param == "portable"
    level, form = (LEVELS[0], SIGNED) if portable else (best_level(), UNSIGNED)
    folder = tmp_path_factory.mktemp(request.param)
    graph, x = quantized()
    graph.output.args = ((x,),)
    for place, content in Project(graph, form, (level,), "test").files().items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(content)
    flags = (f"-DQC_SIGNED_CODES={int(form.is_signed)}", *level.flags, "-Isrc/kernels", "-Iinclude")
    made = Library(folder, level, form, ("cc", "-std=gnu11", "-O1", "-fPIC", "-fwrapv", *flags))
    kernels = [str(path.relative_to(folder)) for path in folder.glob("src/**/*.c")]
    kernels.remove("src/model.c")
    subprocess.run([*made.command, "-c", *kernels], cwd=folder, check=True)
    return made


@settings(FEW, max_examples=10)
@given(graph=programs(), seed=st.integers(0, 2**31))
def test_projects_compute_the_reference_within_their_arena(
    library: Library, graph: QGraph, seed: int
) -> None:
    planned(graph)
    code, _weights = library.load(graph)
    random = torch.Generator().manual_seed(seed)
    for batch in (1, 3):
        image, codes = (type_of(node).bind({"batch": batch}) for node in graph.inputs)
        inputs = [
            torch.randn(image, generator=random),
            torch.randint(-128, 128, codes, dtype=torch.int8, generator=random),
        ]
        have = run(library, code, graph, inputs, batch)
        for want, got in zip(graph.run(*inputs), have, strict=True):
            assert torch.equal(want, got)
