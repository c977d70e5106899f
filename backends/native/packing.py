"""Packs weights and epilogue parameters into the blob that a program reads at run time."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from qcompiler.backends.native.codes import UNSIGNED, CodeForm

ALIGNMENT = 64
PANEL = 16
# Bytes of a column that Helium multiplies at a time.
DEPTH_STEP = 16
DEPTHWISE_BLOCK = 64
# What requantizing a panel's columns of a pixel costs beside its dot products, in dot products.
PANEL_COST = 10
# Columns of a panel that share a mark, and the most that a pair of weights may add up to: 128 * 255
# fits 16 bits.
STRIP, PAIR_LIMIT = 8, 128

# How weights are packed: panels of output channels, taps or kernel rows in the place of the depth
# as the kernel wants, or blocks of channels of a depthwise convolution.
Form = Literal["panels", "rows", "windows", "depthwise"]

Int8Array = NDArray[np.int8]
Int32Array = NDArray[np.int32]


class Blob:
    """The constant data of a program: 64-byte aligned arrays, equal ones stored once."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._places: dict[bytes, int] = {}

    def add(self, array: NDArray[np.generic]) -> int:
        """Stores an array and returns its byte offset."""
        content = np.ascontiguousarray(array).tobytes()
        place = self._places.get(content)
        if place is None:
            self._data.extend(bytes(-len(self._data) % ALIGNMENT))
            place = len(self._data)
            self._places[content] = place
            self._data.extend(content)
        return place

    def finish(self) -> bytes:
        """Returns the blob with readable slack after the last array."""
        return bytes(self._data) + bytes(ALIGNMENT)


class Products(NamedTuple):
    """Weights and per-channel parameters of a product in packed form.

    ``pairs`` are the weights for smmla, but for depthwise ones, and ``columns`` those for Helium,
    or depthwise ones for microcontrollers, of signed codes that ask for them.
    ``unsaturated`` is None but for panels; ``scale`` is None where the fp32 round-down path of the
    epilogue would not be exact. Signed codes have neither. ``fits_words`` says whether results fit
    in 16 bits before they are clamped, with any zero point added.
    """

    weight: Int8Array
    pairs: Int8Array | None
    columns: Int8Array | None
    unsaturated: NDArray[np.uint64] | None
    bias: Int32Array
    multiplier: Int32Array | None
    shift: Int32Array | None
    scale: NDArray[np.float32] | None
    fits_words: bool = False


def fold_zero_point(
    weight: Int8Array, bias: Int32Array, x_zero_point: int, offset: int = UNSIGNED.offset
) -> Int32Array:
    """Returns bias' = bias - (z + offset) * sum(w), for activations stored as q + offset (7.3)."""
    sums = weight.reshape(weight.shape[0], -1).astype(np.int64).sum(axis=1)
    folded = bias.astype(np.int64) - (x_zero_point + offset) * sums
    wrapped: Int32Array = folded.astype(np.int32)  # modulo 2**32, as the accumulator
    return wrapped


def accumulator_bound(weight: Int8Array, bias: Int32Array, x_zero_point: int) -> NDArray[np.int64]:
    """Returns a bound of |acc| per output channel over all int8 inputs (7.1)."""
    norms = np.abs(weight.reshape(weight.shape[0], -1).astype(np.int64)).sum(axis=1)
    reach = max(127 - x_zero_point, x_zero_point + 128)
    bound: NDArray[np.int64] = norms * reach + np.abs(bias.astype(np.int64))
    return bound


def round_down_scale(
    multiplier: Int32Array, shift: Int32Array, bound: NDArray[np.int64]
) -> NDArray[np.float32] | None:
    """Returns the fp32 multipliers, or None where the round-down path is not exact (section 4).

    Exact needs, in every channel: m % 128 == 0, M <= 1/2, and M >= 2**-15 or |acc| <= 2**24; and
    that the saturation of the input to s bits shows in no result: m is in normal form, or no input
    saturates.
    """
    m = multiplier.astype(np.int64)
    real = np.ldexp(m.astype(np.float64), -shift.astype(np.int64).astype(np.int32))
    small_enough = (real >= 2.0**-15) | (bound <= 2**24) | (m == 0)
    saturation = np.left_shift(np.int64(1), np.maximum(shift.astype(np.int64) - 1, 0))
    harmless = (m == 0) | (m >= 2**30) | (bound < saturation)
    if not bool(np.all((m % 128 == 0) & (real <= 0.5) & small_enough & harmless)):
        return None
    return real.astype(np.float32)


def vector_shifts(
    multiplier: Int32Array, shift: Int32Array
) -> tuple[Int32Array | None, Int32Array | None]:
    """Returns what SQSHL and SRSHL shift by around SQDMULH, so that this is SR (section 4).

    SQDMULH takes 31 bits of the product off, without rounding; the rest goes with rounding, and is
    at least one bit. The first is None where it is 0 everywhere. Zeros have no need of a shift.
    Both are None where a shift is below 32 and its multiplier not in normal form: what SQSHL
    saturates to is not what the input saturates to, which no clamp needs to hide then.
    """
    s = np.where(multiplier == 0, 32, shift)
    if np.any((multiplier != 0) & (multiplier < 2**30) & (s < 32)):
        return None, None
    left = np.maximum(0, 32 - s).astype(np.int32)
    right = -np.maximum(1, s - 31).astype(np.int32)
    return (left if left.any() else None), right


def without_left_shifts(
    weight: Int8Array,
    bias: Int32Array,
    multiplier: Int32Array,
    shift: Int32Array,
    bound: NDArray[np.int64],
) -> tuple[Int8Array, Int32Array, Int32Array]:
    """Returns weights, biases and shifts of an equal product with fewer shifts below 32.

    SR(x, m, s) = SR(2**d x, m, s + d): where twice the weights are weights, sums may as well be
    twice as large. That is so in channels without weights, which constants are left of, and one
    such channel would cost every sum of its layer a SQSHL.
    """
    left = np.where(multiplier == 0, 0, np.maximum(0, 32 - shift.astype(np.int64)))
    largest = np.abs(weight.reshape(weight.shape[0], -1).astype(np.int64)).max(axis=1, initial=0)
    fits = ((largest << left) <= 127) & (bound < 2**31 >> left)
    left = np.where(fits, left, 0)
    factor = (np.int64(1) << left).reshape(-1, *[1] * (weight.ndim - 1))
    scaled = (weight.astype(np.int64) * factor).astype(np.int8)
    shifted = (bias.astype(np.int64) << left).astype(np.int32)
    return scaled, shifted, (shift + left).astype(np.int32)


def fits_words(multiplier: Int32Array, shift: Int32Array, bound: NDArray[np.int64]) -> bool:
    """Returns whether rescaled sums fit in 16 bits, a zero point of a code added or not."""
    exponent = -shift.astype(np.int64).astype(np.int32)
    results = bound * np.ldexp(np.abs(multiplier.astype(np.float64)), exponent)
    # 1 for the rounding, 128 for the zero point; sums that wrap around are not bounded
    return bool(np.all((results + 129 < 2**15) & (bound < 2**31)))


def _per_channel(values: torch.Tensor, channels: int) -> Int32Array:
    array: Int32Array = np.broadcast_to(values.numpy().reshape(-1), (channels,)).astype(np.int32)
    return array


def _pad_groups(values: NDArray[np.generic], groups: int, unit: int) -> NDArray[np.generic]:
    """Pads each group's channels with zeros to a multiple of ``unit``."""
    grouped = values.reshape(groups, -1)
    return np.pad(grouped, ((0, 0), (0, -grouped.shape[1] % unit))).reshape(-1)


def pack_panels(weight: Int8Array, groups: int) -> Int8Array:
    """Packs [Cout, Cin/g, kh, kw] as [g][Cout/g/16][kh*kw][Cin/g/4][16][4], padded with zeros."""
    out_channels, depth = weight.shape[:2]
    taps = int(np.prod(weight.shape[2:], dtype=np.int64))
    per_group = out_channels // groups
    grouped = weight.reshape(groups, per_group, depth, taps).transpose(0, 1, 3, 2)
    padded = np.pad(grouped, ((0, 0), (0, -per_group % PANEL), (0, 0), (0, -depth % 4)))
    panels, quads = padded.shape[1] // PANEL, padded.shape[3] // 4
    split = padded.reshape(groups, panels, PANEL, taps, quads, 4)
    return np.ascontiguousarray(split.transpose(0, 1, 3, 4, 2, 5))


def pack_pairs(panels: Int8Array) -> Int8Array:
    """Packs panels as [g][Cout/g/16][taps][Cin/g/8][8 pairs][2 columns][8], for smmla.

    Args:
        panels: as ``pack_panels`` returns them.
    """
    groups, count, taps, quads = panels.shape[:4]
    padded = np.pad(panels, ((0, 0), (0, 0), (0, 0), (0, quads % 2), (0, 0), (0, 0)))
    split = padded.reshape(groups, count, taps, -1, 2, PANEL // 2, 2, 4)
    # half of the depth, pair, column, byte -> pair, column, half, byte
    return np.ascontiguousarray(split.transpose(0, 1, 2, 3, 5, 6, 4, 7))


def pack_columns(panels: Int8Array) -> Int8Array:
    """Packs panels as [g][Cout/g/16][taps][8 pairs of columns][...], for Helium.

    A pair is [depth/16][2 columns][16], then the rest of the depth of either column, [2][rest].

    Args:
        panels: as ``pack_panels`` returns them.
    """
    groups, count, taps, quads = panels.shape[:4]
    pairs = (groups, count, taps, PANEL // 2)
    depth = panels.transpose(0, 1, 2, 4, 3, 5).reshape(*pairs, 2, quads * 4)
    whole = quads * 4 // DEPTH_STEP * DEPTH_STEP
    steps = depth[..., :whole].reshape(*pairs, 2, -1, DEPTH_STEP).swapaxes(4, 5)
    parts = [steps.reshape(*pairs, 2 * whole), depth[..., whole:].reshape(*pairs, -1)]
    return np.concatenate(parts, axis=-1)


def unsaturated_groups(panels: Int8Array) -> NDArray[np.uint64]:
    """Marks the groups of four whose pairs of products cannot saturate int16 (7.4).

    A bit for each group along the depth, per strip of 8 columns of a panel, in words of 64 bits:
    a pair of weights saturates against u8 iff their signs agree and their magnitudes add up to
    more than 128.

    Args:
        panels: as ``pack_panels`` returns them.
    """
    steps = panels.shape[2] * panels.shape[3]
    pairs = panels.reshape(panels.shape[0] * panels.shape[1], steps, 2, STRIP * 2, 2)
    first, second = pairs[..., 0].astype(np.int16), pairs[..., 1].astype(np.int16)
    fits = np.maximum(first, 0) + np.maximum(second, 0) <= PAIR_LIMIT
    fits &= np.minimum(first, 0) + np.minimum(second, 0) >= -PAIR_LIMIT
    strips = fits.all(axis=3).transpose(0, 2, 1)
    padded = np.pad(strips, ((0, 0), (0, 0), (0, -steps % 64)))
    packed = np.packbits(padded, axis=2, bitorder="little")
    return np.ascontiguousarray(packed).view(np.uint64)


def window_as_channels(weight: Int8Array) -> Int8Array:
    """Returns [Cout, Cin, kh, kw] as [Cout, kh * kw * Cin, 1, 1]: windows gathered first."""
    return weight.transpose(0, 2, 3, 1).reshape(weight.shape[0], -1, 1, 1)


def rows_as_channels(weight: Int8Array) -> Int8Array:
    """Returns [Cout, Cin, kh, kw] as [Cout, kw * Cin, kh, 1]: pixels that lie side by side."""
    out_channels, depth, kh, kw = weight.shape
    return weight.transpose(0, 3, 1, 2).reshape(out_channels, kw * depth, kh, 1)


def padded_sums(weight: Int8Array, pad_value: int) -> Int32Array:
    """Returns [kh, Cout]: what a kernel row over nothing but padding adds to each sum.

    Channels are padded with zeros to whole panels; ``pad_value`` is a byte of storage.
    """
    sums = weight.astype(np.int64).sum(axis=(1, 3)).T * pad_value
    padded: Int32Array = np.pad(sums, ((0, 0), (0, -weight.shape[0] % PANEL))).astype(np.int32)
    return padded


def groups_to_merge(weight: Sequence[int], groups: int) -> int:
    """Returns how many neighbouring groups of a convolution fill a panel at the least cost.

    The cost is that of a pixel: dot products, and what a panel costs besides them.

    Args:
        weight: the shape [Cout, Cin / groups, kh, kw].
        groups: number of groups.
    """
    per_group, depth, taps = weight[0] // groups, weight[1], prod(weight[2:])

    def cost(merged: int) -> int:
        panels = groups // merged * -(-merged * per_group // PANEL)
        return panels * (taps * -(-merged * depth // 4) + PANEL_COST)

    most = max(PANEL // max(per_group, 1), 1)
    return min((m for m in range(1, most + 1) if groups % m == 0), key=cost)


def merge_groups(weight: torch.Tensor, groups: int) -> tuple[torch.Tensor, int]:
    """Returns the weights and the number of groups of an equal convolution with merged groups.

    Weights are zero between the channels of different ones, so that a panel has more columns in
    use where groups are small.
    """
    merged = groups_to_merge(weight.shape, groups)
    if merged == 1:
        return weight, groups
    per_group, (depth, *kernel) = weight.shape[0] // groups, weight.shape[1:]
    split = weight.reshape(groups // merged, merged, per_group, depth, *kernel)
    wide = weight.new_zeros((groups // merged, merged, per_group, merged, depth, *kernel))
    for i in range(merged):
        wide[:, i, :, i] = split[:, i]
    return wide.reshape(weight.shape[0], merged * depth, *kernel), groups // merged


def pack_depthwise(weight: Int8Array) -> Int8Array:
    """Packs [C, 1, kh, kw] as [C/64][kh/4][kw][part][lane][4 channels][4 rows].

    Channel 16 * lane + 4 * part + i of a block stands where byte and word interleaving of four
    rows puts it, so that the kernel needs no further shuffles.
    """
    channels, _, kh, kw = weight.shape
    padding = ((0, -channels % DEPTHWISE_BLOCK), (0, -kh % 4), (0, 0))
    padded = np.pad(weight.reshape(channels, kh, kw), padding)
    split = padded.reshape(-1, 4, 4, 4, padded.shape[1] // 4, 4, kw)
    # block, lane, part, i, group, row, kx -> block, group, kx, part, lane, i, row
    return np.ascontiguousarray(split.transpose(0, 4, 6, 2, 1, 3, 5))


def pack_depthwise_taps(weight: Int8Array) -> Int8Array:
    """Packs [C, 1, kh, kw] as [C/64][kh][kw/4][part][lane][4 channels][4 taps], for signed codes.

    Channels stand as ``pack_depthwise`` has them.
    """
    channels, _, kh, kw = weight.shape
    padding = ((0, -channels % DEPTHWISE_BLOCK), (0, 0), (0, -kw % 4))
    padded = np.pad(weight.reshape(channels, kh, kw), padding)
    split = padded.reshape(-1, 4, 4, 4, kh, padded.shape[2] // 4, 4)
    # block, lane, part, i, ky, group, tap -> block, ky, group, part, lane, i, tap
    return np.ascontiguousarray(split.transpose(0, 4, 5, 2, 1, 3, 6))


def pack_taps(weight: Int8Array) -> Int8Array:
    """Packs [C, 1, kh, kw] as [kh][kw][C], channels padded with zeros to whole panels."""
    padded = np.pad(weight[:, 0], ((0, -weight.shape[0] % PANEL), (0, 0), (0, 0)))
    return np.ascontiguousarray(padded.transpose(1, 2, 0))


def pack_products(
    weight: torch.Tensor,
    bias: torch.Tensor,
    requant: tuple[torch.Tensor, torch.Tensor] | None,
    x_zero_point: int,
    groups: int,
    form: Form,
    codes: CodeForm = UNSIGNED,
) -> Products:
    """Packs the constants of a convolution or linear layer (a 1x1 convolution)."""
    w, b = weight.numpy(), bias.numpy()
    channels = w.shape[0]
    unit_groups, unit = (1, DEPTHWISE_BLOCK) if form == "depthwise" else (groups, PANEL)

    def pad(values: NDArray[np.generic]) -> NDArray[np.generic]:
        return _pad_groups(values, unit_groups, unit)

    if requant is not None:
        m, s = (_per_channel(v, channels) for v in requant)
        if codes.is_signed:
            w, b, s = without_left_shifts(w, b, m, s, accumulator_bound(w, b, x_zero_point))
    unsaturated = pairs = columns = None
    if form == "depthwise":
        packed = pack_depthwise_taps(w) if codes.is_signed else pack_depthwise(w)
        columns = pack_taps(w) if "taps" in codes.weights else None
    else:
        arrange = {"rows": rows_as_channels, "windows": window_as_channels}.get(form)
        packed = pack_panels(arrange(w) if arrange else w, groups)
        unsaturated = None if codes.is_signed else unsaturated_groups(packed)
        pairs = pack_pairs(packed) if "pairs" in codes.weights else None
        columns = pack_columns(packed) if "columns" in codes.weights else None
    folded = pad(fold_zero_point(w, b, x_zero_point, codes.offset)).astype(np.int32)
    if requant is None:
        return Products(packed, pairs, columns, unsaturated, folded, None, None, None)
    bound = accumulator_bound(w, b, x_zero_point)
    scale = None if codes.is_signed else round_down_scale(m, s, bound)
    shifts = np.where(pad(s) == 0, 2, pad(s)).astype(np.int32)
    padded_scale = None if scale is None else pad(scale).astype(np.float32)
    multipliers, words = pad(m).astype(np.int32), fits_words(m, s, bound)
    arrays = (packed, pairs, columns, unsaturated, folded, multipliers, shifts, padded_scale)
    return Products(*arrays, words)
