"""Reading other data formats: rows of annotation files, and where their images lie."""
