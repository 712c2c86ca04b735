"""Judges of captions: what they are asked, who answers, what comes of it, and the page for people.

pairing draws samples, protocols says what is asked and judges who; marking scores answers to benchmarks.
verdicts makes the figures, with preference, ranking and agreement; people_page, sheets and imageinwords are
about people, terminal prints. Read protocols, judges and verdicts.
"""
