"""The commands of `vila2`: each loads the recipe, finds its paths, calls its stage and prints."""
