"""Settings of sampled products, checked once, with a JSON round trip."""

import dataclasses
from typing import Literal

from tfapprox.errors import UserError
from tfapprox.sampling.variants import Variant, look_up_variant

MODES = ("nested", "forward_only", "meprop")
PROBABILITIES = ("norms", "exact", "weights")


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How one product and its gradients are sampled.

    Attributes:
      variant: a name in `VARIANTS`.
      forward_ratio: share of the column-row pairs (dense: input features; conv:
        input channels) that the forward product keeps; 1 is exact.
      backward_ratio: share that each gradient product keeps of its own
        contraction, on top of the forward sampling. With forward_ratio 1 this is
        backward-only sampling. In mode "meprop": share of the columns of dY.
      min_samples: least number of pairs kept in a sampled gradient product.
      scale: True for unbiased estimates, False for plain sums of the kept pairs,
        "auto" to decide from the data at every step. Plain sums win when a factor
        has zero mean; when neither has, they are 1.6 to 2.9 times worse.
      mode: "nested" (gradients see only what the forward product sampled),
        "forward_only" (sampled forward, full gradients), "meprop" (exact forward;
        gradients keep the columns of dY with the largest norms).
      probabilities: "norms" (Eq. 3, Eq. 8), "exact" (Prop. 2; convolutions), or
        "weights" (norms of the weights only, so that replicas choose alike).
      mix: share of uniform sampling mixed into the probabilities.
      threshold: keep only as many of the largest pairs as hold this share of the
        total weight, at most forward_ratio (top-k only; k then varies by step,
        which XLA can't compile).
      gradient_variant: of the sampled gradient products where it shall differ from
        `variant`; scaled if it can be. Unbiased gradients let a noisy training converge
        where plain sums, which favour the examples with the largest errors, do not.
      sparse_gradient: give the gradient of a dense kernel as IndexedSlices, which
        saves the scatter where the optimizer takes them.

    References: Adelman and Silberstein, "Faster Neural Network Training with
      Approximate Tensor Operations", 2018, sections 3-5; their 2021 version.
    """

    variant: str = "topk"
    forward_ratio: float = 1.0
    backward_ratio: float = 1.0
    min_samples: int = 10
    scale: bool | Literal["auto"] = False
    mode: Literal["nested", "forward_only", "meprop"] = "nested"
    probabilities: Literal["norms", "exact", "weights"] = "norms"
    mix: float = 0.0
    threshold: float | None = None
    gradient_variant: str | None = None
    sparse_gradient: bool = False

    def __post_init__(self):
        variant = look_up_variant(self.variant)
        for name in ("forward_ratio", "backward_ratio"):
            if not 0 < getattr(self, name) <= 1:
                raise UserError(f"{name} must be in (0, 1], got {getattr(self, name)}")
        if self.min_samples < 1:
            raise UserError(f"min_samples must be at least 1, got {self.min_samples}")
        for name, accepted in (("mode", MODES), ("probabilities", PROBABILITIES)):
            if getattr(self, name) not in accepted:
                raise UserError(
                    f"{name} must be one of {', '.join(accepted)}, got {getattr(self, name)!r}"
                )
        if self.scale not in variant.scales:
            raise UserError(
                f"sampling {self.variant!r} takes scale "
                f"{' or '.join(map(str, variant.scales))}, got {self.scale}"
            )
        self._check_combinations(variant)

    def _check_combinations(self, variant: Variant) -> None:
        if self.mode == "meprop" and self.forward_ratio < 1:
            raise UserError("mode 'meprop' has an exact forward product: set forward_ratio to 1")
        if self.mode == "forward_only" and self.backward_ratio < 1:
            raise UserError("mode 'forward_only' has full gradients: set backward_ratio to 1")
        if self.gradient_variant is not None:
            look_up_variant(self.gradient_variant)
            if self.mode != "nested":
                raise UserError(f"mode {self.mode!r} takes no gradient_variant: use variant")
        if self.scale == "auto" and (self.mode == "meprop" or self.probabilities == "weights"):
            raise UserError(
                "scale 'auto' judges by the products of both norms: not with mode 'meprop' "
                "or probabilities 'weights'; set scale to True or False"
            )
        if not 0 <= self.mix <= 1 or (self.mix and not variant.random):
            raise UserError(f"mix must be in [0, 1], and 0 with sampling 'topk', got {self.mix}")
        if self.threshold is not None and (variant.random or not 0 < self.threshold <= 1):
            raise UserError(
                f"threshold must be in (0, 1] and needs sampling 'topk', "
                f"got {self.threshold} with {self.variant!r}"
            )

    @property
    def rule(self) -> Variant:
        return look_up_variant(self.variant)

    @property
    def exact(self) -> bool:
        """Whether nothing is sampled."""
        return self.forward_ratio == 1 and self.backward_ratio == 1 and self.threshold is None

    @property
    def random(self) -> bool:
        """Whether draws need seeds."""
        return self.rule.random or self.gradients.rule.random

    @property
    def switched_off(self) -> "Sampling":
        """The same settings with nothing sampled."""
        return dataclasses.replace(self, forward_ratio=1.0, backward_ratio=1.0, threshold=None)

    @property
    def gradients(self) -> "Sampling":
        """The settings of sampled gradient products."""
        if self.gradient_variant is None:
            return self
        rule = look_up_variant(self.gradient_variant)
        return dataclasses.replace(
            self,
            variant=self.gradient_variant,
            gradient_variant=None,
            scale=True in rule.scales,
            mix=self.mix if rule.random else 0.0,
            threshold=None,
        )

    @property
    def for_gradients(self) -> "Sampling":
        """The same where "auto" cannot ask for the product and means plain sums.

        dY has zero mean over examples for the usual losses, and then plain sums win.
        """
        own = self.gradients
        return dataclasses.replace(own, scale=False) if own.scale == "auto" else own

    def with_ratio(self, forward_ratio: float) -> "Sampling":
        return dataclasses.replace(self, forward_ratio=forward_ratio)

    def to_json(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, body: dict) -> "Sampling":
        return cls(**body)
