"""Tests of the ARM targets; they run under qemu."""
