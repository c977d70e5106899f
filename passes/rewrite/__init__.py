"""Passes over the float graph: normalize, redistribute, choose and share quantization parameters."""
