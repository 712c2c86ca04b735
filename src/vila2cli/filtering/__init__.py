"""What `vila2 filter` does between shards and a filter layer: measure, score, decide, explain.

measure looks at a sample without a model, scoring asks one (perplexity, similarity); deciding puts all samples
through the rules of selection, with duplicates and image_hash for images; layer writes the outcome, outcome and
examples say what came of it. Read scoring, then deciding.
"""
