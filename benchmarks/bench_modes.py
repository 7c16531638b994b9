"""EncoderInput clip to answer in the four modes: realtime uniform, realtime emotion_peak, hybrid, all preextracted.

    python -m benchmarks.bench_modes --quick                              # tiny networks on a CPU, in seconds
    PYTHONPATH=src python -m benchmarks.bench_modes --size base           # base sizes, on the CUDA machine

Data flow: made clips of 5 s (H.264 + AAC) -> Modalities frame, face, audio, text with random weights -> Hero -> a language
model that scores 9 labels behind prompts of 300 positions, then writes answers -> the same predictions by every way of
having the same pictures -> ms per clip of every stage, samples/s with decoding in workers. Base: CLIP ViT-L/14 (8
frames and 8 faces), HuBERT-large, Hero of width 768, a 7B language model, bf16. Needs torch, transformers, safetensors
and numpy; without PyAV pictures and sound are read from arrays, and the result says so.

Legend: B clips of a batch.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.common import write
from benchmarks.gpu import LABELS, SHAPES, Shape, answer, clips, language_model
from torch.utils.data import DataLoader

from hero_lightning.encoders.handcrafted import HashedWords
from hero_lightning.encoders.tiny import TinyAudio, TinyFrames, TinyText
from hero_lightning.features import Availability, Modality, ModalityEncoder, read_clip
from hero_lightning.media.frame_samplers import EmotionPeak, Uniform
from hero_lightning.media.types import SAMPLE_RATE, ClipInfo, Frames, Waveform
from hero_lightning.models.hero.hero import Hero
from hero_lightning.models.llm.head import LLMHead
from hero_lightning.types import EncoderInput, Features, Media, ModalityBatch, Row, Sample, StoredFeatures

SECONDS, FPS = 5, 25
STAGES = ("decode", "encode", "fuse", "score", "generate")
MODES = {
    "realtime uniform": ("uniform", "realtime", "realtime"),
    "realtime emotion_peak": ("peak", "realtime", "realtime"),
    "hybrid": ("peak", "preextracted", "realtime"),
    "preextracted": ("peak", "preextracted", "preextracted"),
}
"""Mode -> sampler of the frames, mode of the frames, mode of the rest. The last three look at the same pictures."""
GOALS = {"realtime uniform": 55, "realtime emotion_peak": 55, "hybrid": 68, "preextracted": 90}
"""Samples/s with label scoring on one H200 and 16 cores: half of what its arithmetic allows."""
TURNS = 3
HAS_AV = importlib.util.find_spec("av") is not None


@dataclass(frozen=True)
class Size:
    """What is run.

    Attributes:
        shape: of the language model; `clips` of them in all.
        hero: sizes of the fusion.
        picture: width and height of the clips in pixels.
        batch: B.
    """

    shape: Shape
    hero: dict[str, int]
    picture: tuple[int, int]
    batch: int


SIZES = {
    "tiny": Size(
        Shape(2, 32, 64, 2, 1, 512, context=16, clips=64, new_tokens=8),
        {"width": 32, "queries": 4, "layers": 1, "num_heads": 2, "context_tokens": 16},
        (320, 240),
        8,
    ),
    "base": Size(
        Shape(**{**vars(SHAPES["7b"]), "clips": 128}),
        {"width": 768, "queries": 32, "layers": 2, "num_heads": 8, "context_tokens": 64},
        (640, 360),
        32,
    ),
}


def encoders(size: str, folder: Path, dtype: str) -> dict[str, Any]:
    """A factory per modality; base networks are made with random weights and saved as checkpoints are."""
    if size == "tiny":
        return {"frame": TinyFrames, "face": TinyFrames, "audio": TinyAudio, "text": TinyText}
    from transformers import CLIPVisionConfig, CLIPVisionModel, HubertConfig, HubertModel

    from hero_lightning.encoders.image import ImageEncoder
    from hero_lightning.encoders.speech import SpeechEncoder

    large = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    CLIPVisionModel(CLIPVisionConfig(**large, patch_size=14, image_size=224)).save_pretrained(folder / "clip")
    norm = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
    HubertModel(HubertConfig(**large, **norm)).save_pretrained(folder / "hubert")
    square = {"size": {"shortest_edge": 224}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}}
    scale = {"resample": 3, "image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
    (folder / "clip" / "preprocessor_config.json").write_text(json.dumps(square | scale))
    (folder / "hubert" / "preprocessor_config.json").write_text('{"sampling_rate": 16000, "do_normalize": true}')
    image = partial(ImageEncoder, str(folder / "clip"), dtype=dtype)
    return {
        "frame": image,
        "face": image,
        "audio": partial(SpeechEncoder, str(folder / "hubert"), dtype=dtype),
        "text": HashedWords,
    }


def made_clips(folder: Path, size: Size, distinct: int = 8) -> list[Sample]:
    """Clips of drifting noise and a changing tone, their peaks drawn evenly; some files serve several clips."""
    rng, (width, height) = np.random.default_rng(0), size.picture
    for k in range(min(distinct, size.shape.clips)):
        coarse = rng.integers(0, 255, (height // 16 + 16, width // 16 + 16, 3), dtype=np.uint8)
        large = coarse.repeat(16, axis=0).repeat(16, axis=1)
        drift = range(0, 2 * SECONDS * FPS, 2)  # pixels
        pictures = [np.ascontiguousarray(large[d // 2 : d // 2 + height, d : d + width]) for d in drift]
        moments = np.arange(SECONDS * SAMPLE_RATE) / SAMPLE_RATE
        sound = (0.3 * np.sin(2 * np.pi * (150 + 20 * k + 30 * moments) * moments)).astype(np.float32)
        if HAS_AV:
            from tests.media_helpers import write_clip

            write_clip(folder / f"{k}.mp4", SECONDS, FPS, pictures=pictures, sound=sound, sound_rate=SAMPLE_RATE)
        else:
            np.save(folder / f"{k}.npy", np.stack(pictures))
            np.save(folder / f"{k}_sound.npy", sound)
    out = []
    for n in range(size.shape.clips):
        k, peak = n % distinct, int(rng.integers(SECONDS * FPS))
        around = {"peak_index": peak, "frames_before_peak": peak, "frames_after_peak": SECONDS * FPS - 1 - peak}
        info = folder / f"{n}_au_info.json"
        info.write_text(json.dumps({"total_frames": SECONDS * FPS, "fps": FPS, "peak_frames": [around]}))
        media = Media(folder / (f"{k}.mp4" if HAS_AV else f"{k}.npy"))
        text = "stop it I did not mean to say that " * 2
        sample = Sample(f"clip_{n:04d}", "test", video=media, files={"au_info": info}, text=text)
        sample.boxes["face"] = (0.3, 0.2, 0.7, 0.8)
        out.append(sample)
    return out


def modalities_of(mode: str, factories: Mapping[str, Any], root: Path) -> dict[str, Modality]:
    """The modalities of a mode, bound to the stores that `store` fills."""
    rule, frames, rest = MODES[mode]
    looks = {"frame": EmotionPeak(8) if rule == "peak" else Uniform(8), "face": Uniform(8)}
    found = {
        name: Modality(name, frames if name == "frame" else rest, factory, looks.get(name), max_len=512)
        for name, factory in factories.items()
    }
    for modality in found.values():
        modality.bind(root, "made")
    return found


def read(modalities: Mapping[str, Modality], found: Mapping[str, Availability], sample: Sample) -> dict[str, Row]:
    """One clip's rows; without PyAV pictures and sound come from arrays."""
    live = [n for n, r in found.items() if r.mode == "realtime" and n != "text" and not HAS_AV]
    rows = read_clip({n: s for n, s in modalities.items() if n not in live}, found, sample)
    for name in live:
        encoder, sampler, video = modalities[name].encoder, modalities[name].sampler, sample.video
        assert encoder is not None
        assert video is not None
        material: Frames | Waveform
        if sampler is None:
            sound = np.load(video.path.with_name(f"{video.path.stem}_sound.npy"))
            material = Waveform(torch.from_numpy(sound))
        else:
            film = np.load(video.path, mmap_mode="r")
            info = ClipInfo(SECONDS, FPS, len(film), True, True)
            times = sampler.plan(info, sample, 0, 0).times
            x0, y0, x1, y1 = sample.boxes[name] if name == "face" else (0.0, 0.0, 1.0, 1.0)
            height, width = film.shape[1:3]
            pictures = film[[round(t * FPS) for t in times]]
            pixels = pictures[:, int(y0 * height) : int(y1 * height), int(x0 * width) : int(x1 * width)].copy()
            material = Frames(torch.from_numpy(pixels), torch.tensor(times))
        rows[name] = EncoderInput(encoder.preprocess(material))
    return rows


def resolved(modalities: Mapping[str, Modality], sample: Sample) -> dict[str, Availability]:
    """How every modality of a clip is had."""
    known = [n for n, s in modalities.items() if not HAS_AV and n != "text" and s.mode == "realtime"]
    return {n: Availability("realtime") if n in known else s.availability(sample) for n, s in modalities.items()}


class Rows(torch.utils.data.Dataset):
    """A clip as its rows, read in a worker."""

    def __init__(self, modalities: Mapping[str, Modality], samples: Sequence[Sample]) -> None:
        self.modalities, self.samples = dict(modalities), samples
        self.found = [resolved(modalities, s) for s in samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, n: int) -> dict[str, Row]:
        return read(self.modalities, self.found[n], self.samples[n])

    def joined(self, rows: list[dict[str, Row]]) -> dict[str, ModalityBatch]:
        """B clips -> a ModalityBatch per modality."""
        return {name: modality.collate([r[name] for r in rows]) for name, modality in self.modalities.items()}


def moved(batch: Mapping[str, ModalityBatch], device: str) -> dict[str, ModalityBatch]:
    """A batch on the device."""

    def to(x: Any) -> Any:
        return None if x is None else x.to(device, non_blocking=True)

    return {
        name: ModalityBatch(
            s.size,
            s.ready and Features(to(s.ready.x), to(s.ready.mask), to(s.ready.time)),
            to(s.stored_rows),
            None if s.raw is None else {k: to(x) for k, x in s.raw.items()},
            to(s.input_rows),
        )
        for name, s in batch.items()
    }


class Clock:
    """Seconds by stage, the device awaited at both ends; `now` tells the time."""

    def __init__(self, device: str, now: Callable[[], float]) -> None:
        self.device, self.now, self.seconds = device, now, dict.fromkeys(STAGES, 0.0)

    def wait(self) -> None:
        """Until the device has done what it was told."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a block."""
        self.wait()
        begin = self.now()
        yield
        self.wait()
        self.seconds[name] += self.now() - begin


@dataclass
class Pipeline:
    """Modalities' encoders, fusion and language model of one mode."""

    rows: Rows
    encoders: Mapping[str, torch.nn.Module]
    hero: Hero
    head: LLMHead
    prompts: list[Any]
    size: Size
    device: str
    now: Callable[[], float]

    @property
    def batches(self) -> list[list[int]]:
        """Numbers of the clips of every batch."""
        order = list(range(len(self.rows)))
        return [order[k : k + self.size.batch] for k in range(0, len(order), self.size.batch)]

    def context(self, batch: Mapping[str, ModalityBatch], clock: Clock) -> torch.Tensor:
        """Context tokens [B, O, d]."""
        with clock.stage("encode"):
            features = {name: encode(batch[name]) for name, encode in self.encoders.items()}
        with clock.stage("fuse"), torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            return self.hero(features).context.float()

    def scores(self, context: torch.Tensor, chosen: list[int]) -> torch.Tensor:
        """Scores [B, K] of the labels."""
        return self.head.score(context, [self.prompts[n] for n in chosen], [answer(label).text for label in LABELS])

    @torch.inference_mode()
    def serial(self, limit: int | None = None) -> tuple[torch.Tensor, list[str], Clock]:
        """One stage after the other: scores [N, K], answers, seconds by stage."""
        clock, scores, texts = Clock(self.device, self.now), [], []
        for chosen in self.batches[:limit]:
            with clock.stage("decode"):
                batch = moved(self.rows.joined([self.rows[n] for n in chosen]), self.device)
            context = self.context(batch, clock)
            with clock.stage("score"):
                scores.append(self.scores(context, chosen).float().cpu())
            with clock.stage("generate"):
                prompts = [self.prompts[n] for n in chosen]
                texts += self.head.generate(context, prompts, max_new_tokens=self.size.shape.new_tokens)
        return torch.cat(scores), texts, clock

    @torch.inference_mode()
    def throughput(self, workers: int, rounds: int) -> float:
        """Clips per second with label scoring; workers decode while the device computes."""
        loader: Any = DataLoader(
            self.rows, batch_sampler=self.batches * rounds, collate_fn=self.rows.joined, num_workers=workers,
            pin_memory=self.device == "cuda",
        )  # fmt: skip
        clock, done, begin = Clock(self.device, self.now), 0, 0.0
        for chosen, batch in zip(self.batches * rounds, loader, strict=True):
            self.scores(self.context(moved(batch, self.device), clock), chosen).cpu()
            if not begin:  # the first batch starts the workers and warms the device
                begin = self.now()
            else:
                done += len(chosen)
        return done / (self.now() - begin)


@torch.inference_mode()
def store(mode: str, rows: Rows, modules: Mapping[str, ModalityEncoder], device: str) -> None:
    """Extracts all modalities of a realtime mode into the stores that the other modes read."""
    by_id = {s.id: s for s in rows.samples}
    found: dict[str, dict[str, StoredFeatures]] = {name: {} for name in rows.modalities}
    for start in range(0, len(rows), 16):
        part = [rows[n] for n in range(start, min(start + 16, len(rows)))]
        for name, batch in moved(rows.joined(part), device).items():
            out = modules[name](batch)
            for b, sample in enumerate(rows.samples[start : start + 16]):
                clock = None if out.time is None else out.time[b, out.mask[b]].cpu()
                found[name][sample.id] = StoredFeatures(out.x[b, out.mask[b]].float().cpu(), clock)
    for name, modality in rows.modalities.items():
        assert modality.store is not None
        for file, ids in modality.store.plan(rows.samples, "float32", len(rows)).items():
            modality.store.write(file, {id: found[name][id] for id in ids}, {}, by_id)
        modality.store.update_manifest()


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, compares, prints and writes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=sorted(SIZES), default="tiny")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=None, help="processes that decode; default: cores - 2")
    parser.add_argument("--rounds", type=int, default=3, help="passes over the clips for samples/s")
    parser.add_argument("--quick", action="store_true", help="one round, result not written")
    args = parser.parse_args(argv)
    size, device = SIZES[args.size], args.device
    if args.size == "base" and device == "cpu":
        raise SystemExit("base sizes need a CUDA device; --size tiny runs anywhere")
    workers = max(len(os.sched_getaffinity(0)) - 2, 0) if args.workers is None else args.workers
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    with tempfile.TemporaryDirectory() as where:
        root = Path(where)
        result = run(args, size, device, dtype, workers, root)
    if not args.quick:
        print(write(f"modes_{args.size}_{device}", result))


def run(args: Any, size: Size, device: str, dtype: torch.dtype, workers: int, root: Path) -> dict[str, object]:
    """All modes in turn; the predictions of those that look at the same pictures must agree."""
    factories, samples = encoders(args.size, root, str(dtype).split(".")[1]), made_clips(root, size)
    lm, tokenizer = language_model(size.shape, device, dtype)
    head = LLMHead(size.hero["width"], name="random weights", frozen=True, dtype=str(dtype).split(".")[1])
    head.use(lm, tokenizer)
    head.to(device).eval()
    lm.generation_config.eos_token_id = None  # every answer is as long as the others
    prompts = clips(head, size.shape, len(samples), "cpu")[0]
    live = modalities_of("realtime emotion_peak", factories, root / "features")
    modules = {name: ModalityEncoder(modality).to(device).eval() for name, modality in live.items()}
    store("realtime emotion_peak", Rows(live, samples), modules, device)
    hero = Hero({n: m.dim for n, m in modules.items()}, {"emotion": len(LABELS)}, **size.hero).to(device).eval()
    result: dict[str, object] = {
        "clips": f"{len(samples)} of {SECONDS} s, {size.picture[0]}x{size.picture[1]}, {FPS} fps",
        "decoder": "H.264 + AAC by PyAV" if HAS_AV else "arrays: no PyAV on this machine",
        "prompt": size.shape.prompt, "labels": len(LABELS), "new_tokens": size.shape.new_tokens, "batch": size.batch,
        "workers": workers, "dtype": str(dtype), "parameters_lm": sum(p.numel() for p in lm.parameters()),
    }  # fmt: skip
    seen: dict[str, tuple[torch.Tensor, list[str]]] = {}
    # One process on a CPU that others may share is timed by what it used of it.
    alone = device == "cpu" and workers == 0
    now, result["clock"] = (time.process_time, "processor") if alone else (time.perf_counter, "wall")
    rates: dict[str, list[float]] = {mode: [] for mode in MODES}
    pipelines = {
        mode: Pipeline(
            Rows(modalities_of(mode, factories, root / "features"), samples),
            modules,
            hero,
            head,
            prompts,
            size,
            device,
            now,
        )
        for mode in MODES
    }
    clocks: dict[str, list[dict[str, float]]] = {mode: [] for mode in MODES}
    for pipeline in pipelines.values():
        pipeline.serial(1)  # warm-up
    for turn in range(1 if args.quick else TURNS):  # interleaved, in alternating order, so that a busy machine hits all
        for mode in list(MODES)[:: -1 if turn % 2 else 1]:
            scores, texts, clock = pipelines[mode].serial()
            seen[mode] = scores, texts
            clocks[mode].append(clock.seconds)
            rates[mode].append(pipelines[mode].throughput(workers, 1 if args.quick else args.rounds))
    count = len(samples)
    for mode in MODES:
        rate = statistics.median(rates[mode])
        taken = {stage: round(1e3 * statistics.median(c[stage] for c in clocks[mode]) / count, 3) for stage in STAGES}
        answered = 1e3 / sum(taken.values())
        result[mode] = {
            "ms_per_clip": taken, "samples_per_s": rate, "samples_per_s_with_answers": answered,
            "goal_h200_base": GOALS[mode],
        }  # fmt: skip
        stages = ", ".join(f"{stage} {ms:.2f}" for stage, ms in taken.items())
        print(f"{mode:>22}: {rate:8.1f} samples/s | ms per clip: {stages} | with answers {answered:.2f}/s")
    want, said = seen["realtime emotion_peak"]
    for mode in ("hybrid", "preextracted"):
        scores, texts = seen[mode]
        same = bool((scores.argmax(dim=1) == want.argmax(dim=1)).all())
        difference = float((scores - want).abs().max())
        equal = sum(a == b for a, b in zip(texts, said, strict=True))
        print(f"{mode}: same labels {same}, score difference {difference:.1e}, {equal} of {len(said)} answers equal")
        result[f"{mode} against realtime"] = {"same": same, "difference": difference, "equal_answers": equal}
        if not same:
            raise SystemExit(f"{mode} predicts other labels than realtime on the same pictures")
    pairs = zip(rates["realtime emotion_peak"], rates["realtime uniform"], strict=True)
    ratio = statistics.median(peak / uniform for peak, uniform in pairs)
    print(f"emotion_peak runs at {ratio:.2f} x uniform")
    return {**result, "peak_to_uniform": ratio}


if __name__ == "__main__":
    main()
