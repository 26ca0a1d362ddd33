"""The published diffusion process: noising and loss (`gaussian`), samplers (`samplers`). No network code."""
