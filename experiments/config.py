"""Settings that all training experiments share, and their flags."""

import dataclasses
import functools
import pathlib
import sys
from typing import Any

from absl import flags

from tfapprox.errors import UserError
from tfapprox.sampling.settings import MODES, Sampling
from tfapprox.sampling.variants import VARIANTS

METHODS = ("exact", "crs", "crs_exact_end", "meprop")

# Where, how fast and what else to train: a training comes to the same with others of these.
_BESIDES = (
    *("model_dir", "data_dir", "methods", "seed", "seeds", "deterministic", "compress"),
    *("distribution_strategy", "jit_compile", "checkpoint_steps", "resume"),
)
# Of sampled methods alone.
_OF_SAMPLING = ("sampling", "approximate_layers", "meprop_ratio", "exact_share", "evaluation")


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
    """One experiment: what to train on, how to sample, how long, and where results go.

    Attributes:
      dataset, data_dir: see `datasets.load_images` and `corpus.load_corpus`.
      model_dir: gets checkpoints, metrics.jsonl, flags.txt and the SavedModel.
      sampling: of the layers that are sampled.
      approximate_layers: regular expression searched in layer names.
      methods: what is trained: "crs" as `sampling` says, "exact", "meprop", or
        "crs_exact_end", the first with exact forward products in the last `exact_share`
        of its steps; gradients stay as they were.
      evaluation: "exact", or "expected": exact products of kernels whose rows are scaled
        by how often sampling keeps them, see `training.keep_shares`. The exported model
        has these kernels, too.
      meprop_ratio: share of the columns of dY that meProp keeps.
      seed, seeds: first seed, and how many a comparison trains with.
      epochs, steps: length; `steps`, when positive, ends the training early.
      learning_rate: 0 takes the paper's.
      cosine_decay: lower the rate to 0 along a cosine (MNIST's networks, LSTM).
      inputs: "pixels", or "principal" components (the perceptron).
      size: scales the network down where the experiment says so; 0 is the paper's.
      compress: shares of the parameters to compress the trained network to, after training.
      checkpoint_steps: steps between checkpoints; 0 is once an epoch.
      resume: go on from the last checkpoint in model_dir.
    """

    model_dir: pathlib.Path
    dataset: str = "digits"
    data_dir: str = ""
    sampling: Sampling = Sampling()
    approximate_layers: str = ""
    methods: tuple[str, ...] = ("crs",)
    meprop_ratio: float = 0.06
    exact_share: float = 0.1
    evaluation: str = "exact"
    seed: int = 0
    seeds: int = 1
    deterministic: bool = False
    epochs: int = 1
    steps: int = 0
    batch_size: int = 50
    learning_rate: float = 0.0
    cosine_decay: bool = False
    inputs: str = "pixels"
    size: int = 0
    distribution_strategy: str = "none"
    mixed_precision: str = "float32"
    jit_compile: bool = False
    compress: tuple[float, ...] = ()
    checkpoint_steps: int = 0
    resume: bool = False

    def __post_init__(self):
        for name in ("epochs", "batch_size", "seeds"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.exact_share < 1:
            raise UserError(f"--exact_share must be in (0, 1), got {self.exact_share}")
        if not all(0 < share < 1 for share in self.compress):
            raise UserError(f"--compress needs shares in (0, 1), got {self.compress}")
        unknown = [method for method in self.methods if method not in METHODS]
        if unknown or not self.methods:
            raise UserError(f"--methods must be among {', '.join(METHODS)}, got {self.methods}")

    def sampling_of(self, method: str) -> Sampling | None:
        """Returns the settings behind a method's name; None is exact training."""
        if method == "meprop":
            return Sampling(mode="meprop", backward_ratio=self.meprop_ratio)
        return self.sampling if method in ("crs", "crs_exact_end") else None

    def settings_of(self, method: str) -> dict[str, Any]:
        """Returns what a training by the method depends on, its seed apart."""
        sampling = self.sampling_of(method)
        leave_out = _BESIDES if sampling else _BESIDES + _OF_SAMPLING
        own = {k: v for k, v in dataclasses.asdict(self).items() if k not in leave_out}
        return own | ({"sampling": dataclasses.asdict(sampling)} if sampling else {})

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "model_dir": str(self.model_dir)}


def define_flags(into: flags.FlagValues = flags.FLAGS, **defaults: Any) -> None:
    """Defines the shared flags; `defaults` take the place of the general ones."""
    string, integer, number, boolean, enum, items = (
        functools.partial(define, flag_values=into)
        for define in (
            flags.DEFINE_string,
            flags.DEFINE_integer,
            flags.DEFINE_float,
            flags.DEFINE_bool,
            flags.DEFINE_enum,
            flags.DEFINE_list,
        )
    )
    d = {"epochs": 20, "batch_size": 50, "forward_ratio": 0.4, "dataset": "digits", **defaults}
    string(
        "dataset",
        d["dataset"],
        "Embedded: digits (scikit-learn), synthetic. Any other name is read from --data_dir (IDX "
        "files, or ptb.*.txt for language models) or loaded by TensorFlow Datasets.",
    )
    string("data_dir", "", "Directory with the data set's files.")
    string("model_dir", "", "Where results go (required).")
    enum("sampling", d.get("sampling", "topk"), list(VARIANTS), "Which pairs to keep.")
    number("forward_ratio", d["forward_ratio"], "Share of the pairs kept, (0, 1].")
    number("backward_ratio", d.get("backward_ratio", 1.0), "Share kept in each gradient product.")
    integer("min_samples", 10, "Least samples in a gradient product.")
    enum("scale", "off", ["off", "on", "auto"], "Scale kept pairs to stay unbiased.")
    enum(
        "gradient_sampling",
        "",
        ["", *VARIANTS],
        "Which terms of sampled gradients to keep, scaled if they can be; empty: as --sampling.",
    )
    enum("mode", "nested", list(MODES), "What the gradients see; see Sampling.")
    string(
        "approximate_layers",
        d.get("approximate_layers", ""),
        "Regular expression of layers to sample.",
    )
    items(
        "methods",
        ["crs"],
        "What to train: crs, crs_exact_end, exact, meprop. More than one, or --seeds above 1, is "
        "a comparison with a table and curves.",
    )
    number("meprop_ratio", 0.06, "Share of dY's columns that meProp keeps.")
    number("exact_share", 0.1, "Share of the steps with exact forward products in crs_exact_end.")
    enum(
        "evaluation",
        "exact",
        ["exact", "expected"],
        "Evaluate and export kernels as trained, or their rows scaled by how often sampling keeps "
        "them (for plain sums, as top-k's).",
    )
    integer("seed", 0, "First seed: of weights, order of examples and draws.")
    integer("seeds", 1, "How many seeds to train with.")
    boolean("deterministic", False, "Ask TensorFlow for deterministic operations.")
    integer("epochs", d["epochs"], "Passes over the training data.")
    integer("steps", d.get("steps", 0), "Stop after this many steps; 0 is no limit.")
    integer("batch_size", d["batch_size"], "Examples a step.")
    number("learning_rate", 0.0, "0 takes the paper's.")
    if d.get("inputs"):
        enum("inputs", "pixels", d["inputs"], "Coordinates of the images; see above.")
    if d.get("cosine_decay"):
        boolean("cosine_decay", False, "Lower the learning rate to 0 along a cosine.")
    integer("size", 0, d.get("size_help", "Unused by this experiment."))
    enum(
        "distribution_strategy",
        "none",
        ["none", "one_device", "mirrored", "multi_worker"],
        "tf.distribute strategy.",
    )
    enum(
        "mixed_precision",
        "float32",
        ["float32", "mixed_bfloat16", "mixed_float16"],
        "Keras dtype policy.",
    )
    boolean("jit_compile", d.get("jit_compile", False), "Compile the step with XLA.")
    items("compress", [], "Compress the trained network to these shares of its parameters, too.")
    integer("checkpoint_steps", 0, "Steps between checkpoints; 0 is once an epoch.")
    boolean("resume", False, "Go on from the last checkpoint in --model_dir.")
    show_in_help(into, __name__)


def show_in_help(values: flags.FlagValues, module: str) -> None:
    """Lets the program's --help list the flags that a module of ours defines for it."""
    for flag in values.flags_by_module_dict()[module]:
        values.register_key_flag_for_module(sys.argv[0], flag)


def config_from_flags(values: flags.FlagValues) -> ExperimentConfig:
    """Returns the configuration the flags describe.

    Raises:
      UserError: a flag is missing or out of range.
    """
    if not values.model_dir:
        raise UserError("--model_dir is required: it gets checkpoints, metrics and the SavedModel")
    scales: dict[str, Any] = {"off": False, "on": True, "auto": "auto"}
    sampling = Sampling(
        values.sampling,
        values.forward_ratio,
        values.backward_ratio,
        values.min_samples,
        scales[values.scale],
        values.mode,
        gradient_variant=values.gradient_sampling or None,
    )
    try:
        compress = tuple(float(word) for word in values.compress)
    except ValueError as error:
        raise UserError(f"--compress needs numbers, e.g. 0.5,0.3, got {values.compress}") from error
    special = {"model_dir", "sampling", "methods", "compress"}
    names = [f.name for f in dataclasses.fields(ExperimentConfig) if f.name not in special]
    settings: dict[str, Any] = {name: values[name].value for name in names if name in values}
    return ExperimentConfig(
        pathlib.Path(values.model_dir),
        sampling=sampling,
        methods=tuple(values.methods),
        compress=compress,
        **settings,
    )
