"""Augmentation: small arrays drawn per position, then one kernel over the batch."""
