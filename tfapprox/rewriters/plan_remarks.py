"""What a user should know of a plan before it is followed."""

import math
import re

from tfapprox.rewriters.plan import Plan

_SHARE = 0.25  # of the full rank: with less, outputs become mixtures of a few numbers
_BLOCKS = ("slices", "groups_in", "groups_out")


def plan_remarks(plan: Plan) -> tuple[str, ...]:
    """Returns a remark if the last site gets a rank far below that of its kernel.

    No budget knows what a site is for. To a classifier's last layer of ten outputs, rank
    one leaves one number to tell ten classes apart by, and nothing behind it mends that;
    the largest error of all sites can be least all the same.
    """
    last = plan.verdicts[-1] if plan.verdicts else None
    if last is None or last.choice is None:
        return ()
    settings = last.choice.settings
    ranks = [size for name, size in settings.items() if name.startswith("rank")]
    *taps, outputs = last.kernel_shape
    # Every slice or pair of clusters has ranks of its own, which add up.
    rank = min(ranks, default=0) * math.prod(settings.get(name, 1) for name in _BLOCKS)
    if not ranks or rank > _SHARE * min(math.prod(taps), outputs):
        return ()
    way_out = "" if "calibration_data" in plan.settings else " or give --calibration_data"
    return (
        f"{last.site}, the last site, tells its {outputs} outputs apart by rank {rank} "
        f"(error {last.error:.2g}), and none behind it makes up for that: if answers suffer, "
        f"leave it dense (--exclude '^{re.escape(last.site)}$'){way_out}",
    )
