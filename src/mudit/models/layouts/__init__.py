"""Where the families' published checkpoints keep our tensors: exact maps of names and shapes, both ways."""
