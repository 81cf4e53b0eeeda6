"""Backbones with their preprocessing and weights, heads, and what of them trains."""
