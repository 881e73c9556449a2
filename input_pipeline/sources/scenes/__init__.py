"""Scenes: procedural pictures, sounds and texts of coloured shapes, with ground truth for everything."""

from input_pipeline.sources.scenes.source import Scenes

__all__ = ["Scenes"]
