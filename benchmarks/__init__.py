"""Side-by-side measurements; each module prints a table and keeps it as text in results/."""
