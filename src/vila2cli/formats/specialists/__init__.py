"""Training data for specialists from public annotations: boxes, phrases and words on pictures to conversations.

`readers` and `text_readers` take the formats apart into pictures with things in them, `boxes` brings
every box into one frame, `rules` says which things may be used, and `spatial`, `grounding` and `ocr`
write the questions and answers. All of it is pure but for reading the annotation files.
"""
