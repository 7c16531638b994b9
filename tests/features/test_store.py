from __future__ import annotations

import contextlib
import json
import multiprocessing
import pickle
import random

import pytest
import torch

from hero_lightning.errors import FeatureError
from hero_lightning.features import store as store_module
from hero_lightning.features.fingerprint import SourceFingerprint
from hero_lightning.features.store import Store
from hero_lightning.types import Media, Sample, StoredFeatures
from tests.features.conftest import make, tree


def sample(id: str) -> Sample:
    return Sample(id, "train")


def identity(**changes):
    encoder = {"class": "Hog", "version": 1, "size": 64} | changes
    return {"dataset": "demo", "modality": "frame", "encoder": encoder, "sampler": {"sampler": "uniform", "count": 4}}


def ready(k: int, steps: int = 3) -> StoredFeatures:
    x = torch.randn(steps, 5, generator=torch.Generator().manual_seed(k))
    return StoredFeatures(x, torch.arange(steps) / 4.0, {"pitch_hz": 100.0 + k})


def clips(ids: str) -> dict[str, Sample]:
    return {id: sample(id) for id in ids}


def filled(root, ids="abcde", dtype="float32") -> Store:
    store, samples = Store.at(root, identity()), clips(ids)
    for file, part in store.plan(samples.values(), dtype, 2).items():
        rows = {id: ready(ord(id), 2 + k) for k, id in enumerate(part) if id != "b"}
        faults = {"b": {"stage": "decode", "error": "cut off"}} if "b" in part else {}
        store.write(file, rows, faults, samples)
    store.update_manifest()
    return store


def test_what_is_written_is_read(tmp_path):
    filled(tmp_path)
    store = Store.at(tmp_path, identity())
    for id, steps in (("a", 2), ("c", 2), ("d", 3), ("e", 2)):
        row, want = store.read(sample(id)), ready(ord(id), steps)
        assert torch.equal(row.x, want.x)
        assert torch.equal(row.time, want.time)
        assert row.measures == want.measures
        assert store.length(sample(id)) == steps
        assert store.status(sample(id)).mode == "preextracted"
    assert store.width() == 5
    manifest = json.loads((store.folder / "manifest.json").read_text())
    assert [p["ids"] for p in manifest["parts"]] == [["a", "b"], ["c", "d"], ["e"]]
    assert manifest["rate"] == 4.0
    assert manifest["identity"] == identity()
    assert manifest["versions"]["torch"]


def test_faults_are_kept_in_the_ledger(tmp_path):
    store = filled(tmp_path)
    broken = store.status(sample("b"))
    assert (broken.mode, broken.reason) == ("broken", "cut off")
    assert store.status(sample("z")).mode == "absent"
    assert store.length(sample("b")) is None
    with pytest.raises(FeatureError, match="cut off"):
        store.read(sample("b"))


def test_absent_is_not_broken(tmp_path):
    store = Store.at(tmp_path, identity())
    (file,) = store.plan([sample("a")], "float32", 2)
    store.write(file, {}, {"a": {"stage": "absent", "error": "no sound"}}, clips("a"))
    assert store.status(sample("a")).mode == "absent"
    assert store.width() is None


def test_bfloat16_is_near(tmp_path):
    store = filled(tmp_path, dtype="bfloat16")
    row = store.read(sample("d"))
    assert row.x.dtype == torch.float32
    assert not torch.equal(row.x, ready(ord("d")).x)
    torch.testing.assert_close(row.x, ready(ord("d")).x, rtol=1e-2, atol=1e-4)
    again = Store.at(tmp_path, identity())
    again.plan([sample("a")], "float32", 2)
    assert again.manifest["dtype"] == "bfloat16"


def test_new_ids_are_appended_and_known_ones_kept(tmp_path):
    store = filled(tmp_path)
    before = tree(store.folder)
    assert filled(tmp_path).folder == store.folder
    assert tree(store.folder) == before  # nothing new: nothing touched
    filled(tmp_path, ids="haefg")
    after = tree(store.folder)
    for name, content in before.items():
        assert after[name] == content or name == "manifest.json"
    parts = json.loads(after["manifest.json"])["parts"]
    assert [p["ids"] for p in parts[3:]] == [["f", "g"], ["h"]]


def test_a_failed_clip_is_tried_again_only_when_asked(tmp_path):
    store = filled(tmp_path)
    assert store.plan(clips("ab").values(), "float32", 2) == {}
    (file,) = plan = store.plan(clips("ab").values(), "float32", 2, retry=True)
    assert plan == {"part-00003.safetensors": ["b"]}
    assert store.fault(sample("b"))["error"] == "cut off"
    store.write(file, {"b": ready(7)}, {}, clips("b"))
    assert torch.equal(store.read(sample("b")).x, ready(7).x)
    assert store.fault(sample("b")) is None


def test_a_killed_part_is_redone_whole_and_ends_the_same(tmp_path):
    whole = tree(filled(tmp_path / "whole").folder)
    store = Store.at(tmp_path / "killed", identity())
    plan = store.plan(clips("abcde").values(), "float32", 2)
    first = next(iter(plan))
    store.write(first, {"a": ready(ord("a"), 2)}, {"b": {"stage": "decode", "error": "cut off"}}, clips("ab"))
    (store.folder / "part-00001.safetensors").write_bytes(b"half a part that never reached the manifest")
    assert list(store.plan(clips("abcde").values(), "float32", 2)) == list(plan)[1:]
    assert tree(filled(tmp_path / "killed").folder) == whole


def test_a_deleted_part_is_made_again(tmp_path):
    store = filled(tmp_path)
    before = tree(store.folder)
    (store.folder / "part-00001.safetensors").unlink()
    store = Store.at(tmp_path, identity())
    assert not store.contains(sample("c"))
    assert store.contains(sample("a"))
    assert list(store.plan(clips("abcde").values(), "float32", 2)) == ["part-00001.safetensors"]
    filled(tmp_path)
    assert tree(store.folder) == before


def test_a_planned_part_without_its_clips_is_cut_anew(tmp_path):
    store = Store.at(tmp_path, identity())
    store.plan(clips("abcd").values(), "float32", 2)
    assert store.plan(clips("abd").values(), "float32", 2) == {
        "part-00000.safetensors": ["a", "b"],
        "part-00001.safetensors": ["d"],
    }


def test_a_damaged_part_is_named(tmp_path):
    store = filled(tmp_path)
    (store.folder / "part-00001.safetensors").write_bytes(b"junk")
    with pytest.raises(FeatureError, match="delete this file") as info:
        Store.at(tmp_path, identity()).read(sample("c"))
    assert "part-00001" in str(info.value)


def test_a_writer_elsewhere_is_noticed(tmp_path):
    reader = Store.at(tmp_path, identity())
    assert not reader.contains(sample("a"))
    filled(tmp_path)
    assert reader.contains(sample("a"))
    filled(tmp_path, ids="f")
    assert reader.contains(sample("f"))


def test_it_travels_without_handles(tmp_path):
    store = filled(tmp_path)
    store.read(sample("a"))
    other = pickle.loads(pickle.dumps(store))
    assert not other._handles
    assert torch.equal(other.read(sample("a")).x, store.read(sample("a")).x)


def test_another_identity_is_refused_and_the_difference_named(tmp_path):
    store = filled(tmp_path)
    with pytest.raises(FeatureError) as info:
        Store(store.folder, identity(size=32)).contains(sample("a"))
    assert "encoder.size=32" in info.value.details["expected"]
    assert "encoder.size=64" in info.value.details["got"]
    assert "version" not in str(info.value)
    assert Store(store.folder).contains(sample("a"))  # named by its folder, it is what it is


def test_another_format_is_refused(tmp_path):
    store = filled(tmp_path)
    path = store.folder / "manifest.json"
    path.write_text(path.read_text().replace('"format": 3', '"format": 2'))
    with pytest.raises(FeatureError, match="another format"):
        Store(store.folder).contains(sample("a"))


@pytest.mark.parametrize(("content", "said"), [("{", "is not JSON"), ("[]", "not dict"), ("{}", "format None")])
def test_a_damaged_manifest_is_named(tmp_path, content, said):
    store = filled(tmp_path)
    (store.folder / "manifest.json").write_text(content)
    with pytest.raises(FeatureError, match=said) as info:
        Store(store.folder).contains(sample("a"))
    assert "manifest.json" in str(info.value)


def test_a_set_of_another_format_is_a_neighbour(tmp_path):
    other = filled(tmp_path).folder
    (other / "manifest.json").write_text(json.dumps({"format": 1, "ids": ["a"]}))
    with pytest.raises(FeatureError, match="No features of this identity") as info:
        Store.at(tmp_path, identity(size=32)).require()
    assert other.name in info.value.details["got"]


def test_a_part_that_nobody_entered_counts(tmp_path):
    store = Store.at(tmp_path, identity())
    store.plan(clips("abcd").values(), "float32", 2)
    rows = {id: ready(ord(id)) for id in "cd"}
    store.write("part-00001.safetensors", rows, {}, clips("cd"), {"c": "peak"})
    again = Store.at(tmp_path, identity())  # the writer was killed before it could enter the part
    assert again.status(sample("c")).reason == "store, peak"
    assert not again.contains(sample("a"))
    assert again.manifest["rate"] == 4.0
    assert list(again.plan(clips("abcd").values(), "float32", 2)) == ["part-00000.safetensors"]


def test_a_missing_set_names_its_neighbours(tmp_path):
    filled(tmp_path)
    with pytest.raises(FeatureError, match=r"hero_lightning\.extract") as info:
        Store.at(tmp_path, identity(size=32)).require()
    assert "(encoder.size=64)" in info.value.details["got"]
    with pytest.raises(FeatureError, match="nothing in"):
        Store.at(tmp_path / "other", identity()).require()


def _fill(root):
    store = Store.at(root, identity())
    with store.locked():
        for file, part in store.plan(clips("abcdefgh").values(), "float32", 2).items():
            store.write(file, {id: ready(ord(id)) for id in part}, {}, clips("abcdefgh"))


def test_two_writers_wait_for_each_other(tmp_path):
    _fill(tmp_path / "one")
    workers = [multiprocessing.get_context("fork").Process(target=_fill, args=(tmp_path / "two",)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_a_store_can_be_a_source(tmp_path):
    store = filled(tmp_path)
    modality = make("frame", mode="preextracted", encoder=None, sampler=None, source=Store(store.folder))
    assert modality.dim == 5
    assert torch.equal(modality.stored(sample("a")).x, ready(ord("a"), 2).x)
    assert modality.availability(sample("b")).mode == "broken"
    assert modality.identity()["source"] == identity()


def test_features_of_clips_that_are_not_at_hand_count(tmp_path):
    film = tmp_path / "a.mp4"
    film.write_bytes(b"film")
    clip = Sample("a", "train", video=Media(film))
    store = Store.at(tmp_path, identity(), SourceFingerprint("frame"))
    (file,) = store.plan([clip], "float32", 2)
    store.write(file, {"a": ready(1)}, {}, {"a": clip})
    film.write_bytes(b"another film")
    assert not store.contains(clip)
    film.unlink()
    assert store.contains(clip)
    assert store.contains(Sample("a", "train"))


def test_features_of_another_text_do_not_count(tmp_path):
    old, new = Sample("a", "train", text="hello"), Sample("a", "train", text="good bye")
    store = Store.at(tmp_path, identity(), SourceFingerprint("text"))
    (file,) = store.plan([old], "float32", 2)
    store.write(file, {"a": ready(1)}, {}, {"a": old})
    assert store.contains(old)
    assert store.status(new).reason == "extracted from another file or text"
    (file,) = plan = store.plan([new], "float32", 2)
    assert plan == {"part-00001.safetensors": ["a"]}
    store.write(file, {}, {"a": {"stage": "encode", "error": "no"}}, {"a": new})
    assert store.status(new).mode == "broken"
    assert not store.contains(new)
    (file,) = store.plan([old], "float32", 2)
    store.write(file, {"a": ready(3)}, {}, {"a": old})
    assert torch.equal(store.read(old).x, ready(3).x)
    assert store.fault(old) is None


def test_a_changed_byte_of_a_part_is_noticed(tmp_path):
    """Any byte of header and numbers: an error, or what was written; never other numbers."""
    path = filled(tmp_path).folder / "part-00001.safetensors"
    intact, want = path.read_bytes(), {id: ready(ord(id), 2 + k) for k, id in enumerate("cd")}
    refused, draw = 0, random.Random(0)
    for _ in range(300):
        data = bytearray(intact)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        for id, row in want.items():
            found = None
            with contextlib.suppress(FeatureError):
                found = Store.at(tmp_path, identity()).read(sample(id))
            refused += found is None
            if found is not None:
                assert torch.equal(found.x, row.x)
                assert torch.equal(found.time, row.time)
                assert found.measures == row.measures
    assert refused > 200


def test_a_truncated_part_is_named_before_anything_is_read(tmp_path):
    path = filled(tmp_path).folder / "part-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(FeatureError, match=r"cannot be read[\s\S]*bytes instead of[\s\S]*part-00001"):
        Store.at(tmp_path, identity()).status(sample("a"))


def test_a_deleted_part_may_come_back_with_another_size(tmp_path):
    filled(tmp_path)
    store = Store.at(tmp_path, identity())
    (store.folder / "part-00001.safetensors").unlink()
    (file,) = store.plan(clips("abcde").values(), "float32", 2)
    store.write(file, {id: ready(ord(id), 7) for id in "cd"}, {}, clips("cd"))
    store.update_manifest()
    assert Store.at(tmp_path, identity()).read(sample("c")).x.shape == (7, 5)


def test_a_part_truncated_while_it_is_open_is_an_error(tmp_path):
    store = filled(tmp_path)
    store.read(sample("c"))
    with (store.folder / "part-00001.safetensors").open("r+b") as file:
        file.truncate(300)
    with pytest.raises(FeatureError, match="truncated to"):
        store.read(sample("c"))


def test_parts_without_checksums_are_read(tmp_path):
    store = filled(tmp_path)
    path = store.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for part in manifest["parts"]:
        del part["crc"], part["size"]  # as written before there were any
    path.write_text(json.dumps(manifest))
    assert torch.equal(Store.at(tmp_path, identity()).read(sample("c")).x, ready(ord("c"), 2).x)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda m: m.update(parts=3), ".parts is no list"),
        (lambda m: m.pop("dtype"), "lacks dtype"),
        (lambda m: m.update(dtype="int8"), "int8"),
        (lambda m: m.update(identity=[]), ".identity"),
        (lambda m: m["parts"].append("x"), r".parts\[3\] is no object"),
        (lambda m: m["parts"][1].update(ids=["c", 4]), r".parts\[1\].ids\[1\] is '4', not str"),
        (lambda m: m["parts"][1].update(ids=["c", "c"]), "part-00001.safetensors: numbers of ids"),
        (lambda m: m["parts"][1].update(steps=[2]), "part-00001.safetensors: numbers of ids"),
        (lambda m: m["parts"][1].update(crc="ab"), "crc"),
        (lambda m: m["parts"][1].update(file="../../x"), "no name of a part"),
        (lambda m: m["parts"][0].update(failures={"b": "cut off"}), "part-00000.safetensors.failures.b is no object"),
        (lambda m: m["parts"][1].update(dim=True), "safetensors.dim is"),
    ],
)
def test_a_manifest_of_another_shape_is_named(tmp_path, change, place):
    path = filled(tmp_path).folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(FeatureError, match=place) as info:
        Store.at(tmp_path, identity()).contains(sample("a"))
    assert "manifest.json" in str(info.value)


def test_a_deep_manifest_is_named(tmp_path):
    path = filled(tmp_path).folder / "manifest.json"
    path.write_text("[" * 100_000)
    with pytest.raises(FeatureError, match="RecursionError"):
        Store.at(tmp_path, identity()).contains(sample("a"))


def test_writing_does_not_read_the_manifest_for_every_part(tmp_path, monkeypatch):
    store, samples = Store.at(tmp_path, identity()), clips("abcdef")
    plan = store.plan(samples.values(), "float32", 1)
    reads = []
    real = store_module.read_manifest
    monkeypatch.setattr(store_module, "read_manifest", lambda path: reads.append(path) or real(path))
    for file, (id,) in plan.items():
        store.write(file, {id: ready(ord(id))}, {}, samples)
    assert len(reads) <= 1
    assert store.contains(sample("f"))
