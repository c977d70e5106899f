"""The named pipelines, as text."""

from __future__ import annotations

NORMALIZE = (
    "normalize-ops,eliminate-dead-nodes,merge-common-nodes,sink-reshapes,fold-pad,"
    "fold-batch-norm,"
    "eliminate-dead-nodes"
)
CALIBRATE = "collect-statistics,propagate-ranges,share-qparams"
QUANTIZE = "quantize-weights,round-weights,correct-bias"
LOWER = (
    "lower-to-integer,fold-requant,fuse-integer-ops,fold-constant-channels,fuse-depthwise,"
    "prove-accumulators,legalize-for-target,plan-memory"
)

DEFAULT = ",".join((NORMALIZE, CALIBRATE, QUANTIZE, LOWER))
# Nearest rounding and no recovery: what the passes of the default pipeline are measured against.
PLAIN = ",".join((NORMALIZE, CALIBRATE, "quantize-weights", LOWER))
