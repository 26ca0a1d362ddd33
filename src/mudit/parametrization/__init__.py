"""muP as data: a table of multipliers per parameter, derived from shapes, applied to plain modules from outside."""
