"""ARM A-profile targets named by a core: the level that it has, and its model."""

from __future__ import annotations

from qcompiler.backends.arm.isa import CORES
from qcompiler.backends.arm.target import (
    AProfileTarget,
    Armv8Target,
    DotprodTarget,
    I8mmTarget,
)


def _core(name: str, level: type[AProfileTarget], kernels: str) -> type[AProfileTarget]:
    """Returns the class of a core, which is what a registry entry names."""
    title = " ".join(word.capitalize() for word in name.split("-"))
    title = title.replace("Cortex ", "Cortex-")
    attributes = {
        "__module__": __name__,
        "__doc__": f"{title}: kernels with {kernels}.",
        "name": name,
        "summary": f"{title}: {kernels} kernels",
        "core": CORES[name],
    }
    return type(title.replace("-", "").replace(" ", ""), (level,), attributes)


CortexA53 = _core("cortex-a53", Armv8Target, "NEON")
CortexA72 = _core("cortex-a72", Armv8Target, "NEON")
CortexA55 = _core("cortex-a55", DotprodTarget, "sdot")
CortexA76 = _core("cortex-a76", DotprodTarget, "sdot")
NeoverseN1 = _core("neoverse-n1", DotprodTarget, "sdot")
CortexA510 = _core("cortex-a510", I8mmTarget, "smmla")
CortexA710 = _core("cortex-a710", I8mmTarget, "smmla")
NeoverseN2 = _core("neoverse-n2", I8mmTarget, "smmla")
NeoverseV1 = _core("neoverse-v1", I8mmTarget, "smmla")
NeoverseV2 = _core("neoverse-v2", I8mmTarget, "smmla")
