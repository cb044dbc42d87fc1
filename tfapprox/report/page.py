"""A report as one HTML page that needs nothing else: to attach, to mail, to keep."""

import importlib.resources
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tfapprox.errors import UserError
from tfapprox.report import numbers
from tfapprox.report.plots import (
    SPECTRUM_HEIGHT,
    SPECTRUM_WIDTH,
    latency_bars,
    plot_spectrum,
)
from tfapprox.report.report import Report
from tfapprox.report.speed import speed_verdict
from tfapprox.report.text import describe_measurement
from tfapprox.rewriters.plan import Verdict

_SPECTRA_SHOWN = 12  # the rest, by falling MACs, is folded away


def write_page(report: Report, path: str | Path) -> None:
    """Writes the page to `path`.

    Raises:
      UserError: Jinja2 is missing, or the file can't be written.
    """
    page = render_page(report)
    try:
        Path(path).write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror}") from error


def render_page(report: Report) -> str:
    """Returns the page; whatever comes from the model is escaped.

    Raises:
      UserError: Jinja2 is missing.
    """
    try:
        import jinja2
    except ImportError as error:
        raise UserError(
            "the HTML page needs Jinja2, which is not installed; pip install 'tfapprox[report]'"
        ) from error
    source = importlib.resources.files("tfapprox.report").joinpath("page.html").read_text("utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(_filters())
    return environment.from_string(source).render(_context(report))


def _filters() -> dict[str, Callable[..., str]]:
    names = ("count", "size", "share", "milliseconds", "error")
    return {name: getattr(numbers, name) for name in names}


def _context(report: Report) -> dict[str, Any]:
    spectra = _spectra(report)
    return {
        "report": report,
        "cards": _cards(report),
        "speed": speed_verdict(report),
        "sizes": [
            ("Parameters", numbers.count, report.before.params, report.after.params),
            ("MACs for one example", numbers.count, report.before.macs, report.after.macs),
            ("Bytes on disk", numbers.size, report.before.disk_bytes, report.after.disk_bytes),
        ],
        "sites": [_site(verdict, report) for verdict in report.plan.verdicts],
        "latency": list(zip(report.latency, latency_bars(report.latency), strict=True)),
        "measured": list(dict.fromkeys(describe_measurement(x) for x in report.latency)),
        "spectra": (spectra[:_SPECTRA_SHOWN], spectra[_SPECTRA_SHOWN:]),
        "spectrum_size": (SPECTRUM_WIDTH, SPECTRUM_HEIGHT),
        "settings": _flatten(report.plan.settings),
        "environment": _environment(report),
    }


def _cards(report: Report) -> list[dict[str, str]]:
    """Returns the summary: title, figure, remark, and a mood for its colour."""
    before, after = report.before, report.after
    cards = [
        _kept("MACs", numbers.count, before.macs, after.macs),
        _kept("Parameters", numbers.count, before.params, after.params),
    ]
    if before.disk_bytes:
        cards.append(_kept("On disk", numbers.size, before.disk_bytes, after.disk_bytes))
    if report.latency:
        best = max(report.latency, key=lambda latency: latency.ratio)
        mood = "good" if best.is_faster else "warn"
        cards.append(_card("Speed", f"{best.ratio:.2f}x", f"at batch {best.batch_size}", mood))
    verification = report.verification
    if verification is not None:
        figure = "passed" if verification.passed else "failed"
        remark = f"largest output error {numbers.error(verification.relative_error)}"
        mood = "good" if verification.passed else "bad"
        cards.append(_card("Verification", figure, remark, mood))
    sites = len(report.plan.verdicts)
    cards.append(_card("Sites replaced", f"{report.replaced} of {sites}", "the rest stay dense"))
    return cards


def _kept(title: str, form: Callable[[float], str], before: int, after: int) -> dict[str, str]:
    return _card(f"{title} kept", numbers.share(after, before), f"{form(before)} → {form(after)}")


def _card(title: str, figure: str, remark: str, mood: str = "plain") -> dict[str, str]:
    return {"title": title, "figure": figure, "remark": remark, "mood": mood}


def _site(verdict: Verdict, report: Report) -> dict[str, Any]:
    most_macs = max(v.before.macs for v in report.plan.verdicts) or 1
    most_params = max(v.before.params for v in report.plan.verdicts) or 1
    return {
        "verdict": verdict,
        "shape": "x".join(str(n) for n in verdict.kernel_shape),
        "macs_bar": _bar(verdict.before.macs, verdict.after.macs, most_macs),
        "params_bar": _bar(verdict.before.params, verdict.after.params, most_params),
    }


def _bar(before: int, after: int, most: int) -> tuple[float, float]:
    """Returns both lengths in percent of the longest bar of the column."""
    return round(100 * before / most, 1), round(100 * after / most, 1)


def _spectra(report: Report) -> list[dict[str, Any]]:
    macs = {verdict.site: verdict.before.macs for verdict in report.plan.verdicts}
    ordered = sorted(report.spectra, key=lambda s: -macs.get(s.site, 0))
    return [{"spectrum": spectrum, "plot": plot_spectrum(spectrum)} for spectrum in ordered]


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            rows += _flatten(value, f"{prefix}{name}.")
        elif value is not None:
            text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            rows.append((prefix + name, text))
    return rows


def _environment(report: Report) -> list[tuple[str, str]]:
    where = report.environment
    rows = [
        ("tfapprox", where.tfapprox),
        ("TensorFlow", where.tensorflow),
        ("NumPy", where.numpy),
        ("Python", where.python),
        ("Machine", where.machine),
        ("Cores", str(where.cores)),
        ("Threads", "TensorFlow's default" if where.threads is None else str(where.threads)),
        ("Seed", str(where.seed)),
    ]
    rows += [(f"Time, {phase}", f"{seconds:.1f} s") for phase, seconds in report.seconds.items()]
    if report.peak_memory_bytes:
        rows.append(("Peak memory", numbers.size(report.peak_memory_bytes)))
    return rows
