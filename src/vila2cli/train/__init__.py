"""Data mixtures, batches, schedules and the training loop.

In the order in which a training uses them: job (a stage), starting, launch and distribution (its processes),
survey and manner (how a class is trained rightly), data and store (samples), plan and packing (what is
trained in which step), loop, objective, placement and zero (a step), watch, journal, resume and reuse. Read
plan, then loop.
"""
