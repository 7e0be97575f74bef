"""The optimizer of a recipe."""

import keras


def make_optimizer(recipe, steps, warmup_steps):
    """AdamW with a linear warm-up and a cosine decay of the learning rate.

    Args:
        recipe: dict with `learning_rate`, which is the peak, `alpha`, the
            final learning rate relative to the peak, `weight_decay`, and
            `clipnorm`, the largest norm of all gradients together.
        steps: int, the length of the schedule, warm-up included.
        warmup_steps: int.
    """
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0,
        max(1, steps - warmup_steps),
        alpha=recipe["alpha"],
        warmup_target=recipe["learning_rate"],
        warmup_steps=warmup_steps,
    )
    return keras.optimizers.AdamW(
        schedule,
        weight_decay=recipe["weight_decay"],
        global_clipnorm=recipe["clipnorm"],
    )
