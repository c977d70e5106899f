"""Compiles the kernels of a program ahead of time, for architectures that are not there."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from qcompiler.backends.cuda.architectures import Architecture
from qcompiler.backends.cuda.devices import require_triton
from qcompiler.backends.cuda.kernel_table import kernel
from qcompiler.backends.cuda.launch import Launch, Stride
from qcompiler.backends.cuda.starting import failed

_TYPES = {
    torch.int8: "*i8",
    torch.uint8: "*u8",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.float32: "*fp32",
}
# What the launcher assumes of pointers: memory is placed by 64 bytes.
_ALIGNED = 16


@dataclass(frozen=True)
class Compiled:
    """Machine code of one launch.

    Attributes:
        launch: the first launch that it serves.
        cubin: for the device.
        ptx: for reading.
        registers: of a thread.
        spilled: bytes of registers that a thread keeps in memory.
        shared: bytes of shared memory of a block.
    """

    launch: Launch
    cubin: bytes
    ptx: str
    registers: int
    spilled: int
    shared: int

    def machine_code(self) -> str:
        """Returns the disassembly."""
        return _tool("nvdisasm", self.cubin, ["-c"])


def distinct(launches: Iterable[Launch]) -> list[Launch]:
    """Returns one launch for each piece of machine code that launches need, in order."""
    found: dict[object, Launch] = {}
    for launch in launches:
        signature, constants, attributes = _specialization(launch)
        key = (
            launch.kernel,
            tuple(signature.items()),
            tuple(constants.items()),
            tuple(attributes),
            launch.num_warps,
            launch.num_stages,
        )
        found.setdefault(key, launch)
    return list(found.values())


def compile_all(
    launches: Iterable[Launch], architecture: Architecture, *, jobs: int | None = None
) -> list[Compiled]:
    """Compiles every kernel that launches need, in processes, with a bar on the terminal.

    Args:
        launches: of a program.
        architecture: to compile for.
        jobs: number of processes, one per core if left out.

    Raises:
        QCompilerError: QC0802 without Triton, QC0843 for a kernel that does not compile.
    """
    from rich.console import Console
    from rich.progress import track

    require_triton()
    found = distinct(launches)
    console = Console(stderr=True)
    with ProcessPoolExecutor(
        min(jobs or os.cpu_count() or 1, max(len(found), 1)),
        mp_context=get_context("spawn"),
        initializer=_compile_kernels,
    ) as pool:
        tasks = [pool.submit(compile_launch, launch, architecture) for launch in found]
        what = f"kernels for {architecture.name}"
        shown = track(tasks, what, console=console, disable=not console.is_terminal)
        return [task.result() for task in shown]


def _compile_kernels() -> None:
    """Makes Triton compile in this process, not interpret."""
    os.environ.pop("TRITON_INTERPRET", None)


def compile_launch(launch: Launch, architecture: Architecture) -> Compiled:
    """Compiles the kernel of a launch; needs no device.

    Raises:
        QCompilerError: QC0843 naming operator and kernel when the compiler refuses it.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, constants, attributes = _specialization(launch)
    attrs = {(place,): [["tt.divisibility", _ALIGNED]] for place in attributes}
    source = ASTSource(
        fn=kernel(launch.kernel), signature=signature, constexprs=constants, attrs=attrs
    )
    target = GPUTarget("cuda", architecture.capability, 32)
    try:
        made = triton.compile(source, target=target, options=launch.options())
    except Exception as error:
        raise failed(launch, architecture.name, error) from error
    cubin = made.asm["cubin"]
    usage = _tool("cuobjdump", cubin, ["--dump-resource-usage"])
    return Compiled(
        launch,
        cubin,
        made.asm["ptx"],
        _number(r"REG:(\d+)", usage),
        _number(r"LOCAL:(\d+)", usage) + _number(r"STACK:(\d+)", usage),
        int(made.metadata.shared),
    )


def _specialization(launch: Launch) -> tuple[dict[str, str], dict[str, Any], list[int]]:
    """Returns types and constants by name, and the places of what is divisible by 16.

    As Triton's launcher specializes: numbers that are 1 are constants.
    """
    signature: dict[str, str] = {}
    constants: dict[str, Any] = dict(launch.constants)
    aligned = []
    for place, name in enumerate(kernel(launch.kernel).arg_names):
        if name in launch.constants:
            signature[name] = "constexpr"
            continue
        item = launch.arguments[name]
        if isinstance(item, Stride):
            signature[name] = "i32"
        elif isinstance(item, int):
            if item == 1:
                signature[name] = "constexpr"
                constants[name] = 1
                continue
            signature[name] = "i32" if -(2**31) <= item < 2**31 else "i64"
            if item % _ALIGNED == 0:
                aligned.append(place)
        else:
            signature[name] = _TYPES[item.dtype]
            aligned.append(place)
    return signature, constants, aligned


def _tool(name: str, cubin: bytes, options: list[str]) -> str:
    """Returns what one of the programs that come with Triton prints of machine code."""
    import triton

    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(folder / name), *options, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return int(found.group(1)) if found else 0
