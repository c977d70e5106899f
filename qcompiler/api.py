"""compile() and load(): the two ways to a Program."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from qcompiler import registry
from qcompiler.allocating import (
    ALLOCATE,
    KEPT_SAMPLES,
    KeepFloatGraph,
    StopBefore,
    measured,
    smallest_within,
    tail,
    with_budget,
)
from qcompiler.budgets import Budget, Drop, Fixed
from qcompiler.calibration import CalibrationData
from qcompiler.capture import DynamicShapes, capture
from qcompiler.errors import QCompilerError, counted, nearest
from qcompiler.ir.annotations import origin_of
from qcompiler.ir.graph import QGraph
from qcompiler.ir.queries import is_island
from qcompiler.ir.stages import Stage
from qcompiler.passmgr.analyses import AnalysisCache
from qcompiler.passmgr.base import PassRecord
from qcompiler.passmgr.context import PassContext, Progress
from qcompiler.passmgr.instruments import Instrument, Reproducer, Verify
from qcompiler.passmgr.options import build, format_pass, split_pipeline
from qcompiler.passmgr.pipeline import Pipeline
from qcompiler.program import BUILD, Program
from qcompiler.report.errors_by_op import measure_errors
from qcompiler.report.table import rows_of, weight_notes
from qcompiler.runtime.artifact import read_artifact
from qcompiler.runtime.threads import default_threads
from qcompiler.target.base import Target
from qcompiler.target.tuning import TuningBudget, tuning_budget

# Samples on which the report's error column is measured.
_ERROR_SAMPLES = 2
_ASSIGN = "assign-scheme"
# Each thread holds the values of a slice of samples.
_MOST_THREADS = 4


def compile(
    model: nn.Module | ExportedProgram | str | os.PathLike[str],
    calibration_data: Iterable[Any],
    *,
    target: str | Target = "cpu",
    strict: bool = True,
    pipeline: str | Pipeline | None = None,
    dynamic_shapes: DynamicShapes | None = None,
    tune: str | None = None,
    tune_seconds: float | None = None,
    memory: Mapping[str, int] | None = None,
    scheme: str | None = None,
    overrides: Mapping[str, str] | None = None,
    instruments: Sequence[Instrument] = (),
    progress: bool = False,
    budget: Budget | Sequence[Fixed] | None = None,
) -> Program:
    """Compiles a model to an integer program for a target.

    Args:
        model: a module, an exported program, or the path of one (``.pt2``).
        calibration_data: any iterable of tensors, tuples, dicts by input name, or (input, label)
            pairs, batched along dimension 0; read once. Members of a tuple beyond the model's
            inputs are taken for labels and left alone.
        target: a target's name with options, as ``cpu`` or ``cpu{isa=avx2}``, or a target.
        strict: refuse operators without an integer form; False keeps them as float islands.
        pipeline: passes to run instead of the target's own pipeline, as text or as a Pipeline.
        dynamic_shapes: names of dynamic dimensions by input; None makes dimension 0 the dynamic
            ``batch``, the dimension along which data are cut into samples.
        tune: how much of what kernels leave open (tiles, blocks, fusion) is measured on this
            machine: ``fast`` the alternatives that the target's cost model finds cheapest,
            ``full`` all; None takes the cheapest one of each. Results are the same; the artifact
            then depends on the measurement, and keeps what was chosen.
        tune_seconds: time for measuring, beside the last build; 8 s for fast and 60 s for full.
        memory: bytes that the program may take of ``flash`` and ``ram``, for targets that take
            such limits.
        scheme: bits of weights and activations, as ``w4a8``, or ``w4g64a8`` for factors of groups
            of 64 weights; None for 8 bits each.
        overrides: what parts of the model get instead, by rules such as ``{"blocks.3.*": "w8a8",
            "head": "float", "stem:activation": "a4"}``; docs/concepts.md has all forms.
        instruments: watchers of the passes beside the verifier and the reproducer.
        progress: show progress on the terminal.
        budget: the bits of weights are chosen within it: ``Size("2.6MB")``, ``AverageBits(4.5)``,
            ``Latency("3ms")``, several of these, or ``Drop(0.5, evaluate)``; ``program.allocation``
            tells the choice.

    Raises:
        QCompilerError: for whatever the user can mend; docs/reference/errors.md lists the codes.
    """
    chosen = limit_memory(resolve_target(target), memory)
    passes = resolve_scheme(resolve_pipeline(pipeline, chosen), scheme, overrides, chosen)
    passes = with_budget(passes, budget)
    tuning = resolve_tuning(tune, tune_seconds, chosen)
    chosen.warm_up()
    default_threads()  # a wrong value in the environment is told before the work, not after it
    with _progress(progress) as show, _one_thread() as threads:
        show("capturing", None)
        data = CalibrationData(calibration_data, keep=KEPT_SAMPLES)
        inputs = () if not isinstance(model, nn.Module) else data.example_inputs(model)
        graph = capture(_as_path(model), inputs, dynamic_shapes)
        data.bind(graph)
        context = PassContext(
            target=chosen,
            strict=strict,
            data=data,
            progress=show,
            threads=threads,
            tunes=tuning is not None,
        )
        snapshot = KeepFloatGraph()
        options = ("--target", format_pass(chosen), *([] if strict else ["--no-strict"]))
        watching = [Verify(), Reproducer(options=options), snapshot, *instruments]

        def finish(graph: QGraph, context: PassContext, records: Sequence[PassRecord]) -> Program:
            if graph.stage != Stage.TARGETED:
                raise QCompilerError(
                    "QC0503",
                    f"the pipeline ends at the stage {graph.stage.text}",
                    remedy="end it with legalize-for-target and plan-memory",
                )
            show("building" if tuning is None else "tuning", None)
            executable = chosen.build(graph) if tuning is None else chosen.tune(graph, tuning)
            show("measuring errors", None)
            errors = _measure(snapshot.graph, graph, data)
            rows = rows_of(graph, executable.kernels(), errors)
            manifest = {
                "target": format_pass(chosen),
                "pipeline": str(passes),
                "strict": strict,
                "calibration": data.summary(),
                "rows": [row.__dict__ for row in rows],
                "notes": _notes(graph, records) + weight_notes(graph, chosen),
                "structure": graph.structure,
                "weights_sha256": _digest(graph),
            }
            if context.allocation is not None:
                found = measured(context.allocation, snapshot.graph, executable, data)
                manifest["allocation"] = found.to_json()
            return Program(graph, executable, chosen, manifest, _callable(model))

        if not isinstance(budget, Drop):
            return finish(graph, context, passes.run(graph, context, watching))
        head = passes.run(graph, context, [*watching, StopBefore(ALLOCATE)])

        def compile_at(fixed: Fixed) -> Program:
            twin = replace(
                context, notes=[], float_weights={}, weight_factors={}, analyses=AnalysisCache()
            )
            copied, rest = graph.copy(), tail(passes, fixed)
            return finish(copied, twin, [*head, *rest.run(copied, twin, watching)])

        reference = _callable(model) or graph.run
        program, notes = smallest_within(budget, reference, compile_at, show)
        program.manifest["notes"] = [*program.manifest["notes"], *notes]
        return program


def load(path: str | os.PathLike[str]) -> Program:
    """Loads a program that ``Program.save`` wrote; nothing is unpickled, every hash is checked.

    Raises:
        QCompilerError: QC0602 for a truncated or changed file, QC0603 for one of a newer version,
            QC0801 when the program must be rebuilt for this machine and there is no compiler.
    """
    artifact = read_artifact(path)
    graph = artifact.graph()
    graph.structure = artifact.manifest["structure"]
    chosen = resolve_target(artifact.manifest["target"])
    files = {
        name.removeprefix(BUILD): content
        for name, content in artifact.members.items()
        if name.startswith(BUILD)
    }
    executable = chosen.restore(graph, files)
    return Program(graph, executable, chosen, artifact.manifest)


def retarget(program: Program, target: Target) -> Program:
    """Returns a program built for another target from the same integers; nothing is measured anew.

    Raises:
        QCompilerError: QC0201 for an operator that the target refuses, and those of its build.
    """
    graph = program.graph
    for node in graph.calls:
        reason = None if is_island(node) else target.why_not(node)
        if reason is not None:
            raise QCompilerError(
                "QC0201",
                f"{node.name} has no form on {target.name}: {reason}",
                node=node.name,
                source=origin_of(node).source,
                remedy="choose another target, or compile the model for this one",
            )
    manifest = {**program.manifest, "target": format_pass(target)}
    return Program(graph, target.build(graph), target, manifest)


def resolve_target(target: str | Target) -> Target:
    """Returns the target of a text such as ``cpu{isa=avx2}``.

    Raises:
        QCompilerError: QC0506 for an unknown name, QC0502 or QC0508 for bad options.
    """
    if isinstance(target, Target):
        return target.resolved()
    if not isinstance(target, str):
        raise QCompilerError(
            "QC0506",
            f"the target is of type {type(target).__name__}",
            remedy="give the name of a target, as 'cpu', or a Target",
        )
    elements = list(split_pipeline(target, "target"))
    if len(elements) != 1:
        raise QCompilerError(
            "QC0506",
            f"{target!r} names {counted(len(elements), 'target')}",
            remedy="name one target",
        )
    ((name, options),) = elements
    made: Target = build(registry.load(registry.TARGETS, name), options)  # type: ignore[arg-type]  # a Target subclass
    return made.resolved()


def limit_memory(target: Target, memory: Mapping[str, int] | None) -> Target:
    """Returns a target with the bytes of flash and RAM that a program may take.

    Raises:
        QCompilerError: QC0827 for other keys or values, and for a target without such limits.
    """
    if memory is None:
        return target
    known = {f.name for f in fields(target)} & {"flash", "ram"}
    wrong = [
        f"{kind}={size!r}"
        for kind, size in memory.items()
        if kind not in known or type(size) is not int or size < 1
    ]
    if wrong:
        raise QCompilerError(
            "QC0827",
            f"{target.name} cannot be limited to {', '.join(wrong)}",
            remedy="give flash and ram in bytes" if known else "choose a target with such limits",
        )
    return replace(target, **memory)


def resolve_pipeline(pipeline: str | Pipeline | None, target: Target) -> Pipeline:
    """Returns the passes of a pipeline's name or text; None means the target's own pipeline.

    Raises:
        QCompilerError: QC0501, QC0502 or QC0508 for a wrong name, option or text.
    """
    if isinstance(pipeline, Pipeline):
        return pipeline
    text = target.pipeline if pipeline is None else pipeline
    if not isinstance(text, str):
        raise QCompilerError(
            "QC0501",
            f"the pipeline is of type {type(text).__name__}",
            remedy="give the text of a pipeline, its name, or a Pipeline",
        )
    named, passes = registry.names(registry.PIPELINES), registry.names(registry.PASSES)
    if text in named:
        text = str(registry.load(registry.PIPELINES, text))
    elif text.replace("-", "").isalnum() and text not in passes:
        raise QCompilerError(
            "QC0501",
            f"there is no pipeline or pass {text!r}",
            remedy=f"{nearest(text, {*named, *passes})} (`qcompiler passes` lists the passes)",
        )
    return Pipeline.parse(text)


def resolve_scheme(
    passes: Pipeline, scheme: str | None, overrides: Mapping[str, str] | None, target: Target
) -> Pipeline:
    """Returns passes that assign a scheme and overrides, after all passes were checked.

    The pass assign-scheme comes right before collect-statistics.

    Raises:
        QCompilerError: QC0304 or QC0305 for a wrong scheme or rule, or what the target does not
            run; QC0501 when the passes do not collect statistics, or assign a scheme themselves.
    """
    if scheme is not None or overrides:
        own = [str(p) for p in passes if p.name == _ASSIGN]
        if own:
            raise QCompilerError(
                "QC0501",
                f"the pipeline has {own[0]}, and scheme or overrides are given beside it",
                remedy="leave the one or the other out",
            )
        made: Any = registry.load(registry.PASSES, _ASSIGN)
        rules = tuple(f"{where}={what}" for where, what in (overrides or {}).items())
        passes = passes.insert_before(
            "collect-statistics", made("w8a8" if scheme is None else scheme, rules)
        )
    for each in passes:
        each.check(target)
    return passes


def resolve_tuning(tune: str | None, seconds: float | None, target: Target) -> TuningBudget | None:
    """Returns what a target may measure, None for a build without measuring.

    Raises:
        QCompilerError: QC0805 for wrong options, and for a target without choices.
    """
    budget = tuning_budget(tune, seconds)
    if budget is not None and not target.has_choices:
        raise QCompilerError(
            "QC0805",
            f"the target {target.name} leaves nothing open that could be measured",
            remedy="leave tune out, or choose another target",
        )
    return budget


def _measure(original: QGraph | None, graph: QGraph, data: CalibrationData) -> dict[str, float]:
    if original is None:
        return {}
    kept = next(iter(data.kept_batches(_ERROR_SAMPLES)), None)
    return {} if kept is None else measure_errors(original, graph, kept)


def _notes(graph: QGraph, records: Sequence[PassRecord]) -> list[str]:
    notes = [f"{record.text.split('{')[0]}: {note}" for record in records for note in record.notes]
    for node in graph.calls:
        if is_island(node):
            place = origin_of(node).source or "no source line"
            notes.append(f"float island: {node.name} ({node.target}) at {place}")
    return notes


def _digest(graph: QGraph) -> str:
    digest = hashlib.sha256()
    for node in graph.nodes:
        if node.op == "get_attr":
            digest.update(str(node.target).encode())
            digest.update(graph.constant(node).contiguous().numpy().tobytes())
    return digest.hexdigest()


def _as_path(model: Any) -> nn.Module | ExportedProgram | str | Path:
    return Path(model) if isinstance(model, os.PathLike) else model


def _callable(model: Any) -> nn.Module | None:
    if isinstance(model, ExportedProgram):
        return torch.export.ExportedProgram.module(model)
    return model if isinstance(model, nn.Module) else None


@contextmanager
def _one_thread() -> Iterator[int]:
    """Keeps torch to one thread, so that an artifact does not depend on the number of cores.

    The order of float sums does. Yields the number of threads that passes may divide samples among.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield min(threads, _MOST_THREADS)
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _progress(wanted: bool) -> Iterator[Progress]:
    if not wanted:
        yield lambda what, done: None
        return
    from rich.console import Console

    with Console(stderr=True).status("compiling") as status:
        yield lambda what, done: status.update(what if done is None else f"{what} ({done})")
