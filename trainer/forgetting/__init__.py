"""Keeping what a network has learned before: distillation, an anchor in weight space, and figures of what is lost."""
