"""Judges of captions: what they are asked, who answers, what comes of it, and the page for people."""
