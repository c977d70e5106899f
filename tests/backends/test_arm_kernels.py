"""Every kernel of every ARM level equals the portable one, under qemu, over random shapes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from qcompiler.backends.arm import isa
from qcompiler.backends.arm.cross import LINK_FLAGS, emulator, find_cross_compiler
from qcompiler.backends.native.codes import SIGNED
from qcompiler.backends.native.emitter import kernel_sources
from qcompiler.backends.native.levels import PROGRAM, Isa
from qcompiler.backends.native.toolchain import build
from tests.backends.helpers import HAS_ARM, MODELS

SEEDS = 40

pytestmark = pytest.mark.skipif(not HAS_ARM, reason="no compiler or emulator for ARM")


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    own = {PROGRAM: "arm_kernels.c", "arm_kernels.h": "arm_kernels.h"}
    sources = dict(kernel_sources(SIGNED))
    for name, place in own.items():
        text = (Path(__file__).parent / place).read_text(encoding="utf-8")
        sources[name] = SIGNED.text(text).encode()
    binary = build(sources, (isa.PORTABLE, *isa.LEVELS), find_cross_compiler(), LINK_FLAGS)
    path = tmp_path_factory.mktemp("arm") / "kernels"
    path.write_bytes(binary)
    path.chmod(0o755)
    return path


def run(harness: Path, model: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*emulator(model), str(harness), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.parametrize("level", isa.LEVELS, ids=lambda level: level.name)
def test_kernels_equal_the_portable_ones(harness: Path, level: Isa) -> None:
    done = run(harness, MODELS[level.name], level.name, "0", str(SEEDS))
    assert (done.returncode, done.stdout) == (0, "")


def test_a_level_that_the_processor_lacks_is_not_chosen(harness: Path) -> None:
    assert run(harness, "cortex-a76", "i8mm", "0", "1").returncode == 3
