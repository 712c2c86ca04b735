"""Data mixtures, batches, schedules and the training loop.

In the order in which a training uses them: job (a stage), launch and distribution (its processes), data and
store (samples), plan and packing (what is trained in which step), loop, objective, placement and zero (a step),
watch, journal and resume. Read plan, then loop.
"""
