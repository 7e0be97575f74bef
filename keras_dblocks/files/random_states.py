"""States of random generators in a saved model."""

from keras_dblocks import streams


class SavedRandomStates:
    """A mix-in before `keras.Model` that saves its generators' states.

    Keras does not save them, so a resumed run could not repeat its dropout.
    """

    def save_own_variables(self, store):
        super().save_own_variables(store)
        for i, state in enumerate(streams.random_states([self])):
            store[f"random_{i}"] = state

    def load_own_variables(self, store):
        states = streams.random_states([self])
        names = [key for key in store.keys() if key.startswith("random_")]
        own = {key: store[key] for key in store.keys() if key not in names}
        super().load_own_variables(own)
        if len(names) == len(states):
            for i, state in enumerate(states):
                state.assign(store[f"random_{i}"])
