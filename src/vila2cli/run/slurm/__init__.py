"""Slurm: the stages of a run as batch scripts, and the jobs that run them."""
