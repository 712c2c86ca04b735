"""Parts of evaluation: answers of other tools, their join with tasks, shots, and metrics from predictions."""
