"""Data mixtures, batches, schedules and the training loop."""
