"""What runs and resumes: the folders of a run, its table of stages, and what walks it.

stages is the table: what each stage runs, reads, writes and waits for, and when it is complete. folder claims
and finishes the folder of a stage, locks keeps others out, workers and splitting share its work, stopping ends
it at a signal, progress shows how far it is, child is what a process owes the `vila2` that started it, cost and
forecast say what it takes; slurm sends the table to a cluster. Read stages first.
"""
