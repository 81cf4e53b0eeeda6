"""One short absl main per verb. Flags say where, gin says what."""
