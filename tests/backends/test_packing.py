"""Packing: folding of zero points, panels, and the precondition of the fp32 epilogue."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qcompiler.backends.native.packing import (
    Blob,
    accumulator_bound,
    fold_zero_point,
    merge_groups,
    pack_columns,
    pack_depthwise,
    pack_panels,
    pack_taps,
    round_down_scale,
    unsaturated_groups,
)


def test_folded_bias_gives_the_accumulator_on_stored_bytes() -> None:
    random = np.random.default_rng(0)
    weight = random.integers(-127, 128, (5, 33), dtype=np.int8)
    bias = random.integers(-(2**20), 2**20, 5, dtype=np.int32)
    codes = random.integers(-128, 128, 33, dtype=np.int64)
    for zero_point in (-128, -1, 0, 127):
        folded = fold_zero_point(weight, bias, zero_point)
        wanted = bias + weight.astype(np.int64) @ (codes - zero_point)
        assert np.array_equal(folded + weight.astype(np.int64) @ (codes + 128), wanted)
        assert np.all(np.abs(wanted) <= accumulator_bound(weight, bias, zero_point))


def test_panels_hold_each_weight_once_and_zeros_elsewhere() -> None:
    weight = np.arange(1, 1 + 2 * 3 * 5 * 2 * 1, dtype=np.int8).reshape(6, 5, 2, 1)
    packed = pack_panels(weight, groups=2)
    assert packed.shape == (2, 1, 2, 2, 16, 4)
    for channel in range(6):
        group, n = divmod(channel, 3)
        for depth in range(5):
            found = packed[group, 0, :, depth // 4, n, depth % 4]
            assert np.array_equal(found, weight[channel, depth, :, 0])
    assert np.count_nonzero(packed) == weight.size


def test_taps_of_microcontrollers_are_whole_panels_of_channels() -> None:
    weight = np.arange(20 * 6, dtype=np.int8).reshape(20, 1, 3, 2)
    packed = pack_taps(weight)
    assert packed.shape == (3, 2, 32)
    assert np.array_equal(packed[..., :20], weight[:, 0].transpose(1, 2, 0))
    assert not packed[..., 20:].any()


@pytest.mark.parametrize("depth", [3, 16, 21, 40])
def test_columns_are_panels_in_the_order_of_helium(depth: int) -> None:
    weight = np.random.default_rng(depth).integers(-127, 128, (36, depth, 2, 1), dtype=np.int8)
    panels = pack_panels(weight, groups=2)
    packed = pack_columns(panels)
    whole, rest = depth // 16 * 16, -(-depth // 4) * 4 - depth // 16 * 16
    assert packed.size == panels.size
    for channel, k in ((0, 0), (17, depth - 1), (20, depth // 2), (35, whole - 1), (35, whole)):
        if not 0 <= k < depth:
            continue
        group, n = divmod(channel, 18)
        pair = packed[group, n // 16, :, n % 16 // 2]
        at = k // 16 * 32 + n % 2 * 16 + k % 16
        if k >= whole:
            at = 2 * whole + n % 2 * rest + k - whole
        assert np.array_equal(pair[:, at], weight[channel, k, :, 0])


@pytest.mark.parametrize(
    ("groups", "depth", "per_group", "kernel", "expected"),
    [
        (32, 4, 4, 3, 8),  # four groups fill a panel
        (32, 8, 8, 3, 16),
        (32, 16, 16, 3, 32),
        (7, 1, 1, 3, 1),
        (64, 1, 1, 3, 4),
        (6, 20, 12, 3, 6),  # a second group needs a second panel
        (5, 8, 4, 1, 5),  # no number of groups divides
        (1, 3, 5, 1, 1),
    ],
)
def test_merged_groups_are_an_equal_convolution(
    groups: int, depth: int, per_group: int, kernel: int, expected: int
) -> None:
    random = torch.Generator().manual_seed(groups)
    shape = (groups * per_group, depth, kernel, kernel)
    weight = torch.randint(-127, 128, shape, generator=random).to(torch.int8)
    x = torch.randint(-9, 10, (1, groups * depth, 4, 5), generator=random).float()
    merged, count = merge_groups(weight, groups)
    assert count == expected
    want = torch.nn.functional.conv2d(x, weight.float(), groups=groups)
    assert torch.equal(torch.nn.functional.conv2d(x, merged.float(), groups=count), want)


def test_groups_are_marked_where_no_pair_of_products_saturates() -> None:
    """The mark equals the extreme pair sums of the products with bytes, over 70 groups of 4."""
    random = np.random.default_rng(2)
    weight = random.integers(-70, 71, (19, 280, 1, 1), dtype=np.int8)
    weight[3, 1], weight[3, 4:6, 0, 0] = 127, (64, 64)
    weight[4, 8:10, 0, 0], weight[5, 10:12, 0, 0] = (-64, -64), (-127, 127)
    panels = pack_panels(weight, groups=1)
    pairs = panels.reshape(2, 70, 2, 8, 2, 2).astype(np.int64)
    above = np.maximum(pairs, 0).sum(5) * 255 <= 2**15 - 1
    below = np.minimum(pairs, 0).sum(5) * 255 >= -(2**15)
    wanted = (above & below).all(axis=(3, 4))  # panel, group, strip
    words = unsaturated_groups(panels)
    assert words.shape == (2, 2, 2)
    assert 0 < wanted.sum() < wanted.size
    for group in range(128):
        marks = words[:, :, group // 64] >> np.uint64(group % 64) & np.uint64(1)
        assert np.array_equal(marks != 0, wanted[:, group] if group < 70 else np.zeros((2, 2)))


def test_depthwise_blocks_follow_the_byte_interleaving() -> None:
    random = np.random.default_rng(1)
    weight = random.integers(1, 128, (70, 1, 5, 3), dtype=np.int8)
    packed = pack_depthwise(weight)
    assert packed.shape == (2, 2, 3, 4, 4, 4, 4)
    for channel in (0, 5, 17, 63, 64, 69):
        block, rest = divmod(channel, 64)
        lane, part, i = rest // 16, rest % 16 // 4, rest % 4
        columns = packed[block, :, :, part, lane, i, :].transpose(0, 2, 1).reshape(8, 3)
        assert np.array_equal(columns[:5], weight[channel, 0])
    assert np.count_nonzero(packed) == weight.size


@pytest.mark.parametrize(
    ("multiplier", "shift", "bound", "exact"),
    [
        (2**30, 31, 2**31, True),  # M = 1/2
        (2**30 + 128, 31, 100, False),  # M > 1/2
        (2**30 + 1, 40, 100, False),  # more than 24 bits
        (2**30, 45, 2**31, True),  # M = 2**-15
        (2**30, 46, 2**24, True),  # small M, small accumulator
        (2**30, 46, 2**24 + 1, False),
        (0, 50, 2**31, True),  # a dead channel
    ],
)
def test_the_round_down_path_is_taken_where_it_is_exact(
    multiplier: int, shift: int, bound: int, exact: bool
) -> None:
    arrays = np.array([multiplier], np.int32), np.array([shift], np.int32)
    scale = round_down_scale(*arrays, np.array([bound], np.int64))
    assert (scale is not None) == exact
    if scale is not None:
        assert float(scale[0]) == multiplier * 2.0**-shift


def test_equal_constants_are_stored_once_and_aligned() -> None:
    blob = Blob()
    first = blob.add(np.arange(5, dtype=np.int8))
    second = blob.add(np.arange(7, dtype=np.int8))
    assert blob.add(np.arange(5, dtype=np.int8)) == first
    assert first % 64 == 0
    assert second % 64 == 0
    assert second > first
