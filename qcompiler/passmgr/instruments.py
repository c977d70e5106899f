"""Instruments watch a pipeline run: verify, print, dump, stop, skip; running knows none of them."""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from qcompiler.errors import QCompilerError
from qcompiler.ir.graph import QGraph
from qcompiler.ir.printer import print_graph
from qcompiler.ir.stages import Stage
from qcompiler.ir.verifier import verify_graph
from qcompiler.passmgr.base import Pass, PassRecord
from qcompiler.runtime.files import make_folder, write_whole

# Errors of the calibration data: running the pass again shows nothing that they do not say.
_OF_DATA = ("QC0103", "QC0104", "QC0106")


class Instrument:
    """Base of all instruments; every hook does nothing."""

    def should_run(self, current: Pass) -> bool:
        """Says whether the pass is to run."""
        return True

    def stop_before(self, current: Pass) -> bool:
        """Says whether the run ends before the pass."""
        return False

    def before(self, current: Pass, graph: QGraph) -> None:
        """Is called before a pass."""

    def after(self, current: Pass, graph: QGraph, record: PassRecord) -> None:
        """Is called after a pass."""

    def failed(self, current: Pass, graph: QGraph, error: Exception) -> str | None:
        """Is called when a pass failed; returns a line that the error message gets."""
        return None


class Verify(Instrument):
    """Checks the graph against the specification of its stage after every pass."""

    def after(self, current: Pass, graph: QGraph, record: PassRecord) -> None:
        """Raises QC0504 when the graph breaks a rule of its stage."""
        verify_graph(graph)


class PrintIR(Instrument):
    """Prints the graph before or after chosen passes (all when no name is given)."""

    def __init__(
        self,
        before: tuple[str, ...] = (),
        after: tuple[str, ...] = (),
        write: Callable[[str], object] = sys.stdout.write,
    ) -> None:
        self._before, self._after, self._write = before, after, write

    def before(self, current: Pass, graph: QGraph) -> None:
        """Prints the graph before a chosen pass."""
        if current.name in self._before or "*" in self._before:
            self._write(f"// before {current}\n{print_graph(graph)}\n")

    def after(self, current: Pass, graph: QGraph, record: PassRecord) -> None:
        """Prints the graph after a chosen pass."""
        if current.name in self._after or "*" in self._after:
            self._write(f"// after {current}\n{print_graph(graph)}\n")


class DumpIR(Instrument):
    """Writes the graph after every pass to a numbered file of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0

    def after(self, current: Pass, graph: QGraph, record: PassRecord) -> None:
        """Writes ``NN-name.qcir``; raises QC0604 when that fails."""
        make_folder(self._folder)
        path = self._folder / f"{self._count:02d}-{current.name}.qcir"
        write_whole(path, print_graph(graph).encode())
        self._count += 1


class StopAfter(Instrument):
    """Ends the run after the first pass of a name."""

    def __init__(self, name: str) -> None:
        self._name, self._done = name, False

    def stop_before(self, current: Pass) -> bool:
        """Says whether the named pass has run."""
        return self._done

    def after(self, current: Pass, graph: QGraph, record: PassRecord) -> None:
        """Notes that the named pass has run."""
        self._done = self._done or current.name == self._name


class Skip(Instrument):
    """Leaves out the passes of given names."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def should_run(self, current: Pass) -> bool:
        """Says whether the pass is none of the named ones."""
        return current.name not in self._names


class Reproducer(Instrument):
    """Keeps the graph before each pass, and writes it out with a command when the pass fails.

    Statistics of a calibration run are not part of a graph: a pass that fails while they are in use
    is run again together with the passes from that run on, and the command asks for the data.
    ``options`` are words of the command line that the command ends with.
    """

    def __init__(self, folder: Path | None = None, options: Sequence[str] = ()) -> None:
        self._folder, self._options = folder, options
        self._saved: QGraph | None = None
        self._passes: list[Pass] = []

    def before(self, current: Pass, graph: QGraph) -> None:
        """Keeps a copy of the graph, unless the passes since the kept one share statistics."""
        lowers = graph.stage > Stage.QUANTIZED or current.gives.stage == Stage.INTEGER
        if lowers or not self._calibrates():
            self._saved, self._passes = graph.copy(), []
        self._passes.append(current)

    def failed(self, current: Pass, graph: QGraph, error: Exception) -> str | None:
        """Writes the kept graph; returns the command that runs the failing pass again.

        For errors of the calibration data there is none.
        """
        from qcompiler.runtime.artifact import save_graph

        of_data = isinstance(error, QCompilerError) and error.code in _OF_DATA
        if self._saved is None or of_data:
            return None
        folder = self._folder or Path(tempfile.mkdtemp(prefix="qcompiler-reproducer-"))
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"before-{self._passes[0].name}.qcir"
        save_graph(self._saved, path)
        pipeline = shlex.quote(",".join(map(str, self._passes)))
        data = ["--data PACKAGE.MODULE:DATA"] if self._calibrates() else []
        words = ["qcompiler opt", shlex.quote(str(path)), "--pipeline", pipeline, *data]
        return f"reproduce with: {' '.join((*words, *map(shlex.quote, self._options)))}"

    def _calibrates(self) -> bool:
        return any("statistics-collected" in p.gives.properties for p in self._passes)
