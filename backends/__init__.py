"""The targets that come with qcompiler, one folder each; imported as ``qcompiler.backends``."""

from __future__ import annotations

if __name__ != "qcompiler.backends":
    _problem = f"import 'qcompiler.backends', not {__name__!r}"
    raise ImportError(_problem)

# Registry group -> name -> "module:attribute", in the form of package entry points.
ENTRY_POINTS: dict[str, dict[str, str]] = {
    "qcompiler.targets": {
        "cpu": "qcompiler.backends.cpu.target:CpuTarget",
        "reference": "qcompiler.backends.reference.target:ReferenceTarget",
    },
}
