"""Shards through a model into layers: the one loop in which samples are asked about.

job takes a stage's layers from claim to summary; fill reads shards, prepares samples ahead, talks about each
and writes what comes of it; kept_answers is an engine around an engine that never asks twice for what was paid for;
opening loads an engine. feed, images, meter and failures are fill's own: what is worked out ahead, what is
shown, what it costs, and failures against a budget. Read fill first, then job.
"""
