"""Equations of EinsumDense layers that are one matrix product over the last axes."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Contraction:
    """`kept contracted, contracted produced -> kept produced`, e.g. "abc,cde->abde".

    Attributes:
      kept: labels of the batch and position axes, or "..." in their place.
      contracted: labels summed over, the last axes of the input.
      produced: labels that come from the kernel, the last axes of the output.
      kernel: labels of the kernel, any order of contracted and produced.
    """

    kept: str
    contracted: str
    produced: str
    kernel: str

    @property
    def contracted_axes(self) -> int:
        return len(self.contracted)

    def flatten_kernel(self, kernel: np.ndarray) -> np.ndarray:
        """Returns the kernel as a matrix [in, out]."""
        order = [self.kernel.index(label) for label in self.contracted + self.produced]
        ordered = kernel.transpose(order)
        rows = int(np.prod(ordered.shape[: self.contracted_axes]))
        return ordered.reshape(rows, -1)

    def labels_free(self, count: int) -> str:
        """Returns `count` labels the equation does not use."""
        used = set(self.kept + self.kernel)
        return "".join(c for c in "zyxwvutsrqponmlkjihgfedcba" if c not in used)[:count]


def read_equation(equation: str) -> Contraction | None:
    """Returns the contraction, or None where the equation is anything else."""
    equation = equation.replace(" ", "")
    operands, arrow, output = equation.partition("->")
    inputs, comma, kernel = operands.partition(",")
    if not arrow or not comma or "..." in kernel:
        return None
    contracted = "".join(c for c in inputs if c in kernel)
    produced = "".join(c for c in output if c in kernel)
    kept = inputs[: len(inputs) - len(contracted)]
    plain = (
        inputs == kept + contracted
        and output == kept + produced
        and sorted(kernel) == sorted(contracted + produced)
        and len(set(kernel)) == len(kernel)
        and kept
        and contracted
        and produced
    )
    return Contraction(kept, contracted, produced, kernel) if plain else None
