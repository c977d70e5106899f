"""ARM processors: levels and cores as datasheets, cross-compilation, and running elsewhere."""
