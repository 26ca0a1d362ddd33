"""Releases: what was found and how, as a plain folder that needs no mudit to be read. Imports no torch."""
