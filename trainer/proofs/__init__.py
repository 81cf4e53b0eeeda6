"""What scripts/prove_resume.py is made of: a training that announces itself, its interruptions, the comparison."""
