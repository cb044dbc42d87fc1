"""Threads of linear algebra: as many as pay for the size of the problem."""

import contextlib
import functools

import scipy.linalg
from threadpoolctl import ThreadpoolController

from tfapprox.accounting.site import Site

# Threads of one product wait for each other in a busy loop. Where another process takes
# a core, a small problem then lasts a hundred times as long, and on a quiet machine its
# threads gain little; only from about this many rows and columns on do they pay.
_LARGE_SIDE = 2048


def threads_for(site: Site) -> contextlib.AbstractContextManager:
    """Returns a context in which BLAS uses one thread, or its default for a large kernel."""
    taps = site.kernel_size[0] * site.kernel_size[1]
    shorter = min(site.in_channels, site.out_channels) * taps
    if shorter >= _LARGE_SIDE:
        return contextlib.nullcontext()
    return _controller().limit(limits=1, user_api="blas")


@functools.cache
def _controller() -> ThreadpoolController:
    # It sees the libraries loaded by now, so SciPy's own BLAS must be among them.
    assert scipy.linalg is not None
    return ThreadpoolController()
