"""A pass and a target for qcompiler that live outside of its repository."""
