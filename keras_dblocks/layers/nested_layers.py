"""Configs of layers whose constructor takes other layers."""

import keras


def deserialized(config, *names):
    """`config` with the layers, lists of layers or None under `names` made."""
    made = {
        name: keras.saving.deserialize_keras_object(config[name])
        for name in names
        if name in config
    }
    return {**config, **made}
