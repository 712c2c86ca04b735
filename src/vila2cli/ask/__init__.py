"""Shards through a model into layers: the one loop in which samples are asked about.

fill reads shards, prepares samples ahead, talks about each and writes what comes of it; job takes layers from
claim to summary around it; kept_answers is an engine around an engine that never asks twice for what was paid
for. opening, model and engines say who is asked and open the engine, provenance who was; estimate tries a
job out. feed, images, meter and failures are fill's own. Read fill first, then job.
"""
