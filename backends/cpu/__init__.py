"""The host x86 target: instruction-set levels and the datasheet."""
