"""Integer weights at their width: codes of 2 to 7 bits without gaps, and factors of groups.

Codes are a stream of two's complement fields, the first in the lowest bits of the first byte, so
that of two 4-bit codes the first is the low nibble (integer semantics 6). Rows begin at bytes only
where their bits fill them; a last byte that is not full ends with zero bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from qcompiler.numerics.groups import LARGEST, group_count, spread_factors
from qcompiler.numerics.rounding import integer_limits

# Codes that are taken apart into bits at a time, a multiple of 8: the bits take 8 times the bytes.
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Packed:
    """Integer weights [C, ...] as bytes: codes at their width, and factors of groups, if any.

    ``codes`` is uint8 [ceil(N * bits / 8)] and ``factors`` uint8 [C, ceil(K / group)] for K weights
    of a channel; ``group`` is 0 for weights without factors.
    """

    codes: torch.Tensor
    factors: torch.Tensor | None
    bits: int
    group: int
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the codes and the factors."""
        return self.codes.numel() + (0 if self.factors is None else self.factors.numel())


def pack_weight(weight: torch.Tensor, bits: int, group: int = 0) -> Packed | None:
    """Returns integer weights at a width, exactly; None where they do not fit it.

    The factor of a group is the greatest common divisor of its weights, so no factor need be known:
    where the weights are codes of the width times any factor, those divided by the divisor are no
    larger.

    Args:
        weight: int8 weights in [-127, 127], channels first.
        bits: width of the codes, below 8.
        group: number of neighbouring weights of a channel that have a common factor; 0 for none.
    """
    codes, factors = weight.reshape(weight.shape[0], -1), None
    if group:
        factors = common_factors(codes, group)
        codes = codes // spread_factors(factors, group, codes.shape[1]).to(torch.int8)
    low, high = integer_limits(bits, narrow=True)
    if not codes.numel() or not low <= int(codes.min()) <= int(codes.max()) <= high:
        return None
    stored = None if factors is None else factors.to(torch.uint8)
    return Packed(pack_bits(codes, bits), stored, bits, group, tuple(weight.shape))


def unpack_weight(packed: Packed) -> torch.Tensor:
    """Returns the int8 weights that ``pack_weight`` packed.

    Raises:
        ValueError: when lengths do not fit, or a code times its factor leaves int8.
    """
    channels, count = packed.shape[0], torch.Size(packed.shape).numel()
    codes = unpack_bits(packed.codes, packed.bits, count).view(channels, -1)
    if packed.factors is None:
        return codes.view(packed.shape)
    expected = (channels, group_count(codes.shape[1], packed.group))
    if tuple(packed.factors.shape) != expected:
        message = f"{tuple(packed.factors.shape)} factors where {expected} belong"
        raise ValueError(message)
    factors = spread_factors(packed.factors.to(torch.int16), packed.group, codes.shape[1])
    weights = codes * factors
    if int(weights.abs().max()) > LARGEST:
        message = "a weight leaves [-127, 127]"
        raise ValueError(message)
    return weights.to(torch.int8).view(packed.shape)


def packed_bytes(shape: tuple[int, ...], bits: int, group: int = 0) -> int:
    """Returns the bytes of weights of a shape, channels first, without packing them."""
    count = torch.Size(shape).numel()
    inputs = count // shape[0] if shape[0] else 0
    return -(-count * bits // 8) + (shape[0] * group_count(inputs, group) if group else 0)


def common_factors(weight: torch.Tensor, group: int) -> torch.Tensor:
    """Returns the greatest common divisor of each group [C, ceil(K / group)]; 1 for zeros."""
    channels, inputs = weight.shape
    count = group_count(inputs, group)
    padded = torch.nn.functional.pad(weight.to(torch.int16).abs(), (0, count * group - inputs))
    members = padded.view(channels, count, group).unbind(2)
    found = members[0]
    for member in members[1:]:
        found = torch.gcd(found, member)
    return found.clamp(min=1)


def pack_bits(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Returns int8 codes as a stream of fields of some bits, uint8."""
    places = torch.arange(bits, dtype=torch.uint8)
    weights = (1 << torch.arange(8)).to(torch.uint8)
    parts = []
    for block in codes.reshape(-1).split(_BLOCK):
        stream = ((block.view(torch.uint8)[:, None] >> places) & 1).view(-1)
        whole = torch.nn.functional.pad(stream, (0, -stream.numel() % 8)).view(-1, 8)
        parts.append((whole * weights).sum(1, dtype=torch.uint8))
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.uint8)


def unpack_bits(stream: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """Returns ``count`` int8 codes of a stream of fields.

    Raises:
        ValueError: when the stream is not that long.
    """
    if stream.dtype != torch.uint8 or stream.shape != (-(-count * bits // 8),):
        message = f"{tuple(stream.shape)} bytes where {count} codes of {bits} bits belong"
        raise ValueError(message)
    places = torch.arange(8, dtype=torch.uint8)
    weights = (1 << torch.arange(bits)).to(torch.uint8)
    parts = []
    for start in range(0, count, _BLOCK):
        taken = min(_BLOCK, count - start)
        block = stream[start * bits // 8 : -(-(start + taken) * bits // 8)]
        fields = ((block[:, None] >> places) & 1).view(-1)[: taken * bits].view(-1, bits)
        values = (fields * weights).sum(1, dtype=torch.uint8).to(torch.int16)
        sign = 1 << (bits - 1)
        parts.append(((values ^ sign) - sign).to(torch.int8))
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int8)
