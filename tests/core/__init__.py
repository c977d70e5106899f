"""Tests of the core: registry, command line, documentation."""
