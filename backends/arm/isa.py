"""Instruction-set levels of ARM A-profile processors, and the cores that have them."""

from __future__ import annotations

from dataclasses import dataclass

from qcompiler.backends.native.levels import HwcapFeature, Isa

# Entries of the auxiliary vector: AT_HWCAP and AT_HWCAP2.
_HWCAP, _HWCAP2 = 16, 26
_ASIMD = HwcapFeature("asimd", "__ARM_NEON", _HWCAP, 1)
_DOTPROD = HwcapFeature("asimddp", "__ARM_FEATURE_DOTPROD", _HWCAP, 20)
_I8MM = HwcapFeature("i8mm", "__ARM_FEATURE_MATMUL_INT8", _HWCAP2, 13)

# An order of instructions that suits a core which issues them in order suits the others, too.
_TUNE = "cortex-a55"
NEON = Isa("neon", (_ASIMD,), "armv8-a", zig_cpu="generic", tune=_TUNE)
DOTPROD = Isa(
    "dotprod",
    (_ASIMD, _DOTPROD),
    "armv8.2-a+dotprod",
    zig_cpu="generic+v8_2a+dotprod",
    tune=_TUNE,
)
I8MM = Isa(
    "i8mm",
    (_ASIMD, _DOTPROD, _I8MM),
    "armv8.2-a+dotprod+i8mm",
    zig_cpu="generic+v8_2a+dotprod+i8mm",
    tune=_TUNE,
)
LEVELS = (NEON, DOTPROD, I8MM)
# The portable kernels, which the others are tested against; no target carries them.
PORTABLE = Isa("portable", (_ASIMD,), "armv8-a", ("QC_PORTABLE",), "generic")


@dataclass(frozen=True)
class Core:
    """A processor core.

    Attributes:
        name: as compilers write it.
        level: the fastest level that it runs.
        qemu: the model of ``qemu-aarch64 -cpu`` with its instructions, or with more of them where
            qemu 7.2 has no closer one.
        scheduling: the core of llvm-mca whose model describes it; cortex-a76 and its kin have none
            of their own there, and neoverse-n1 is the same design for servers.
    """

    name: str
    level: Isa
    qemu: str
    scheduling: str


CORES = {
    core.name: core
    for core in (
        Core("cortex-a53", NEON, "cortex-a53", "cortex-a53"),
        Core("cortex-a72", NEON, "cortex-a72", "cortex-a72"),
        Core("cortex-a55", DOTPROD, "cortex-a76", "cortex-a55"),
        Core("cortex-a76", DOTPROD, "cortex-a76", "neoverse-n1"),
        Core("neoverse-n1", DOTPROD, "neoverse-n1", "neoverse-n1"),
        Core("cortex-a510", I8MM, "max", "cortex-a510"),
        Core("cortex-a710", I8MM, "max", "neoverse-n2"),
        Core("neoverse-n2", I8MM, "max", "neoverse-n2"),
        Core("neoverse-v1", I8MM, "max", "neoverse-v1"),
        Core("neoverse-v2", I8MM, "max", "neoverse-v2"),
    )
}
