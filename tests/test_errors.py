"""Messages, and the checks that raise them."""

from __future__ import annotations

import pickle

import pytest

from hero_lightning.errors import ConfigError, DataError, cause, in_range, one_of, system_fault


def test_an_error_prints_its_details_and_can_be_pickled() -> None:
    error = DataError("Broken.", expected=1, got="two", where="a.csv", hint="python -m hero_lightning.check")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert str(error).splitlines() == [
        "Broken.",
        "  expected: 1",
        "  got:      two",
        "  where:    a.csv",
        "  hint:     python -m hero_lightning.check",
    ]


def test_one_of() -> None:
    one_of("mode", "auto", ("auto", "realtime"))
    with pytest.raises(ConfigError, match=r"(?s)Unknown mode.*auto, realtime.*got:\s+live"):
        one_of("mode", "live", ("auto", "realtime"))


@pytest.mark.parametrize(
    ("value", "interval", "fits"),
    [
        (0, "[0, 1)", True), (1, "[0, 1)", False), (0, "(0, 1]", False), (1, "(0, 1]", True),
        (1e9, "[1, inf)", True), (float("nan"), "[0, 1]", False), ("0.5", "[0, 1]", False),
    ],
)  # fmt: skip
def test_in_range(value: float, interval: str, fits: bool) -> None:
    if fits:
        in_range("model.dropout", value, interval)
        return
    with pytest.raises(ConfigError, match=r"model.dropout is out of range") as caught:
        in_range("model.dropout", value, interval)
    assert f"a number in {interval}" in str(caught.value)


def test_cause_is_the_type_and_the_first_line() -> None:
    assert cause(ValueError("version 3 is needed\nmore")) == "ValueError: version 3 is needed"
    assert cause(KeyError()) == "KeyError"


def test_what_the_operating_system_refuses_is_told_with_its_file() -> None:
    told = system_fault(OSError(28, "No space left on device", "runs/metrics.csv"))
    assert "No space left on device" in str(told)
    assert "where:    runs/metrics.csv" in str(told)
    worker = RuntimeError("DataLoader worker (pid 17) is killed by signal: Killed. ")
    assert "pid 17" in str(system_fault(worker))
    assert system_fault(RuntimeError("shapes do not fit")) is None
    assert system_fault(OSError("a library's own use of the class")) is None
