"""Program: a compiled model that runs, reports, proves itself, and is saved to one file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from qcompiler.allocation import Allocation
from qcompiler.errors import counted, nearest
from qcompiler.ir.annotations import type_of
from qcompiler.ir.graph import QGraph
from qcompiler.ir.structure import pack
from qcompiler.ir.types import TensorType
from qcompiler.report.instructions import counts_text
from qcompiler.report.rates import OpRate, rates_text
from qcompiler.report.table import Report, Row, rows_of
from qcompiler.report.timing import Timing, interleave
from qcompiler.runtime.artifact import pack_graph, write_artifact
from qcompiler.runtime.files import make_folder, write_whole
from qcompiler.runtime.inputs import check_inputs, empty_results, rejection, signature_of
from qcompiler.runtime.threads import check_rounds, check_threads, default_threads
from qcompiler.runtime.verify import VerifyResult, verify_executable
from qcompiler.target.base import VIEW, Executable, Limits, Profile, Run, Target

# Where an artifact keeps the files of the build.
BUILD = "native/"
# So many signatures of inputs are remembered.
_SIGNATURES = 64
# Neither 2 nor 4 threads share it evenly, and each has more than one sample with 2.
_ODD_BATCH = 5


@dataclass(frozen=True)
class BenchResult:
    """Latencies measured side by side, in turns, and the least time of each operator.

    ``rates`` and ``limits`` are those of all threads together, and the work in ``report`` is that
    at the sizes of the inputs. Where threads share the samples of a batch, the time of an operator
    is that of one thread over its share. ``profile`` is what each operator executes on one thread,
    where an emulator counts it; latencies are then those of the emulator.
    """

    timings: Mapping[str, Timing]
    report: Report
    threads: int
    batch: tuple[int, ...]
    rates: tuple[OpRate, ...] = ()
    limits: Limits | None = None
    profile: Profile = field(default_factory=Profile)

    @property
    def instructions(self) -> Mapping[str, int]:
        """The instructions that each operator executes on one thread; empty if not counted."""
        return self.profile.instructions

    @property
    def cycles(self) -> Mapping[str, float]:
        """The predicted cycles of each operator on one thread; empty where nothing predicts."""
        return self.profile.cycles

    @property
    def speedup(self) -> float | None:
        """Median of the float model over median of the program; None without the float model."""
        if "fp32" not in self.timings:
            return None
        return self.timings["fp32"].median / self.timings["int8"].median

    def __str__(self) -> str:
        return self.text()

    def text(self, *, plain: bool = False) -> str:
        """Returns latencies, limits and the table of operators; a plain one has no frame."""
        lines = [f"{self.report.at}, first input {tuple(self.batch)}"]
        for name, timing in self.timings.items():
            least, median = timing.minimum * 1e3, timing.median * 1e3
            lines.append(f"{name}: min {least:.3f} ms, median {median:.3f} ms")
        if self.speedup is not None and not self.instructions:
            lines.append(f"int8 is {self.speedup:.2f} times as fast as fp32 eager (medians)")
            if self.speedup < 1.0:
                slow = max(self.report.rows, key=lambda r: r.microseconds or 0.0)
                lines.append(f"warning: int8 is slower; most time goes to {slow.node} ({slow.op})")
        if self.limits is not None:
            peak, read = self.limits.macs_per_second / 1e9, self.limits.bytes_per_second / 1e9
            lines.append(f"limits here: {peak:.1f} GMAC/s of int8, {read:.1f} GB/s from memory")
        if self.threads > 1 and self.rates:
            lines.append(
                "where threads take slices of a batch, an operator's us are those of one thread"
                " over its share; MMAC and kB are those of all"
            )
        if self.instructions:
            lines.append("int8 ran under an emulator; instructions are those of one thread")
            lines.append(counts_text(self.report, self.profile, plain=plain))
            lines += filter(None, [self.profile.note])
        if self.rates or not self.instructions:
            lines.append(rates_text(self.rates, self.limits, plain=plain))
        return "\n".join([*lines, *self.report.notes]) + "\n"


@dataclass(frozen=True)
class Export:
    """A C project that was written: its folder, its files, and the bytes of memory it takes.

    ``memory`` has ``flash``, the constants without code, and ``ram``, the arena for a batch of one,
    where the target tells them.
    """

    folder: Path
    files: tuple[str, ...]
    memory: Mapping[str, int]

    def __str__(self) -> str:
        sizes = [f"{kind} {size} bytes" for kind, size in self.memory.items()]
        return ", ".join([f"wrote {counted(len(self.files), 'file')} to {self.folder}", *sizes])


class Program:
    """A compiled model.

    Calling it takes tensors of the compiled types on the target's device, which is the CPU but for
    CUDA, and returns what the model returns. Several threads may call one program at the same time;
    ``num_threads`` is what one call may use. Floats that are contiguous are read in place; other
    inputs are copied.
    """

    def __init__(
        self,
        graph: QGraph,
        executable: Executable,
        target: Target,
        manifest: Mapping[str, Any],
        float_model: Callable[..., Any] | None = None,
    ) -> None:
        self.graph = graph
        self.target = target
        self.manifest = dict(manifest)
        self._executable = executable
        self._float_model = float_model
        self._threads = default_threads()
        self._input_types = [type_of(n) for n in graph.inputs]
        self._prepared: dict[tuple[object, ...], Run] = {}

    @property
    def num_threads(self) -> int:
        """The number of threads that one call may use; results do not depend on it.

        At first that is QCOMPILER_NUM_THREADS, or the number of physical cores that the process
        may use.
        """
        return self._threads

    @num_threads.setter
    def num_threads(self, threads: int) -> None:
        self.set_num_threads(threads)

    def set_num_threads(self, threads: int) -> None:
        """Sets the number of threads that one call may use.

        Raises:
            QCompilerError: QC0702 when that is no whole number from 1 to 1024.
        """
        self._threads = check_threads(threads, "num_threads")

    @property
    def input_types(self) -> tuple[TensorType, ...]:
        """The types of the inputs, in order."""
        return tuple(self._input_types)

    @property
    def input_names(self) -> tuple[str, ...]:
        """The names of the inputs, in order."""
        return tuple(n.name for n in self.graph.inputs)

    @property
    def allocation(self) -> Allocation | None:
        """The bits of each layer, why, and the Pareto front; None without a budget."""
        held = self.manifest.get("allocation")
        return None if held is None else Allocation.from_json(held)

    def __call__(self, *inputs: torch.Tensor, **named: torch.Tensor) -> Any:
        """Runs the program on inputs in order, or by name; an empty batch has empty results.

        Raises:
            QCompilerError: QC0701 when an input has another name, shape, dtype or device.
        """
        if named:
            inputs = self._in_order(inputs, named)
        try:
            run = self._prepared[signature_of(inputs)]
        except (AttributeError, KeyError, TypeError):
            run = self._prepare(inputs)
        return pack(self.graph.structure, run(inputs, self._threads))

    def _prepare(self, inputs: Sequence[torch.Tensor]) -> Run:
        """Checks inputs that were not seen before and remembers how to run their like.

        Backends plan for at least one sample: without any there is nothing to run.
        """
        device = self._executable.device
        sizes = check_inputs(self.graph, inputs, may_be_empty=True, device=device.type)
        if all(sizes.values()):
            run = self._executable.prepare(sizes)
        else:
            run = partial(_run_nothing, self.graph, sizes, inputs[0].device if inputs else device)
        if len(self._prepared) >= _SIGNATURES:
            self._prepared.clear()
        self._prepared[signature_of(inputs)] = run
        return run

    def _in_order(
        self, inputs: Sequence[torch.Tensor], named: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        """Returns the inputs in order, those given by name after those given by place."""
        names = self.input_names
        open_names = names[len(inputs) :]
        device = self._executable.device.type
        expected = ", ".join(f"{n}: {t}" for n, t in zip(names, self._input_types, strict=True))
        for name in named:
            if name in names and name not in open_names:
                problem = f"input {name} is given twice"
                raise rejection(problem, expected, name, device)
            if name not in names:
                problem = f"there is no input {name!r}; {nearest(name, names)}"
                raise rejection(problem, expected, device=device)
        for name in open_names:
            if name not in named:
                problem = f"input {name} is missing"
                raise rejection(problem, expected, name, device)
        return (*inputs, *(named[name] for name in open_names))

    def reference(self, *inputs: torch.Tensor) -> Any:
        """Runs the program in the reference interpreter, which defines its results.

        That computes on the CPU; results are on the device of the first input.
        """
        check_inputs(self.graph, inputs, may_be_empty=True, device=None)
        results = self.graph.run(*(x.cpu() for x in inputs))
        moved = [y.to(inputs[0].device) for y in results] if inputs else results
        return pack(self.graph.structure, moved)

    def report(self) -> Report:
        """Returns one row per operator: what it became, why, its cost, and its error."""
        rows = tuple(Row(**row) for row in self.manifest["rows"])
        kernels = self._executable.kernels()
        fresh = {r.node: r for r in rows_of(self.graph, kernels, {})}
        merged = [Row(**{**r.__dict__, "kernel": fresh[r.node].kernel}) for r in rows]
        notes = (*self._executable.notes(), *self.manifest["notes"])
        return Report(str(self.target.name), tuple(merged), notes)

    def verify(self, *inputs: torch.Tensor, seed: int = 0) -> VerifyResult:
        """Compares the program with the reference interpreter, bit for bit.

        Every operator runs on random and on corner inputs, and the whole program on the given
        inputs, with 1, 2 and 4 threads. When none are given, they are random, of batch 1 and of a
        batch that no number of threads divides.
        """
        given = list(inputs) or self._random_inputs(seed, 1)
        check_inputs(self.graph, given, device=None)
        given = [x.cpu() for x in given]
        others = [] if inputs or not self.graph.symbols else [self._random_inputs(seed, _ODD_BATCH)]
        return verify_executable(self.graph, self._executable, given, seed, others)

    def bench(self, *inputs: torch.Tensor, rounds: int = 20) -> BenchResult:
        """Measures the program, beside the float model where that is at hand, in turns.

        Each operator is compared with what the machine does at best, measured as well: dot products
        of int8 values, and bytes from memory. Inputs are random of batch 1 when none are given.

        Raises:
            QCompilerError: QC0701 for inputs of another form, QC0702 when ``rounds`` is no whole
                number of at least 1.
        """
        rounds = check_rounds(rounds)
        given = list(inputs) or self.example_inputs(0)
        device = self._executable.device
        sizes = check_inputs(self.graph, given, device=device.type)
        wait = self._executable.synchronize
        calls: dict[str, Callable[[], object]] = {"int8": lambda: (self(*given), wait())}
        model = _on(device, self._float_model)
        if model is not None:
            calls = {"fp32": lambda: (_without_grad(model, given), wait()), **calls}
        timings = interleave(calls, rounds=rounds)
        spent = self._executable.time_ops(given, self._threads, max(3, rounds // 2))
        shape = tuple(given[0].shape) if given else ()
        sized = ", ".join(f"{name} {size}" for name, size in sizes.items())
        at = ", ".join(filter(None, (sized, self._executable.place(self._threads))))
        report = self.report().measured(self.graph, spent, sizes, at)
        limits = self._executable.limits(self._threads)
        rates = _rates(report)
        profile = self._executable.profile(given)
        return BenchResult(timings, report, self._threads, shape, rates, limits, profile)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the program to one ``.qcp`` file, whole or not at all.

        Raises:
            QCompilerError: QC0604 when the file cannot be written.
        """
        members = pack_graph(self.graph)
        for name, content in self._executable.files().items():
            members[BUILD + name] = content
        write_artifact(path, members, self.manifest)

    def export_c(
        self, folder: str | os.PathLike[str], *, name: str = "model", weights_array: bool = False
    ) -> Export:
        """Writes the program as a C project: library, header, weights, build files, an example.

        The project needs neither Python nor qcompiler; its README.md tells how to build it.

        Args:
            folder: is made where it is missing; files of the same names are replaced.
            name: of the library.
            weights_array: whether to write the weights as a C array, too.

        Raises:
            QCompilerError: QC0604 when a file cannot be written, QC0825 where the target writes no
                C projects.
        """
        files = self._executable.project(name, weights_array=weights_array)
        root = Path(folder)
        for place, content in files.items():
            make_folder((root / place).parent)
            write_whole(root / place, content)
        return Export(root, tuple(files), self._executable.memory())

    def example_inputs(self, seed: int, batch: int = 1) -> list[torch.Tensor]:
        """Returns random inputs of the compiled types; dynamic dimensions get the given size.

        They are on the device that a call takes them from.
        """
        device = self._executable.device
        return [x.to(device) for x in self._random_inputs(seed, batch)]

    def _random_inputs(self, seed: int, batch: int) -> list[torch.Tensor]:
        source = torch.Generator().manual_seed(seed)
        sizes = {n: min(max(batch, s.low), s.high) for n, s in self.graph.symbols.items()}
        return [torch.randn(t.bind(sizes), generator=source) for t in self._input_types]


def _rates(report: Report) -> tuple[OpRate, ...]:
    """Returns the rates of the operators that were timed; views have nothing to do."""
    return tuple(
        OpRate(row.node, row.kernel, row.microseconds, row.macs, row.bytes)
        for row in report.rows
        if row.microseconds is not None and row.kernel != VIEW
    )


def _run_nothing(
    graph: QGraph,
    sizes: Mapping[str, int],
    device: torch.device,
    inputs: Sequence[torch.Tensor],
    threads: int,
) -> list[torch.Tensor]:
    """Runs an empty batch; a program answers each call with tensors of its own."""
    return empty_results(graph, sizes, device)


def _on(device: torch.device, model: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """Returns the float model, or a copy of it where the program runs on another device."""
    if device.type == "cpu" or not isinstance(model, torch.nn.Module):
        return model
    return deepcopy(model).to(device)


def _without_grad(model: Callable[..., Any], inputs: Sequence[torch.Tensor]) -> Any:
    with torch.inference_mode():
        return model(*inputs)
