"""Word-level text in the format of the Penn Tree Bank benchmark."""

import collections
import pathlib

import numpy as np

from experiments.datasets import Data, Split
from experiments.prepared_data import load_text
from tfapprox.errors import UserError

END = "<eos>"
PARTS = ("train", "valid", "test")


def load_corpus(name: str, data_dir: str, batch_size: int, steps: int, seed: int = 0) -> Data:
    """Returns windows x, y [n, steps] of words and their successors, int32.

    The text is cut into `batch_size` parallel streams. Windows are ordered so that
    consecutive batches continue the streams: the training order is fixed. Words are
    numbered by falling frequency in the training text, ties in alphabetical order.

    Args:
      name: "synthetic" for a small Markov chain; else files ptb.train.txt,
        ptb.valid.txt and ptb.test.txt are read from `data_dir`, or what
        TensorFlow Datasets has prepared there by that name.

    Raises:
      UserError: a file is missing, or a text too short for one batch.
    """
    texts = _synthetic(seed) if name == "synthetic" else _read(name, data_dir)
    counts = collections.Counter(texts["train"])
    words = sorted(counts, key=lambda word: (-counts[word], word))
    number = {word: i for i, word in enumerate(words)}
    unknown = number.get("<unk>", len(words) - 1)

    def split(part: str) -> Split:
        tokens = np.array([number.get(word, unknown) for word in texts[part]], np.int32)
        return _windows(tokens, batch_size, steps, part)

    return Data(split("train"), split("valid"), split("test"), len(words), shuffle=False)


def _windows(tokens: np.ndarray, batch_size: int, steps: int, part: str) -> Split:
    length = (len(tokens) - 1) // batch_size
    count = length // steps
    if not count:
        raise UserError(
            f"the {part} text has {len(tokens)} words, too few for one batch of "
            f"{batch_size} x {steps}: lower --batch_size"
        )

    def cut(start: int) -> np.ndarray:
        streams = tokens[start : start + batch_size * length].reshape(batch_size, length)
        windows = streams[:, : count * steps].reshape(batch_size, count, steps)
        return windows.transpose(1, 0, 2).reshape(-1, steps)

    return Split(cut(0), cut(1))


def text_path(data_dir: str, part: str) -> pathlib.Path:
    """Returns where a part of the benchmark lies in its own form."""
    return pathlib.Path(data_dir or "DIR") / f"ptb.{part}.txt"


def _read(name: str, data_dir: str) -> dict[str, list[str]]:
    paths = {part: text_path(data_dir, part) for part in PARTS}
    found = [path for path in paths.values() if path.exists()]
    if not found:
        try:
            texts = load_text(name, data_dir, PARTS)
        except UserError as error:
            raise UserError(
                f"--dataset={name}: no {paths['train']}, and {error}; or take --dataset=synthetic"
            ) from error
    elif len(found) < len(paths):
        missing = next(path for path in paths.values() if not path.exists())
        raise UserError(f"{missing} is missing: put all three parts beside each other")
    else:
        texts = {part: path.read_text() for part, path in paths.items()}
    return {part: text.replace("\n", f" {END} ").split() for part, text in texts.items()}


def _synthetic(seed: int, words: int = 50) -> dict[str, list[str]]:
    """A Markov chain in which each word has three likely successors."""
    rng = np.random.default_rng(seed)
    followers = rng.integers(0, words, (words, 3))
    texts = {}
    for part, length in zip(PARTS, (8000, 1500, 1500), strict=True):
        word, text = 0, []
        for _ in range(length):
            likely = rng.random() < 0.9
            word = int(followers[word, rng.integers(3)] if likely else rng.integers(words))
            text.append(f"w{word}")
        texts[part] = text
    return texts
