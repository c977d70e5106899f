"""Pattern rewriting on graphs."""
