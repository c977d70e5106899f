"""The GPUs of this machine, and whether Triton interprets kernels on the processor instead."""

from __future__ import annotations

import os

import torch

from qcompiler.backends.cuda.architectures import ARCHITECTURES, Architecture
from qcompiler.errors import QCompilerError

_NAMES = ", ".join(f"cuda-{name.replace('_', '')}" for name in ARCHITECTURES)


def interprets() -> bool:
    """Returns whether Triton interprets kernels on the processor (TRITON_INTERPRET=1)."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def require_triton() -> None:
    """Checks that Triton is there.

    Raises:
        QCompilerError: QC0802 when it is not.
    """
    try:
        import triton  # noqa: F401  # to see whether it is there
    except ImportError as error:
        raise QCompilerError(
            "QC0802",
            f"programs for CUDA need Triton, which cannot be imported: {error}",
            remedy="install the extra: pip install 'qcompiler[cuda]'",
        ) from error


def current_device() -> torch.device:
    """Returns the CUDA device that torch uses where none is named.

    Raises:
        QCompilerError: QC0840 when there is none.
    """
    if not torch.cuda.is_available():
        built = torch.version.cuda is not None
        raise QCompilerError(
            "QC0840",
            "this machine has no CUDA device that torch can use"
            + ("" if built else f": torch {torch.__version__} is built without CUDA"),
            remedy="install NVIDIA's driver and a CUDA build of torch; without a device, compile"
            f" for one of {_NAMES}: such programs can be saved and run elsewhere,"
            " and program.reference() computes their results",
        )
    return torch.device("cuda", torch.cuda.current_device())


def capability_of(device: torch.device) -> int:
    """Returns a device's compute capability, major * 10 + minor."""
    major, minor = torch.cuda.get_device_capability(device)
    return major * 10 + minor


def check_device(device: torch.device, architecture: Architecture) -> None:
    """Checks that a device runs programs for an architecture: it is that one or a later one.

    Raises:
        QCompilerError: QC0841 when it is not.
    """
    if capability_of(device) < architecture.capability:
        raise QCompilerError(
            "QC0841",
            f"the program is for {architecture.name}, and {torch.cuda.get_device_name(device)} is"
            f" sm_{capability_of(device)}",
            remedy=f"compile for one of {_NAMES} that the device has, or with target='cuda'",
        )


def architecture_here() -> Architecture:
    """Returns the architecture of the current device, the latest known one that it covers.

    Raises:
        QCompilerError: QC0840 without a device, QC0841 for one that is older than all of them.
    """
    device = current_device()
    capability = capability_of(device)
    covered = [arch for arch in ARCHITECTURES.values() if arch.capability <= capability]
    if not covered:
        raise QCompilerError(
            "QC0841",
            f"{torch.cuda.get_device_name(device)} is sm_{capability}, which has no kernels",
            remedy=f"use a device of one of {', '.join(ARCHITECTURES)} or a later one",
        )
    return max(covered, key=lambda arch: arch.capability)
