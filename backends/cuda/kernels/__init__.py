"""The kernels, in Triton; each is the integer arithmetic of one family of operators."""
