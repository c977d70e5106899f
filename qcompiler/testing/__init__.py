"""Help for the tests of pass and backend authors."""

from qcompiler.testing.check import check_ir
from qcompiler.testing.passes import run_pass, trace

__all__ = ["check_ir", "run_pass", "trace"]
