"""Architectures only: plain modules with torch's default initialisation, no parametrization, no device calls."""
