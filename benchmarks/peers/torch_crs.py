"""Column-row sampling as its authors published it for PyTorch, in its plain form.

The column-row pairs with the largest products of norms are chosen by topk, gathered by
index_select, and multiplied; automatic differentiation does the rest. Runs in the peers'
environment and answers one JSON line for each that it reads:

  {}                                            versions
  {"make": NAME, "kind": "dense", "shape": [m, n, p], "ratio": 0.5}
  {"make": NAME, "kind": "conv", "shape": [batch, size, channels], "ratio": 1.0}
  {"run": NAME}                                 seconds of forward and backward
  {"forget": true}                              drops everything made
"""

import json
import sys
import time

import torch
import torch.nn.functional as F  # noqa: N812 (everybody's name for it)


def dense(shape, ratio):
    """Returns a run of y = xW, dX and dW for x [m, n] and W [n, p]; ratio 1 is exact."""
    m, n, p = shape
    x, w = (torch.randn(*size, requires_grad=True) for size in ((m, n), (n, p)))
    dy = torch.randn(m, p)

    def run():
        x.grad = w.grad = None
        if ratio == 1:
            y = torch.matmul(x, w)
        else:
            with torch.no_grad():
                kept = torch.topk(x.norm(dim=0) * w.norm(dim=1), int(n * ratio)).indices
            y = torch.matmul(x.index_select(1, kept), w.index_select(0, kept))
        y.backward(dy)

    return run


def conv(shape, ratio):
    """Returns a run of a 3x3 convolution that keeps size and channels, NCHW."""
    batch, size, channels = shape
    x = torch.randn(batch, channels, size, size, requires_grad=True)
    w = torch.randn(channels, channels, 3, 3, requires_grad=True)
    dy = torch.randn(batch, channels, size, size)

    def run():
        x.grad = w.grad = None
        if ratio == 1:
            y = F.conv2d(x, w, padding=1)
        else:
            with torch.no_grad():
                norms = x.flatten(2).norm(dim=(0, 2)) * w.transpose(0, 1).flatten(1).norm(dim=1)
                kept = torch.topk(norms, int(channels * ratio)).indices
            y = F.conv2d(x.index_select(1, kept), w.index_select(1, kept), padding=1)
        y.backward(dy)

    return run


def main():
    made = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "make" in request:
            build = {"dense": dense, "conv": conv}[request["kind"]]
            made[request["make"]] = build(request["shape"], request["ratio"])
            answer = "made"
        elif "run" in request:
            start = time.perf_counter()
            made[request["run"]]()
            answer = time.perf_counter() - start
        elif "forget" in request:
            made.clear()
            answer = "forgotten"
        else:
            answer = {"torch": torch.__version__, "threads": torch.get_num_threads()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
