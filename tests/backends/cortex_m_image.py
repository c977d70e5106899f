"""Builds programs for Cortex-M with kernels of several levels, and runs them on machines."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from qcompiler.backends.native.codes import SIGNED
from qcompiler.backends.native.emitter import kernel_sources
from qcompiler.backends.native.levels import (
    DISPATCH,
    KERNELS,
    PROGRAM,
    Isa,
    generated,
    names_header,
)
from qcompiler.backends.native.rendering import template

GCC = "arm-none-eabi-gcc"
FLAGS = (
    *("-std=gnu11", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"),
    *("-fwrapv", "-ffp-contract=off", "-fno-math-errno", "-DQC_SIGNED_CODES=1"),
)
_START = Path(__file__).parent / "cortex_m"
# What asks a system for features: such a machine has none.
_FEATURES = re.compile(r"#if defined\(__x86_64__\).*?#endif\n", re.DOTALL)
_NO_FEATURES = "static int has(const feature *f) { return f != NULL; }\n"
_ONCE = (PROGRAM, DISPATCH, "threads.c", "start.c")


@dataclass(frozen=True)
class Machine:
    """A machine of qemu: its core, where its code, fast and large memory begin, and the level."""

    name: str
    core: str
    target: str
    code: int
    fast: int
    large: int
    level: str

    @property
    def flags(self) -> tuple[str, ...]:
        """The options that let gcc and clang use the core's instructions."""
        return (f"-mcpu={self.core}", "-mthumb", "-mfloat-abi=hard")


# qemu, docs/system/arm/mps2.rst: memories of the FPGA images.
_AN505 = 0x10000000, 0x38000000, 0x80000000
MACHINES = {
    machine.core: machine
    for machine in (
        Machine("mps2-an386", "cortex-m4", "thumbv7em", 0, 0x20000000, 0x21000000, "dsp"),
        Machine("mps2-an505", "cortex-m33", "thumbv8m.main", *_AN505, "dsp"),
        Machine("mps3-an547", "cortex-m55", "thumbv8.1m.main", 0, 0x20000000, 0x60000000, "helium"),
    )
}


def has_tools() -> bool:
    """Returns whether a compiler and an emulator for Cortex-M are there."""
    return bool(shutil.which(GCC) and shutil.which("qemu-system-arm"))


def clang(machine: Machine) -> list[str] | None:
    """Returns the command of clang for the machine, with the headers of gcc's C library."""
    names = ("clang", *(f"clang-{version}" for version in range(22, 16, -1)))
    found = next((name for name in names if shutil.which(name)), None)
    library = subprocess.run(
        [GCC, *machine.flags, "-xc", "-E", "-v", "-"], input="", capture_output=True, text=True
    ).stderr
    folders = [line.strip() for line in library.splitlines() if line.startswith(" /")]
    headers = [path for path in folders if (Path(path) / "string.h").is_file()]
    if found is None:
        return None
    own = [word for path in headers for word in ("-isystem", path)]
    return [found, f"--target={machine.target}-none-eabihf", *machine.flags, *own]


def build_image(
    machine: Machine,
    program: str,
    headers: Mapping[str, str],
    out: Path,
    kernels_by: Sequence[str] | None = None,
    optimization: str = "-O2",
) -> Path:
    """Compiles a program that calls kernels, which are there at the portable and another level.

    Args:
        machine: what runs it.
        program: its text, which calls kernels by their names in qc.h.
        headers: texts by name, beside those of the kernels.
        out: the image to write.
        kernels_by: the command that compiles kernels, None for gcc.
        optimization: the option for kernels.
    """
    sources = dict(kernel_sources(SIGNED))
    sources |= {name: SIGNED.text(text).encode() for name, text in headers.items()}
    sources[PROGRAM] = SIGNED.text(program).encode()
    sources["threads.c"] = template("serial.c.jinja").render().encode()
    sources["start.c"] = (_START / "start.c").read_bytes()
    levels = (Isa("portable", (), defines=("QC_PORTABLE",)), Isa(machine.level, ()))
    files = {**sources, **generated(sources, levels)}
    dispatch = _FEATURES.sub(lambda _: _NO_FEATURES, files[DISPATCH].decode())
    files[DISPATCH] = dispatch.replace("constructor", "used").encode()
    own = [GCC, *machine.flags]
    with tempfile.TemporaryDirectory(prefix="qcompiler-") as name:
        folder = Path(name)
        for file, content in files.items():
            (folder / file).write_bytes(content)
        jobs = []
        for file in sorted(f for f in files if f.endswith(".c")):
            if file in _ONCE:
                included = ("-include", KERNELS) if file == PROGRAM else ()
                warnings = () if file == PROGRAM else ("-Wno-conversion",)
                options = (*FLAGS, *warnings, "-O1", *included)
                jobs.append([*own, *options, "-c", file, "-o", f"{file}.o"])
                continue
            for level in levels:
                compile_it = [*(kernels_by or own), *FLAGS, *level.definitions, optimization]
                renamed = ("-include", names_header(level))
                jobs.append([*compile_it, *renamed, "-c", file, "-o", f"{file}.{level.name}.o"])
        with ThreadPoolExecutor(2) as pool:
            for problem in pool.map(lambda job: _call(job, folder), jobs):
                assert not problem, problem
        places = {"code": machine.code, "fast": machine.fast, "large": machine.large}
        defined = [f"-Wl,--defsym={key}={value}" for key, value in places.items()]
        objects = [job[-1] for job in jobs]
        link = ["-nostartfiles", *defined, "-T", str(_START / "image.ld"), "-o", str(out)]
        problem = _call([*own, *link, *objects], folder)
        assert not problem, problem
    return out


def run_image(
    machine: Machine, image: Path, arguments: Sequence[str], options: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Runs an image to its end; what it prints is in the standard error of qemu.

    Args:
        machine: what runs it.
        image: the image.
        arguments: words without spaces.
        options: those of qemu.
    """
    words = "".join(f",arg={word}" for word in ("image", *arguments))
    command = [
        *("qemu-system-arm", "-M", machine.name, "-nographic", "-monitor", "none"),
        *("-serial", "none", "-semihosting-config", f"enable=on,target=native{words}"),
        *(*options, "-kernel", str(image)),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def _call(command: Sequence[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else ""
