"""The grouped stages that replace the blocks between clusters of channels."""

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np

from tfapprox.accounting.factorization import Factorization, Stage
from tfapprox.decompositions.clustering import balanced_clusters

Block = tuple[np.ndarray, np.ndarray, np.ndarray]
"""What replaces one block: [c, R1], [H, W, R1, R2] and [R2, f]; depthwise the
second is [H, W, 1, R1]."""


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
        rows = kernel.transpose(2, 0, 1, 3).reshape(kernel.shape[2], -1)
        columns = kernel.transpose(3, 0, 1, 2).reshape(kernel.shape[3], -1)
        return cls(balanced_clusters(rows, groups_in), balanced_clusters(columns, groups_out))

    def block(self, kernel: np.ndarray, group_in: int, group_out: int) -> np.ndarray:
        """Returns the weights from one input to one output cluster, [H, W, c, f]."""
        return kernel[:, :, self.inputs[group_in]][..., self.outputs[group_out]]

    def stages(self, kernel: np.ndarray, split: Callable[[np.ndarray], Block]) -> Factorization:
        """Returns the three stages that replace all blocks (two for a 1x1 kernel).

        The first has G groups and feeds, from each input cluster, all H output
        clusters; the second keeps the G H pairs apart; the third has H groups and
        sums over the input clusters. Between them channels change order from
        (G, H, R) to (H, G, R).
        """
        count_in, count_out = len(self.inputs), len(self.outputs)
        floating = kernel.astype(np.result_type(np.float32, kernel.dtype), copy=False)
        pairs = itertools.product(range(count_in), range(count_out))
        blocks = [split(self.block(floating, *pair)) for pair in pairs]
        pointwise = kernel.shape[:2] == (1, 1)
        if pointwise:
            blocks = [_without_middle(block) for block in blocks]
        firsts, middles, lasts = zip(*blocks, strict=True)
        rank = len(lasts[0])
        turned = np.arange(len(blocks) * rank).reshape(count_in, count_out, rank).swapaxes(0, 1)
        last = [np.concatenate(lasts[group::count_out]) for group in range(count_out)]
        first = Stage(np.hstack(firsts)[None, None], count_in, (False, False), _order(self.inputs))
        per_block = firsts[0].shape[1] // middles[0].shape[2]
        second = Stage(np.concatenate(middles, axis=3), len(blocks) * per_block)
        third = Stage(
            np.hstack(last)[None, None], count_out, (pointwise, pointwise), _order(turned)
        )
        stages = (
            dataclasses.replace(stage, kernel=np.ascontiguousarray(stage.kernel, kernel.dtype))
            for stage in ([first, third] if pointwise else [first, second, third])
        )
        return Factorization(tuple(stages), _order(np.argsort(self.outputs.ravel())))


def _without_middle(block: Block) -> Block:
    first, middle, last = block
    core = middle[0, 0] if middle.shape[2] == first.shape[1] else np.diag(middle[0, 0, 0])
    return first @ core, middle, last


def _order(members: np.ndarray) -> np.ndarray | None:
    order = members.ravel()
    return None if np.array_equal(order, np.arange(len(order))) else order
