"""Writing captions with an engine: describe and rewrite, try again, choose, and count what was decided."""
