"""`report.html`: what there is to know of a session, or of several, as one page that needs nothing else."""
