"""Instruction-set levels of ARM processors, and the cores that have them."""

from __future__ import annotations

from dataclasses import dataclass

from qcompiler.backends.native.levels import HwcapFeature, Isa, RegisterFeature

# Entries of the auxiliary vector: AT_HWCAP and AT_HWCAP2.
_HWCAP, _HWCAP2 = 16, 26
_ASIMD = HwcapFeature("asimd", "__ARM_NEON", _HWCAP, 1)
_DOTPROD = HwcapFeature("asimddp", "__ARM_FEATURE_DOTPROD", _HWCAP, 20)
_I8MM = HwcapFeature("i8mm", "__ARM_FEATURE_MATMUL_INT8", _HWCAP2, 13)

# An order of instructions that suits a core which issues them in order suits the others, too.
_TUNE = "cortex-a55"
NEON = Isa("neon", (_ASIMD,), "armv8-a", zig_cpu="generic", tune=_TUNE, family="a")
DOTPROD = Isa(
    "dotprod",
    (_ASIMD, _DOTPROD),
    "armv8.2-a+dotprod",
    zig_cpu="generic+v8_2a+dotprod",
    tune=_TUNE,
    family="a",
)
I8MM = Isa(
    "i8mm",
    (_ASIMD, _DOTPROD, _I8MM),
    "armv8.2-a+dotprod+i8mm",
    zig_cpu="generic+v8_2a+dotprod+i8mm",
    tune=_TUNE,
    family="a",
)
LEVELS = (NEON, DOTPROD, I8MM)
# The portable kernels, which the others are tested against; no target carries them.
PORTABLE = Isa("portable", (_ASIMD,), "armv8-a", ("QC_PORTABLE",), "generic", family="a")

# Cortex-M: floating point is there and switched on, products of two halfwords (every Cortex-M4 and
# M7 has them, which not every emulator's register says), vectors of integers and floats.
_FPU = RegisterFeature("fpu", "__ARM_FP", 0xE000EF40, 4, 2)
_ON = RegisterFeature("fpu switched on", "__ARM_FP", 0xE000ED88, 20, 15)
_SIMD32 = RegisterFeature("dsp", "__ARM_FEATURE_DSP", 0xE000ED6C, 4, 3, 0xC24)
_MVE = RegisterFeature("mve", "__ARM_FEATURE_MVE", 0xE000EF44, 8, 2)


# Zig's names of these cores leave out what the options name.
def _core_options(core: str, *more: str) -> tuple[str, ...]:
    return (f"-mcpu={core}", "-mthumb", "-mfloat-abi=hard", *more)


DSP_M4 = Isa(
    "dsp",
    (_FPU, _ON, _SIMD32),
    zig_cpu="cortex_m4+vfp4d16sp",
    options=_core_options("cortex-m4", "-mfpu=fpv4-sp-d16"),
    family="m",
)
DSP_M33 = Isa(
    "dsp",
    (_FPU, _ON, _SIMD32),
    zig_cpu="cortex_m33+dsp+fp_armv8d16sp",
    options=_core_options("cortex-m33"),
    family="m",
)
HELIUM = Isa(
    "helium",
    (_FPU, _ON, _MVE),
    zig_cpu="cortex_m55+mve+mve_fp+fp_armv8d16",
    options=_core_options("cortex-m55"),
    family="m",
)
# What every Cortex-M of these runs: that a program looks at its processor at all.
BASELINE = DSP_M4


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


@dataclass(frozen=True)
class Region:
    """Memory of a machine: its first address and its bytes."""

    start: int
    size: int


@dataclass(frozen=True)
class Machine:
    """A machine of qemu-system-arm.

    Attributes:
        name: as ``qemu-system-arm -M help`` lists it.
        code: what holds the vector table, code and constants.
        data: RAM beside the core, for variables and the stack.
        more: RAM outside of the chip.
    """

    name: str
    code: Region
    data: Region
    more: Region


_MB = 1 << 20
MACHINES = {
    machine.name: machine
    for machine in (
        Machine(
            "mps2-an386",
            Region(0, 4 * _MB),
            Region(0x20000000, 4 * _MB),
            Region(0x21000000, 16 * _MB),
        ),
        Machine(
            "mps2-an505",
            Region(0x10000000, 4 * _MB),
            Region(0x38000000, 4 * _MB),
            Region(0x80000000, 16 * _MB),
        ),
        Machine(
            "mps3-an547",
            Region(0, _MB // 2),
            Region(0x20000000, _MB // 2),
            Region(0x60000000, 256 * _MB),
        ),
    )
}


@dataclass(frozen=True)
class Microcontroller:
    """A Cortex-M core.

    Attributes:
        name: as compilers write it.
        level: what its kernels use.
        machine: of qemu, with such a core.
    """

    name: str
    level: Isa
    machine: Machine


MICROCONTROLLERS = {
    core.name: core
    for core in (
        Microcontroller("cortex-m4", DSP_M4, MACHINES["mps2-an386"]),
        Microcontroller("cortex-m33", DSP_M33, MACHINES["mps2-an505"]),
        Microcontroller("cortex-m55", HELIUM, MACHINES["mps3-an547"]),
    )
}
