"""Packed weights: every width, group and tail comes back bit by bit; wrong bytes are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qcompiler.numerics.bitpack import (
    common_factors,
    pack_bits,
    pack_weight,
    packed_bytes,
    unpack_bits,
    unpack_weight,
)
from qcompiler.numerics.groups import largest_factor, spread_factors

WIDTHS = st.sampled_from([2, 3, 4, 5, 6, 7])


def some_codes(bits: int, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Returns random codes of a width, the extreme ones among them."""
    high = 2 ** (bits - 1) - 1
    source = torch.Generator().manual_seed(seed)
    codes = torch.randint(-high, high + 1, shape, generator=source).to(torch.int8)
    codes.view(-1)[:2] = torch.tensor([-high, high], dtype=torch.int8)[: codes.numel()]
    return codes


@given(WIDTHS, st.integers(1, 7), st.integers(1, 70), st.integers(0, 99))
def test_codes_come_back(bits: int, channels: int, inputs: int, seed: int) -> None:
    codes = some_codes(bits, (channels, inputs), seed)
    packed = pack_weight(codes, bits)
    assert packed is not None
    assert packed.nbytes == packed_bytes((channels, inputs), bits) == -(-codes.numel() * bits // 8)
    assert torch.equal(unpack_weight(packed), codes)


@given(WIDTHS, st.integers(1, 5), st.integers(1, 140), st.integers(2, 70), st.integers(0, 99))
def test_groups_come_back(bits: int, channels: int, inputs: int, group: int, seed: int) -> None:
    codes = some_codes(bits, (channels, inputs), seed)
    source = torch.Generator().manual_seed(seed)
    shape = (channels, -(-inputs // group))
    factors = torch.randint(1, largest_factor(bits) + 1, shape, generator=source)
    weight = (codes * spread_factors(factors, group, inputs)).to(torch.int8)
    packed = pack_weight(weight.view(channels, inputs, 1, 1), bits, group)
    assert packed is not None
    assert packed.nbytes == packed_bytes((channels, inputs, 1, 1), bits, group)
    assert torch.equal(unpack_weight(packed), weight.view(channels, inputs, 1, 1))
    divisor = spread_factors(common_factors(weight, group), group, inputs)
    assert not bool((weight % divisor).any())


def test_more_than_one_block_of_codes() -> None:
    codes = some_codes(3, (5, (1 << 18) + 3), 0)
    assert torch.equal(unpack_bits(pack_bits(codes, 3), 3, codes.numel()), codes.view(-1))


def test_two_codes_of_four_bits_are_the_nibbles_of_a_byte() -> None:
    assert pack_bits(torch.tensor([1, -2, 7], dtype=torch.int8), 4).tolist() == [0xE1, 0x07]


def test_weights_that_do_not_fit_are_not_packed() -> None:
    weight = torch.tensor([[8, 1, 2, 3]], dtype=torch.int8)
    assert pack_weight(weight, 4) is None
    assert pack_weight(weight * 3, 4, 4) is None
    assert pack_weight(weight * 3, 5, 4) is not None
    assert pack_weight(weight[:, :0], 4) is None


def test_wrong_bytes_are_refused() -> None:
    packed = pack_weight(torch.full((2, 5), 6, dtype=torch.int8), 3, 4)
    assert packed is not None
    assert packed.factors is not None
    for wrong in (
        replace(packed, codes=packed.codes[:-1]),
        replace(packed, codes=packed.codes.to(torch.int8)),
        replace(packed, factors=packed.factors[:1]),
        replace(packed, factors=packed.factors + 128),
    ):
        with pytest.raises(ValueError, match=r"belong|leaves"):
            unpack_weight(wrong)
