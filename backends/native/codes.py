"""How int8 codes are kept as bytes, which a target decides, and how kernels are named for it.

The C sources of the kernel library are written once, for ``qc_code`` of either signedness, and
their names say ``u8``. The library of a target with signed codes is the same text with ``s8`` in
the names, compiled with QC_SIGNED_CODES=1: ``kernel_sources`` and ``CodeForm.symbol`` are the only
places that turn one word into the other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

_SYMBOL = re.compile(r"\bqc_\w+")
_WORD = re.compile(r"(?<=_)u8(?=_|$)")


@dataclass(frozen=True)
class CodeForm:
    """How int8 codes are stored.

    Attributes:
        word: the type of a code in the names of kernels.
        c_type: the type of a stored code in C.
        offset: what is stored minus the code.
        weights: forms in which the weights of products are stored for the kernels: ``panels`` of
            four bytes of a column, ``pairs`` of columns with eight bytes of each for smmla,
            ``columns`` with sixteen bytes of each of two for Helium; ``taps`` are depthwise
            weights tap by tap, for microcontrollers.
    """

    word: str
    c_type: str
    offset: int
    weights: tuple[str, ...] = ("panels",)

    @property
    def is_signed(self) -> bool:
        """Whether a code is stored as it is."""
        return self.offset == 0

    def symbol(self, kernel: str) -> str:
        """Returns the name of a kernel whose name says ``u8`` in the sources."""
        return _WORD.sub(self.word, kernel)

    def text(self, source: str) -> str:
        """Returns C text with every kernel named for this form."""
        return _SYMBOL.sub(lambda found: self.symbol(found.group()), source)

    def stored(self, codes: torch.Tensor) -> torch.Tensor:
        """Returns the bytes of int8 codes, in their order, as uint8."""
        return codes.view(torch.uint8) if self.is_signed else codes.view(torch.uint8) ^ 128

    def codes(self, stored: torch.Tensor) -> torch.Tensor:
        """Returns the int8 codes of bytes."""
        return (stored if self.is_signed else stored ^ 128).view(torch.int8)


# code + 128: the unsigned operand of vpdpbusd and vpmaddubsw is the activation.
UNSIGNED = CodeForm("u8", "uint8_t", 128)
# The code itself: sdot, smmla and smlal multiply signed bytes.
SIGNED = CodeForm("s8", "int8_t", 0)
