"""Tucker-2 and CP of convolution kernels by tensorly, in the peers' environment.

Answers one JSON line for each that it reads:

  {}                                                            versions
  {"method": "tucker2", "kernel": FILE.npy, "ranks": [r, s]}    seconds, error
  {"method": "cp", "kernel": FILE.npy, "ranks": [r]}            seconds, error

Kernels are [H, W, I, O]. Where "factors" names a file, the factors are written there as .npz:
core [H, W, r, s], in [I, r] and out [O, s] of Tucker-2; the factors [H, r], [W, r], [I, r]
and [O, r] of CP, weights included in the last one.
"""

import json
import sys
import time

import numpy as np
import tensorly
from tensorly.decomposition import parafac, partial_tucker


def tucker2(kernel, ranks):
    """Returns factors of the two channel modes and the composed kernel."""
    (core, (basis_in, basis_out)), _ = partial_tucker(kernel, rank=ranks, modes=[2, 3])
    factors = {"core": core, "in": basis_in, "out": basis_out}
    return factors, np.einsum("hwrs,ir,os->hwio", core, basis_in, basis_out, optimize=True)


def cp(kernel, ranks):
    """Returns the four factors and the composed kernel."""
    found = parafac(kernel, rank=ranks[0], init="svd", random_state=0)
    height, width, inner, outer = found.factors
    factors = {"height": height, "width": width, "in": inner, "out": outer * found.weights}
    return factors, tensorly.cp_to_tensor(found)


def main():
    methods = {"tucker2": tucker2, "cp": cp}
    for line in sys.stdin:
        request = json.loads(line)
        if "method" in request:
            kernel = np.load(request["kernel"])
            start = time.perf_counter()
            factors, composed = methods[request["method"]](kernel, request["ranks"])
            seconds = time.perf_counter() - start
            error = np.linalg.norm(kernel - composed) / np.linalg.norm(kernel)
            answer = {"seconds": seconds, "error": float(error)}
            if "factors" in request:
                np.savez(request["factors"], **factors)
        else:
            answer = {"tensorly": tensorly.__version__, "numpy": np.__version__}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
