"""Executed instructions of an image: of any process under qemu's counting plugin."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from qcompiler.backends.arm.counting import VERSIONS, counting_plugin
from qcompiler.backends.arm.executable import ArmExecutable

# Where Debian's cross compiler has the C and C++ libraries of the other side.
LIBRARIES = "/usr/aarch64-linux-gnu"


class Failure(Exception):
    """A build or a run that failed, with the reason."""


def executed(run: Callable[[int, str], None]) -> int:
    """Returns the instructions of one of the images that ``run`` computes.

    Args:
        run: computes so many images in a process under the given plugin, and waits for its end.
    """
    with tempfile.TemporaryDirectory(prefix="qcompiler-") as name:
        plugin, out = Path(name, "count.so"), Path(name, "counts.txt")
        for version in VERSIONS:
            plugin.write_bytes(counting_plugin(version))
            found = []
            for images in (1, 3):
                out.unlink(missing_ok=True)
                run(images, f"{plugin},out={out},whole=on")
                text = out.read_text(encoding="ascii") if out.exists() else ""
                if text:
                    found.append(int(text))
            if len(found) == 2:
                return (found[1] - found[0]) // 2
    message = "qemu took no version of the plugin"
    raise Failure(message)


def executed_here(executable: ArmExecutable, inputs: list[torch.Tensor]) -> int:
    """Returns the instructions of one run of a whole program, pipes included."""

    def run(images: int, plugin: str) -> None:
        watched = executable.program.under("-plugin", plugin)
        for _ in range(images):
            watched.run(inputs)
        del watched
        gc.collect()  # ends the process: the plugin writes at its end

    return executed(run)
