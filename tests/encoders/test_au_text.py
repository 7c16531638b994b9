from __future__ import annotations

import torch
import transformers as tr

from hero_lightning.encoders.au_text import NOTHING, AuWords
from hero_lightning.media.action_units import AU_COLUMNS
from hero_lightning.media.types import ActionUnits


def table(*rows: dict[str, float]) -> ActionUnits:
    x = torch.tensor([[row.get(name, 0.0) for name in AU_COLUMNS] for row in rows])
    return ActionUnits(x, torch.arange(len(rows)) / 10, AU_COLUMNS)


def test_strongest_muscle_first_and_nothing_said_of_a_calm_face(folders):
    encoder = AuWords(str(folders["clip"]))
    lines, time = encoder.lines(
        table({"AU06_r": 1.8, "AU12_r": 2.413, "AU04_r": 0.4, "AU12_c": 1}, {"AU28_c": 1, "AU01_r": 0.5}, {"AU04_c": 1})
    )
    assert lines == [
        "lip corner puller (intensity: 2.41), cheek raiser (intensity: 1.80)",
        "inner brow raiser (intensity: 0.50), lip suck",
        NOTHING,
    ]
    assert torch.equal(time, torch.tensor([0.0, 0.1, 0.2]))
    assert AuWords(str(folders["clip"]), threshold=2.0).lines(table({"AU06_r": 1.8}))[0] == [NOTHING]


def test_long_tables_are_averaged_over_equal_stretches(folders):
    rows = [{"AU12_r": 1.0}] * 10 + [{"AU12_r": 3.0}] * 10
    lines, time = AuWords(str(folders["clip"]), max_steps=2).lines(table(*rows))
    assert lines == ["lip corner puller (intensity: 1.00)", "lip corner puller (intensity: 3.00)"]
    assert torch.allclose(time, torch.tensor([0.45, 1.45]))


@torch.no_grad()
def test_unit_vectors_of_clips_text_tower(folders):
    encoder = AuWords(str(folders["clip"]))
    encoder.load()
    material = table({"AU12_r": 2.0}, {})
    out = encoder.eval().encode(encoder.collate([encoder.preprocess(material)]))
    network = tr.CLIPModel.from_pretrained(folders["clip"], dtype=torch.float32).eval()
    words = encoder.tokenizer(
        encoder.lines(material)[0], padding=True, truncation=True, max_length=40, return_tensors="pt"
    )
    want = network.get_text_features(**words).pooler_output
    torch.testing.assert_close(out.x[0], want / want.norm(dim=-1, keepdim=True), atol=1e-5, rtol=1e-5)
    assert encoder.dim == 12
