"""Image-text data of other projects to base shards.

`rows` and `downloads` read items of files, `items` makes the files of a sample of each, `images` finds the
images that they name, and `taken` notices what has changed since a shard was made.
"""
