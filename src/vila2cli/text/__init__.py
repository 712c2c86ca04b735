"""Prompts, what training reads of a sample, and pure checks on text.

prompts names every instruction; caption_checks is what is wrong with a caption, with refusals, lead_ins,
phrases, language, words and reasoning; compose makes turns to train on; box_parsing parses boxes; answer_rules,
invention and placeholder judge answers, merged captions and alt-texts; printable and html make untrusted text
harmless.
"""
