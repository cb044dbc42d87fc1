"""Templates of the pages, filled in: whatever comes from a model is escaped."""

import importlib.resources
from pathlib import Path
from typing import Any

import tfapprox
from tfapprox.errors import UserError
from tfapprox.report import numbers
from tfapprox.report.plots import SPECTRUM_HEIGHT, SPECTRUM_WIDTH

# Named one by one: the BUILD target of this module carries them.
TEMPLATES = ("frame.html", "page.html", "sweep.html", "details.html", "page.css", "page.js")
_FILTERS = ("count", "size", "share", "milliseconds", "error")


def render(template: str, **context: Any) -> str:
    """Returns a template of `TEMPLATES` filled in, styles and script included.

    Raises:
      UserError: Jinja2 is missing.
    """
    try:
        import jinja2
    except ImportError as error:
        raise UserError(
            "the HTML page needs Jinja2, which is not installed; pip install 'tfapprox[report]'"
        ) from error
    folder = importlib.resources.files("tfapprox.report")
    sources = {name: folder.joinpath(name).read_text("utf-8") for name in TEMPLATES}
    environment = jinja2.Environment(
        loader=jinja2.DictLoader(sources),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({name: getattr(numbers, name) for name in _FILTERS})
    environment.globals |= {
        "version": tfapprox.__version__,
        "spectrum_size": (SPECTRUM_WIDTH, SPECTRUM_HEIGHT),
    }
    return environment.get_template(template).render(context)


def write(page: str, path: str | Path) -> None:
    """Writes a page to `path`.

    Raises:
      UserError: it can't be written.
    """
    try:
        Path(path).write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror}") from error
