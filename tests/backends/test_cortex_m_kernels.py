"""Every kernel for Cortex-M equals the portable one on a machine of qemu, over random shapes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.backends.cortex_m_image import MACHINES, build_image, clang, has_tools, run_image

SEEDS = 15

pytestmark = pytest.mark.skipif(
    not has_tools() and "CI" not in os.environ, reason="no compiler or emulator for Cortex-M"
)


@pytest.mark.parametrize(
    ("core", "compiler"),
    [("cortex-m4", "gcc"), ("cortex-m33", "clang"), ("cortex-m55", "gcc"), ("cortex-m55", "clang")],
)
def test_kernels_equal_the_portable_ones(core: str, compiler: str, tmp_path: Path) -> None:
    machine = MACHINES[core]
    kernels_by = clang(machine) if compiler == "clang" else None
    if compiler == "clang" and kernels_by is None:
        assert "CI" not in os.environ, "no clang"
        pytest.skip("no clang")
    here = Path(__file__).parent
    program, header = (here / f"arm_kernels.{s}" for s in ("c", "h"))
    headers = {header.name: header.read_text(encoding="utf-8")}
    text = program.read_text(encoding="utf-8")
    image = build_image(machine, text, headers, tmp_path / "kernels.elf", kernels_by)
    done = run_image(machine, image, (machine.level, "0", str(SEEDS)))
    assert (done.returncode, done.stderr) == (0, "")
