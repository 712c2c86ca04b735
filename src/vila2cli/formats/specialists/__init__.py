"""Training data for specialists from public annotations: boxes, phrases and words on pictures to conversations.

`coco`, `objects` and `words` read the formats into pictures (`draft`, `pictures`), `boxes` brings every box
into one frame, `rules` says which objects may be used, and `spatial`, `grounding` and `ocr` write the questions
and answers; `depth` measures how far off objects are, and `drawing` shows their boxes. All of it is pure
but for reading files.
"""
