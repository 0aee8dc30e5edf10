"""The same training under several settings: one table, one figure, one recommendation."""
