"""Running programs: reference interpreter, artifact format, memory planner."""
