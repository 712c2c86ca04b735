"""The embedded world: drawn scenes about which everything is known, and the bases to start from.

scenes says what is in a picture, draw draws it, sayings is what can be said about it, write makes shards of all
three; tiny, base_data and make_bases are the bundled tower and LLM. Read scenes first.
"""
