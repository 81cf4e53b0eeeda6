"""From files on disk to a batch of uint8 pixels plus the numbers that augment it."""
