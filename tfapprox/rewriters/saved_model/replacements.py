"""What a rewrite is made of: factors to store, and the kernels they replace."""

import dataclasses

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_shape_pb2

from tfapprox.accounting.factorization import Factorization
from tfapprox.rewriters.saved_model.sites import KernelUses


@dataclasses.dataclass(frozen=True, eq=False)
class FactorTensor:
    """One stage's kernel as it will be stored.

    Attributes:
      site: whose stage it is.
      name: of the variable or constant.
      value: [in / groups, out] for dense sites, else [height, width, in / groups, out].
      variable: key of the variable it takes the place of, None if that was a constant.
      fold: the indices of codes and generator from which restoring the model computes it;
        then it is not stored itself, and only the main graph reads it.
    """

    site: str
    name: str
    value: np.ndarray
    variable: str | None
    fold: tuple[int, int] | None = None

    @property
    def stored(self) -> bool:
        """Whether it is a variable of the checkpoint."""
        return self.variable is not None and self.fold is None

    @property
    def dtype(self) -> int:
        return tf.as_dtype(self.value.dtype).as_datatype_enum

    @property
    def argument_type(self) -> int:
        """DataType of the argument that brings it into a function."""
        return self.dtype if self.variable is None else tf.resource.as_datatype_enum

    @property
    def argument_shape(self) -> tensor_shape_pb2.TensorShapeProto:
        """Shape of that argument."""
        return tf.TensorShape(self.value.shape if self.variable is None else []).as_proto()


@dataclasses.dataclass(frozen=True, eq=False)
class Replacement:
    """A kernel, what stands in for it, and the indices of its factors.

    Attributes:
      shape: of the kernel as a tensor of its own would be stored.
      served: what stands in for it in the main graph, if that is something else.
    """

    kernel: KernelUses
    factorization: Factorization
    factors: tuple[int, ...]
    shape: tuple[int, ...]
    served: "Replacement | None" = None


@dataclasses.dataclass(frozen=True)
class Version:
    """A rewritten function.

    Attributes:
      name: of the function.
      dropped: positions of arguments that are gone.
      lost: positions of outputs that are gone, because they were such arguments' values.
      added: indices of the factors that come as last arguments.
    """

    name: str
    dropped: tuple[int, ...]
    lost: tuple[int, ...]
    added: tuple[int, ...]
