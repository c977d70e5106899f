"""Tests of qcompiler.numerics."""
