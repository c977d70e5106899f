"""Tests of whole models from end to end."""
