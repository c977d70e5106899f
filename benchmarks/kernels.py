"""Kernels against the peak of AVX512-VNNI, one thread: python -m benchmarks.kernels.

The peak is that of a loop of vpdpbusd alone, measured in turns with what it is compared with.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import nn

import qcompiler
from benchmarks.artifacts import ROOT
from benchmarks.tables import RESULTS, write_table
from qcompiler.backends.cpu.isa import LEVELS, is_supported
from qcompiler.backends.native.toolchain import COMMON_FLAGS, OPTIMIZATION
from qcompiler.program import Program
from qcompiler.report.timing import interleave

_KERNELS = ROOT / "backends" / "native" / "kernels"
_TILE = "tile_avx512vnni.c"
_PARTS = (_TILE, "epilogue_avx512vnni.c", "peak.c")
_LEVEL = next(level for level in LEVELS if level.name == "avx512vnni")
_PANEL = 16
_PEAK_ROUNDS = 25_000  # about a quarter of a millisecond
_TILE_REPEATS = 500


@dataclass(frozen=True)
class Layer:
    """A convolution with ReLU6 on a square image, and the share of the peak that it is to reach."""

    inputs: int
    outputs: int
    kernel: int
    stride: int
    size: int
    goal: float | None
    depthwise: bool = False

    @property
    def title(self) -> str:
        """The kind of the layer and its channels, input size and stride."""
        what = "depthwise " if self.depthwise else ""
        channels = f"{self.inputs}" if self.depthwise else f"{self.inputs} -> {self.outputs}"
        image = f"{self.size}x{self.size}, stride {self.stride}"
        return f"{what}{self.kernel}x{self.kernel}, {channels}, {image}"

    def module(self) -> nn.Module:
        """Returns the layer with seeded weights."""
        groups = self.inputs if self.depthwise else 1
        conv = nn.Conv2d(
            self.inputs,
            self.outputs,
            self.kernel,
            self.stride,
            self.kernel // 2,
            groups=groups,
        )
        source = torch.Generator().manual_seed(1)
        nn.init.kaiming_normal_(conv.weight, generator=source)
        return nn.Sequential(conv, nn.ReLU6()).eval()

    def images(self) -> torch.Tensor:
        """Returns seeded random inputs of batch 2, for calibration."""
        source = torch.Generator().manual_seed(2)
        return torch.randn(2, self.inputs, self.size, self.size, generator=source)


def _depthwise(channels: int, kernel: int, stride: int, size: int) -> Layer:
    goal = 0.25 if kernel == 3 else None
    return Layer(channels, channels, kernel, stride, size, goal, depthwise=True)


# Layers of the four networks of benchmarks.models.
LAYERS = (
    Layer(3, 32, 3, 2, 224, None),
    Layer(3, 64, 7, 2, 224, None),
    Layer(32, 16, 1, 1, 112, None),
    Layer(64, 256, 1, 1, 56, 0.7),
    Layer(256, 64, 1, 1, 56, 0.7),
    Layer(144, 24, 1, 1, 56, 0.7),
    Layer(512, 128, 1, 1, 28, 0.7),
    Layer(64, 384, 1, 1, 14, 0.7),
    Layer(384, 96, 1, 1, 14, 0.7),
    Layer(672, 112, 1, 1, 14, 0.7),
    Layer(1024, 256, 1, 1, 14, 0.7),
    Layer(320, 1280, 1, 1, 7, 0.7),
    Layer(512, 2048, 1, 1, 7, 0.7),
    Layer(64, 64, 3, 1, 56, 0.7),
    Layer(128, 128, 3, 1, 28, 0.7),
    Layer(128, 128, 3, 2, 56, 0.7),
    Layer(256, 256, 3, 1, 14, 0.7),
    Layer(512, 512, 3, 1, 7, 0.7),
    _depthwise(32, 3, 1, 112),
    _depthwise(96, 3, 2, 112),
    _depthwise(144, 3, 1, 56),
    _depthwise(384, 3, 1, 14),
    _depthwise(960, 3, 1, 7),
    _depthwise(144, 5, 2, 56),
    _depthwise(240, 5, 1, 28),
    _depthwise(672, 5, 1, 14),
)


def build(command: str, folder: Path) -> ctypes.CDLL:
    """Compiles the tile, as programs do, and the loops around it.

    Raises:
        RuntimeError: the compiler refused them.
    """
    library = folder / f"{Path(command).name}.so"
    flags = [OPTIMIZATION[_TILE], *COMMON_FLAGS, *_LEVEL.flags, f"-I{_KERNELS}", "-shared"]
    files = [str(_KERNELS / name) for name in _PARTS]
    files.append(str(Path(__file__).with_name("tile_peak.c")))
    call = [command, *flags, *files, "-o", str(library)]
    done = subprocess.run(call, capture_output=True, text=True)
    if done.returncode != 0:
        message = f"{command}: {done.stderr.strip()}"
        raise RuntimeError(message)
    loaded = ctypes.CDLL(str(library))
    loaded.bench_peak.argtypes = [ctypes.c_int64]
    loaded.bench_peak.restype = ctypes.c_int64
    loaded.bench_tile.argtypes = [ctypes.c_int, ctypes.c_int64]
    loaded.bench_depth.restype = ctypes.c_int64
    return loaded


def peak_of(library: ctypes.CDLL) -> Callable[[], int]:
    """Returns a call of the loop of vpdpbusd, which returns its multiplications."""
    return lambda: int(library.bench_peak(_PEAK_ROUNDS))


def tiles(libraries: dict[str, ctypes.CDLL], rounds: int) -> list[list[str]]:
    """Returns a row per shape of tile: its share of the peak with each compiler."""
    first = next(iter(libraries.values()))
    calls: dict[str, Callable[[], object]] = {"peak": peak_of(first)}
    shapes: dict[str, tuple[str, int]] = {}  # call -> title of the shape, MACs
    panels = 1
    while rows := first.bench_rows(panels):
        macs = rows * panels * _PANEL * first.bench_depth()
        for name, library in libraries.items():
            call = f"{panels} {name}"
            shapes[call] = (f"{rows}x{panels * _PANEL}", macs)
            calls[call] = partial(library.bench_tile, panels, _TILE_REPEATS)
        panels += 1
    times = interleave(calls, rounds=rounds)
    peak = peak_of(first)() / times["peak"].minimum
    table = [["tile, K=512, in the first level cache", *libraries]]
    for title, macs in dict.fromkeys(shapes.values()):
        cells = [
            f"{macs * _TILE_REPEATS / times[call].minimum / peak:.1%}"
            for call, shape in shapes.items()
            if shape == (title, macs)
        ]
        table.append([title, *cells])
    table.append(["peak, GMAC/s", f"{peak / 1e9:.1f}", *[""] * (len(libraries) - 1)])
    return table


def compile_layer(layer: Layer, compiler: str, folder: Path) -> Program:
    """Compiles a layer with a C compiler and loads it again, without its float model."""
    before = os.environ.get("CC")
    os.environ["CC"] = compiler
    try:
        program = qcompiler.compile(layer.module(), [layer.images()], target="cpu")
    finally:
        if before is None:
            del os.environ["CC"]
        else:
            os.environ["CC"] = before
    path = folder / "layer.qcp"
    program.save(path)
    loaded = qcompiler.load(path)
    loaded.num_threads = 1
    return loaded


def layer_row(
    layer: Layer, programs: Sequence[Program], peak: Callable[[], int], rounds: int
) -> list[str]:
    """Returns the title, and with each compiler microseconds, GMAC/s and the share of the peak."""
    image = layer.images()[:1]
    peak_seconds = math.inf
    least = [math.inf] * len(programs)
    macs = 0
    for _ in range(rounds):
        peak_seconds = min(peak_seconds, interleave({"peak": peak}, rounds=3)["peak"].minimum)
        for i, program in enumerate(programs):
            rows = program.bench(image, rounds=10).report.rows
            row = max(rows, key=lambda r: r.macs)
            least[i] = min(least[i], row.microseconds or math.inf)
            macs = row.macs
    peak_rate = peak() / peak_seconds
    cells = [layer.title]
    for microseconds in least:
        rate = macs / microseconds * 1e6
        cells += [f"{microseconds:.1f}", f"{rate / 1e9:.1f}", f"{rate / peak_rate:.1%}"]
    return [*cells, "" if layer.goal is None else f"{layer.goal:.0%}"]


def main() -> None:
    """Measures the tile and the layers with each compiler and writes both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    found = [name for name in ("gcc", "clang", "clang-19") if shutil.which(name)][:2]
    parser.add_argument("--compilers", nargs="+", default=found, help=f"default: {found}")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--layers", type=int, default=len(LAYERS), help="only the first ones")
    parser.add_argument("--quick", action="store_true", help="3 rounds; writes no table")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the tables")
    arguments = parser.parse_args()
    if not is_supported(_LEVEL):
        parser.error("this processor has no AVX512-VNNI, whose peak everything is compared with")

    rounds = 3 if arguments.quick else arguments.rounds
    results = None if arguments.quick else arguments.results
    compilers: list[str] = arguments.compilers
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        libraries = {name: build(name, folder) for name in compilers}
        title = "The dot-product tile: share of the VNNI peak, 1 thread"
        write_table("kernel_tiles", title, tiles(libraries, 10 * rounds), folder=results)

        peak = peak_of(next(iter(libraries.values())))
        heads = [f"{name} {unit}" for name in compilers for unit in ("us", "GMAC/s", "share")]
        rows = [["layer, then ReLU6", *heads, "goal"]]
        for layer in track(LAYERS[: arguments.layers], "layers", console=console):
            programs = [compile_layer(layer, name, folder) for name in compilers]
            rows.append(layer_row(layer, programs, peak, rounds))
        title = "Layers by themselves, batch 1, 1 thread: least time and share of the VNNI peak"
        write_table("kernel_layers", title, rows, folder=results)


if __name__ == "__main__":
    main()
