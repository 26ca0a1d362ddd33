"""mudit: find hyperparameters once, small; train big diffusion transformers right the first time."""

__version__ = "0.1.0"
