"""Checks and measures the CUDA backend in one call: python -m benchmarks.cuda [--output FOLDER]

Runs offline and uninstalled (PYTHONPATH names the checkout), under torch 2.11 with Triton 3.6 or
later, in less than ten minutes on an H100. It checks every operator and whole networks against the
reference with ``torch.equal``, then times products and networks beside torch with CUDA events;
inputs rotate through more memory than the cache holds. Weights are random: times do not depend on
them. Each table is written as soon as it is there; what fails or finds no time is said in it.

``--dry-run`` goes the same way on the processor, with Triton's interpreter and tiny sizes: set
TRITON_INTERPRET=1. Its times mean nothing.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import qcompiler
from benchmarks import models
from benchmarks.cuda_checks import operator_program, product_program
from benchmarks.cuda_networks import efficientnet_lite0
from qcompiler.backends.cuda.architectures import ARCHITECTURES, Architecture

RESULTS = Path(__file__).parent / "results"
SECONDS = 560.0
# Memory that inputs rotate through, more than the cache of the second level of any device here.
ROTATED = 256 << 20
MOST_COPIES = 64
_COLUMNS = ("M x N x K", "us", "TOPS", "floor us", "of floor", "_int_mm us")


@dataclass
class Bench:
    """Where the benchmark runs, and until when."""

    device: torch.device
    dry: bool
    output: Path
    until: float
    rounds: int = 30

    @property
    def target(self) -> str:
        """The target that is measured."""
        return "cuda-sm90" if self.dry else "cuda"

    def out_of_time(self) -> bool:
        """Says whether no further measurement is begun."""
        return time.monotonic() > self.until

    def write(self, name: str, title: str, lines: Sequence[str]) -> None:
        """Writes a table with device and versions above it, and prints it."""
        path = self.output / f"cuda_{name}.txt"
        text = "\n".join([title, self.where(), "", *lines]) + "\n"
        path.write_text(text, encoding="utf-8")
        print(f"== {path}\n{text}", flush=True)

    def where(self) -> str:
        """Returns device and versions."""
        import triton

        name = "dry run" if self.dry else torch.cuda.get_device_name(self.device)
        return f"{name}, torch {torch.__version__}, triton {triton.__version__}"

    def architecture(self) -> Architecture:
        """Returns the architecture whose numbers are the floor."""
        from qcompiler.backends.cuda.devices import architecture_here

        return ARCHITECTURES["sm_90"] if self.dry else architecture_here()

    def median(self, run: Callable[[torch.Tensor], object], x: torch.Tensor) -> float:
        """Returns the median seconds of runs on inputs that are in no cache."""
        copies = 1 if self.dry else min(MOST_COPIES, 1 + ROTATED // max(x.nbytes, 1))
        inputs = [x.clone(memory_format=torch.preserve_format) for _ in range(copies)]
        with torch.inference_mode():
            for i in range(3):
                run(inputs[i % copies])
            times = [self._once(run, inputs[i % copies]) for i in range(self.rounds)]
        return statistics.median(times)

    def _once(self, run: Callable[[torch.Tensor], object], x: torch.Tensor) -> float:
        if self.dry:
            begun = time.perf_counter()
            run(x)
            return time.perf_counter() - begun
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run(x)
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3


def operators(bench: Bench) -> Iterator[str]:
    """Compares every operator with the reference."""
    for i, (name, program, inputs) in enumerate(operator_program()):
        if bench.dry and i % 6:
            continue
        executable = program(bench.target)
        yield f"{name:24} {executable(inputs)}"


def products(bench: Bench) -> Iterator[str]:
    """Times int8 products with fused requantization beside torch._int_mm, which has none."""
    arch = bench.architecture()
    shapes = [(8192, 8192, 8192), *((m, 4096, 4096) for m in (16, 32, 64, 128, 256))]
    if bench.dry:
        shapes = [(32, 32, 64), (16, 64, 64)]
    names = zip((20, 9, 8, 9, 9, 11), _COLUMNS, strict=True)
    yield " ".join(f"{name:>{width}}" for width, name in names)
    for m, n, k in shapes:
        if bench.out_of_time():
            yield f"{m}x{n}x{k}: not measured, out of time"
            continue
        run, x, weight = product_program(bench.target, m, n, k, bench.device)
        spent = bench.median(run, x)
        floor = max(
            2 * m * n * k / arch.tops / 1e12, (m * k + n * k + m * n) / arch.gigabytes / 1e9
        )
        theirs = float("nan")
        if m > 16:
            theirs = bench.median(partial(torch._int_mm, mat2=weight), x)
        yield (
            f"{f'{m}x{n}x{k}':>20} {spent * 1e6:9.1f} {2 * m * n * k / spent / 1e12:8.1f}"
            f" {floor * 1e6:9.1f} {floor / spent:9.1%} {theirs * 1e6:11.1f}"
        )


def network(name: str, dry: bool) -> nn.Module:
    """Returns a network with random weights."""
    torch.manual_seed(0)
    if name == "resnet50":
        depths = [1, 0, 0, 0] if dry else [3, 4, 6, 3]
        return models.resnet(depths, bottleneck=not dry).eval()
    return efficientnet_lite0(2 if dry else 7)


def networks(bench: Bench) -> Iterator[str]:
    """Compares networks with the reference, and times them beside torch.compile in bf16."""
    for name in ("resnet50", "efficientnet_lite0"):
        side = 16 if bench.dry else models.IMAGE_SIZE
        model = network(name, bench.dry)
        data = [torch.randn(2, 3, side, side) for _ in range(2)]
        program = qcompiler.compile(model, data, target=bench.target)
        for batch in (1, 2) if bench.dry else (1, 3, 256):
            x = torch.randn(batch, 3, side, side)
            for _ in range(3):  # compiled, recorded, replayed
                have = program(x.to(bench.device)).cpu()
            # The reference takes a second per image: a few of a large batch stand for all.
            some = torch.linspace(0, batch - 1, min(batch, 8)).long()
            same = torch.equal(have[some], program.reference(x[some]))
            yield f"{name} batch {batch}: {'equal to' if same else 'DIFFERS FROM'} the reference"
        for batch in (1,) if bench.dry else (1, 256):
            if bench.out_of_time():
                yield f"{name} batch {batch}: not measured, out of time"
                continue
            x = torch.randn(batch, 3, side, side, device=bench.device)
            x = x.contiguous(memory_format=torch.channels_last)
            ours = bench.median(program, x)
            theirs = bench.median(_compiled(model, bench), x.to(torch.bfloat16))
            yield (
                f"{name} batch {batch}: int8 {ours * 1e3:.3f} ms, bf16 {theirs * 1e3:.3f} ms,"
                f" {ours / theirs:.2f} of its time, {batch / ours:.0f} images/s"
            )
            if not bench.dry:
                yield str(program.bench(x, rounds=5))


def _compiled(model: nn.Module, bench: Bench) -> Callable[[torch.Tensor], object]:
    """Returns the network in bf16, compiled at full effort: CUDA graphs are part of that."""
    from copy import deepcopy

    made = deepcopy(model).to(bench.device, torch.bfloat16)
    made = made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # keyword only
    if bench.dry:
        return lambda x: made(x)
    compiled: Any = torch.compile(made, mode="max-autotune")
    return lambda x: compiled(x)


def sanitizer(bench: Bench) -> Iterator[str]:
    """Runs the operators under compute-sanitizer where it is installed."""
    tool = shutil.which("compute-sanitizer")
    if tool is None or bench.dry or bench.out_of_time():
        yield "not run: compute-sanitizer is not installed, or there was no time or no device"
        return
    command = [tool, "--error-exitcode", "9", sys.executable, "-m", "benchmarks.cuda"]
    limit = max(30.0, bench.until - time.monotonic())
    try:
        done = subprocess.run(
            [*command, "--only", "operators", "--output", str(bench.output / "sanitized")],
            capture_output=True,
            text=True,
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        yield f"not finished in {limit:.0f} s"
        return
    yield f"exit status {done.returncode}"
    yield from done.stdout.splitlines()[-8:]


PARTS: dict[str, tuple[str, Callable[[Bench], Iterator[str]]]] = {
    "operators": ("Every operator against the reference", operators),
    "products": ("int8 products with fused requantization", products),
    "networks": ("Networks beside torch.compile(max-autotune, bf16, channels last)", networks),
    "sanitizer": ("compute-sanitizer on the operators", sanitizer),
}


def main() -> None:
    """Runs all parts, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, joined by commas")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    device = torch.device("cpu" if options.dry_run else "cuda")
    until = time.monotonic() + options.seconds
    bench = Bench(device, options.dry_run, options.output, until, 2 if options.dry_run else 30)
    failed = []
    for part in options.only.split(","):
        title, run = PARTS[part]
        lines: list[str] = []
        try:
            lines.extend(run(bench))
        except Exception:  # the other parts are worth their time
            lines.append(traceback.format_exc())
            failed.append(part)
        bench.write(part, title, lines)
        failed += [part] if any("DIFFERS" in line or "differ" in line for line in lines) else []
    if failed:
        sys.exit(f"failed: {', '.join(dict.fromkeys(failed))}")


if __name__ == "__main__":
    main()
