"""Picture of a run: noise ranges, losses, accuracy after each block."""

import numpy as np

from .run import ROWS

COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")


def report(path, model, losses, accuracies):
    """Writes the picture.

    Args:
        path: of the `.png`.
        model: trained `DiffusionBlocks` with Gaussian noise.
        losses: dict of lists of `(step, loss)`, with a `block_i_loss` for each
            block i.
        accuracies: dict of lists of percentages by row of `ROWS`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="0.92")
        axis.set_axisbelow(True)
    _draw_ranges(axes[0], model)
    _draw_losses(axes[1], model, losses)
    _draw_accuracies(axes[2], accuracies)
    figure.savefig(path, dpi=120)


def _draw_ranges(axis, model):
    noise, partition = model.noise, model.partition

    def density(sigma):
        score = (np.log(sigma) - noise.p_mean) / noise.p_std
        return np.exp(-(score**2) / 2) / (noise.p_std * np.sqrt(2 * np.pi))

    peak = density(np.exp(noise.p_mean))
    for i in range(model.num_blocks):
        low, high = partition.noise_range(i, overlap=False)
        sigma = np.geomspace(low, high, 200)
        color = COLORS[i % len(COLORS)]
        axis.fill_between(sigma, density(sigma), color=color, alpha=0.75, lw=0)
        layers = partition.layers_of(i)
        label = f"block {i}: layers {layers[0]} to {layers[-1]}"
        # Below the density: the ranges with overlap, as in training.
        y = -peak * (0.06 + 0.05 * i)
        axis.plot(
            partition.noise_range(i), (y, y), color=color, lw=4, label=label
        )
    axis.set_xscale("log")
    axis.set_xlim(noise.minimum, noise.maximum)
    axis.set_ylim(top=peak * (1.1 + 0.14 * model.num_blocks))
    axis.set_yticks([])
    axis.legend(frameon=False, loc="upper left")
    axis.set_title("Noise range of each block, equal areas")
    axis.set_xlabel("noise level; bars: as trained, with overlap")
    axis.set_ylabel("density of the log noise level")


def _draw_losses(axis, model, losses):
    for i in range(model.num_blocks):
        means = np.array(losses[f"block_{i}_loss"])
        color = COLORS[i % len(COLORS)]
        axis.plot(*means.T, color=color, label=f"block {i}")
    axis.set_yscale("log")
    axis.set_title("Training loss of each block")
    axis.set_xlabel("training step, each of one block; means of epochs")
    axis.set_ylabel("cross-entropy, nats")
    axis.legend(frameon=False)


def _draw_accuracies(axis, accuracies):
    places = np.arange(len(accuracies["blocks"]))
    for row, color in (("blocks", "black"), ("paper", "0.55")):
        values = accuracies.get(row, [])
        if values:
            axis.plot(places, values, "o-", color=color, label=ROWS[row])
        for place, value in zip(places, values, strict=False):
            axis.annotate(
                f"{value:.1f}",
                (place, value),
                xytext=(0, -15),
                textcoords="offset points",
                ha="center",
                color=color,
            )
    for row, style in (("end_to_end", "--"), ("layer_matched", ":")):
        if row in accuracies:
            (value,) = accuracies[row]
            label = f"{ROWS[row]}, {value:.1f}"
            axis.axhline(value, ls=style, color="0.35", label=label)
    values = np.concatenate(list(accuracies.values()))
    margin = max(1.0, 0.4 * np.ptp(values))
    low = max(0, values.min() - 2 * margin)
    axis.set_ylim(low, min(100, values.max() + margin))
    axis.set_xlim(-0.3, len(places) - 0.7)
    axis.set_xticks(places, [f"block {i}" for i in places])
    axis.set_title("Test accuracy after each denoising step")
    axis.set_ylabel("percent")
    axis.legend(frameon=False, loc="lower right")
