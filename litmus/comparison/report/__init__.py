"""The report of a comparison: one self-contained page that opens offline."""

from litmus.comparison.report.canvas import to_svg
from litmus.comparison.report.page import Section, render_page, save_report

__all__ = ["Section", "render_page", "save_report", "to_svg"]
