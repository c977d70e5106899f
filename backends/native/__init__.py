"""The C emitter and kernel library of the C-family targets."""
