"""Formats of others: read here, and turned into shards or tasks.

captions reads image-text data for `vila2 shards convert`; specialists annotations of boxes and words for
`vila2 shards build`; benchmarks published benchmark files for `vila2 eval import`. reading checks rows that may
be malformed, and says which file, row and field is wrong.
"""
