"""The grouped stages that replace the blocks between clusters of channels."""

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np

from tfapprox.accounting.factorization import Factorization, Stage
from tfapprox.decompositions.clustering import balanced_clusters

Blocks = tuple[np.ndarray, np.ndarray, np.ndarray]
"""What replaces n blocks: [n, c, R1], [n, H, W, R1, R2] and [n, R2, f]; depthwise the
second is [n, H, W, 1, R1]."""


@dataclasses.dataclass(frozen=True, eq=False)
class Clusters:
    """Balanced clusters of both channel axes.

    Attributes:
      inputs: int [G, I / G], the input channels of each cluster.
      outputs: int [H, O / H].
    """

    inputs: np.ndarray
    outputs: np.ndarray

    @classmethod
    def of(cls, kernel: np.ndarray, groups_in: int, groups_out: int) -> "Clusters":
        """Clusters input channels by their H W O weights, output channels by H W I."""
        return cls(cluster_channels(kernel, 2, groups_in), cluster_channels(kernel, 3, groups_out))

    def block(self, kernel: np.ndarray, group_in: int, group_out: int) -> np.ndarray:
        """Returns the weights from one input to one output cluster, [H, W, c, f]."""
        return kernel[:, :, self.inputs[group_in]][..., self.outputs[group_out]]

    def stages(self, kernel: np.ndarray, split: Callable[[np.ndarray], Blocks]) -> Factorization:
        """Returns the three stages that replace all blocks (two for a 1x1 kernel).

        The first has G groups and feeds, from each input cluster, all H output
        clusters; the second keeps the G H pairs apart; the third has H groups and
        sums over the input clusters. Between them channels change order from
        (G, H, R) to (H, G, R).

        Args:
          kernel: [H, W, I, O].
          split: replaces all blocks [G H, H, W, c, f], those of one input cluster in a row.
        """
        count_in, count_out = len(self.inputs), len(self.outputs)
        floating = kernel.astype(np.result_type(np.float32, kernel.dtype), copy=False)
        pairs = itertools.product(range(count_in), range(count_out))
        blocks = split(np.stack([self.block(floating, *pair) for pair in pairs]))
        pointwise = kernel.shape[:2] == (1, 1)
        firsts, middles, lasts = _without_middle(blocks) if pointwise else blocks
        rank = lasts.shape[1]
        turned = np.arange(len(lasts) * rank).reshape(count_in, count_out, rank).swapaxes(0, 1)
        last = [np.concatenate(lasts[group::count_out]) for group in range(count_out)]
        first = Stage(
            np.concatenate(firsts, axis=1)[None, None],
            count_in,
            (False, False),
            _order(self.inputs),
        )
        per_block = firsts.shape[2] // middles.shape[3]
        second = Stage(np.concatenate(middles, axis=3), len(lasts) * per_block)
        third = Stage(
            np.hstack(last)[None, None], count_out, (pointwise, pointwise), _order(turned)
        )
        stages = (
            dataclasses.replace(stage, kernel=np.ascontiguousarray(stage.kernel, kernel.dtype))
            for stage in ([first, third] if pointwise else [first, second, third])
        )
        return Factorization(tuple(stages), _order(np.argsort(self.outputs.ravel())))


def _without_middle(blocks: Blocks) -> Blocks:
    first, middle, last = blocks
    core = middle[:, 0, 0]
    if core.shape[1] == first.shape[2]:
        return first @ core, middle, last
    return first * core, middle, last  # depthwise


def cluster_channels(kernel: np.ndarray, axis: int, count: int) -> np.ndarray:
    """Returns the members of each cluster of one channel axis, int [count, channels / count]."""
    weights = np.moveaxis(kernel, axis, 0).reshape(kernel.shape[axis], -1)
    return balanced_clusters(weights, count)


def _order(members: np.ndarray) -> np.ndarray | None:
    order = members.ravel()
    return None if np.array_equal(order, np.arange(len(order))) else order
