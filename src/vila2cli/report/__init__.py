"""A run folder as one HTML page, and cards: read it with `build_page`, write it with `render_page`.

run_folder and results read what a run wrote, figures are values with intervals; page gathers what the templates
show, each section from a module of its own (headline, charts, tables, captions, drift, judgements, paired,
saturation, ...); listing is the list in the terminal, model_card and data_card the cards. Read page first.
"""

from vila2cli.report.page import ReportPage, build_page, render_page

__all__ = ["ReportPage", "build_page", "render_page"]
