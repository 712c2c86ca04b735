"""Samples with their captions as files of other tools: a writer per format, which takes one shard.

`rows` says what a sample is as a row, `files` and `parquet` write rows, `chats` what trainers of LLaVA and VILA
read, and `hub` brings a folder to the Hugging Face Hub.
"""
