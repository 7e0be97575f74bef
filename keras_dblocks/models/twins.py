"""The end-to-end twin, a network's parts with ordinary backpropagation."""

import functools

import keras
from keras import ops, tree

from keras_dblocks.configuration import Configured
from keras_dblocks.layers.context import known
from keras_dblocks.models.block import dtype_scope


@keras.saving.register_keras_serializable(package="keras_dblocks")
class LearnedSignal(Configured, keras.layers.Layer):
    """A learned tensor, repeated for each example, for the noisy signal.

    Args:
        signal_shape: tuple. Shape of one example's tensor.

    Call arguments:
        x: tensor `(B, ...)`, of which only the batch size is used.

    Returns:
        Tensor `(B, *signal_shape)`.
    """

    def __init__(self, signal_shape, **kwargs):
        super().__init__(**kwargs)
        self.signal_shape = tuple(signal_shape)

    def build(self, x_shape):
        self.signal = self.add_weight(
            shape=(1, *self.signal_shape),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
            name="signal",
        )

    def call(self, x):
        shape = (ops.shape(x)[0], *self.signal_shape)
        return ops.broadcast_to(ops.convert_to_tensor(self.signal), shape)

    def compute_output_shape(self, x_shape):
        return (x_shape[0], *self.signal_shape)


class TwinMethod:
    """A method that differs between a class and its instances.

    It lets `X.end_to_end(**keywords)` and `model.end_to_end()` both exist.

    Args:
        of_class: str, name of a class method that takes keywords.
        of_model: str, name of a method that takes no arguments.
    """

    def __init__(self, of_class, of_model):
        self.of_class, self.of_model = of_class, of_model

    def __get__(self, model, cls):
        if model is None:
            return getattr(cls, self.of_class)
        return getattr(model, self.of_model)


def plain_twin(network, num_layers, name):
    """A functional Keras model of a network's parts, without noise.

    A learned tensor takes the place of the noisy signal, and another that of
    the embedded noise level if a part names it. The model is not compiled;
    pass the loss to `compile`.

    Args:
        network: `Network` that predicts `y` from `x`.
        num_layers: int. Number of its layers, counted from the first.
        name: str.
    """
    spec = network.condition_spec()
    inputs = tree.map_structure(
        lambda s: keras.Input(s.shape[1:], dtype=s.dtype), spec
    )
    first = tree.flatten(inputs)[0]
    target = network.make_target()
    with dtype_scope(network.dtype_policy):
        shell = network.make_shell(target)
        layers = [network.make_layer(index) for index in range(num_layers)]
        signal = LearnedSignal(target.signal_shape, name="signal")(first)
        width = shell.noise_embedding.compute_output_shape((None,))[1:]
        make_noise = functools.cache(
            lambda: LearnedSignal(width, name="noise")(first)
        )
        condition = network.condition_of(inputs)

        def apply(layer, x):
            context = {"signal": signal, "condition": condition}
            context = known(layer, context)
            if known(layer, {"noise": None}):
                context["noise"] = make_noise()
            return layer(x, **context)

        x = signal
        for layer in [shell.stem, *layers, shell.readout, shell.head]:
            x = apply(layer, x)
    return keras.Model(inputs, x, name=name)
