"""Ctrl-C that ends a training between two batches, and is never lost."""

import signal
import threading

import keras


class Interrupts(keras.callbacks.Callback):
    """Raises the interrupt that comes while a batch runs after the batch.

    Python drops an exception that is raised inside a finalizer, of which the
    backends run many, so that a Ctrl-C may have no effect. Entered as a
    context around `fit`, this one takes the signal instead. A second Ctrl-C is
    Python's own.
    """

    came = False

    def __enter__(self):
        self.before = signal.getsignal(signal.SIGINT)
        main = threading.current_thread() is threading.main_thread()
        self.installed = main and self.before is signal.default_int_handler
        if self.installed:
            signal.signal(signal.SIGINT, self._take)
        return self

    def __exit__(self, kind, *error):
        if self.installed:
            signal.signal(signal.SIGINT, self.before)
        if kind is None:
            self._raise()

    def _take(self, number, frame):
        if self.came:
            self.before(number, frame)
        self.came = True

    def _raise(self, *arguments, **keywords):
        if self.came:
            raise KeyboardInterrupt

    on_train_batch_end = on_test_batch_end = _raise
    on_epoch_begin = on_epoch_end = _raise
