"""Weights of a graph at their width: what an artifact stores of them, and how they come back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import fx

from qcompiler.ir.annotations import quant_of, type_of
from qcompiler.ir.graph import QGraph
from qcompiler.numerics.bitpack import Packed, pack_weight, unpack_weight

# Behind the name of a weight: the name of the factors of its groups.
_FACTORS = ":factors"


class Narrow(NamedTuple):
    """A weight of less than 8 bits: its constant, the width of its codes, the size of groups."""

    node: fx.Node
    bits: int
    group: int


def narrow_weights(graph: QGraph) -> Iterator[Narrow]:
    """Yields the constants that hold integer weights of less than 8 bits, each once."""
    seen = set()
    for node in graph.nodes:
        qtype = quant_of(node).qtype if node.op == "get_attr" else None
        if qtype is None or type_of(node).dtype != torch.int8 or node.target in seen:
            continue
        if qtype.bits < 8 and qtype.narrow and qtype.granularity.axis == 0:
            seen.add(node.target)
            yield Narrow(node, qtype.bits, qtype.granularity.group or 0)


def packed_weight(graph: QGraph, weight: Narrow) -> Packed | None:
    """Returns a weight at its width, None where a pass left codes that do not fit it."""
    return pack_weight(graph.constant(weight.node), weight.bits, weight.group)


def has_packed_weights(graph: QGraph) -> bool:
    """Says whether an artifact stores weights of the graph at less than 8 bits."""
    return any(packed_weight(graph, weight) is not None for weight in narrow_weights(graph))


def stored_bytes(graph: QGraph) -> dict[str, int]:
    """Returns the bytes that an artifact stores of each narrow weight, by its constant's node."""
    found = {}
    for weight in narrow_weights(graph):
        packed = packed_weight(graph, weight)
        held = graph.constant(weight.node).numel() if packed is None else packed.nbytes
        found[str(weight.node.target)] = held
    return found


def pack_constants(
    graph: QGraph, constants: Mapping[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], bytes | None]:
    """Returns constants with narrow weights packed, and what says how; None when none are."""
    held, forms = dict(constants), {}
    for weight in narrow_weights(graph):
        packed, name = packed_weight(graph, weight), str(weight.node.target)
        if packed is None:
            continue
        held[name] = packed.codes
        if packed.factors is not None:
            held[name + _FACTORS] = packed.factors
        forms[name] = {"bits": packed.bits, "group": packed.group, "shape": list(packed.shape)}
    if not forms:
        return held, None
    return held, json.dumps(forms, sort_keys=True, indent=1).encode()


def unpack_constants(held: Mapping[str, torch.Tensor], forms: bytes) -> dict[str, torch.Tensor]:
    """Returns the constants that ``pack_constants`` packed.

    Raises:
        ValueError: when forms and tensors do not fit each other.
    """
    found, stated = dict(held), json.loads(forms)
    if not isinstance(stated, dict):
        message = "the forms of packed weights are no object"
        raise ValueError(message)
    for name, form in stated.items():
        try:
            bits, group, shape = int(form["bits"]), int(form["group"]), tuple(form["shape"])
            codes, factors = found.pop(name), found.pop(name + _FACTORS) if group else None
        except (KeyError, TypeError) as error:
            message = f"the packed weight {name} lacks {error}"
            raise ValueError(message) from error
        if not (2 <= bits < 8 and group >= 0 and shape and all(_is_size(s) for s in shape)):
            message = f"the packed weight {name} has the form {form}"
            raise ValueError(message)
        found[name] = unpack_weight(Packed(codes, factors, bits, group, shape))
    return found


def _is_size(value: object) -> bool:
    return type(value) is int and value > 0
