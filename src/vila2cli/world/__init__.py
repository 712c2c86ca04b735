"""The embedded world: drawn scenes about which everything is known, and the bases to start from."""
