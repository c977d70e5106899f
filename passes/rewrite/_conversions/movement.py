"""Conversions of operators that move elements without computing."""

from __future__ import annotations

from typing import Any

from torch import fx

from qcompiler.ir.annotations import type_of
from qcompiler.ir.types import Dim
from qcompiler.rewrite.conversion import ConversionTable, Converted, Site, refuse

TABLE = ConversionTable()

_END = 2**31 - 1


def _first(site: Site) -> fx.Node:
    return site.floating(site.node.all_input_nodes[0])


@TABLE.add(
    "aten.view.default",
    "aten._unsafe_view.default",
    "aten.reshape.default",
    "aten.flatten.using_ints",
    "aten.unflatten.int",
    "aten.squeeze.default",
    "aten.squeeze.dim",
    "aten.squeeze.dims",
    "aten.unsqueeze.default",
)
def reshape(site: Site) -> Converted:
    """Converts every change of shape by the recorded type of the result."""
    return site.reshape(_first(site), site.result.shape)


@TABLE.add("aten.permute.default")
def permute(site: Site) -> Converted:
    """Converts a permutation."""
    x = _first(site)
    rank = type_of(x).rank
    return site.permute(x, [site.dim(d, rank) for d in site.arg("dims")])


def _swap(site: Site, first: int, second: int) -> Converted:
    x = _first(site)
    rank = type_of(x).rank
    dims = list(range(rank))
    a, b = site.dim(first, rank), site.dim(second, rank)
    if rank:
        dims[a], dims[b] = dims[b], dims[a]
    return site.permute(x, dims)


@TABLE.add("aten.transpose.int", "aten.swapaxes.default", "aten.swapdims.default")
def transpose(site: Site) -> Converted:
    """Converts the exchange of two dimensions."""
    names = ("dim0", "dim1") if "transpose" in str(site.node.target) else ("axis0", "axis1")
    names = ("dim0", "dim1") if "swapdims" in str(site.node.target) else names
    return _swap(site, site.arg(names[0]), site.arg(names[1]))


@TABLE.add("aten.t.default", "aten.numpy_T.default", "aten.mT.default")
def t(site: Site) -> Converted:
    """Converts transposition."""
    rank = type_of(_first(site)).rank
    if "numpy_T" in str(site.node.target):
        return site.permute(_first(site), list(reversed(range(rank))))
    return _swap(site, rank - 2, rank - 1) if rank > 1 else _first(site)


@TABLE.add("aten.movedim.int", "aten.movedim.intlist")
def movedim(site: Site) -> Converted:
    """Converts the move of dimensions to other places."""
    x = _first(site)
    rank = type_of(x).rank
    lists = []
    for name in ("source", "destination"):
        given = site.arg(name)
        lists.append([site.dim(d, rank) for d in ([given] if isinstance(given, int) else given)])
    source, destination = lists
    order = [d for d in range(rank) if d not in source]
    for place, moved in sorted(zip(destination, source, strict=True)):
        order.insert(place, moved)
    return site.permute(x, order)


def _bounds(size: Dim, start: Any, end: Any) -> tuple[int, int]:
    """Returns the start and end of a slice, counted from the front where the size is known."""
    start = 0 if start is None else start
    end = _END if end is None else end
    if not isinstance(start, int) or not isinstance(end, int):
        refuse("its bounds depend on a dynamic dimension")
    if isinstance(size, int):
        start, end, _ = slice(start, end).indices(size)
        return start, end
    if start < 0 or end < 0:
        refuse("its bounds are counted from the end of a dynamic dimension")
    return start, min(end, _END)


@TABLE.add("aten.slice.Tensor")
def slice_tensor(site: Site) -> Converted:
    """Converts a slice."""
    x = _first(site)
    dim = site.dim(site.arg("dim"), type_of(x).rank)
    start, end = _bounds(type_of(x).shape[dim], site.arg("start"), site.arg("end"))
    return site.slice(x, dim, start, end, int(site.arg("step")))


@TABLE.add("aten.narrow.default")
def narrow(site: Site) -> Converted:
    """Converts a slice given by start and length."""
    x, start, length = _first(site), site.arg("start"), site.arg("length")
    dim = site.dim(site.arg("dim"), type_of(x).rank)
    if not isinstance(start, int) or not isinstance(length, int):
        refuse("its bounds depend on a dynamic dimension")
    begin, _ = _bounds(type_of(x).shape[dim], start, None)
    return site.slice(x, dim, begin, begin + length)


def _pick(site: Site, x: fx.Node, dim: int, index: int) -> fx.Node:
    shape = type_of(x).shape
    part = site.slice(x, dim, index, index + 1)
    return site.reshape(part, (*shape[:dim], *shape[dim + 1 :]))


@TABLE.add("aten.select.int")
def select(site: Site) -> Converted:
    """Converts the choice of one index."""
    x, index = _first(site), site.arg("index")
    dim = site.dim(site.arg("dim"), type_of(x).rank)
    size = type_of(x).shape[dim]
    if not isinstance(index, int) or (index < 0 and not isinstance(size, int)):
        refuse("its index depends on a dynamic dimension")
    return _pick(site, x, dim, index % size if isinstance(size, int) else index)


@TABLE.add("aten.unbind.int")
def unbind(site: Site) -> Converted:
    """Converts the split into single indices."""
    x = _first(site)
    dim = site.dim(site.arg("dim"), type_of(x).rank)
    return [_pick(site, x, dim, index) for index in range(_known(x, dim))]


def _known(x: fx.Node, dim: int) -> int:
    size = type_of(x).shape[dim]
    if not isinstance(size, int):
        refuse("it splits a dynamic dimension")
    return size


def _parts(site: Site, x: fx.Node, dim: int, sizes: list[int]) -> list[fx.Node]:
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [site.slice(x, dim, e - s, e) for s, e in zip(sizes, ends, strict=True)]


@TABLE.add(
    "aten.split.Tensor",
    "aten.split.sizes",
    "aten.split_with_sizes.default",
    "aten.chunk.default",
    "aten.unsafe_split.Tensor",
    "aten.unsafe_chunk.default",
    "aten.tensor_split.sections",
)
def split(site: Site) -> Converted:
    """Converts the split of a dimension into slices."""
    x = _first(site)
    dim = site.dim(site.arg("dim"), type_of(x).rank)
    size, name = _known(x, dim), str(site.node.target)
    if "sections" in name:
        count = int(site.arg("sections"))
        small, larger = divmod(size, count)
        return _parts(site, x, dim, [small + (i < larger) for i in range(count)])
    if "chunk" in name:
        part = -(-size // int(site.arg("chunks")))
    elif "sizes" in name:
        given = site.arg("split_size" if "split.sizes" in name else "split_sizes")
        return _parts(site, x, dim, [int(s) for s in given])
    else:
        part = int(site.arg("split_size"))
    return _parts(site, x, dim, [min(part, size - at) for at in range(0, size, part)])


@TABLE.add("aten.cat.default", "aten.concat.default", "aten.concatenate.default")
def concat(site: Site) -> Converted:
    """Converts concatenation."""
    xs = [site.floating(x) for x in site.arg("tensors")]
    if len(xs) == 1:
        return xs[0]
    return site.emit("qcompiler::concat", xs, site.dim(site.arg("dim"), site.result.rank))


@TABLE.add("aten.stack.default", "aten.hstack.default", "aten.vstack.default")
def stack(site: Site) -> Converted:
    """Converts stacking to concatenation along a new dimension."""
    xs = [site.floating(x) for x in site.arg("tensors")]
    name, rank = str(site.node.target), type_of(xs[0]).rank
    if "hstack" in name or "vstack" in name:
        if rank < 2:
            refuse("it stacks vectors")
        dim = 1 if "hstack" in name else 0
    else:
        dim = site.dim(site.arg("dim"), site.result.rank)
        shape = type_of(xs[0]).shape
        xs = [site.reshape(x, (*shape[:dim], 1, *shape[dim:])) for x in xs]
    return xs[0] if len(xs) == 1 else site.emit("qcompiler::concat", xs, dim)


def _expand(site: Site, x: fx.Node, shape: tuple[Dim, ...]) -> Converted:
    """Emits the repetition of dimensions of size 1 up to a shape; new ones come in front."""
    old = type_of(x).shape
    x = site.reshape(x, (*(1 for _ in shape[len(old) :]), *old))
    spec = []
    for have, want in zip(type_of(x).shape, shape, strict=True):
        if have == want:
            spec.append(-1)
        elif isinstance(want, int):
            spec.append(want)
        else:
            refuse("it repeats a value as often as a dynamic dimension says")
    return x if set(spec) <= {-1} else site.emit("qcompiler::expand", x, spec)


@TABLE.add("aten.expand.default", "aten.expand_as.default", "aten.broadcast_to.default")
def expand(site: Site) -> Converted:
    """Converts the repetition of dimensions of size 1."""
    return _expand(site, _first(site), site.result.shape)


@TABLE.add("aten.repeat.default", "aten.tile.default")
def repeat(site: Site) -> Converted:
    """Converts repetition: of size 1 to expand, of others to concatenation with itself."""
    x, shape = _first(site), site.result.shape
    old = type_of(x).shape
    x = site.reshape(x, (*(1 for _ in shape[len(old) :]), *old))
    for dim, (have, want) in enumerate(zip(type_of(x).shape, shape, strict=True)):
        if have not in (want, 1):
            times = want / have
            if not isinstance(have, int) or not isinstance(want, int):
                refuse("it repeats a dynamic dimension")
            x = site.emit("qcompiler::concat", [x] * int(times), dim)
    return _expand(site, x, shape)


@TABLE.add("aten.pad.default", "aten.constant_pad_nd.default")
def pad(site: Site) -> Converted:
    """Converts padding with a constant; negative padding is a slice."""
    is_general = "aten.pad" in str(site.node.target)
    if is_general and site.arg("mode") != "constant":
        refuse(f"it pads in the mode {site.arg('mode')!r}")
    x, rank = _first(site), site.result.rank
    padding = site.ints("pad", 1)
    for place in range(0, len(padding), 2):
        before, after = padding[place : place + 2]
        if before < 0 or after < 0:
            dim = rank - 1 - place // 2
            size = _known(x, dim)
            x = site.slice(x, dim, max(0, -before), size + min(0, after))
            padding[place : place + 2] = [max(before, 0), max(after, 0)]
    value = site.number(site.arg("value")) if site.arg("value") is not None else 0.0
    if not any(padding):
        return x
    return site.emit("qcompiler::pad", x, padding, value)


@TABLE.add("aten.pixel_shuffle.default", "aten.pixel_unshuffle.default")
def pixel_shuffle(site: Site) -> Converted:
    """Converts the exchange of channels and pixels."""
    x, unshuffle = _first(site), "unshuffle" in str(site.node.target)
    if type_of(x).rank != 4:
        refuse("its input has no batch dimension")
    n, c, h, w = type_of(x).shape
    r = int(site.arg("downscale_factor" if unshuffle else "upscale_factor"))
    if not isinstance(h, int) or not isinstance(w, int) or not isinstance(c, int):
        refuse("its image has a dynamic size")
    if unshuffle:
        parts = site.reshape(x, (n, c, h // r, r, w // r, r))
        return site.reshape(site.permute(parts, [0, 1, 3, 5, 2, 4]), site.result.shape)
    parts = site.reshape(x, (n, c // (r * r), r, r, h, w))
    return site.reshape(site.permute(parts, [0, 1, 4, 2, 5, 3]), site.result.shape)


@TABLE.add("aten.channel_shuffle.default", "aten.native_channel_shuffle.default")
def channel_shuffle(site: Site) -> Converted:
    """Converts the exchange of channels between groups."""
    x, groups = _first(site), int(site.arg("groups"))
    n, c, *rest = type_of(x).shape
    if not isinstance(c, int):
        refuse("its channels are a dynamic dimension")
    parts = site.reshape(x, (n, groups, c // groups, *rest))
    order = [0, 2, 1, *range(3, 3 + len(rest))]
    return site.reshape(site.permute(parts, order), site.result.shape)
