"""What the page shows of a report, as text and lengths that a template needs only to place."""

from collections.abc import Callable, Mapping
from typing import Any

from tfapprox.report import numbers
from tfapprox.report.plots import latency_bars, plot_spectrum
from tfapprox.report.report import Report
from tfapprox.report.speed import speed_verdict
from tfapprox.report.text import describe_measurement
from tfapprox.rewriters.plan import Verdict
from tfapprox.serving.latency import Latency

_SPECTRA_SHOWN = 12  # the rest, by falling MACs, is folded away
_NOTABLE_LOSS = 0.01  # of accuracy: shown as a warning


def view_report(report: Report) -> dict[str, Any]:
    """Returns what details.html shows."""
    spectra = _spectra(report)
    return {
        "report": report,
        "cards": _cards(report),
        "speed": speed_verdict(report),
        "changes": _changes(report),
        "sites": [_site(verdict, report) for verdict in report.plan.verdicts],
        "latency": list(zip(report.latency, latency_bars(report.latency), strict=True)),
        "measured": list(dict.fromkeys(describe_measurement(x) for x in report.latency)),
        "spectra": (spectra[:_SPECTRA_SHOWN], spectra[_SPECTRA_SHOWN:]),
        "settings": _flatten(report.plan.settings),
        "environment": _environment(report),
    }


def card(title: str, figure: str, remark: str, mood: str = "plain") -> dict[str, str]:
    """Returns one number of the summary; the mood gives its colour."""
    return {"title": title, "figure": figure, "remark": remark, "mood": mood}


def score_mood(report: Report) -> str:
    """Returns the colour of a score: a loss of more than a point is a warning."""
    scores = report.scores
    if scores is None:
        return "plain"
    return "warn" if scores.before - scores.after > _NOTABLE_LOSS else "good"


def _cards(report: Report) -> list[dict[str, str]]:
    before, after = report.before, report.after
    cards = [
        _kept("MACs", numbers.count, before.macs, after.macs),
        _kept("Parameters", numbers.count, before.params, after.params),
    ]
    if before.disk_bytes:
        cards.append(_kept("On disk", numbers.size, before.disk_bytes, after.disk_bytes))
    if report.scores is not None:
        old, new = (numbers.score(x) for x in (report.scores.before, report.scores.after))
        name = report.scores.name.capitalize()
        cards.append(card(name, new, f"{old} before", score_mood(report)))
    if report.latency:
        best = max(report.latency, key=lambda latency: latency.ratio)
        mood = "good" if best.is_faster else "warn"
        cards.append(card("Speed", f"{best.ratio:.2f}x", f"at batch {best.batch_size}", mood))
    verification = report.verification
    if verification is not None:
        figure = "passed" if verification.passed else "failed"
        remark = f"largest output error {numbers.error(verification.relative_error)}"
        mood = "good" if verification.passed else "bad"
        cards.append(card("Verification", figure, remark, mood))
    sites = len(report.plan.verdicts)
    cards.append(card("Sites replaced", f"{report.replaced} of {sites}", "the rest stay dense"))
    return cards


def _kept(title: str, form: Callable[[float], str], before: int, after: int) -> dict[str, str]:
    return card(f"{title} kept", numbers.share(after, before), f"{form(before)} → {form(after)}")


def _changes(report: Report) -> list[dict[str, Any]]:
    """Returns the rows of "Before and after": accuracy, sizes and times of the whole model."""
    rows = []
    if report.scores is not None:
        old, new = report.scores.before, report.scores.after
        change = numbers.score_change(old, new)
        rows.append(_change(report.scores.name.capitalize(), numbers.score, old, new, change))
        rows[-1]["mood"] = score_mood(report)
    for name, form, old, new in (
        ("Parameters", numbers.count, report.before.params, report.after.params),
        ("MACs for one example", numbers.count, report.before.macs, report.after.macs),
        ("Bytes on disk", numbers.size, report.before.disk_bytes, report.after.disk_bytes),
    ):
        if old:
            rows.append(_change(name, form, old, new, f"{numbers.share(new, old)} remain"))
    return rows + [_latency_change(latency) for latency in report.latency]


def _latency_change(latency: Latency) -> dict[str, Any]:
    name = f"Median latency, batch {latency.batch_size}"
    old, new = latency.original.p50, latency.compressed.p50
    row = _change(name, numbers.milliseconds, old, new, f"{latency.ratio:.2f}x as fast")
    return {**row, "mood": "good" if latency.is_faster else "warn"}


def _change(
    name: str, form: Callable[[float], str], before: float, after: float, change: str
) -> dict[str, Any]:
    bar = _bar(before, after, max(before, after) or 1)
    return {
        "name": name,
        "before": form(before),
        "after": form(after),
        "change": change,
        "bar": bar,
        "mood": "",
    }


def _site(verdict: Verdict, report: Report) -> dict[str, Any]:
    most_macs = max(v.before.macs for v in report.plan.verdicts) or 1
    most_params = max(v.before.params for v in report.plan.verdicts) or 1
    return {
        "verdict": verdict,
        "shape": "x".join(str(n) for n in verdict.kernel_shape),
        "macs_bar": _bar(verdict.before.macs, verdict.after.macs, most_macs),
        "params_bar": _bar(verdict.before.params, verdict.after.params, most_params),
    }


def _bar(before: float, after: float, most: float) -> tuple[float, float]:
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
        elif isinstance(value, float):
            rows.append((prefix + name, f"{value:.6g}"))
        elif value is not None and value != "":
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
