"""Learning-rate sweeps of Algorithms 1 to 3: which trials (`settings`, `plan`), how they run (`trials`), their `records`."""
