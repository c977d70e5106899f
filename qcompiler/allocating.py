"""Budgets in compile(): where the bits are chosen, and the search for the smallest good program."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch

from qcompiler.allocation import Allocation
from qcompiler.budgets import AverageBits, Budget, Drop, Fixed
from qcompiler.calibration import Batch, CalibrationData
from qcompiler.errors import QCompilerError
from qcompiler.ir.graph import QGraph
from qcompiler.ir.stages import Stage
from qcompiler.passmgr.base import Pass, PassRecord
from qcompiler.passmgr.instruments import Instrument
from qcompiler.passmgr.options import format_value
from qcompiler.passmgr.pipeline import Pipeline
from qcompiler.report.table import decibels
from qcompiler.target.base import Executable

ALLOCATE = "allocate-bits"
_BEFORE = "quantize-weights"
# A program is measured on samples after the first 64, which passes that choose integers see,
# as far as there are so many.
_SEEN_SAMPLES, KEPT_SAMPLES = 64, 80
# Average bits that the search for a drop begins with, and to which fraction it goes.
_MOST_BITS, _LEAST_BITS, _FRACTION = 8.0, 2.0, 0.125


def with_budget(pipeline: Pipeline, budget: Budget | Sequence[Fixed] | None) -> Pipeline:
    """Returns a pipeline that allocates bits under a budget before weights are quantized.

    A pass allocate-bits that the pipeline has already gets the budget. A drop starts from the most
    bits.

    Raises:
        QCompilerError: QC0323 for something that is no budget.
    """
    if budget is None:
        return pipeline
    if isinstance(budget, Drop):
        given: list[Any] = [AverageBits(_MOST_BITS)]
    else:
        given = list(budget) if isinstance(budget, (tuple, list)) else [budget]
    if not given or not all(isinstance(b, Fixed) for b in given):
        raise QCompilerError(
            "QC0323",
            f"a budget cannot be {budget!r}",
            remedy='give Size("2.6MB"), AverageBits(4.5), Latency("3ms") or Drop(0.5, evaluate)',
        )
    return _at(pipeline, given)


def _at(pipeline: Pipeline, budgets: Sequence[Fixed]) -> Pipeline:
    texts = tuple(str(b) for b in budgets)
    own = [p for p in pipeline if p.name == ALLOCATE]
    if own:
        return pipeline.replace(ALLOCATE, replace(own[-1], budget=texts))  # type: ignore[call-arg]
    (made,) = Pipeline.parse(f"{ALLOCATE}{{budget={format_value(texts)}}}")
    return pipeline.insert_before(_BEFORE, made)


class StopBefore(Instrument):
    """Ends a run before the first pass of a name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def stop_before(self, current: Pass) -> bool:
        """Says whether the named pass comes next."""
        return current.name == self._name


class KeepFloatGraph(Instrument):
    """Keeps the float graph as it is before weights are quantized."""

    def __init__(self) -> None:
        self.graph: QGraph | None = None

    def after(self, current: Pass, graph: QGraph, record: PassRecord) -> None:
        """Keeps a copy at the last pass of the stage ``calibrated``."""
        if graph.stage == Stage.CALIBRATED:
            self.graph = graph.copy()


def tail(pipeline: Pipeline, budget: Fixed) -> Pipeline:
    """Returns the passes from the allocation on, under another budget."""
    names = [p.name for p in pipeline]
    return _at(Pipeline(pipeline.passes[names.index(ALLOCATE) :]), [budget])


Compiled = TypeVar("Compiled")


def smallest_within(
    drop: Drop,
    model: Callable[..., Any],
    compile_at: Callable[[Fixed], Compiled],
    show: Callable[[str, int | None], None],
) -> tuple[Compiled, list[str]]:
    """Returns the smallest program found whose score dropped no more than allowed, and notes.

    Average bits are halved between a choice that was good enough and one that was not. A program
    whose evaluation raises or returns no finite number counts as not good enough. Where none is
    good enough, that of the best score is returned, and the notes say so.

    Raises:
        QCompilerError: QC0325 when the float model cannot be scored.
    """
    wanted = _reference(drop, model)
    notes = [f"score of the float model: {wanted:.6g}"]
    low, high = _LEAST_BITS, _MOST_BITS
    best: Compiled | None = None
    best_score, best_is_good = -math.inf, False
    bits = high
    for done in range(drop.evaluations):
        show(f"searching bits for a drop of {drop.limit:g}", done)
        program = compile_at(AverageBits(bits))
        score = -math.inf
        try:
            score = float(drop.evaluate(program))
            found = f"{score:.6g}"
        except Exception as error:  # a user's function: whatever it raises, the search goes on
            found = f"evaluate raised {type(error).__name__}: {error}"
        if not math.isfinite(score):
            score = -math.inf
        is_good = score >= wanted - drop.limit
        notes.append(
            f"{bits:.3f} average bits: {found}, {'good' if is_good else 'not good'} enough"
        )
        # Bits fall only after a good one, so a later good one is smaller.
        if is_good or (not best_is_good and (best is None or score > best_score)):
            best, best_score, best_is_good = program, score, is_good
        if is_good:
            high = bits
        elif bits >= _MOST_BITS:
            break
        else:
            low = bits
        if high - low <= _FRACTION:
            break
        bits = (low + high) / 2
    if not best_is_good:
        notes.append("no program was good enough: this is the one of the best score")
    assert best is not None  # there was at least one evaluation
    return best, notes


def _reference(drop: Drop, model: Callable[..., Any]) -> float:
    try:
        score = float(drop.evaluate(model))
        problem = f"it is {score}"
    except Exception as error:  # a user's function
        score, problem = math.nan, f"evaluate raised {type(error).__name__}: {error}"
    if not math.isfinite(score):
        raise QCompilerError(
            "QC0325",
            f"the float model has no score: {problem}",
            remedy="let evaluate(model) return a finite number, of which more is better",
        )
    return score


def output_sqnr(
    original: QGraph,
    run: Callable[..., Sequence[torch.Tensor]],
    batches: Iterable[Sequence[torch.Tensor]],
) -> float:
    """Returns the signal-to-noise ratio of a program's results against a float graph's, in dB."""
    signal = noise = 0.0
    for inputs in batches:
        for expected, actual in zip(original.run(*inputs), run(*inputs), strict=True):
            wide = expected.to(torch.float64)
            signal += float(wide.square().sum())
            noise += float((wide - actual.to(torch.float64)).square().sum())
    return decibels(signal, noise)


def measured(
    allocation: Allocation, original: QGraph | None, executable: Executable, data: CalibrationData
) -> Allocation:
    """Returns the allocation with the error of the finished program's results, measured."""
    kept = list(data.kept_batches())
    unseen = list(_after(kept, _SEEN_SAMPLES))
    if original is None or not kept:
        return allocation
    sqnr = output_sqnr(original, lambda *x: executable.run(list(x), 1), unseen or kept)
    which = "that rounding did not see" if unseen else "that rounding saw, too"
    return allocation.with_measured({"output SQNR": f"{sqnr:.2f} dB, on samples {which}"})


def _after(batches: Iterable[Batch], samples: int) -> Iterator[Batch]:
    """Yields what batches have beyond a number of samples, by their first dimension."""
    for batch in batches:
        size = batch[0].shape[0] if batch and batch[0].ndim else 1
        if samples < size:
            yield tuple(value[samples:] for value in batch) if samples else batch
        samples = max(samples - size, 0)
