"""A callback that ends its process at a chosen moment, for tests of resuming."""

import os
import signal

import lightning as L


class DieAt(L.Callback):
    """Sends a signal to its own process.

    Args:
        moment: a hook of Lightning's callbacks …
        number: … and the how-manieth call of it, from 1.
        sent: name of the signal.
    """

    def __init__(self, moment: str, number: int, sent: str = "SIGKILL"):
        self.left, self.sent = number, signal.Signals[sent]
        setattr(self, moment, self._call)

    def _call(self, *_):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.sent)
