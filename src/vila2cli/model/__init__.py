"""Building, reading and writing checkpoints as stock transformers folders.

build joins a vision tower (towers) and an LLM (templates) by a new projector; checkpoint, loading and saving
read and write folders; chat turns conversations and images into token ids, and control keeps text from spelling
control tokens; freeze, adapter, averaging and scratch say what is trained, adapted, averaged and refused. Read
build and chat first.
"""
