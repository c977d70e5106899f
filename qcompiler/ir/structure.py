"""The nesting of a program's results, as JSON: what the user's model returns, tensor by tensor.

A structure is an int (the index of a result) or a mapping with one key: ``tuple`` or ``list`` with
the structures of the items, ``dict`` with pairs of key and structure, ``value`` with a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Structure = int | dict[str, Any]


def describe(value: object, leaf: Callable[[object], Structure]) -> Structure:
    """Returns the structure of nested tuples, lists and mappings; ``leaf`` describes the rest."""
    if isinstance(value, Mapping):
        return {"dict": [[key, describe(item, leaf)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [describe(item, leaf) for item in value]}
    if isinstance(value, list):
        return {"list": [describe(item, leaf) for item in value]}
    return leaf(value)


def pack(structure: Structure, results: Sequence[Any]) -> Any:
    """Returns the results nested as the structure says."""
    if isinstance(structure, int):
        return results[structure]
    ((kind, content),) = structure.items()
    match kind:
        case "tuple":
            return tuple(pack(item, results) for item in content)
        case "list":
            return [pack(item, results) for item in content]
        case "dict":
            return {key: pack(item, results) for key, item in content}
        case _:
            return content


def flat(count: int) -> Structure:
    """Returns the structure of one result by itself, or of a tuple of several."""
    return 0 if count == 1 else {"tuple": list(range(count))}
