"""What holds for every test: threads, and how hypothesis searches."""

from __future__ import annotations

import os

import torch
from hypothesis import settings

# Examples are the same in each run where CI is set, so that a change never fails on old bad luck;
# elsewhere each run looks at new ones. The time of an example depends on the machine's load.
settings.register_profile("qcompiler", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("qcompiler")

if "PYTEST_XDIST_WORKER" in os.environ:
    # Each worker has a core; threads of two workers on the same cores would wait for each other.
    torch.set_num_threads(1)
