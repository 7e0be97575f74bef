"""Picture of how the blocks unmask a sequence, one color per block."""

import numpy as np

from .report import COLORS


def save_unmasking(path, trajectory, tokenizer, num_blocks, rows=12, width=80):
    """Draws one sequence after several steps of the sampler, one in each row.

    Args:
        path: of the `.png`.
        trajectory: list of steps that `generate(..., return_trajectory=True)`
            returned.
        tokenizer: the tokenizer of the model.
        num_blocks: int.
        rows: int, the number of steps that are shown, evenly spaced.
        width: int, the number of tokens that are shown.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    revealed = revealed_by(trajectory)[:width]
    chosen = np.linspace(0, len(trajectory) - 1, rows).round().astype(int)
    steps = [trajectory[i] for i in sorted(set(chosen))]
    figure = Figure(figsize=(0.13 * len(revealed) + 1, 0.25 * len(steps) + 0.6))
    FigureCanvasAgg(figure)
    axis = figure.add_axes([0, 0, 1, 1])
    axis.set_axis_off()
    axis.set_xlim(-8, len(revealed) + 1)
    axis.set_ylim(len(steps) + 1.5, -0.5)
    style = {"family": "monospace", "fontsize": 9, "ha": "center"}
    for row, step in enumerate(steps):
        label = f"{100 * step['level']:.0f} %"
        axis.text(-4, row + 0.7, label, fontsize=8, ha="center")
        tokens = step["denoised"][0][: len(revealed)]
        for place, (token, block) in enumerate(
            zip(tokens, revealed, strict=True)
        ):
            masked = token == tokenizer.vocabulary_size()
            text = "·" if masked else tokenizer.detokenize(np.array([token]))
            color = "0.8" if masked else COLORS[block % len(COLORS)]
            axis.text(place, row + 0.7, text, color=color, **style)
    for block in range(num_blocks):
        color = COLORS[block % len(COLORS)]
        place = 12 * block
        text = f"block {block}"
        axis.text(place, len(steps) + 1.2, text, color=color, fontsize=9)
    figure.savefig(path, dpi=120)


def revealed_by(trajectory):
    """The block that revealed each token of the first sequence.

    -1 for tokens of the prompt, which no block revealed.
    """
    before = trajectory[0]["noisy"][0]
    revealed = np.full(len(before), -1)
    for step in trajectory:
        changed = step["noisy"][0] != step["denoised"][0]
        revealed[changed] = step["block"]
    return revealed
