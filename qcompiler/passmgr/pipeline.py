"""Pipeline: passes in a fixed order, run under instruments; needs are checked, never re-ordered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

from qcompiler import registry
from qcompiler.errors import QCompilerError
from qcompiler.ir.graph import QGraph
from qcompiler.passmgr.base import Pass, PassRecord
from qcompiler.passmgr.context import PassContext
from qcompiler.passmgr.instruments import Instrument
from qcompiler.passmgr.options import build, split_pipeline
from qcompiler.passmgr.statistics import StatisticRequest


@dataclass(frozen=True)
class Pipeline:
    """An ordered list of passes that round-trips as text."""

    passes: tuple[Pass, ...]

    @classmethod
    def parse(cls, text: str) -> Pipeline:
        """Reads ``name{option=value},name,...``.

        Raises:
            QCompilerError: QC0508 bad grammar, QC0501 unknown pass, QC0502 bad option.
        """
        found = []
        for name, options in list(split_pipeline(text)):
            pass_class = registry.load("qcompiler.passes", name)
            found.append(build(pass_class, options))  # type: ignore[arg-type]  # a Pass subclass
        return cls(tuple(found))

    def __str__(self) -> str:
        return ",".join(str(p) for p in self.passes)

    def __iter__(self) -> Iterator[Pass]:
        return iter(self.passes)

    def insert_after(self, name: str, new: Pass) -> Pipeline:
        """Returns a pipeline with a pass inserted after the last one of the given name."""
        position = self._position(name)
        return replace(
            self, passes=(*self.passes[: position + 1], new, *self.passes[position + 1 :])
        )

    def insert_before(self, name: str, new: Pass) -> Pipeline:
        """Returns a pipeline with a pass inserted before the last one of the given name."""
        position = self._position(name)
        return replace(self, passes=(*self.passes[:position], new, *self.passes[position:]))

    def replace(self, name: str, new: Pass) -> Pipeline:
        """Returns a pipeline in which a pass stands in for the last one of the given name."""
        position = self._position(name)
        return replace(self, passes=(*self.passes[:position], new, *self.passes[position + 1 :]))

    def without(self, *names: str) -> Pipeline:
        """Returns a pipeline that leaves out the passes of the given names."""
        for name in names:
            self._position(name)
        return replace(self, passes=tuple(p for p in self.passes if p.name not in names))

    def _position(self, name: str) -> int:
        places = [i for i, p in enumerate(self.passes) if p.name == name]
        if not places:
            raise QCompilerError(
                "QC0501",
                f"the pipeline has no pass {name!r}",
                remedy=f"it has: {', '.join(p.name for p in self.passes)}",
            )
        return places[-1]

    def run(
        self, graph: QGraph, context: PassContext, instruments: Sequence[Instrument] = ()
    ) -> list[PassRecord]:
        """Runs the passes on the graph in place and returns what each did.

        Raises:
            QCompilerError: QC0503 when a pass's needs are not met, QC0504 when the verifier refuses
                its result, QC0507 when it fails; the error names the passes already run.
        """
        records: list[PassRecord] = []
        for position, current in enumerate(self.passes):
            if any(i.stop_before(current) for i in instruments):
                break
            if not all(i.should_run(current) for i in instruments):
                continue
            check_needs(current, graph)
            context.requests = _requests(self.passes[position:], graph)
            for instrument in instruments:
                instrument.before(current, graph)
            start, count = perf_counter(), len(context.notes)
            try:
                changed = current.run(graph, context)
                graph.recompile()
                establish(current, graph)
            except Exception as error:
                self._failed(error, current, graph, records, instruments)
            if changed:
                context.analyses.invalidate(current.gives.preserves)
            records.append(
                PassRecord(
                    str(current),
                    perf_counter() - start,
                    changed,
                    len(graph.nodes),
                    tuple(context.notes[count:]),
                )
            )
            for instrument in instruments:
                try:
                    instrument.after(current, graph, records[-1])
                except QCompilerError as error:
                    self._failed(error, current, graph, records, instruments)
        return records

    def _failed(
        self,
        error: Exception,
        current: Pass,
        graph: QGraph,
        records: Iterable[PassRecord],
        instruments: Sequence[Instrument],
    ) -> None:
        hints = [i.failed(current, graph, error) for i in instruments]
        trail = ", ".join(r.text for r in records) or "none"
        note = f"pass {current}; passes already run: {trail}"
        if isinstance(error, QCompilerError):
            for line in (note, *filter(None, hints)):
                error.add_note(line)
            raise error
        wrapped = QCompilerError(
            "QC0507",
            f"pass {current} failed: {type(error).__name__}: {error}",
            remedy="; ".join(filter(None, hints)) or "report it together with the model",
        )
        wrapped.add_note(note)
        raise wrapped from error


def _requests(passes: Iterable[Pass], graph: QGraph) -> list[StatisticRequest]:
    """Merges the requests of the passes to come, each statistic once, in pipeline order."""
    merged = {request: None for p in passes for request in p.statistics(graph)}
    return list(merged)


def check_needs(current: Pass, graph: QGraph) -> None:
    """Checks the stage and the properties that a pass needs.

    Raises:
        QCompilerError: QC0503 naming what is missing and the pass that would give it.
    """
    needs = current.needs
    if not needs.stage <= graph.stage <= needs.last:
        wanted = needs.stage.text
        givers = [n for n, p in _registered() if p.gives.stage == needs.stage]
        raise QCompilerError(
            "QC0503",
            f"{current.name} needs the stage {wanted}; the graph is at {graph.stage.text}",
            remedy=f"run before it: {', '.join(givers)}"
            if graph.stage < needs.stage and givers
            else f"place {current.name} where the graph is at {wanted}",
        )
    for missing in needs.properties:
        if missing not in graph.properties:
            givers = [n for n, p in _registered() if missing in p.gives.properties]
            raise QCompilerError(
                "QC0503",
                f"{current.name} needs the property {missing!r}",
                remedy=f"run before it: {', '.join(givers) or 'a pass that gives it'}",
            )


def _registered() -> list[tuple[str, type[Pass]]]:
    names = registry.names("qcompiler.passes")
    return [(n, registry.load("qcompiler.passes", n)) for n in names]  # type: ignore[misc]  # Pass subclasses


def establish(current: Pass, graph: QGraph) -> None:
    """Records what a pass gives on the graph."""
    gives = current.gives
    if gives.stage is not None:
        graph.stage = gives.stage
    graph.properties -= set(gives.drops)
    graph.properties |= set(gives.properties)
