"""Checkpoints of other libraries, read and written."""

from mmfuse.weights.pretrained import load_pretrained, save_pretrained

__all__ = ["load_pretrained", "save_pretrained"]
