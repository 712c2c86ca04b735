"""The commands of `vila2`: each loads the recipe, finds its paths, calls its stage and prints.

app is the program and its list of commands, one module for each or for a few that belong together. paths finds
what a command reads and writes from the table of stages; options and terminal are shared: options, and all
that is printed. walk runs the stages of `vila2 run`, and forking starts them without their imports.
"""
