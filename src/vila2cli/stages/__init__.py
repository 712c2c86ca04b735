"""One module for each command that makes something: a function from files to files.

recaption, filter, pretrain, sft, specialize, judge, evaluate and soup are the loop, in about that order;
shards, tokens, merge, convert and build look into shards and make them; score_only, lmms, people, lineage,
report and check stand beside it. None imports another. Read recaption and pretrain first.
"""
