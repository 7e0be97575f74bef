"""A network made from its parts in one call, without a subclass."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import keras

from keras_dblocks.diffusion.continuous_signal import ContinuousSignal
from keras_dblocks.diffusion.label_embedding import LabelEmbedding
from keras_dblocks.diffusion.noise import Noise
from keras_dblocks.diffusion.preconditioning import Preconditioning
from keras_dblocks.diffusion.target import Target
from keras_dblocks.diffusion.token_embedding import TokenEmbedding
from keras_dblocks.layers.functional_part import FunctionalPart
from keras_dblocks.models.diffusion_blocks import DiffusionBlocks
from keras_dblocks.models.network import check_spec
from keras_dblocks.models.twins import plain_twin

Part: TypeAlias = keras.layers.Layer | Callable[[], keras.layers.Layer]
# Constructor arguments that are not plain attributes but parts.
PARTS: tuple[str, ...] = (
    "target",
    "stem",
    "layers",
    "readout",
    "head",
    "noise_embedding",
)
PARTS += ("condition", "noise", "preconditioning")


@keras.saving.register_keras_serializable(package="keras_dblocks")
class ComposedBlocks(DiffusionBlocks):
    """What `DiffusionBlocks(target=..., stem=..., layers=[...], ...)` makes.

    Parts are Keras layers, functional models, or functions of no arguments
    that make one. A layer that is needed once is used as it is. Where each
    block has its own (`sharing="targets"`), and in the twins, the layer is
    made again from its configuration, with fresh weights. A part's `call` gets
    its input and those of `noise`, `signal`, `condition` and `training` that
    it names; see `Network`. A functional model with several inputs gets them
    by the names of its `keras.Input`; see `layers.FunctionalPart`.

    Args:
        target: `Target`, the clean signal: `layers.LabelEmbedding` for
            labels, `layers.TokenEmbedding` for sequences of them,
            `layers.ContinuousSignal` for images or numbers.
        stem: layer from the scaled noisy signal `(B, *signal_shape)` to the
            first state.
        layers: list of residual layers, from a state to a state.
        readout: layer from the last state to the clean signal's shape, or
            None for a layer norm.
        head: layer from the denoised signal to the prediction, or None for
            the denoised signal itself.
        num_blocks: int. Number of blocks, B.
        condition: `keras.KerasTensor` (batch size None), a tree of them, or
            None for a network that sees the noisy signal alone.
        noise_embedding: layer from `c_noise` `(B,)` to `(B, noise_dim)`, or
            None for sinusoids and a perceptron.
        clean: `"y"` to predict the second argument of `fit` from the first,
            or `"x"` to generate the first, given the second if there is a
            condition.
        noise, preconditioning: `Noise` and `Preconditioning`, or None for the
            paper's.
        kwargs: keywords of `DiffusionBlocks` except `num_layers`.

    Raises:
        ValueError: for parts that are not layers, or are given twice.

    Example:

    ```python
    def layer():
        state = keras.Input((32,))
        x = keras.layers.LayerNormalization()(state)
        return keras.Model(state, state + keras.layers.Dense(32)(x))

    model = DiffusionBlocks(
        target=LabelEmbedding(3, 32),
        stem=Stem(),  # its call takes (noisy, condition), returns (B, 32)
        layers=[layer() for _ in range(6)],
        head=keras.layers.Dense(3),
        num_blocks=3,
        condition=keras.KerasTensor((None, 2)),
    )
    model.compile("adamw", metrics=["accuracy"])
    model.fit(x, y, epochs=15)
    model.layer_matched()  # to see whether blocks serve this task
    ```
    """

    def __init__(
        self,
        target: Target | None = None,
        stem: Part | None = None,
        layers: Sequence[Part] | None = None,
        readout: Part | None = None,
        head: Part | None = None,
        num_blocks: int = 3,
        condition: Any = None,
        noise_embedding: Part | None = None,
        clean: str = "y",
        noise: Noise | None = None,
        preconditioning: Preconditioning | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(target, type) or not isinstance(target, Target):
            raise ValueError(
                "`target` must be a `Target`, such as "
                f"`layers.LabelEmbedding(10, 64)`. Received: {target!r}. "
                "Subclass `Target` for a clean signal of your own."
            )
        if clean not in ("x", "y"):
            raise ValueError(
                '`clean` must be "y" or "x". '
                f'Received: clean={clean!r}. Use "x" to generate the input.'
            )
        if condition is None and clean == "y":
            raise ValueError(
                "A network that predicts y needs a condition, the spec of x. "
                "Received: condition=None. Pass `condition=keras.KerasTensor("
                '(None, 32))`, or clean="x" to generate.'
            )
        if not isinstance(layers, (list, tuple)) or not layers:
            raise ValueError(
                "`layers` must be a list of residual layers, at least one. "
                f"Received: {layers!r}. Pass one entry for each layer."
            )
        if "num_layers" in kwargs:
            raise ValueError(
                "The layers are counted. Received: num_layers="
                f"{kwargs['num_layers']}. Leave it out."
            )
        for name, part, contract in (
            ("noise", noise, Noise),
            ("preconditioning", preconditioning, Preconditioning),
        ):
            if part is not None and not isinstance(part, contract):
                raise ValueError(
                    f"`{name}` must be a `{contract.__name__}`, or None. "
                    f"Received: {part!r}. Leave it out for the paper's."
                )
        self._templates = {
            "stem": _template("stem", stem),
            "layers": [
                _template(f"layers[{i}]", layer)
                for i, layer in enumerate(layers)
            ],
            "readout": _template("readout", readout, optional=True),
            "head": _template("head", head, optional=True),
            "noise_embedding": _template(
                "noise_embedding", noise_embedding, optional=True
            ),
            "target": Template(target),
        }
        made = [template.layer for template in self._templates["layers"]]
        if len({id(layer) for layer in made}) < len(made):
            raise ValueError(
                "Each of `layers` is a layer of its own. Received: the same "
                "object more than once. Make one for each, "
                "`[make() for _ in range(6)]`."
            )
        check_spec(condition)
        self._noise, self._preconditioning = noise, preconditioning
        self._condition = condition
        self.clean = clean
        super().__init__(
            num_layers=len(layers), num_blocks=num_blocks, **kwargs
        )

    def __setattr__(self, name, value):
        if name == "_templates":
            # The blocks track the layers of the parts, so this model must not.
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def condition_spec(self):
        return self._condition

    def make_noise(self):
        return self._noise or super().make_noise()

    def make_preconditioning(self):
        return self._preconditioning or super().make_preconditioning()

    def make_target(self):
        return self._templates["target"].make(self.sharing == "all")

    def _make(self, name, default):
        template = self._templates[name]
        if template is None:
            return default()
        return template.make(self.sharing == "all")

    def make_stem(self):
        return self._make("stem", None)

    def make_layer(self, index):
        return self._templates["layers"][index].make(True)

    def make_readout(self):
        return self._make("readout", super().make_readout)

    def make_head(self):
        return self._make("head", super().make_head)

    def make_noise_embedding(self):
        return self._make("noise_embedding", super().make_noise_embedding)

    def split(self, x, y):
        if self.clean == "x":
            return x, y
        return super().split(x, y)

    def generates_input(self):
        return self.clean == "x"

    def is_condition(self, x):
        return self.clean == "y"

    def default_loss_weighting(self):
        # EDM's weights are those of its squared error, see
        # docs/method.md#loss-and-weighting.
        if isinstance(self._templates["target"].layer, ContinuousSignal):
            return "edm"
        return super().default_loss_weighting()

    def batch_spec(self):
        condition = self.condition_spec()
        target = self._templates["target"].layer
        if isinstance(target, TokenEmbedding):
            length = target.sequence_length
            clean = keras.KerasTensor((None, length), dtype="int32")
        elif isinstance(target, LabelEmbedding):
            clean = keras.KerasTensor((None,), dtype="int32")
        else:
            clean = keras.KerasTensor((None, *target.signal_shape))
        if self.clean == "y":
            return condition, clean
        return (clean,) if condition is None else (clean, condition)

    def check_targets(self, x, y):
        if self.condition_spec() is None:
            super().check_targets(x, y)
        elif y is None:
            raise ValueError(
                "Training needs both arguments of `fit`. Received: y=None. "
                "Pass `fit(x, y)`."
            )

    def make_twin(self, num_layers, name):
        if self.clean == "y":
            fresh = type(self).from_config(self.get_config())
            return plain_twin(fresh, num_layers, name)
        config = self.get_config()
        changes = {"num_blocks": 1, "layers_per_block": None, "name": name}
        changes["layers"] = config["layers"][:num_layers]
        return type(self).from_config({**config, **changes, "sampler": None})

    @classmethod
    def argument_names(cls):
        names = super().argument_names()
        return [n for n in names if n not in (*PARTS, "num_layers")]

    def get_config(self):
        templates = dict(self._templates)
        layers = templates.pop("layers")
        parts = {name: t and t.config for name, t in templates.items()}
        parts["layers"] = [template.config for template in layers]
        parts = copy.deepcopy(parts)
        parts["condition"] = keras.tree.map_structure(
            _spec_config, self._condition
        )
        for name in ("noise", "preconditioning"):
            part = getattr(self, f"_{name}")
            parts[name] = part and keras.saving.serialize_keras_object(part)
        return {**super().get_config(), **parts}


def _spec_config(spec):
    if spec is None:
        return None
    # The copy has shape and dtype alone, since a tensor that was used in a
    # symbolic call cannot be serialized.
    fresh = keras.KerasTensor(spec.shape, dtype=spec.dtype)
    return keras.saving.serialize_keras_object(fresh)


class Template:
    """A layer and its configuration, from which more like it are made.

    Args:
        layer: Keras layer.
    """

    def __init__(self, layer):
        self.layer = layer
        config = keras.saving.serialize_keras_object(layer)
        self.config = {**config, "build_config": None}  # fresh weights
        self.used = False

    def make(self, itself):
        """Returns the layer itself, or a fresh one of its configuration.

        Args:
            itself: bool. True returns the layer that was passed at the first
                call, and a fresh one later.
        """
        if itself and not self.used:
            self.used = True
            return self.layer
        # A copy is needed, since a functional model empties its config.
        return keras.saving.deserialize_keras_object(copy.deepcopy(self.config))


def _has_several_inputs(layer):
    try:
        return isinstance(layer, keras.Model) and len(layer.inputs) > 1
    except (AttributeError, TypeError, ValueError):  # no functional model
        return False


def _template(name, part, optional=False):
    if part is None and optional:
        return None
    layer, problem = part, ""
    if not isinstance(part, keras.layers.Layer) and callable(part):
        try:
            layer = part()
        except TypeError as error:
            problem = f", which cannot be called without arguments ({error})"
    if not isinstance(layer, keras.layers.Layer):
        advice = "A computation becomes a layer as the `call` of a subclass."
        if part is None:
            advice = "Only `readout`, `head` and `noise_embedding` may be None."
        raise ValueError(
            f"`{name}` must be a Keras layer, or a function of no arguments "
            f"that makes one. Received: {part!r}{problem}. {advice}"
        )
    if _has_several_inputs(layer):
        layer = FunctionalPart(layer)
    try:
        return Template(layer)
    except Exception as error:
        raise ValueError(
            f"`{name}` must be a layer that can be made again from its "
            f"configuration. Received: a {type(layer).__name__} whose "
            f"`get_config` fails ({error}). Define `get_config`, and keep the "
            "constructor's arguments as attributes."
        ) from error
