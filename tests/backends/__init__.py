"""Tests of qcompiler.backends."""
