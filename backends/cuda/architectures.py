"""What is known of the GPUs that programs are compiled for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """One compute capability, described by its largest product.

    Attributes:
        name: as compilers write it.
        capability: major * 10 + minor.
        product: the GPU that the numbers are of.
        multiprocessors: of that GPU.
        shared_bytes: of shared memory that one block may use (CUDA C++ Programming Guide, technical
            specifications per compute capability).
        tops: dense int8 tensor-core peak, 10^12 operations per second (vendor's data sheet).
        gigabytes: memory bandwidth, 10^9 bytes per second (vendor's data sheet).
        instruction: of the integer matrix product in machine code, of tiles of at least 64 pixels.
        evidence: what the default tiles rest on.
    """

    name: str
    capability: int
    product: str
    multiprocessors: int
    shared_bytes: int
    tops: float
    gigabytes: float
    instruction: str
    evidence: str


_MODELLED = "modelled, not measured"
_NOT_YET = "modelled, not yet measured"

ARCHITECTURES = {
    arch.name: arch
    for arch in (
        Architecture(
            "sm_80", 80, "A100 SXM 80 GB", 108, 163 << 10, 624.0, 2039.0, "IMMA", _MODELLED
        ),
        Architecture("sm_86", 86, "RTX A6000", 84, 99 << 10, 309.7, 768.0, "IMMA", _MODELLED),
        Architecture("sm_89", 89, "L40S", 142, 99 << 10, 733.0, 864.0, "IMMA", _MODELLED),
        Architecture("sm_90", 90, "H100 SXM", 132, 227 << 10, 1978.9, 3350.0, "IGMMA", _NOT_YET),
    )
}
