"""From media file to answer in four modes: realtime uniform, realtime emotion_peak, hybrid, preextracted.

    python -m benchmarks.bench_modes --quick                              # tiny networks on a CPU, in seconds
    PYTHONPATH=src python -m benchmarks.bench_modes --size base           # base sizes, on a CUDA machine

Data flow: synthetic clips of 5 s (H.264 + AAC) -> frame, face, audio and text encoders with random weights -> Hero -> a
language model that scores 9 labels after prompts of 300 positions and generates answers -> ms per clip and stage,
samples/s with decoding in workers; modes that see the same frames must predict the same labels. Base: CLIP ViT-L/14 (8
frames, 8 faces), HuBERT-large, Hero of width 768, a 7B language model, bf16. Needs torch, transformers, safetensors and
numpy; without PyAV, arrays are read, and the result says so. Shapes: B clips of a batch, K labels, O context tokens.
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
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.common import write
from benchmarks.gpu import LABELS, SHAPES, Shape, answer, clips, language_model
from tests.tiny_encoders import TinyAudio, TinyFrames, TinyText
from torch.utils.data import DataLoader

from hero_lightning.encoders.handcrafted import HashedWords
from hero_lightning.features import Modality, ModalityEncoder, ModalityOptions, read_clip
from hero_lightning.media.frame_samplers import EmotionPeak, Uniform
from hero_lightning.media.types import SAMPLE_RATE, ClipInfo, Frames, Waveform
from hero_lightning.models import base
from hero_lightning.models.hero.experts import ExpertOptions
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
"""Mode -> frame sampler, mode of the frame modality, mode of the others. The last three see the same frames."""
GOALS = {"realtime uniform": 55, "realtime emotion_peak": 55, "hybrid": 68, "preextracted": 90}
"""Target samples/s with label scoring on one H200 and 16 cores: half of the limit by FLOPs."""
TURNS = 3
HAS_AV = importlib.util.find_spec("av") is not None


@dataclass(frozen=True)
class Size:
    """Sizes of a run.

    Attributes:
        shape: of the language model, with the number of clips.
        hero: of the fusion model.
        frame: width and height of the clips in pixels.
        batch: B.
    """

    shape: Shape
    hero: dict[str, int]
    frame: tuple[int, int]
    batch: int


TINY, BASE = Shape(2, 32, 64, 2, 1, 512, context=16, clips=64, new_tokens=8), replace(SHAPES["7b"], clips=128)
SIZES = {
    "tiny": Size(TINY, {"width": 32, "queries": 4, "layers": 1, "num_heads": 2, "context_tokens": 16}, (320, 240), 8),
    "base": Size(
        BASE, {"width": 768, "queries": 32, "layers": 2, "num_heads": 8, "context_tokens": 64}, (640, 360), 32
    ),
}


def encoders(size: str, folder: Path, dtype: str) -> dict[str, Any]:
    """Encoder factory per modality; base networks get random weights and are saved as local checkpoints."""
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
    audio = partial(SpeechEncoder, str(folder / "hubert"), dtype=dtype)
    return {"frame": image, "face": image, "audio": audio, "text": HashedWords}


def made_clips(folder: Path, size: Size, distinct: int = 8) -> list[Sample]:
    """Clips of drifting noise and a changing tone with uniformly drawn peak frames; clips share `distinct` files."""
    rng, (width, height) = np.random.default_rng(0), size.frame
    for k in range(min(distinct, size.shape.clips)):
        coarse = rng.integers(0, 255, (height // 16 + 16, width // 16 + 16, 3), dtype=np.uint8)
        large = coarse.repeat(16, axis=0).repeat(16, axis=1)
        drift = range(0, 2 * SECONDS * FPS, 2)  # pixels
        frames = [np.ascontiguousarray(large[d // 2 : d // 2 + height, d : d + width]) for d in drift]
        moments = np.arange(SECONDS * SAMPLE_RATE) / SAMPLE_RATE
        sound = (0.3 * np.sin(2 * np.pi * (150 + 20 * k + 30 * moments) * moments)).astype(np.float32)
        if HAS_AV:
            from tests.media_helpers import write_clip

            write_clip(folder / f"{k}.mp4", SECONDS, FPS, pictures=frames, sound=sound, sound_rate=SAMPLE_RATE)
        else:
            np.save(folder / f"{k}.npy", np.stack(frames))
            np.save(folder / f"{k}_sound.npy", sound)
    out = []
    for n in range(size.shape.clips):
        k, peak = n % distinct, int(rng.integers(SECONDS * FPS))
        around = {"peak_index": peak, "frames_before_peak": peak, "frames_after_peak": SECONDS * FPS - 1 - peak}
        info = folder / f"{n}_au_info.json"
        info.write_text(json.dumps({"total_frames": SECONDS * FPS, "fps": FPS, "peak_frames": [around]}))
        media = Media(folder / (f"{k}.mp4" if HAS_AV else f"{k}.npy"))
        given = {"boxes": {"face": (0.3, 0.2, 0.7, 0.8)}, "text": "stop it I did not mean to say that " * 2}
        out.append(Sample(f"clip_{n:04d}", "test", media, files={"au_info": info}, **given))
    return out


def modalities_of(mode: str, factories: Mapping[str, Any], root: Path) -> dict[str, Modality]:
    """The modalities of a mode, bound to the stores written by `extract`."""
    sampler, frame_mode, other_mode = MODES[mode]
    long = ModalityOptions(max_len=512)
    samplers = {"frame": EmotionPeak(8) if sampler == "peak" else Uniform(8), "face": Uniform(8)}
    modalities = {
        name: Modality(name, frame_mode if name == "frame" else other_mode, factory, samplers.get(name), options=long)
        for name, factory in factories.items()
    }
    for modality in modalities.values():
        modality.bind(root, "made")
    return modalities


def read_arrays(modality: Modality, sample: Sample) -> EncoderInput:
    """Encoder input of one clip stored as arrays, for machines without PyAV."""
    encoder, sampler, video = modality.encoder, modality.sampler, sample.video
    assert encoder is not None
    assert video is not None
    if sampler is None:
        sound = np.load(video.path.with_name(f"{video.path.stem}_sound.npy"))
        return EncoderInput(encoder.preprocess(Waveform(torch.from_numpy(sound))))
    film = np.load(video.path, mmap_mode="r")
    times = sampler.plan(ClipInfo(SECONDS, FPS, len(film), True, True), sample, 0, 0).times
    x0, y0, x1, y1 = sample.boxes[modality.name] if modality.name == "face" else (0.0, 0.0, 1.0, 1.0)
    height, width = film.shape[1:3]
    rows, columns = slice(int(y0 * height), int(y1 * height)), slice(int(x0 * width), int(x1 * width))
    pixels = film[[round(t * FPS) for t in times]][:, rows, columns].copy()
    return EncoderInput(encoder.preprocess(Frames(torch.from_numpy(pixels), torch.tensor(times))))


class Rows(torch.utils.data.Dataset):
    """Clips as rows per modality, read in a worker."""

    def __init__(self, modalities: Mapping[str, Modality], samples: Sequence[Sample]) -> None:
        self.modalities, self.samples = dict(modalities), samples
        self.arrays = {n: m for n, m in modalities.items() if m.mode == "realtime" and n != "text" and not HAS_AV}
        self.read = {n: m for n, m in modalities.items() if n not in self.arrays}
        self.available = [{n: m.availability(s) for n, m in self.read.items()} for s in samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, n: int) -> dict[str, Row]:
        rows = read_clip(self.read, self.available[n], self.samples[n])
        return rows | {name: read_arrays(modality, self.samples[n]) for name, modality in self.arrays.items()}

    def collate(self, rows: list[dict[str, Row]]) -> dict[str, ModalityBatch]:
        """B clips -> a ModalityBatch per modality."""
        return {name: modality.collate([r[name] for r in rows]) for name, modality in self.modalities.items()}


def moved(batch: Mapping[str, ModalityBatch], device: str) -> dict[str, ModalityBatch]:
    """A batch on the device."""

    def to(x: Any) -> Any:
        return None if x is None else x.to(device, non_blocking=True)

    return {
        name: ModalityBatch(
            part.size,
            part.stored and Features(to(part.stored.x), to(part.stored.mask), to(part.stored.time)),
            to(part.stored_rows),
            None if part.inputs is None else {k: to(x) for k, x in part.inputs.items()},
            to(part.input_rows),
        )
        for name, part in batch.items()
    }


class Clock:
    """Seconds per stage, with the device synchronised at both ends; `now` is the clock."""

    def __init__(self, device: str, now: Callable[[], float]) -> None:
        self.device, self.now, self.seconds = device, now, dict.fromkeys(STAGES, 0.0)

    def wait(self) -> None:
        """Waits for the device."""
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
    """Rows, encoders, fusion and language model of one mode."""

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
        """Row numbers of every batch."""
        order = list(range(len(self.rows)))
        return [order[k : k + self.size.batch] for k in range(0, len(order), self.size.batch)]

    def context(self, batch: Mapping[str, ModalityBatch], clock: Clock) -> torch.Tensor:
        """Context tokens [B, O, D]."""
        with clock.stage("encode"):
            features = {name: encode(batch[name]) for name, encode in self.encoders.items()}
        with clock.stage("fuse"), torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            return self.hero(features).context.float()

    def scores(self, context: torch.Tensor, chosen: list[int]) -> torch.Tensor:
        """Scores [B, K] of the labels."""
        return self.head.score(context, [self.prompts[n] for n in chosen], [answer(label).text for label in LABELS])

    @torch.inference_mode()
    def serial(self, limit: int | None = None) -> tuple[torch.Tensor, list[str], Clock]:
        """All stages in sequence: scores [N, K], answers, seconds per stage."""
        clock, scores, texts = Clock(self.device, self.now), [], []
        for chosen in self.batches[:limit]:
            with clock.stage("decode"):
                batch = moved(self.rows.collate([self.rows[n] for n in chosen]), self.device)
            context = self.context(batch, clock)
            with clock.stage("score"):
                scores.append(self.scores(context, chosen).float().cpu())
            with clock.stage("generate"):
                prompts = [self.prompts[n] for n in chosen]
                texts += self.head.generate(context, prompts, max_new_tokens=self.size.shape.new_tokens)
        return torch.cat(scores), texts, clock

    @torch.inference_mode()
    def throughput(self, workers: int, rounds: int) -> float:
        """Samples per second with label scoring; workers decode while the device computes."""
        options: dict[str, Any] = {"num_workers": workers, "pin_memory": self.device == "cuda"}
        loader = DataLoader(self.rows, batch_sampler=self.batches * rounds, collate_fn=self.rows.collate, **options)
        clock, done, begin = Clock(self.device, self.now), 0, 0.0
        for chosen, batch in zip(self.batches * rounds, loader, strict=True):
            self.scores(self.context(moved(batch, self.device), clock), chosen).cpu()
            if not begin:  # the first batch starts the workers and warms up the device
                begin = self.now()
            else:
                done += len(chosen)
        return done / (self.now() - begin)


@torch.inference_mode()
def extract(rows: Rows, modules: Mapping[str, ModalityEncoder], device: str) -> None:
    """Writes the features of all modalities into the stores that the preextracted modes read."""
    by_id = {s.id: s for s in rows.samples}
    features: dict[str, dict[str, StoredFeatures]] = {name: {} for name in rows.modalities}
    for start in range(0, len(rows), 16):
        part = [rows[n] for n in range(start, min(start + 16, len(rows)))]
        for name, batch in moved(rows.collate(part), device).items():
            out = modules[name](batch)
            for b, sample in enumerate(rows.samples[start : start + 16]):
                time = None if out.time is None else out.time[b, out.mask[b]].cpu()
                features[name][sample.id] = StoredFeatures(out.x[b, out.mask[b]].float().cpu(), time)
    for name, modality in rows.modalities.items():
        assert modality.store is not None
        for file, ids in modality.store.plan(rows.samples, "float32", len(rows)).items():
            modality.store.write(file, {id: features[name][id] for id in ids}, {}, by_id)
        modality.store.update_manifest()


def build(args: Any, size: Size, root: Path) -> tuple[dict[str, Pipeline], dict[str, object]]:
    """A pipeline per mode, all with the same networks, and a description of the run."""
    device, dtype = args.device, torch.bfloat16 if args.device == "cuda" else torch.float32
    dtype_name = str(dtype).split(".")[1]
    factories, samples = encoders(args.size, root, dtype_name), made_clips(root, size)
    lm, tokenizer = language_model(size.shape, device, dtype)
    head = LLMHead(size.hero["width"], name="random weights", frozen=True, dtype=dtype_name)
    head.use(lm, tokenizer)
    head.to(device).eval()
    lm.generation_config.eos_token_id = None  # all answers have the same length
    prompts = clips(head, size.shape, len(samples), "cpu")[0]
    realtime = modalities_of("realtime emotion_peak", factories, root / "features")
    modules = {name: ModalityEncoder(modality).to(device).eval() for name, modality in realtime.items()}
    extract(Rows(realtime, samples), modules, device)
    dims, shape = {n: m.dim for n, m in modules.items()}, base.Shape(**size.hero)
    hero = Hero(dims, {"emotion": len(LABELS)}, shape=shape, options=ExpertOptions()).to(device).eval()
    cpu_time = device == "cpu" and args.workers == 0  # others may share the CPU
    now = time.process_time if cpu_time else time.perf_counter
    rows = {mode: Rows(modalities_of(mode, factories, root / "features"), samples) for mode in MODES}
    pipelines = {mode: Pipeline(rows[mode], modules, hero, head, prompts, size, device, now) for mode in MODES}
    return pipelines, {
        "clips": f"{len(samples)} of {SECONDS} s, {size.frame[0]}x{size.frame[1]}, {FPS} fps",
        "decoder": "H.264 + AAC by PyAV" if HAS_AV else "arrays: no PyAV on this machine",
        "prompt": size.shape.prompt, "labels": len(LABELS), "new_tokens": size.shape.new_tokens, "batch": size.batch,
        "workers": args.workers, "dtype": str(dtype), "clock": "processor" if cpu_time else "wall",
        "parameters_lm": sum(p.numel() for p in lm.parameters()),
    }  # fmt: skip


def run(pipelines: Mapping[str, Pipeline], turns: int, rounds: int, workers: int) -> dict[str, object]:
    """Times all modes, `turns` times in alternating order, and compares their predictions.

    Raises:
        SystemExit: two modes predict different labels on the same frames.
    """
    answers: dict[str, tuple[torch.Tensor, list[str]]] = {}
    rates: dict[str, list[float]] = {mode: [] for mode in pipelines}
    clocks: dict[str, list[dict[str, float]]] = {mode: [] for mode in pipelines}
    for pipeline in pipelines.values():
        pipeline.serial(1)  # warm-up
    for turn in range(turns):
        for mode in list(pipelines)[:: -1 if turn % 2 else 1]:
            scores, texts, clock = pipelines[mode].serial()
            answers[mode] = scores, texts
            clocks[mode].append(clock.seconds)
            rates[mode].append(pipelines[mode].throughput(workers, rounds))
    result: dict[str, object] = {}
    for mode, pipeline in pipelines.items():
        rate, count = statistics.median(rates[mode]), len(pipeline.rows)
        ms = {stage: round(1e3 * statistics.median(c[stage] for c in clocks[mode]) / count, 3) for stage in STAGES}
        speed = {"samples_per_s": rate, "samples_per_s_with_answers": 1e3 / sum(ms.values())}
        result[mode] = {"ms_per_clip": ms, **speed, "goal_h200_base": GOALS[mode]}
        stages = ", ".join(f"{stage} {value:.2f}" for stage, value in ms.items())
        print(f"{mode:>22}: {rate:8.1f} samples/s | ms per clip: {stages}")
    expected, expected_texts = answers["realtime emotion_peak"]
    for mode in ("hybrid", "preextracted"):
        scores, texts = answers[mode]
        same = scores.argmax(dim=1).equal(expected.argmax(dim=1))
        difference = float((scores - expected).abs().max())
        equal = sum(a == b for a, b in zip(texts, expected_texts, strict=True))
        print(f"{mode}: same labels {same}, score difference {difference:.1e}, {equal}/{len(texts)} answers equal")
        result[f"{mode} against realtime"] = {"same": same, "difference": difference, "equal_answers": equal}
        if not same:
            raise SystemExit(f"{mode} predicts other labels than realtime on the same frames")
    pairs = zip(rates["realtime emotion_peak"], rates["realtime uniform"], strict=True)
    result["peak_to_uniform"] = statistics.median(peak / uniform for peak, uniform in pairs)
    print(f"emotion_peak runs at {result['peak_to_uniform']:.2f} x uniform")
    return result


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, compares, prints and writes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=sorted(SIZES), default="tiny")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--workers", type=int, default=max(cores - 2, 0), help="decoding processes; default: cores - 2")
    parser.add_argument("--rounds", type=int, default=3, help="passes over the clips for samples/s")
    parser.add_argument("--quick", action="store_true", help="one round, result not written")
    args = parser.parse_args(argv)
    if args.size == "base" and args.device == "cpu":
        raise SystemExit("base sizes need a CUDA device; --size tiny runs anywhere")
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        pipelines, result = build(args, SIZES[args.size], Path(folder))
        turns, rounds = (1, 1) if args.quick else (TURNS, args.rounds)
        result |= run(pipelines, turns, rounds, args.workers)
    if not args.quick:
        print(write(f"modes_{args.size}_{args.device}", result))


if __name__ == "__main__":
    main()
