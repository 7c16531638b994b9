"""Signals: the first one unwinds the command, handlers are given back."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from hero_lightning.config.signals import Stopped, stoppable


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_a_signal_unwinds_and_handlers_come_back(number, name):
    before, cleaned = signal.getsignal(number), []

    def interrupted():
        with stoppable():
            try:
                os.kill(os.getpid(), number)
                signal.pause()
            finally:
                cleaned.append(True)

    with pytest.raises(Stopped) as stopped:
        interrupted()
    assert cleaned
    assert stopped.value.number == number
    assert str(stopped.value).startswith(f"Stopped by {name}. ")
    assert signal.getsignal(number) is before


def test_outside_the_main_thread_nothing_changes():
    seen = []
    thread = threading.Thread(target=lambda: [seen.append(1) for _ in [0] if stoppable().__enter__() is None])
    thread.start()
    thread.join()
    assert seen == [1]
