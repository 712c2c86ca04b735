"""Prompts, templates, label masks and pure checks on text."""
