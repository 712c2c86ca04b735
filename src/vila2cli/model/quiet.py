"""Keeping transformers' own bars and notices out of a stage's output."""

from transformers.utils import logging


def quiet_transformers() -> None:
    """Show errors only; what a stage does is said by its own progress lines."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
