"""Scheme strings: how many bits weights and activations get, as ``w4a8`` or ``w4g64a8``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qcompiler.errors import QCompilerError, nearest

if TYPE_CHECKING:
    from qcompiler.target.base import Target

WEIGHT_BITS = (2, 3, 4, 5, 6, 8)
ACTIVATION_BITS = (4, 8, 16)
GROUPS = (32, 64, 128)
"""What the language of schemes has; a target may run less."""

FLOAT = "float"

_FORM = re.compile(r"(?:w(?P<weight>\d{1,3})(?:g(?P<group>\d{1,5}))?)?(?:a(?P<act>\d{1,3}))?")


@dataclass(frozen=True)
class Scheme:
    """Bits of weights and activations; None for what is left as it is.

    ``group`` is the number of neighbouring inputs of a channel that share a factor, None for one
    scale per channel; ``is_float`` says that an operator stays in floating point.
    """

    weight: int | None = None
    group: int | None = None
    activation: int | None = None
    is_float: bool = False

    @classmethod
    def parse(cls, text: str, *, whole: bool = True) -> Scheme:
        """Reads ``w4a8`` or ``w4g64a8``; where it need not be ``whole`` also w4, a8 and float.

        Raises:
            QCompilerError: QC0304 for another form, or a width or group that no target runs.
        """
        match = _FORM.fullmatch(str(text))
        if not whole and text == FLOAT:
            return cls(is_float=True)
        if match is None or not text or (whole and None in (match["weight"], match["act"])):
            problem = f"{text!r} is no scheme"
            raise QCompilerError("QC0304", problem, remedy=_remedy(str(text), whole))
        weight, group, act = (None if match[n] is None else int(match[n]) for n in _FORM.groupindex)
        for value, known, what in (
            (weight, WEIGHT_BITS, "bits of weights"),
            (group, GROUPS, "sizes of groups"),
            (act, ACTIVATION_BITS, "bits of activations"),
        ):
            if value is not None and value not in known:
                raise _unknown(text, value, known, what)
        if group is not None and weight == 8:
            raise QCompilerError(
                "QC0304",
                f"{text!r} groups 8-bit weights, whose codes leave no room for factors in int8",
                remedy=f"use {text.replace(f'g{group}', '')}, or fewer bits",
            )
        return cls(weight, group, act)

    def check(self, target: Target) -> None:
        """Checks that a target runs the widths and the group.

        Raises:
            QCompilerError: QC0305 naming what the target runs.
        """
        for value, known, what in (
            (self.weight, target.weight_bits, "weights of {} bits"),
            (self.group, target.group_sizes, "groups of {}"),
            (self.activation, target.activation_bits, "activations of {} bits"),
        ):
            if value is not None and value not in known:
                listed = ", ".join(map(str, known)) or "none"
                raise QCompilerError(
                    "QC0305",
                    f"{target.name} runs no {what.format(value)} (scheme {self})",
                    remedy=f"use {what.format(listed)}, or another target",
                )

    def __str__(self) -> str:
        if self.is_float:
            return FLOAT
        weight = "" if self.weight is None else f"w{self.weight}"
        group = "" if self.group is None else f"g{self.group}"
        return f"{weight}{group}" + ("" if self.activation is None else f"a{self.activation}")


def _unknown(text: str, value: int, known: tuple[int, ...], what: str) -> QCompilerError:
    return QCompilerError(
        "QC0304",
        f"{text!r} asks for {value}: the {what} are {', '.join(map(str, known))}",
        remedy=f"the nearest is {min(known, key=lambda k: (abs(k - value), k))}",
    )


def _remedy(text: str, whole: bool) -> str:
    """Returns the scheme that a wrong text may have meant, or the form of all."""
    if whole and re.fullmatch(r"w\d{1,3}(g\d{1,5})?|a\d{1,3}", text):
        return (
            f"give weights and activations, as {text}a8"
            if text[0] == "w"
            else f"give both, as w8{text}"
        )
    found = nearest(text, _examples(whole))
    return found if found.startswith("did") else "write w4a8, or w4g64a8 for groups of weights"


def _examples(whole: bool) -> list[str]:
    """Returns the texts of all schemes, for the nearest of them."""
    plain = [f"w{w}" for w in WEIGHT_BITS]
    weights = [*plain, *(f"{w}g{g}" for w in plain[:-1] for g in GROUPS)]
    activations = [f"a{a}" for a in ACTIVATION_BITS]
    found = [w + a for w in weights for a in activations]
    return found if whole else [*found, *weights, *activations, FLOAT]
