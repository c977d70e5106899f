"""Passes over the float graph: normalize, redistribute values, choose quantization parameters."""
