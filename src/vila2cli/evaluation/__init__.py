"""Evaluation: from the questions of a task to predictions, and from predictions to metrics with intervals.

subject says who is asked and questions asks (shots puts solved samples before a question, repair finds what to
ask again); answer_files, joining and lmms take in what other tools wrote; measure makes metrics of predictions;
predictions and comparing compare two evals. Read questions and measure first.
"""
