"""A run that trains a classifier of images."""

import keras
import numpy as np

from .figures import Figure
from .image_run import ImageRun


class ClassifierRun(ImageRun):
    """Trains a classifier, whose twin learns by cross-entropy."""

    metrics = ("accuracy",)

    def compile_options(self):
        options = {**super().compile_options(), "metrics": list(self.metrics)}
        if not self.in_blocks:
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            options["loss"] = loss
        return options

    def accuracies(self):
        """Test accuracies in percent, one for each block; a twin has one."""
        x, y = self.data.x_test, self.data.y_test
        if self.in_blocks:
            steps = self.model.predict_steps(x)
        else:
            steps = [self.model.predict(x, batch_size=128, verbose=0)]
        return [100 * float(np.mean(s.argmax(-1) == y)) for s in steps]

    def watched(self):
        if not self.in_blocks:
            return {}
        x, y = self.validation_data()
        return {"validation_data": (x[:1000], y[:1000])}

    def results(self, folder):
        return accuracy_figures(self.accuracies())


def accuracy_figures(accuracies):
    """`Figure`s of the accuracies in percent after each block."""
    *earlier, last = accuracies
    return {
        "test accuracy": Figure(last, "%"),
        **{
            f"test accuracy after block {i}": Figure(accuracy, "%")
            for i, accuracy in enumerate(earlier)
        },
    }
