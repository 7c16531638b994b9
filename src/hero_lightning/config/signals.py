"""Ctrl-C and SIGTERM end a command in order: an exception, a message how to go on, exit code 130 or 143."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Stopped(BaseException):
    """Raised in the main thread by Ctrl-C or SIGTERM.

    Attributes:
        number: of the signal.
        hint: how to go on.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.hint = "Nothing is lost that was finished; the same command starts again."

    def __str__(self) -> str:
        name = "Ctrl-C" if self.number == signal.SIGINT else signal.Signals(self.number).name
        return f"Stopped by {name}. {self.hint}"


@contextmanager
def stoppable() -> Iterator[None]:
    """Turns the first Ctrl-C or SIGTERM into `Stopped`; a second one ends the process at once.

    Not in the main thread of a program, where Python allows no signal handlers, it does nothing. Forked workers of a
    loader are ended by their parent.
    """
    parent, numbers = os.getpid(), (signal.SIGINT, signal.SIGTERM)

    def stop(number: int, frame: Any) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_DFL)
        if os.getpid() == parent:
            raise Stopped(number)
        if number == signal.SIGTERM:
            os.kill(os.getpid(), number)

    try:
        before = {number: signal.signal(number, stop) for number in numbers}
    except ValueError:
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
