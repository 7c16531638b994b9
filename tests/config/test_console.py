"""The command line as it is typed in a shell: free text, --help, suggestions, tab completion, moved folders."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import hero_lightning
from hero_lightning.config import console, gate
from hero_lightning.config.cli import FOLDERS
from hero_lightning.config.help import help_text, own_options, suggestions
from hero_lightning.config.quoting import for_the_run
from hero_lightning.errors import ConfigError
from tests.helpers import in_process

SOURCES = Path(hero_lightning.__file__).parents[1]


@pytest.fixture
def shell(tmp_path: Path):
    """Runs a line in bash, where `hero` is the console script."""
    (tmp_path / "hero").write_text(
        f"#!{sys.executable}\nimport sys\nfrom hero_lightning.config.console import main\nsys.exit(main())\n"
    )
    (tmp_path / "hero").chmod(0o755)
    path = f"{SOURCES}:{os.environ.get('PYTHONPATH', '')}"
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": path}

    def run(line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["bash", "-c", line], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)

    return run


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("""predict run=x video='clip (1).mp4' text="I don't know" id=100178_0""",
         {"video": "clip (1).mp4", "text": "I don't know", "id": "100178_0"}),
        ("""predict run=x "video=it's.mp4" text="Oh no, really?" id=2023""",
         {"video": "it's.mp4", "text": "Oh no, really?", "id": "2023"}),
        ("""predict run=x video=a=b.mp4 text='No!'""", {"video": "a=b.mp4", "text": "No!"}),
        ("""predict run=x video=2023 text=12""", {"video": "2023", "text": "12"}),
        ("""extract 'ids=[100178_0]'""", {"ids": ["100178_0"]}),
    ],
)  # fmt: skip
def test_free_text_arrives_through_a_shell(shell, line: str, expected: dict) -> None:
    done = shell(f"hero {line} --cfg job")
    assert done.returncode == 0, done.stderr
    found = OmegaConf.create(done.stdout)
    assert {key: found[key] for key in expected} == expected


def test_a_cut_list_and_the_quotes_that_mend_it(shell) -> None:
    done = shell("hero train modalities=[text, audio]")
    assert done.returncode == 2
    hint = done.stderr.partition("hint:")[2].strip()
    assert OmegaConf.create(shell(f"hero train {hint} --cfg job").stdout).modalities == ["text", "audio"]


@pytest.mark.parametrize("command", console.COMMANDS)
def test_help_explains_every_option_first(command: str) -> None:
    options = own_options(command, FOLDERS)
    assert all(sentence for _, sentence in options.values()), options
    text = help_text(command, "purpose", FOLDERS)
    assert text.index("Options") < text.index("Groups")
    assert all(len(line) <= 80 for line in text.splitlines()[1:-1]), text


def test_help_names_groups_and_choices(shell) -> None:
    text = shell("hero train --help").stdout
    assert "dataset=demo " in text
    assert "mult self_mm" in text
    assert "ablation=none " in text
    assert "logger=csv" in text
    assert "encoder@modality.NAME.encoder=" in text


@pytest.mark.parametrize(
    ("argument", "meant"),
    [
        ("datset=meld", "dataset=meld"),
        ("dataset=mled", "dataset=meld"),
        ("optimizer.lrr=1", "optimizer.lr=1"),
        ("max_epochs=5", "trainer.max_epochs=5"),
        ("encoder@modality.text.encoder=minlm", "encoder@modality.text.encoder=minilm"),
        ("baseline=mlt", "baseline=mult"),
    ],
)
def test_what_was_meant(argument: str, meant: str, tmp_path: Path) -> None:
    assert list(suggestions("train", [argument], in_process("train", tmp_path), FOLDERS)) == [meant]
    assert list(suggestions("train", [meant], in_process("train", tmp_path), FOLDERS)) == []
    in_process("train", tmp_path, meant)


def test_hydras_error_comes_with_a_suggestion(shell) -> None:
    done = shell("hero train datset=meld")
    assert done.returncode == 1
    assert "Did you mean: dataset=meld" in done.stderr
    assert "hint:     hero train" in shell("hero trian").stderr
    assert "hero COMMAND" in shell("hero").stdout


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("hero tr", ["train"]),
        ("hero train dataset=mel", ["dataset=meld"]),
        ("hero train trainer.max_e", ["trainer.max_epochs="]),
        ("hero predict vid", ["video="]),
    ],
)
def test_tab_completion(shell, typed: str, completed: list[str]) -> None:
    place = f"COMP_LINE={shlex.quote(typed)} COMP_POINT={len(typed)} COMP_CWORD={len(typed.split()) - 1}"
    done = shell(f'eval "$(hero -sc install=bash)"; {place}; hydra_bash_completion; printf "%s\\n" "${{COMPREPLY[@]}}"')
    assert done.stdout.split() == completed, done.stderr


def test_a_failed_command_leaves_no_folder(shell, tmp_path: Path) -> None:
    done = shell("hero train dataset=meld")
    assert done.returncode == 2
    assert [p.name for p in tmp_path.iterdir()] == ["hero"]


def test_folders_of_a_run_that_have_moved() -> None:
    config = OmegaConf.create({"modality": {"text": {"encoder": {"name": "old"}}}, "llm": {"name": "old"}})
    options = for_the_run("predict", ["modality.text.encoder.name='a b'", "llm.name=new", "video=x"])
    assert options == ["++modality.text.encoder.name='a b'", "++llm.name=new", "video=x"]
    gate.change(config, options[:2])
    assert config.modality.text.encoder.name == "a b"
    assert config.llm.name == "new"
    assert for_the_run("train", ["llm.name=x"]) == ["llm.name=x"]
    with pytest.raises(ConfigError, match="no such option"):
        gate.change(config, ["modality.audio.encoder.name=x"])
