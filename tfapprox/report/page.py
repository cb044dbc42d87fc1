"""A report as one HTML page that needs nothing else: to attach, to mail, to keep."""

from pathlib import Path

from tfapprox.report.rendering import render, write
from tfapprox.report.report import Report
from tfapprox.report.views import view_report


def write_page(report: Report, path: str | Path) -> None:
    """Writes the page to `path`.

    Raises:
      UserError: Jinja2 is missing, or the file can't be written.
    """
    write(render_page(report), path)


def render_page(report: Report) -> str:
    """Returns the page; whatever comes from the model is escaped.

    Raises:
      UserError: Jinja2 is missing.
    """
    return render("page.html", view=view_report(report))
