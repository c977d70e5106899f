"""ARM A-profile targets named by a core: the level that it has, and its model."""

from __future__ import annotations

from typing import ClassVar

from qcompiler.backends.arm.isa import CORES, Core
from qcompiler.backends.arm.target import Armv8Target, DotprodTarget, I8mmTarget


class CortexA53(Armv8Target):
    """Cortex-A53: kernels with NEON."""

    name: ClassVar[str] = "cortex-a53"
    summary: ClassVar[str] = "Cortex-A53: NEON kernels"
    core: ClassVar[Core] = CORES["cortex-a53"]


class CortexA72(Armv8Target):
    """Cortex-A72: kernels with NEON."""

    name: ClassVar[str] = "cortex-a72"
    summary: ClassVar[str] = "Cortex-A72: NEON kernels"
    core: ClassVar[Core] = CORES["cortex-a72"]


class CortexA55(DotprodTarget):
    """Cortex-A55: kernels with sdot."""

    name: ClassVar[str] = "cortex-a55"
    summary: ClassVar[str] = "Cortex-A55: sdot kernels"
    core: ClassVar[Core] = CORES["cortex-a55"]


class CortexA76(DotprodTarget):
    """Cortex-A76: kernels with sdot."""

    name: ClassVar[str] = "cortex-a76"
    summary: ClassVar[str] = "Cortex-A76: sdot kernels"
    core: ClassVar[Core] = CORES["cortex-a76"]


class NeoverseN1(DotprodTarget):
    """Neoverse N1: kernels with sdot."""

    name: ClassVar[str] = "neoverse-n1"
    summary: ClassVar[str] = "Neoverse N1: sdot kernels"
    core: ClassVar[Core] = CORES["neoverse-n1"]


class CortexA510(I8mmTarget):
    """Cortex-A510: kernels with smmla."""

    name: ClassVar[str] = "cortex-a510"
    summary: ClassVar[str] = "Cortex-A510: smmla kernels"
    core: ClassVar[Core] = CORES["cortex-a510"]


class CortexA710(I8mmTarget):
    """Cortex-A710: kernels with smmla."""

    name: ClassVar[str] = "cortex-a710"
    summary: ClassVar[str] = "Cortex-A710: smmla kernels"
    core: ClassVar[Core] = CORES["cortex-a710"]


class NeoverseN2(I8mmTarget):
    """Neoverse N2: kernels with smmla."""

    name: ClassVar[str] = "neoverse-n2"
    summary: ClassVar[str] = "Neoverse N2: smmla kernels"
    core: ClassVar[Core] = CORES["neoverse-n2"]


class NeoverseV1(I8mmTarget):
    """Neoverse V1: kernels with smmla."""

    name: ClassVar[str] = "neoverse-v1"
    summary: ClassVar[str] = "Neoverse V1: smmla kernels"
    core: ClassVar[Core] = CORES["neoverse-v1"]


class NeoverseV2(I8mmTarget):
    """Neoverse V2: kernels with smmla."""

    name: ClassVar[str] = "neoverse-v2"
    summary: ClassVar[str] = "Neoverse V2: smmla kernels"
    core: ClassVar[Core] = CORES["neoverse-v2"]
