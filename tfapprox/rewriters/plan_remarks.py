"""What a user should know of a plan before it is followed."""

import math
import re

from tfapprox.rewriters.plan import Plan

_SHARE = 0.25  # of the full rank: with less, outputs become mixtures of a few numbers


def plan_remarks(plan: Plan) -> tuple[str, ...]:
    """Returns a remark if the last site gets a rank far below that of its kernel.

    No budget knows what a site is for. To a classifier's last layer of ten outputs, rank
    one leaves one number to tell ten classes apart by, and nothing behind it mends that;
    the largest error of all sites can be least all the same.
    """
    last = plan.verdicts[-1] if plan.verdicts else None
    if last is None or last.choice is None:
        return ()
    ranks = [size for name, size in last.choice.settings.items() if name.startswith("rank")]
    *taps, outputs = last.kernel_shape
    if not ranks or min(ranks) > _SHARE * min(math.prod(taps), outputs):
        return ()
    return (
        f"{last.site}, the last site, tells its {outputs} outputs apart by rank {min(ranks)} "
        f"(error {last.error:.2g}), and none behind it makes up for that: if answers suffer, "
        f"leave it dense (--exclude '^{re.escape(last.site)}$') or give --calibration_data",
    )
