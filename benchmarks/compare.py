"""qcompiler beside other systems, in turns: python -m benchmarks.compare --peer-python PATH.

Each contender has a process of its own and is idle while another one runs its slot. The peers'
packages stand in benchmarks/peers.txt; PATH is the interpreter of an environment that has them.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.artifacts import Store
from benchmarks.contenders import CONTENDERS
from benchmarks.models import MODELS
from benchmarks.remote import Failure, Worker
from benchmarks.tables import RESULTS, write_table
from qcompiler.report.timing import Timing

OURS = ("qcompiler", "qcompiler-avx2")
DEFAULT = [name for name in CONTENDERS if name != "qcompiler-avx2"]


@dataclass
class Entry:
    """What came of one contender for one model, number of threads and batch."""

    seconds: list[float] = field(default_factory=list)
    sqnr: float = 0.0
    detail: str = ""
    failure: str = ""

    @property
    def timing(self) -> Timing | None:
        """The timed calls; None where it failed or was never timed."""
        return Timing(tuple(self.seconds)) if self.seconds and not self.failure else None


# By threads, batch, model and contender.
Entries = dict[tuple[int, int, str, str], Entry]


@dataclass(frozen=True)
class Plan:
    """How much is measured, and where the contenders find what they need."""

    models: Sequence[str]
    contenders: Sequence[str]
    threads: Sequence[int]
    batches: Sequence[int]
    rounds: int
    milliseconds: float
    cache: Path
    peer_python: str


def measure(plan: Plan, model: str, threads: int, entries: Entries, progress: Progress) -> None:
    """Starts the contenders for a model and a number of threads and times them slot by slot."""
    workers: dict[str, Worker] = {}

    def fail(name: str, batches: Iterable[int], reason: str) -> None:
        for batch in batches:
            entries[threads, batch, model, name] = Entry(failure=reason)

    with ExitStack() as stack:
        task = progress.add_task("", total=None)
        for name in plan.contenders:
            progress.update(task, description=f"{model}, {threads} threads: starting {name}")
            progress.refresh()
            python = plan.peer_python if CONTENDERS[name].peer else sys.executable
            worker = stack.enter_context(
                Worker(python, plan.cache, model, name, threads, plan.batches)
            )
            try:
                loaded = worker.start()
            except Failure as failure:
                fail(name, plan.batches, str(failure))
                worker.stop()
                continue
            workers[name] = worker
            for batch, facts in loaded.items():
                entry = Entry(sqnr=facts["sqnr"], detail=f"{facts['versions']}; {facts['detail']}")
                entries[threads, batch, model, name] = entry
        progress.remove_task(task)

        for i, batch in enumerate(plan.batches):
            what = f"{model}, {threads} threads, batch {batch}"
            task = progress.add_task(what, total=plan.rounds)
            for number in range(plan.rounds):
                order = list(workers)
                random.Random(number).shuffle(order)
                for name in order:
                    try:
                        seconds = workers[name].slot(batch, plan.milliseconds)
                    except Failure as failure:
                        fail(name, plan.batches[i:], str(failure))
                        workers.pop(name).stop()
                        continue
                    entries[threads, batch, model, name].seconds += seconds
                progress.advance(task)
                progress.refresh()
            progress.remove_task(task)


def table(
    plan: Plan, entries: Entries, threads: int, batch: int
) -> tuple[list[list[str]], list[str]]:
    """Returns the rows of one number of threads and one batch, and the notes below them."""
    head = ["model", "contender", "min ms", "median ms", "of int8 peer", "times fp32 peer", "SQNR"]
    rows, notes = [head], []
    for model in plan.models:
        found = {n: entries.get((threads, batch, model, n)) for n in plan.contenders}
        known = {name: entry for name, entry in found.items() if entry is not None}
        medians = {n: e.timing.median for n, e in known.items() if e.timing is not None}
        peers = {n: median for n, median in medians.items() if n not in OURS}
        int8 = min((m for n, m in peers.items() if CONTENDERS[n].int8), default=None)
        fp32 = min((m for n, m in peers.items() if not CONTENDERS[n].int8), default=None)
        for name, entry in known.items():
            title = CONTENDERS[name].title
            if entry.timing is None:
                rows.append([model, title, "failed", *["-"] * 4])
                notes.append(f"{model}, {title}: {entry.failure or 'stopped before its turn'}")
                continue
            median = entry.timing.median
            cells = [f"{entry.timing.minimum * 1e3:.3f}", f"{median * 1e3:.3f}"]
            cells.append("-" if int8 is None else f"{median / int8:.3f}")
            cells.append("-" if fp32 is None else f"{fp32 / median:.2f}")
            exact = entry.sqnr == math.inf
            rows.append([model, title, *cells, "equal" if exact else f"{entry.sqnr:.1f} dB"])
            notes.append(f"{model}, {title}: {entry.detail}")
    return rows, notes


def write_tables(plan: Plan, entries: Entries, name: str, folder: Path | None) -> None:
    """Writes a table NAME_threadsT_batchB for each number of threads and each batch measured."""
    for threads in plan.threads:
        for batch in plan.batches:
            rows, notes = table(plan, entries, threads, batch)
            if len(rows) == 1:
                continue
            title = (
                f"Latency with {threads} thread{'s' if threads > 1 else ''}, batch {batch}, "
                f"224x224: {plan.rounds} slots of {plan.milliseconds:.0f} ms each, in turns.\n"
                "of int8 peer: median over that of the fastest int8 peer; times fp32 peer: how "
                "many times as fast\nas the fastest fp32 peer; SQNR: of the logits to those of "
                "the float model."
            )
            file = f"{name}_threads{threads}_batch{batch}"
            write_table(file, title, rows, notes=notes, folder=folder)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=DEFAULT)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16], help="at most 16")
    parser.add_argument("--rounds", type=int, default=12, help="slots of each contender")
    parser.add_argument("--milliseconds", type=float, default=400, help="length of a slot")
    parser.add_argument("--quick", action="store_true", help="2 slots of 100 ms; writes no table")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter of the peers")
    parser.add_argument("--cache", type=Path, help="keeps prepared models; default: none are kept")
    parser.add_argument("--name", default="compare", help="first word of the tables' file names")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the tables")
    return parser.parse_args(arguments)


def _command(python: str) -> str:
    """Returns a path from the folder of the caller, links kept: they make the environment."""
    return os.path.abspath(python) if os.path.dirname(python) else python


def main() -> None:
    """Measures what the command line asks for and writes the tables."""
    chosen = parse()
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory())
        plan = Plan(
            models=chosen.models,
            contenders=chosen.contenders,
            threads=chosen.threads,
            batches=chosen.batches,
            rounds=2 if chosen.quick else chosen.rounds,
            milliseconds=100 if chosen.quick else chosen.milliseconds,
            cache=(chosen.cache or Path(scratch)).resolve(),
            peer_python=_command(chosen.peer_python),
        )
        entries: Entries = {}
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        # Drawn between slots only: a thread that draws would disturb what is being timed.
        progress = Progress(*columns, console=Console(stderr=True), auto_refresh=False)
        try:
            with progress:
                for model in plan.models:
                    Store(plan.cache, model).folder("torch")
                    for threads in plan.threads:
                        measure(plan, model, threads, entries, progress)
        finally:  # of a run that was stopped, what was measured
            folder = None if chosen.quick else chosen.results
            write_tables(plan, entries, chosen.name, folder)


if __name__ == "__main__":
    main()
