"""Writing captions with an engine: describe and rewrite, try again, choose, and count what was decided.

captioner describes images and rewriter merges alt-text and recaption: both are tasks of the ask loop. attempts
is the way of one sample to its caption, summary what a layer holds in the end. Read captioner first.
"""
