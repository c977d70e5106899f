"""The passes that come with qcompiler, one per file; imported as ``qcompiler.passes``."""

from __future__ import annotations

if __name__ != "qcompiler.passes":
    _problem = f"import 'qcompiler.passes', not {__name__!r}"
    raise ImportError(_problem)

# Registry group -> name -> "module:attribute", in the form of package entry points.
ENTRY_POINTS: dict[str, dict[str, str]] = {
    "qcompiler.passes": {},
}
