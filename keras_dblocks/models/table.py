"""The table of blocks that `model.summary()` prints."""

from keras_dblocks.table import count, laid_out, state_size


def summary(model):
    """Table of each block's layers, noise range, parameters and state."""
    if not model.built:
        model.build()
    rows = [("block", "layers", "noise range", "parameters", "optimizer state")]
    own, shared = model.own_variables(), model.shared_variables()
    optimizers = []
    if model.compiled:
        optimizers = list(model.optimizer.parts)
    for index, variables in enumerate(own):
        layers = model.partition.layers_of(index)
        low, high = model.partition.noise_range(index, overlap=False)
        rows.append(
            (
                str(index),
                f"{layers[0]} to {layers[-1]}",
                f"({low:.4g}, {high:.4g}]",
                f"{count(variables):,}",
                state_size(optimizers, index),
            )
        )
    if shared:
        state = state_size(optimizers, model.num_blocks)
        rows.append(("shared", "", "", f"{count(shared):,}", state))
    trained = {id(v) for group in (*own, shared) for v in group}
    counters = {id(v) for m in (model, *model.blocks) for v in m.counters()}
    rest = [v for v in model.weights if id(v) not in trained | counters]
    if rest:
        rows.append(("fixed", "", "", f"{count(rest):,}", ""))
    return laid_out(model, rows)
