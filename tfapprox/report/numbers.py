"""Numbers as people read them."""

_STEPS = ("", "k", "M", "G", "T")


def count(value: float) -> str:
    """Returns a count in three digits, e.g. 25.6M."""
    for step in _STEPS[:-1]:
        if abs(value) < 999.5:
            return f"{value:.3g}{step}"
        value /= 1000
    return f"{value:.3g}{_STEPS[-1]}"


def size(value: float) -> str:
    """Returns bytes in decimal units, e.g. 1.5 MB."""
    text = count(value)
    unit = text[-1] if text[-1].isalpha() else ""
    return f"{text.removesuffix(unit)} {unit}B"


def share(part: float, whole: float) -> str:
    """Returns a part of a whole in percent, "-" of nothing."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def milliseconds(value: float) -> str:
    return f"{value:.3g} ms" if value < 100 else f"{value:.0f} ms"


def error(value: float | None) -> str:
    """Returns a relative error, "-" where there is none."""
    return (
        "-" if value is None else f"{value:.3g}" if value >= 1e-3 or not value else f"{value:.1e}"
    )


def score(value: float) -> str:
    """Returns a score: in percent where it can be a share, e.g. an accuracy."""
    return f"{100 * value:.2f} %" if 0 <= value <= 1 else f"{value:.4g}"


def score_change(before: float, after: float) -> str:
    """Returns how a score moved: in points where both can be shares."""
    if 0 <= min(before, after) and max(before, after) <= 1:
        return f"{100 * (after - before):+.2f} points"
    return f"{after - before:+.4g}"
