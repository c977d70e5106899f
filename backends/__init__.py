"""The targets that come with qcompiler, one folder each; imported as ``qcompiler.backends``."""

from __future__ import annotations

if __name__ != "qcompiler.backends":
    _problem = f"import 'qcompiler.backends', not {__name__!r}"
    raise ImportError(_problem)

# Registry group -> name -> "module:attribute", in the form of package entry points.
ENTRY_POINTS: dict[str, dict[str, str]] = {
    "qcompiler.targets": {
        "armv8-a": "qcompiler.backends.arm.target:Armv8Target",
        "armv8.2-a+dotprod": "qcompiler.backends.arm.target:DotprodTarget",
        "armv8.6-a+i8mm": "qcompiler.backends.arm.target:I8mmTarget",
        "armv8-fat": "qcompiler.backends.arm.target:FatTarget",
        "cortex-a53": "qcompiler.backends.arm.cores:CortexA53",
        "cortex-a72": "qcompiler.backends.arm.cores:CortexA72",
        "cortex-a55": "qcompiler.backends.arm.cores:CortexA55",
        "cortex-a76": "qcompiler.backends.arm.cores:CortexA76",
        "neoverse-n1": "qcompiler.backends.arm.cores:NeoverseN1",
        "cortex-a510": "qcompiler.backends.arm.cores:CortexA510",
        "cortex-a710": "qcompiler.backends.arm.cores:CortexA710",
        "neoverse-n2": "qcompiler.backends.arm.cores:NeoverseN2",
        "neoverse-v1": "qcompiler.backends.arm.cores:NeoverseV1",
        "neoverse-v2": "qcompiler.backends.arm.cores:NeoverseV2",
        "cortex-m4": "qcompiler.backends.arm.cortex_m:CortexM4",
        "cortex-m33": "qcompiler.backends.arm.cortex_m:CortexM33",
        "cortex-m55": "qcompiler.backends.arm.cortex_m:CortexM55",
        "cpu": "qcompiler.backends.cpu.target:CpuTarget",
        "cuda": "qcompiler.backends.cuda.target:CudaTarget",
        "cuda-sm80": "qcompiler.backends.cuda.target:Sm80Target",
        "cuda-sm86": "qcompiler.backends.cuda.target:Sm86Target",
        "cuda-sm89": "qcompiler.backends.cuda.target:Sm89Target",
        "cuda-sm90": "qcompiler.backends.cuda.target:Sm90Target",
        "reference": "qcompiler.backends.reference.target:ReferenceTarget",
    },
}
