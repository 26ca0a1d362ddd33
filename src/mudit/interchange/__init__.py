"""Checkpoints that travel: foreign files in, plain folders out. What comes in is read as data, never run."""
