"""``qcompiler opt``: runs passes on a model or on text IR and shows the graph."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from qcompiler.api import resolve_pipeline, resolve_target
from qcompiler.calibration import CalibrationData
from qcompiler.capture import capture
from qcompiler.cli_inputs import load_data, load_model
from qcompiler.errors import QCompilerError, nearest
from qcompiler.ir.graph import QGraph
from qcompiler.ir.parser import parse_graph
from qcompiler.ir.printer import print_graph
from qcompiler.passmgr.base import PassRecord
from qcompiler.passmgr.context import PassContext
from qcompiler.passmgr.instruments import (
    DumpIR,
    Instrument,
    PrintIR,
    Reproducer,
    StopAfter,
    Verify,
)
from qcompiler.passmgr.pipeline import Pipeline
from qcompiler.runtime.artifact import load_graph, read_artifact, save_graph
from qcompiler.runtime.files import make_folder

TEXT_IR = (".qcir", ".qcp")


@dataclass(frozen=True)
class Watch:
    """What to show while passes run."""

    print_before: tuple[str, ...] = ()
    print_after: tuple[str, ...] = ()
    stop_after: str | None = None
    dump: Path | None = None
    time: bool = False

    def check(self, pipeline: Pipeline) -> None:
        """Checks before any work that the named passes are run and that dumps can be written.

        Raises:
            QCompilerError: QC0501 for a name that is not in the pipeline, QC0604 for the folder.
        """
        known = {p.name for p in pipeline}
        stops = () if self.stop_after is None else (self.stop_after,)
        for option, names, allowed in (
            ("--print-before", self.print_before, known | {"*"}),
            ("--print-after", self.print_after, known | {"*"}),
            ("--stop-after", stops, known),
        ):
            for name in names:
                if name not in allowed:
                    problem = f"{option} names {name!r}, which is not in the pipeline"
                    raise QCompilerError("QC0501", problem, remedy=nearest(name, known))
        if self.dump is not None:
            make_folder(self.dump)

    def instruments(self) -> list[Instrument]:
        """Returns the instruments that do it; the verifier comes last, so that bad IR is seen."""
        made: list[Instrument] = [
            PrintIR(self.print_before, self.print_after, write=sys.stderr.write),
            Reproducer(),
        ]
        if self.stop_after is not None:
            made.append(StopAfter(self.stop_after))
        if self.dump is not None:
            made.append(DumpIR(self.dump))
        return [*made, Verify()]


def run(
    source: str,
    pipeline: str,
    *,
    data: str | None,
    target: str,
    strict: bool,
    output: Path | None,
    watch: Watch,
) -> None:
    """Runs a pipeline and prints or writes the graph that comes out."""
    chosen = resolve_target(target)
    passes = resolve_pipeline(pipeline, chosen)
    watch.check(passes)
    graph, calibration = _load(source, data)
    context = PassContext(target=chosen, strict=strict, data=calibration)
    records = passes.run(graph, context, watch.instruments())
    if watch.time:
        _print_times(records)
    if output is None:
        sys.stdout.write(print_graph(graph))
    else:
        save_graph(graph, output)


def _load(source: str, data: str | None) -> tuple[QGraph, CalibrationData | None]:
    if source.endswith(TEXT_IR):
        graph = read_artifact(source).graph() if source.endswith(".qcp") else _load_text(source)
        return graph, None if data is None else _bound(load_data(data), graph)
    loaded = load_model(source, data)
    if loaded.inputs is None:
        graph = capture(loaded.model)
        return graph, _bound(loaded.data, graph)
    calibration = CalibrationData(loaded.data)
    graph = capture(loaded.model, calibration.example_inputs(loaded.model))
    calibration.bind(graph)
    return graph, calibration


def _load_text(source: str) -> QGraph:
    """Reads text IR and its constants; an error in the text comes before one of its constants."""
    path = Path(source)
    if not path.is_file():
        raise QCompilerError("QC0601", f"there is no file {source!r}", remedy="check the path")
    try:
        return load_graph(path)
    except QCompilerError as error:
        if error.code == "QC0602" and not path.with_suffix(".safetensors").is_file():
            try:
                parse_graph(path.read_text(encoding="utf-8", errors="replace"), {})
            except QCompilerError as wrong:
                if "is not given" not in wrong.problem:
                    raise wrong from None
        raise


def _bound(batches: Iterable[object], graph: QGraph) -> CalibrationData:
    calibration = CalibrationData(batches)
    calibration.bind(graph)
    return calibration


def _print_times(records: Sequence[PassRecord]) -> None:
    table = Table("pass", "ms", "changed", "nodes", box=None, pad_edge=False)
    for record in records:
        changed = "yes" if record.changed else ""
        table.add_row(record.text, f"{record.seconds * 1e3:.1f}", changed, str(record.nodes))
    Console(stderr=True).print(table)
