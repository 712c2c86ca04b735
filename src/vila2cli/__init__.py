"""vila2cli: a vision-language model that improves its own training data."""

__version__ = "0.1.0"
