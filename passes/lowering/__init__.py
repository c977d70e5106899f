"""Passes from the quantized graph to integer operators, and over those."""
