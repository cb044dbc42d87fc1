"""The compression table as a page of Markdown."""

import math
import pathlib
from collections.abc import Sequence
from typing import Any

from experiments.compression_methods import FEWEST_TO_TRAIN, LARGE, MAIN, METHODS, Settings

_BASELINE = "uniform svd"
_COMPARED = ("alds", "alds, calibrated", "alds, anchored", "alds, rectified")
TRAINED = ("refined", "distilled")
"""What a cell may be besides, in the order of the columns."""

_START, _END = "<!-- findings -->", "<!-- end of findings -->"
_COMMAND = """python -m experiments.compression_table --work_dir=DIR --data_dir=DATA --models=OWN \\
  --output=docs/results/compression.md"""


def findings_of(page: pathlib.Path | None) -> str:
    """Returns what people wrote into an earlier page between the two marks, or nothing."""
    text = page.read_text() if page is not None and page.exists() else ""
    return text.partition(_START)[2].partition(_END)[0].strip()


def table(
    results: Sequence[dict[str, Any]], settings: Settings, machine: str, findings: str = ""
) -> str:
    """Returns the results as a page of Markdown.

    Args:
      results: as `compression_table.run` returns them.
      settings: of all cells.
      machine: what to say of it.
      findings: Markdown of people, put above the tables.
    """
    import tensorflow as tf

    lines = [
        "# Compression: methods against one another",
        "",
        f"Measured by one command (below) on {machine}, TensorFlow {tf.__version__}, float32, seed "
        f"{settings.seed}; ranks are multiples of {settings.rank_multiple} where a site is large "
        "enough. *Error* is the relative error of the outputs on inputs held back from "
        "calibration and training; *refined* is after `--refine_steps`, *distilled* after "
        f"{settings.distill_steps} of `--distill_steps`, both without labels. *Agreement* is how "
        "often the largest output is the original's, where there are no labels. Parameters, MACs "
        "and bytes on disk are shares of the original's; milliseconds are medians of calls in "
        "turns through the C++ loader.",
        "",
        *_grid(settings),
        "",
        *[_START, "", findings, "", _END],
    ]
    for result in results:
        lines += ["", f"## {result['model']}", "", _about(result), ""]
        lines += _rows(result, settings)
    lines += ["", "## The error of ALDS in shares of uniform SVD's", "", *_shares(results)]
    lines += ["", "## ALDS, exact and alternating", "", *_objective_rows(results)]
    return "\n".join([*lines, "", "```", _COMMAND, "```"]) + "\n"


def _grid(settings: Settings) -> list[str]:
    """Returns what is measured, and what is not."""
    by_time = [f"*{m}*" for m in settings.methods if METHODS[m].budget == "latency"]
    lines = [
        "*Keep* is the share of the multiply-adds that may remain"
        + (f"; for {', '.join(by_time)}, of the milliseconds." if by_time else "."),
        _trained("Refined", settings.refined, f"{settings.refine_steps} steps for every block"),
        _trained("Distilled", settings.distilled, "as a whole"),
        *(
            f"*{m}* is left out for more than {METHODS[m].most_params:,.0f} parameters."
            for m in settings.methods
            if math.isfinite(METHODS[m].most_params)
        ),
        f"Models of more than {LARGE / 1e9:g} G multiply-adds are measured by the main methods "
        f"alone ({'; '.join(MAIN)}), and those with fewer than {FEWEST_TO_TRAIN} inputs are not "
        "trained.",
    ]
    return [" ".join(filter(None, lines))]


def _trained(word: str, methods: Sequence[str], how: str) -> str:
    return f"*{word}* ({how}) are {'; '.join(methods)}." if methods else ""


def _about(result: dict[str, Any]) -> str:
    text = f"{result['calibration']} inputs to calibrate and train on, {result['held_back']} held "
    text += "back"
    if result["labelled"]:
        text += f"; the original has an accuracy of {result['original']['accuracy']:.1%}"
    latency = result["latencies"].get("original", {})
    times = ", ".join(f"{value:.2f} ms at batch {size}" for size, value in latency.items())
    return f"{text}. The original takes {times}." if times else f"{text}."


def _rows(result: dict[str, Any], settings: Settings) -> list[str]:
    word = "accuracy" if result["labelled"] else "agreement"
    head = ["keep", "method"]
    head += [column for name in ("error", f"{word}, %") for column in (name, *TRAINED)]
    head += ["params", "MACs", "bytes", *(f"ms, batch {size}" for size in settings.batch_sizes)]
    lines = [_line(head), _line(["---"] * len(head))]
    for cell in result["cells"]:
        start = [f"{cell['keep']:g}", cell["method"]]
        if "failure" in cell:
            lines.append(_line([*start, _reason(cell["failure"]), *[""] * (len(head) - 3)]))
            continue
        states = [cell, *(cell.get(kind, {}) for kind in TRAINED)]
        row = [*start, *(_number(state.get("error")) for state in states)]
        row += [_percent(state.get("accuracy")) for state in states]
        row += [f"{cell[kind]:.2f}" for kind in ("params", "macs", "bytes")]
        times = result["latencies"].get(f"{cell['method']}-{cell['keep']:g}", {})
        row += [f"{times[str(s)]:.2f}" if str(s) in times else "" for s in settings.batch_sizes]
        lines.append(_line(row))
    return lines


def _reason(failure: str) -> str:
    return failure.split(";")[0].split(": ")[-1].replace("|", "\\|")


def _shares(results: Sequence[dict[str, Any]]) -> list[str]:
    """Returns a table of errors over the baseline's, without and with distillation."""
    head = ["model", "keep", *(f"{m}{s}" for m in _COMPARED for s in ("", ", distilled"))]
    lines = [
        f"Relative error of the outputs over that of `{_BASELINE}` at the same MACs, both without "
        "or both with distillation.",
        "",
        _line(head),
        _line(["---"] * len(head)),
    ]
    for result in results:
        cells = {(c["method"], c["keep"]): c for c in result["cells"] if "failure" not in c}
        for keep in sorted({keep for _, keep in cells}):
            base = cells.get((_BASELINE, keep))
            if base is None:
                continue
            row = [result["model"], f"{keep:g}"]
            for method in _COMPARED:
                cell = cells.get((method, keep), {})
                row.append(_share(cell.get("error"), base["error"]))
                pair = [one.get("distilled", {}).get("error") for one in (cell, base)]
                row.append(_share(*pair))
            lines.append(_line(row))
    return lines


def _share(value: float | None, base: float | None) -> str:
    return "" if value is None or not base else f"{value / base:.2f}"


def _objective_rows(results: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        "The largest relative error (operator norm) of any site, which both minimise, over "
        "schemes 0-3 and 1, 2 or 4 slices.",
        "",
        _line(["model", "keep", "exact", "alternating"]),
        _line(["---"] * 4),
    ]
    for result in results:
        for one in result["objectives"]:
            found = [_number(one.get(name)) for name in ("alds", "alds_alternating")]
            if any(found):
                lines.append(_line([result["model"], f"{one['keep']:g}", *found]))
    return lines


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if value >= 0.001 or not value else f"{value:.1e}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
