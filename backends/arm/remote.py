"""A program that runs in a process of its own, under qemu or on an ARM machine."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import torch

from qcompiler.backends.native.codes import CodeForm
from qcompiler.backends.native.emitter import OpDescriptor
from qcompiler.backends.native.layout import from_storage, to_storage
from qcompiler.backends.native.op_calls import OpCalls, failure
from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import type_of
from qcompiler.ir.graph import QGraph
from qcompiler.ir.types import TensorType
from qcompiler.runtime.inputs import check_inputs
from qcompiler.target.base import Run

# Exit codes and commands of runner.c.
NO_LEVEL = 3
RUN, OPERATOR = 0, 1


@dataclass(frozen=True)
class Launch:
    """How a program starts: the emulator's command and options, and those before the program.

    ``arguments`` follow the program.
    """

    command: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()

    def words(self, program: str) -> list[str]:
        """Returns the whole command."""
        return [*self.command, *self.before, program, *self.arguments]


class RemoteProgram:
    """A program behind pipes: its process starts with the first call; one call runs at a time.

    Args:
        graph: the program.
        ops: its operators in order.
        binary: the executable made with runner.c.
        blob: packed constants.
        form: how codes are stored.
        launch: how it starts; a level as its argument is the one to run at, otherwise that is the
            best one of the processor.
    """

    def __init__(
        self,
        graph: QGraph,
        ops: Sequence[OpDescriptor],
        binary: bytes,
        blob: bytes,
        *,
        form: CodeForm,
        launch: Launch,
    ) -> None:
        self.graph = graph
        self.ops = tuple(ops)
        self._binary = binary
        self._blob = blob
        self._form = form
        self._launch = launch
        self._symbols = tuple(graph.symbols)
        self._outputs = [type_of(node) for node in graph.results]
        self._calls = OpCalls(graph, self.ops)
        self._lock = threading.Lock()
        self._process: _Process | None = None

    def under(self, *options: str) -> RemoteProgram:
        """Returns the same program in another process, with more options of the emulator.

        Its environment is empty, and its addresses are the same each time where the system has
        setarch: what a C library does depends on them, and those of the stack on the environment.
        """
        setarch, env = shutil.which("setarch"), shutil.which("env")
        fixed = [*([env, "-i"] if env else []), *([setarch, "-R"] if setarch else [])]
        emulator, *rest = self._launch.command
        command = (*fixed, shutil.which(emulator) or emulator, *rest, *options)
        return RemoteProgram(
            self.graph,
            self.ops,
            self._binary,
            self._blob,
            form=self._form,
            launch=replace(self._launch, command=command),
        )

    def level(self) -> str:
        """Returns the level at which the program runs.

        Raises:
            QCompilerError: QC0823 when the processor has none of its levels.
        """
        with self._lock:
            return self._started().level

    def prepare(self, sizes: Mapping[str, int]) -> Run:
        """Returns what runs checked inputs whose dynamic dimensions have the given sizes."""
        return lambda inputs, threads: self._run(inputs, sizes, threads, 0)[0]

    def run(self, inputs: Sequence[torch.Tensor], threads: int = 1) -> list[torch.Tensor]:
        """Runs the program on CPU tensors and returns its results.

        Raises:
            QCompilerError: QC0701 when number, rank, dtype or shape of an input differ, QC0823 when
                the processor lacks the program's instructions, QC0824 when the process ends.
        """
        return self._run(inputs, check_inputs(self.graph, inputs), threads, 0)[0]

    def time_ops(
        self, inputs: Sequence[torch.Tensor], threads: int, repeats: int
    ) -> dict[str, float]:
        """Returns each node's least microseconds over runs; under an emulator, those of that."""
        sizes = check_inputs(self.graph, inputs)
        runs = [self._run(inputs, sizes, threads, len(self.ops))[1] for _ in range(repeats)]
        return self._calls.least(runs)

    def run_op(
        self,
        node: str,
        operands: Sequence[torch.Tensor],
        threads: int = 1,
        *,
        over: int | None = None,
    ) -> torch.Tensor:
        """Runs one operator on logical values, in the order of its descriptor's operands.

        The result is written over the operand at the place ``over``, or to memory of its own.
        """
        call = self._calls.call(node, operands)
        at = -1 if over is None else over
        what, result = (OPERATOR, call.index, threads), [(call.kind, call.shape)]
        answers, _ = self._ask(what, call.sizes, operands, result, at, 0)
        return answers[0]

    def _run(
        self, inputs: Sequence[torch.Tensor], sizes: Mapping[str, int], threads: int, times: int
    ) -> tuple[list[torch.Tensor], tuple[int, ...]]:
        outputs = [(kind, kind.bind(sizes)) for kind in self._outputs]
        return self._ask((RUN, 0, threads), sizes, inputs, outputs, -1, times)

    def _ask(
        self,
        what: tuple[int, int, int],
        sizes: Mapping[str, int],
        inputs: Sequence[torch.Tensor],
        outputs: Sequence[tuple[TensorType, Sequence[int]]],
        over: int,
        times: int,
    ) -> tuple[list[torch.Tensor], tuple[int, ...]]:
        """Sends one request and returns the results, and the nanoseconds of operators."""
        symbols = [sizes.get(name, 0) for name in self._symbols]
        stored = [_bytes(to_storage(x.detach().resolve_neg(), self._form)) for x in inputs]
        lengths = [torch.Size(shape).numel() * kind.dtype.itemsize for kind, shape in outputs]
        numbers = [
            *what,
            *(len(symbols), len(stored), len(lengths), over, times),
            *symbols,
            *map(len, stored),
            *lengths,
        ]
        request = b"".join([struct.pack(f"={len(numbers)}q", *numbers), *stored])
        with self._lock:
            process = self._started()
            try:
                process.send(request)
                (status,) = struct.unpack("=q", process.receive(8))
                if status == 0:
                    answers = [process.receive(length) for length in lengths]
                    spent = struct.unpack(f"={times}q", process.receive(8 * times))
            except (OSError, EOFError) as error:
                self._process = None
                raise process.failure() from error
        if status:
            raise failure(status)
        results = [
            from_storage(_tensor(answer), kind, shape, self._form)
            for answer, (kind, shape) in zip(answers, outputs, strict=True)
        ]
        return results, spent

    def _started(self) -> _Process:
        if self._process is None or self._process.owner != os.getpid():
            self._process = _Process(self._binary, self._blob, self._launch)
        return self._process


class _Process:
    """A running program; its file is gone once it runs."""

    def __init__(self, binary: bytes, blob: bytes, launch: Launch) -> None:
        self.owner = os.getpid()
        self._log = tempfile.TemporaryFile()
        with tempfile.TemporaryDirectory(prefix="qcompiler-") as folder:
            program = Path(folder) / "program"
            program.write_bytes(binary)
            program.chmod(0o700)
            command, pipe = launch.words(str(program)), subprocess.PIPE
            self._child = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._log)
            self._finalizer = weakref.finalize(self, _end, self._child, self._log, self.owner)
            try:
                (length,) = struct.unpack("=q", self.receive(8))
                self.level = self.receive(length).decode()
                self.send(struct.pack("=q", len(blob)) + blob)
            except (OSError, EOFError) as error:
                raise self.failure() from error

    def send(self, request: bytes) -> None:
        """Writes a request."""
        assert self._child.stdin is not None
        self._child.stdin.write(request)
        self._child.stdin.flush()

    def receive(self, length: int) -> bytes:
        """Reads so many bytes of an answer.

        Raises:
            EOFError: the program has ended.
        """
        assert self._child.stdout is not None
        data = self._child.stdout.read(length)
        if len(data) != length:
            raise EOFError
        return data

    def failure(self) -> QCompilerError:
        """Returns the error for a program that has ended."""
        _stop(self._child)
        status = self._child.returncode
        self._log.seek(0)
        said = self._log.read().decode(errors="replace").strip()
        self._finalizer()
        said = said.splitlines()[0].removeprefix("runner: ") if said else "it printed nothing"
        if status == NO_LEVEL:
            return QCompilerError(
                "QC0823",
                f"the program cannot run: {said}",
                remedy="compile for the core or level that the processor has, or for armv8-fat",
            )
        return QCompilerError(
            "QC0824",
            f"the program ended with status {status}: {said}",
            remedy="give it more memory; if it ended by itself, report the program as a defect",
        )


def _end(child: subprocess.Popen[bytes], log: IO[bytes], owner: int) -> None:
    """Ends a program; a forked process leaves its parent's alone."""
    if os.getpid() == owner:
        _stop(child)
        log.close()


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Closes the pipes of a program, at which it ends, and waits for that."""
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
    try:
        child.wait(timeout=2)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _bytes(stored: torch.Tensor) -> bytes:
    data: bytes = stored.reshape(-1).view(torch.uint8).numpy().tobytes()
    return data


def _tensor(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0).byte()
