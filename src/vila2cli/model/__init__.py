"""Building, reading and writing checkpoints as stock transformers folders."""
