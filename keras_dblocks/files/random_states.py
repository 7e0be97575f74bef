"""States of random generators in a saved model."""

from keras_dblocks import streams


def save_random_states(store, layers):
    """Writes the random generators' states, which Keras leaves out.

    A resumed run could not repeat dropout without them.
    """
    for i, state in enumerate(streams.random_states(layers)):
        store[f"random_{i}"] = state


def load_random_states(store, layers):
    """Sets the states that `save_random_states` wrote; returns the rest."""
    states = streams.random_states(layers)
    names = [key for key in store.keys() if key.startswith("random_")]
    if len(names) == len(states):
        for i, state in enumerate(states):
            state.assign(store[f"random_{i}"])
    return {k: store[k] for k in store.keys() if k not in names}
