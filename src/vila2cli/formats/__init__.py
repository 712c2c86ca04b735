"""Formats of other tools and data sets: read here, and turned into shards or tasks.

registry names them all, and the command that reads each. captions reads image-text data for `vila2 shards
convert`; specialists annotations of boxes and words for `vila2 shards build`; benchmarks the files of published
benchmarks for `vila2 eval import`. reading gives rows that may be malformed, and says which file, row and field
is wrong; folders finds the files that rows name. Read registry and reading first.
"""
