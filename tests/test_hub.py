"""Loading pretrained models and adding LoRA: every error names its true cause."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as tr

from hero_lightning import hub
from hero_lightning.errors import ConfigError
from hero_lightning.hub import Lora, Pretrained

SOURCE = Pretrained("some/model", "llm.name", instead="llm=small")
LLAMA = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.mark.parametrize("kind", [OSError, ValueError, RuntimeError, KeyError, ImportError])
def test_an_error_of_transformers_keeps_its_cause(monkeypatch: pytest.MonkeyPatch, kind: type[Exception]) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise kind("needs version 9\nand more")

    monkeypatch.setattr(tr.AutoConfig, "from_pretrained", fail)
    with pytest.raises(ConfigError, match="some/model cannot be loaded") as caught:
        SOURCE.config()
    assert "needs version 9" in caught.value.details["got"]
    assert kind.__name__ in caught.value.details["got"]
    assert caught.value.details["where"] == "llm.name"
    assert ("hf download some/model" in caught.value.details["hint"]) is (kind is OSError)
    assert "llm=small" in caught.value.details["hint"]


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "models/no/such"])
def test_a_missing_folder_is_not_looked_up_on_the_hub(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(tr.AutoTokenizer, "from_pretrained", lambda *_, **__: pytest.fail("called"))
    with pytest.raises(ConfigError, match=rf"{name} does not exist[\s\S]*no such folder[\s\S]*asr\.name=FOLDER"):
        Pretrained(name, "asr.name").tokenizer()


@pytest.mark.parametrize("answers", [True, False])
def test_an_unreachable_hub_is_asked_once_and_the_cache_is_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, answers: bool
) -> None:
    asked: list[str] = []

    def head(url: str, timeout: float) -> None:
        asked.append(url)
        if not answers:
            raise ConnectionError("Name or service not known")

    given: list[dict[str, Any]] = []
    monkeypatch.setattr("huggingface_hub.is_offline_mode", lambda: False)
    monkeypatch.setattr("huggingface_hub.get_session", lambda: SimpleNamespace(head=head))
    monkeypatch.setattr(tr.AutoConfig, "from_pretrained", lambda _, **options: given.append(options))
    hub._hub_answers.cache_clear()
    for _ in range(2):
        SOURCE.config()
    hub._hub_answers.cache_clear()
    assert len(asked) == 1
    assert all(("local_files_only" in options) is not answers for options in given)
    assert ("ConnectionError: Name or service not known" in caplog.text) is not answers


def network(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "GPT2":
        return tr.GPT2LMHeadModel(tr.GPT2Config(vocab_size=20, n_embd=16, n_layer=2, n_head=2, n_positions=32))
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = getattr(tr, f"{kind}Config")(vocab_size=20, pad_token_id=0, bos_token_id=1, eos_token_id=2, **sizes)
    return getattr(tr, f"{kind}ForCausalLM")(config)


def adapted(net: Any, caplog: pytest.LogCaptureFixture, **settings: Any) -> tuple[set[str], str]:
    """Names of the layers that learn, and the log."""
    with caplog.at_level(logging.INFO, logger="hero_lightning.hub"):
        Lora(r=2, **settings).add(net, "llm.lora")
    learning = {n: p for n, p in net.named_parameters() if p.requires_grad}
    assert all(p.dtype == torch.float32 for p in learning.values())
    return {n.split(".lora_")[0].rpartition(".")[2] for n in learning}, caplog.text


@pytest.mark.parametrize(
    ("kind", "targets", "learns", "says"),
    [
        ("Llama", LLAMA, set(LLAMA), "down_proj (2) of LlamaForCausalLM\n"),
        (
            "Phi3",
            LLAMA,
            {"o_proj", "down_proj"},
            "adapts o_proj (2), down_proj (2) of Phi3ForCausalLM; it has no q_proj, k_proj, v_proj, gate_proj, up_proj"
            ", and its other linear layers are gate_up_proj, lm_head, qkv_proj",
        ),
        ("GPT2", ("c_attn",), {"c_attn"}, "adapts c_attn (2)"),
        ("GPT2", "all-linear", {"c_attn", "c_proj", "c_fc"}, ""),
    ],
)
def test_lora_says_which_layers_it_adapts(
    caplog: pytest.LogCaptureFixture, recwarn: Any, kind: str, targets: Any, learns: set[str], says: str
) -> None:
    net = network(kind).eval()
    ids = torch.arange(6)[None]
    before = net(ids).logits
    found, text = adapted(net, caplog, targets=targets)
    assert found == learns
    assert says in text
    torch.testing.assert_close(net(ids).logits, before)  # updates are zero at the start
    net.train()(ids, labels=ids).loss.backward()
    assert all((p.grad is not None) is p.requires_grad for p in net.parameters())
    assert not [w for w in recwarn if "fan_in_fan_out" in str(w.message)]


@pytest.mark.parametrize(
    ("kind", "targets", "names"),
    [
        ("GPT2", LLAMA, "c_attn, c_fc, c_proj, lm_head"),
        ("GPT2", ("q_proj", "c_fc"), "c_attn, c_fc, c_proj, lm_head"),  # of two names, that of the attention is missing
        ("Llama", ("c_fc",), "down_proj, gate_proj, k_proj"),
        ("Llama", ("query", "up_proj"), "down_proj, gate_proj, k_proj"),
    ],
)
def test_lora_without_an_attention_layer_lists_what_can_be_adapted(kind: str, targets: Any, names: str) -> None:
    net = network(kind)
    with pytest.raises(ConfigError, match="has no layer named") as caught:
        Lora(targets=targets).add(net, "llm.lora")
    assert names in caught.value.details["expected"]
    assert caught.value.details["where"] == "llm.lora.targets"
    assert "llm.lora.targets=all-linear" in caught.value.details["hint"]


def test_an_error_of_peft_keeps_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("The version of PEFT you are using is not compatible, please use a version >= 9")

    monkeypatch.setattr("peft.inject_adapter_in_model", fail)
    net = network("Llama")
    with pytest.raises(ConfigError, match="use a version >= 9") as caught:
        Lora().add(net, "llm.lora")
    assert "q_proj" not in str(caught.value)
    monkeypatch.undo()
    pattern, net = Lora(targets="no_such_layer"), network("Llama")  # a regular expression, which peft checks itself
    with pytest.raises(ConfigError, match="LoRA cannot be added"):
        pattern.add(net, "llm.lora")


@pytest.mark.parametrize(("key", "value"), [("r", 0), ("alpha", 0.0), ("dropout", 1.0)])
def test_lora_settings_out_of_range(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"lora\.{key} is out of range"):
        Lora(**{key: value})
