"""Configs of layers whose constructor takes other layers."""

import keras


def deserialized(config, *names):
    """`config` with the entries of `names` deserialized.

    An entry is a layer, a list of layers, or None.
    """
    made = {
        name: keras.saving.deserialize_keras_object(config[name])
        for name in names
        if name in config
    }
    return {**config, **made}
