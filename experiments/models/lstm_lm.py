"""The word-level LSTM language model of the Penn Tree Bank benchmark ("medium" size)."""

import dataclasses

from tensorflow import keras


@dataclasses.dataclass(frozen=True)
class LstmLmConfig:
    """Sizes of the model; the defaults are the "medium" ones.

    Attributes:
      vocabulary: number of words, hence of logits.
      units: width of the embedding and of every LSTM.
      lstms: number of stacked LSTMs.
      dropout: share dropped before, between and after the LSTMs.
      init_scale: all weights start uniform in [-init_scale, init_scale].
      batch_size: fixed batch size; needed when `stateful`.
      steps: fixed length T; None takes any.
      stateful: carry the LSTM states from batch to batch, as the benchmark does.
    """

    vocabulary: int = 10_000
    units: int = 650
    lstms: int = 2
    dropout: float = 0.5
    init_scale: float = 0.05
    batch_size: int | None = None
    steps: int | None = None
    stateful: bool = False

    def __post_init__(self):
        if self.stateful and self.batch_size is None:
            raise ValueError("a stateful model carries one state a row: set batch_size")


def lstm_lm(config: LstmLmConfig | None = None) -> keras.Model:
    """Returns a model from words [N, T] (int32) to logits of the next words [N, T, vocabulary].

    The layers are called embedding, lstm1, lstm2, ..., projection.

    References:
      Zaremba, Sutskever and Vinyals 2014, section 4.1 (medium LSTM);
      Adelman and Silberstein 2018, section 3.4 (samples the projection only).
    """
    config = config or LstmLmConfig()
    layers, scale = keras.layers, config.init_scale

    def uniform() -> keras.initializers.Initializer:
        return keras.initializers.RandomUniform(-scale, scale)

    inputs = keras.Input((config.steps,), batch_size=config.batch_size, dtype="int32")
    x = layers.Embedding(
        config.vocabulary, config.units, embeddings_initializer=uniform(), name="embedding"
    )(inputs)
    x = layers.Dropout(config.dropout)(x)
    for index in range(1, config.lstms + 1):
        x = layers.LSTM(
            config.units,
            return_sequences=True,
            stateful=config.stateful,
            kernel_initializer=uniform(),
            recurrent_initializer=uniform(),
            unit_forget_bias=False,
            name=f"lstm{index}",
        )(x)
        x = layers.Dropout(config.dropout)(x)
    outputs = layers.Dense(config.vocabulary, kernel_initializer=uniform(), name="projection")(x)
    return keras.Model(inputs, outputs, name="lstm_lm")
