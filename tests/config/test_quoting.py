"""What is typed for a text key is what the program gets."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from hero_lightning.config.quoting import quoted
from hero_lightning.errors import ConfigError

TEXTS = [
    "clip (1).mp4",
    "it's.mp4",
    "a=b.mp4",
    "I don't know",
    "Oh no, really?",
    "No!",
    "2023",
    "12",
    "100178_0",
    "true",
    "1e3",
    "a:b",
    "{x}",
    "50%",
    'say "hi"',
    "back\\slash",
    "ends\\",
    "C:\\it's\\",
    "你好，世界.mp4",
    "a, b",
    "~/x",
    "-1",
    "tab\there",
]


def value(argument: str) -> object:
    return OverridesParser.create().parse_override(argument).value()


@pytest.mark.parametrize("text", TEXTS)
def test_text_arrives_as_typed(text: str) -> None:
    (argument,) = quoted([f"video={text}"])
    assert value(argument) == text


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.characters(exclude_characters="\n\r\x00", exclude_categories=["Cs"]), min_size=1))
def test_any_text_arrives_as_typed(text: str) -> None:
    quotes = text[0] in "'\"" and text[-1] == text[0] and len(text) > 1
    if text == "null" or text.startswith("${") or quotes or (text[0] == "[" and text[-1] == "]"):
        return
    (argument,) = quoted([f"text={text}"])
    assert value(argument) == text


def test_lists_of_text() -> None:
    assert [value(a) for a in quoted(["ids=[100178_0,b c,'x, y']"])] != []
    assert value(quoted(["ids=[100178_0, it's]"])[0]) == ["100178_0", "it's"]


@pytest.mark.parametrize(
    "argument",
    [
        "video=null",
        "run=${oc.env:RUN}",
        "video='a b'",
        "model.width=128",
        "modalities=[text,audio]",
        "-m",
        "--cfg",
        "id=plain",
        "seed=0,1",
    ],
)
def test_what_needs_no_quotes_stays(argument: str) -> None:
    assert quoted([argument]) == [argument]


def test_a_sweep_over_runs_stays_a_sweep() -> None:
    assert quoted(["-m", "init_from=a,b"]) == ["-m", "init_from=a,b"]


def test_a_list_that_the_shell_has_cut_is_explained() -> None:
    with pytest.raises(ConfigError, match=r'(?s)cut at a blank.*"modalities=\[text, audio\]"'):
        quoted(["modalities=[text,", "audio]"])
