"""A run folder as one self-contained HTML page: read it with `build_page`, write it with `render_page`."""

from vila2cli.report.page import ReportPage, build_page, render_page

__all__ = ["ReportPage", "build_page", "render_page"]
