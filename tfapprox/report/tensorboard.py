"""Reports for TensorBoard: plan table, ranks and errors, savings, and a link to the page."""

import pathlib
from collections.abc import Iterator
from os import PathLike
from typing import Any

from tfapprox.errors import UserError
from tfapprox.report.report import Report
from tfapprox.rewriters.plan import Verdict


def summary_writer(log_dir: str | PathLike[str]) -> Any:
    """Returns a writer of event files.

    Raises:
      UserError: TensorBoard is not installed.
    """
    try:
        import tensorboard  # noqa: F401
    except ImportError as error:
        raise UserError(
            "TensorBoard is not installed: pip install 'tfapprox[tensorboard]'"
        ) from error
    import tensorflow as tf

    return tf.summary.create_file_writer(str(log_dir))


def write_tensorboard(
    report: Report,
    log_dir: str | PathLike[str],
    page: str | PathLike[str] | None = None,
    step: int = 0,
) -> None:
    """Writes a report's event file.

    Text: the plan, a row a site, and the link to the page. Histograms: ranks and errors of
    the replaced sites. Scalars: what is kept of the model, the speed-up for each measured
    batch size, the difference of the outputs, and each replaced site's error.

    Args:
      report: of one compression.
      log_dir: what `tensorboard --logdir` is given, or a folder below it.
      page: the HTML report.
      step: where on the time axis, e.g. which of several compressions.

    Raises:
      UserError: TensorBoard is not installed.
    """
    writer = summary_writer(log_dir)
    import tensorflow as tf

    replaced = [v for v in report.plan.verdicts if v.choice is not None]
    with writer.as_default(step=step):
        tf.summary.text("plan", plan_table(report))
        if page is not None:
            link = pathlib.Path(page).resolve().as_uri()
            tf.summary.text("report", f"[{pathlib.Path(page).name}]({link})")
        for name, value in _scalars(report):
            tf.summary.scalar(name, value)
        if replaced:
            tf.summary.histogram("plan/error", [verdict.error for verdict in replaced])
            tf.summary.histogram("plan/rank", [r for v in replaced for r in _ranks(v)])
    writer.close()


def plan_table(report: Report) -> str:
    """Returns the plan as a Markdown table, with nothing in it that Markdown would read."""
    lines = [
        "| site | verdict | error | MACs | parameters |",
        "|---|---|---|---|---|",
    ]
    for verdict in report.plan.verdicts:
        what = f"kept: {verdict.reason}" if verdict.choice is None else _describe(verdict)
        cells = (
            _plain(verdict.site),
            _plain(what),
            f"{verdict.error:.3g}",
            f"{verdict.before.macs:,} to {verdict.after.macs:,}",
            f"{verdict.before.params:,} to {verdict.after.params:,}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Returns text of a model as one cell; TensorBoard itself strips HTML."""
    return "".join(f"\\{c}" if c in r"\|[]<>*_`" else c for c in " ".join(text.split()))


def _describe(verdict: Verdict) -> str:
    assert verdict.choice is not None
    settings = ", ".join(f"{k} {v}" for k, v in verdict.choice.settings.items())
    return f"{verdict.choice.decomposition} ({settings})"


def _ranks(verdict: Verdict) -> list[int]:
    assert verdict.choice is not None
    return [value for key, value in verdict.choice.settings.items() if "rank" in key]


def _scalars(report: Report) -> Iterator[tuple[str, float]]:
    before, after = report.before, report.after
    yield "kept/params", after.params / max(before.params, 1)
    yield "kept/macs", after.macs / max(before.macs, 1)
    if before.disk_bytes and after.disk_bytes:
        yield "kept/disk_bytes", after.disk_bytes / before.disk_bytes
    for latency in report.latency:
        yield f"speed-up/batch {latency.batch_size}", latency.ratio
    if report.verification is not None:
        yield "outputs/relative_error", report.verification.relative_error
    for verdict in report.plan.verdicts:
        if verdict.choice is not None:
            yield f"site_error/{verdict.site}", verdict.error
