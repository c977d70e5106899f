"""Arithmetic of quantization: pure functions of numbers and tensors that know no graph."""
