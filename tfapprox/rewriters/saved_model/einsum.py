"""Einsum equations with one static operand, read as a matrix product."""

import dataclasses
import string

import numpy as np


class NotAProduct(Exception):  # noqa: N818 (an outcome, not a fault)
    """The equation is no plain matrix product; the message says why."""


@dataclasses.dataclass(frozen=True)
class EinsumProduct:
    """An equation `x, kernel -> out` in which the kernel is a matrix.

    Attributes:
      x: labels of the activations; "..." stands for any number of axes.
      kernel: labels of the kernel.
      out: labels of the result.
      contracted: labels of x and kernel that are summed, in the kernel's order.
      free: labels of kernel and result only, in the kernel's order.
    """

    x: str
    kernel: str
    out: str
    contracted: str
    free: str

    @classmethod
    def parse(cls, equation: str, kernel_operand: int) -> "EinsumProduct":
        """Reads an equation of two operands.

        Raises:
          NotAProduct: repeated labels, a batch of kernels, nothing summed or left.
        """
        left, _, out = equation.replace(" ", "").partition("->")
        operands = left.split(",")
        if len(operands) != 2:
            raise NotAProduct(f"einsum {equation} has {len(operands)} operands")
        kernel, x = operands[kernel_operand], operands[1 - kernel_operand]
        if "." in kernel:
            raise NotAProduct(f"einsum {equation} leaves the kernel's axes open")
        for labels in (kernel, x, out):
            if len(set(labels.replace("...", ""))) != len(labels.replace("...", "")):
                raise NotAProduct(f"einsum {equation} repeats a label")
        shared = [c for c in kernel if c in x and c in out]
        if shared:
            raise NotAProduct(f"einsum {equation} has a kernel for each {shared[0]!r}")
        contracted = "".join(c for c in kernel if c in x)
        free = "".join(c for c in kernel if c in out)
        if len(contracted) + len(free) != len(kernel) or not contracted or not free:
            raise NotAProduct(f"einsum {equation} is no matrix product")
        if any(c not in out and c not in contracted for c in x.replace("...", "")):
            raise NotAProduct(f"einsum {equation} sums over activations alone")
        return cls(x, kernel, out, contracted, free)

    def matrix(self, kernel: np.ndarray) -> np.ndarray:
        """Returns the kernel as [contracted, free], a view where possible."""
        order = [self.kernel.index(label) for label in self.contracted + self.free]
        rows = [kernel.shape[self.kernel.index(label)] for label in self.contracted]
        return kernel.transpose(order).reshape(int(np.prod(rows)), -1)

    @property
    def ends_in_free(self) -> bool:
        """Whether the result's last axes are the kernel's free ones, in its order."""
        return self.out.endswith(self.free)

    def sizes(self, kernel_shape: tuple[int, ...], labels: str) -> list[int]:
        """Returns the sizes of some of the kernel's labels."""
        return [kernel_shape[self.kernel.index(label)] for label in labels]

    def chain(self, stages: int) -> list[tuple[str, str, str]]:
        """Returns one equation a stage and the labels of its factor's rows and columns."""
        if stages == 1:
            factor = self.contracted + self.free
            return [(f"{self.x},{factor}->{self.out}", self.contracted, self.free)]
        unused = [c for c in string.ascii_letters if c not in self.x + self.kernel + self.out]
        inner, other = unused[0], unused[1]
        kept = self.x
        for label in self.contracted:
            kept = kept.replace(label, "")
        rank = kept + inner
        first = (f"{self.x},{self.contracted}{inner}->{rank}", self.contracted, inner)
        middle = (f"{rank},{inner}{other}->{kept}{other}", inner, other)
        last = (f"{rank},{inner}{self.free}->{self.out}", inner, self.free)
        return [first, *[middle] * (stages - 2), last]

    def positions(self, x_shape: tuple[int | None, ...]) -> list[int | None]:
        """Returns the sizes of the activations' axes that are not contracted."""
        labels = self.x.replace("...", "." * (len(x_shape) - len(self.x.replace("...", ""))))
        pairs = zip(labels, x_shape, strict=True)
        return [n for label, n in pairs if label not in self.contracted]
