"""How long, and how much of what a target leaves open, is measured on the machine."""

from __future__ import annotations

import math
from dataclasses import dataclass

from qcompiler.errors import QCompilerError

# Seconds of each effort where the user names none.
SECONDS = {"fast": 8.0, "full": 60.0}


@dataclass(frozen=True)
class TuningBudget:
    """An effort, ``fast`` or ``full``, and the seconds that measuring may take.

    A target's cost model orders the alternatives of an operator: ``fast`` measures the first few of
    them, ``full`` all.
    """

    effort: str
    seconds: float


def tuning_budget(tune: str | None, seconds: float | None) -> TuningBudget | None:
    """Returns the budget of the options ``tune`` and ``tune_seconds``, None without tuning.

    Raises:
        QCompilerError: QC0805 for an unknown effort, for seconds without one, and for seconds that
            are no positive number.
    """
    if tune is None and seconds is None:
        return None
    if tune not in SECONDS:
        problem = f"tune is {tune!r}" if tune is not None else "tune_seconds is given without tune"
        raise QCompilerError("QC0805", problem, remedy="give tune='fast' or tune='full'")
    if seconds is None:
        return TuningBudget(tune, SECONDS[tune])
    number = float(seconds) if type(seconds) in (int, float) else math.nan
    if not 0.0 < number < math.inf:
        raise QCompilerError(
            "QC0805",
            f"tune_seconds is {seconds!r}",
            remedy=f"give a positive number of seconds; {tune} takes {SECONDS[tune]:g} by itself",
        )
    return TuningBudget(tune, number)
