"""One plot for a record: every ratio of every case, with its quartiles."""

from pathlib import Path

from benchmarks.record import Record

_INCHES_A_BAR = 0.22


def plot_record(record: Record, path: Path) -> bool:
    """Draws the ratios as horizontal bars with quartiles; returns False if there are none."""
    bars = [
        (f"{row.key}: {name}", ratio) for row in record.rows for name, ratio in row.ratios.items()
    ]
    if not bars:
        return False
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "tfapprox"  # the same record draws the same file
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 1 + _INCHES_A_BAR * len(bars)))
    places = range(len(bars), 0, -1)
    medians = [ratio.median for _, ratio in bars]
    spread = [
        [ratio.median - ratio.low for _, ratio in bars],
        [ratio.high - ratio.median for _, ratio in bars],
    ]
    axes.barh(places, medians, xerr=spread, color="#5b8db8", ecolor="#333333", height=0.7)
    axes.axvline(1, color="#333333", linewidth=0.8)
    axes.set_yticks(places, [label for label, _ in bars], fontsize=7)
    axes.set_xlabel("ratio; above 1 is better")
    axes.set_title(record.title, fontsize=9)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)
    return True
