"""Shards through a model into layers: the one loop in which samples are asked about.

fill reads shards, prepares samples ahead, talks about each and writes what comes of it; job takes layers from
claim to summary around it; kept_answers is an engine around an engine that never asks twice for what was paid
for. parts is what a pass is made of, waiting how its layers wait for each other. annotate is fill with a
display, by the engine that pool opens, or by the replicas that it starts: replicas is the parent, replica a
process. opening, model and engines say who is asked and open the engine,
provenance who was; estimate tries a job out, preflight says beforehand what would run where. feed, images,
meter and failures are fill's own. Read fill first, then job.
"""
