"""Idle blocks' state in host memory, on JAX.

Copies are dispatched as computations are: they wait for what they read and
run beside what is computed. A device without the memory kind "pinned_host"
keeps everything where it is.
"""

import jax

from keras_dblocks import compat
from keras_dblocks.training.offload import needed


class OffloadedStep:
    """A `JaxStep` with the state of all other blocks in host memory.

    Args:
        step: `JaxStep`.
    """

    def __init__(self, step):
        self.step, model = step, step.trainer
        places = step.places
        self.groups = [{places[id(v)] for v in g} for g in needed(model)]
        idle = set().union(*self.groups) - self.groups[step.index]
        kinds = [m.kind for m in jax.local_devices()[0].addressable_memories()]
        self.idle = idle if "pinned_host" in kinds else set()
        self.here = set(places.values()) - self.idle

    def __call__(self, data, state):
        move(state, self.here)
        left, arrived = move(state, self.idle, "pinned_host")
        if len(left) > max(map(len, self.groups)):
            # Not what the last step needed: everything, after `compile`.
            jax.block_until_ready(arrived)
        logs = self.step(data, state)
        # Waits for the last step, not for this one, so that no more than two
        # blocks' state is ever on the device.
        jax.block_until_ready(arrived)
        for value in left:
            value.delete()  # Keras may still hold it
        move(state, self.groups[self.step.trainer.upcoming_block()])
        return logs


def move(state, places, memory=None):
    """Moves those entries of the state that lie elsewhere.

    Args:
        state: tuple of lists of arrays, changed in place.
        places: pairs, the list and the position in it.
        memory: kind of memory, or None for the device's own.

    Returns:
        The arrays that were moved, and what they have become.
    """
    memory = memory or jax.local_devices()[0].default_memory().kind
    # JAX compiles anew when an argument gets committed to its device, and
    # what comes from host memory is: so all is, from the first step on.
    moving = [
        (kind, i)
        for kind, i in places
        if state[kind][i].sharding.memory_kind != memory
        or not state[kind][i].committed
    ]
    old = [state[kind][i] for kind, i in moving]
    there = [value.sharding.with_memory_kind(memory) for value in old]
    new = jax.device_put(old, there)
    for (kind, i), value in zip(moving, new, strict=True):
        state[kind][i] = value
    return old, new


def bring_home(model):
    """Offloaded parameters to the device, in what Keras is about to sync."""
    values = compat.epoch_state(model).get("trainable_variables", [])
    move([values], [(0, i) for i in range(len(values))])
