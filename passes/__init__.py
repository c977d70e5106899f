"""The passes that come with qcompiler, one per file; imported as ``qcompiler.passes``."""

from __future__ import annotations

if __name__ != "qcompiler.passes":
    _problem = f"import 'qcompiler.passes', not {__name__!r}"
    raise ImportError(_problem)

# Registry group -> name -> "module:attribute", in the form of package entry points.
ENTRY_POINTS: dict[str, dict[str, str]] = {
    "qcompiler.passes": {
        "normalize-ops": "qcompiler.passes.rewrite.normalize_ops:NormalizeOps",
        "sink-reshapes": "qcompiler.passes.rewrite.sink_reshapes:SinkReshapes",
        "fold-pad": "qcompiler.passes.rewrite.fold_pad:FoldPad",
        "fold-batch-norm": "qcompiler.passes.rewrite.fold_batch_norm:FoldBatchNorm",
        "equalize-layers": "qcompiler.passes.rewrite.equalize_layers:EqualizeLayers",
        "eliminate-dead-nodes": "qcompiler.passes.rewrite.eliminate_dead_nodes:EliminateDeadNodes",
        "merge-common-nodes": "qcompiler.passes.rewrite.merge_common_nodes:MergeCommonNodes",
        "assign-scheme": "qcompiler.passes.rewrite.assign_scheme:AssignScheme",
        "collect-statistics": "qcompiler.passes.analysis.collect_statistics:CollectStatistics",
        "propagate-ranges": "qcompiler.passes.analysis.propagate_ranges:PropagateRanges",
        "measure-sensitivity": ("qcompiler.passes.analysis.measure_sensitivity:MeasureSensitivity"),
        "allocate-bits": "qcompiler.passes.rewrite.allocate_bits:AllocateBits",
        "share-qparams": "qcompiler.passes.rewrite.share_qparams:ShareQparams",
        "quantize-weights": "qcompiler.passes.rewrite.quantize_weights:QuantizeWeights",
        "round-weights": "qcompiler.passes.rewrite.round_weights:RoundWeights",
        "correct-bias": "qcompiler.passes.rewrite.correct_bias:CorrectBias",
        "lower-to-integer": "qcompiler.passes.lowering.lower_to_integer:LowerToInteger",
        "fold-requant": "qcompiler.passes.lowering.fold_requant:FoldRequant",
        "fuse-integer-ops": "qcompiler.passes.lowering.fuse_integer_ops:FuseIntegerOps",
        "fold-constant-channels": (
            "qcompiler.passes.lowering.fold_constant_channels:FoldConstantChannels"
        ),
        "fuse-depthwise": "qcompiler.passes.lowering.fuse_depthwise:FuseDepthwise",
        "prove-accumulators": "qcompiler.passes.analysis.prove_accumulators:ProveAccumulators",
        "legalize-for-target": "qcompiler.passes.lowering.legalize_for_target:LegalizeForTarget",
        "plan-memory": "qcompiler.passes.lowering.plan_memory:PlanMemory",
    },
    "qcompiler.sensitivities": {
        "output": "qcompiler.passes.analysis._metrics:OutputNoise",
        "fisher": "qcompiler.passes.analysis._metrics:FisherNoise",
        "hessian": "qcompiler.passes.analysis._metrics:HessianTrace",
        "label-free": "qcompiler.passes.analysis._metrics:LabelFree",
    },
    "qcompiler.pipelines": {
        "default": "qcompiler.passes.pipelines:DEFAULT",
        "normalize": "qcompiler.passes.pipelines:NORMALIZE",
        "plain": "qcompiler.passes.pipelines:PLAIN",
    },
}
