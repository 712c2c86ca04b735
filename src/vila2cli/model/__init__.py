"""Building, reading and writing checkpoints as stock transformers folders.

build joins a vision tower (towers) and an LLM (templates) by a new projector; checkpoint, loading and saving
read and write folders; freeze, adapter, averaging (with likeness and tensor_files) and scratch say what is
trained, adapted, averaged and refused.

chat turns conversations and images into what a model is given: rendering writes the text of a chat template,
pictures the tensors and ids of images (backends and scaling quicken them), parts cuts ids into prompts and
answers, control keeps text from spelling control tokens, and reference compares all of it with the
checkpoint's own processor. Read build and chat first.
"""
