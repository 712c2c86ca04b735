"""What `vila2 filter` does between shards and a filter layer: measure, score, decide, explain."""
