"""Training: one step for proxies and targets, alone or packed; exact resume."""
