"""Callbacks that end their process at a chosen moment, for tests of resuming."""

import io
import os
import signal

import lightning as L
import torch


class DieAt(L.Callback):
    """Sends a signal to its own process.

    Args:
        moment: a hook of Lightning's callbacks …
        number: … and the how-manieth call of it, from 1.
        sent: name of the signal.
        rank: of the process that is ended; -1 is every one.
    """

    def __init__(self, moment: str, number: int, sent: str = "SIGKILL", rank: int = -1):
        self.left, self.sent, self.rank = number, signal.Signals[sent], rank
        setattr(self, moment, self._call)

    def _call(self, trainer, *_):
        self.left -= 1
        if self.left == 0 and self.rank in (-1, trainer.global_rank):
            os.kill(os.getpid(), self.sent)


class DieWriting(L.Callback):
    """Kills its own process when so large a part of its n-th checkpoint has been written."""

    def __init__(self, number: int, part: float):
        self.left, self.part = number, part

    def on_train_start(self, *_):
        whole = torch.save

        def save(checkpoint, file):
            self.left -= 1
            if self.left:
                return whole(checkpoint, file)
            buffer = io.BytesIO()
            whole(checkpoint, buffer)
            file.write(buffer.getvalue()[: int(self.part * buffer.tell())])
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

        torch.save = save
