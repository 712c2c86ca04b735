"""Shards through a model into layers: the one loop in which samples are asked about.

fill reads shards, decodes ahead, talks about each sample and writes what comes of it; kept_answers is an
engine around an engine that never asks twice for what was paid for; opening loads an engine at the first request; feed,
meter and failures decode ahead, count device seconds and hold failures against a budget. Read fill first.
"""
