"""Weight-free encoders: fixed formulas that need no download and run on one core.

Data flow: Frames -> FrameHog, FrameDifference; Waveform -> LogMelProsody; Utterance -> HashedWords; ActionUnits ->
AuValues. All values are scaled by constants to about unit size; a clip has the same features in any batch.

Shapes: B clips, T steps, N all real steps of a batch, S side of a picture, K cells per side, D = `dim`.
"""

from __future__ import annotations

import hashlib
import math
import re
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from hero_lightning.encoders.base import Encoder, Material, averaged, per_step
from hero_lightning.errors import ConfigError, MediaError, in_range
from hero_lightning.media.signal import autocorrelation
from hero_lightning.media.types import SAMPLE_RATE, ActionUnits, Frames, Utterance, Waveform
from hero_lightning.types import Features

LUMA = (0.299, 0.587, 0.114)
"""Brightness of red, green, blue (ITU-R BT.601)."""


def _at_least(owner: Encoder, floor: int, **values: int) -> None:
    """Checks constructor values and keeps them as the encoder's options."""
    for name, value in values.items():
        in_range(f"{type(owner).__name__}.{name}", value, f"[{floor}, inf)")
        owner.options[name] = value


def _resized(pixels: Tensor, side: int) -> Tensor:
    """[T, H, W, 3] uint8 -> [T, 3, S, S] uint8, with antialiasing."""
    planes = pixels.permute(0, 3, 1, 2)
    return F.interpolate(planes, size=(side, side), mode="bilinear", antialias=True, align_corners=False)


def _blurred(x: Tensor) -> Tensor:
    """Binomial blur of 5 x 5 (sigma 1 pixel) against pixel noise: [..., S, S] -> same.

    Two products with a band matrix, which on a CPU take a fortieth of the time of conv2d with one channel.
    """
    side = x.shape[-1]
    place = torch.arange(side, device=x.device)
    band = torch.zeros(side, side, device=x.device)
    for shift, weight in zip(range(-2, 3), (1, 4, 6, 4, 1), strict=True):
        band += F.one_hot((place + shift).clamp(0, side - 1), side) * (weight / 16)
    return band @ x @ band.T


def _slopes(grey: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences of [N, S, S] along the width and the height, same shape (0 at the border)."""
    right, down = torch.zeros_like(grey), torch.zeros_like(grey)
    right[:, :, 1:-1] = (grey[:, :, 2:] - grey[:, :, :-2]) / 2
    down[:, 1:-1] = (grey[:, 2:] - grey[:, :-2]) / 2
    return right, down


class _Formula(Encoder):
    """A formula per step: x [B, T, ...] -> Features [B, T, D]."""

    def forward(self, inputs: dict[str, Tensor]) -> Features:
        """See the class."""
        return Features(per_step(inputs["x"], inputs["x_mask"], self._formula), inputs["x_mask"], inputs.get("time"))

    def _formula(self, x: Tensor) -> Tensor:
        return x


class FrameHog(_Formula):
    """Histograms of oriented gradients plus a coarse colour grid, per picture. For frame and face.

    Args:
        size: side S of the resized pictures in pixels.
        cells: gradient cells per side K.
        bins: orientations over half a turn.
        grid: colour cells per side.
    """

    takes: ClassVar[Material] = "frames"

    def __init__(self, size: int = 64, cells: int = 8, bins: int = 6, grid: int = 4) -> None:
        super().__init__()
        _at_least(self, 1, size=size, cells=cells, bins=bins, grid=grid)
        if size % cells or size % grid:
            got, expected = f"cells={cells} grid={grid}", f"divisors of size={size}"
            raise ConfigError("Cells must tile the picture.", expected=expected, got=got, where="FrameHog.cells")
        self.size, self.cells, self.bins, self.grid = size, cells, bins, grid
        self.dim = cells * cells * bins + 3 * grid * grid

    def preprocess(self, material: Frames) -> dict[str, Tensor]:
        """Frames -> x [T, 3, S, S] uint8, time [T]."""
        return {"x": _resized(material.pixels, self.size), "time": material.time.float()}

    def _formula(self, pictures: Tensor) -> Tensor:
        """[N, 3, S, S] uint8 -> [N, D]."""
        x = _blurred(pictures.float() / 255)
        grey = torch.einsum("nchw,c->nhw", x, x.new_tensor(LUMA))
        red, green, blue = x.unbind(dim=1)
        opponents = torch.stack([grey - 0.5, red - green, (red + green) / 2 - blue], dim=1)
        colour = F.avg_pool2d(opponents, self.size // self.grid).flatten(1) * 4  # [N, 3 * grid * grid]
        right, down = _slopes(grey)
        strength = (right.square() + down.square()).sqrt()  # [N, S, S]
        # A gradient counts for the bins near its direction with weight max(cos(2 (angle - bin)), 0) squared.
        twice = torch.stack([right.square() - down.square(), 2 * right * down], dim=1) / (
            strength[:, None].square() + 1e-12
        )
        angle = torch.arange(self.bins, device=x.device) * (2 * math.pi / self.bins)  # twice the bin's angle
        bins = torch.stack([angle.cos(), angle.sin()], dim=1)  # [bins, 2]
        votes = torch.einsum("nkhw,bk->nbhw", twice, bins).clamp(min=0).square() * strength[:, None]
        cells = F.avg_pool2d(votes, self.size // self.cells)  # [N, bins, K, K]
        # Contrast normalisation by the 3 x 3 neighbouring cells, with a floor below which a gradient counts as noise.
        around = F.avg_pool2d(cells.square().sum(dim=1, keepdim=True), 3, stride=1, padding=1, count_include_pad=False)
        return torch.cat([(cells / (around + 0.005**2).sqrt()).flatten(1) * 2, colour], dim=1)


class FrameDifference(_Formula):
    """Place, direction and amount of the change from one picture to the next. For motion.

    Pictures are sorted by time and repeated ones left out, so T pictures give T - 1 steps at most.

    Args:
        size: side S of the resized pictures in pixels.
        cells: cells per side K of the grids.
    """

    takes: ClassVar[Material] = "frames"

    def __init__(self, size: int = 32, cells: int = 8) -> None:
        super().__init__()
        _at_least(self, 2, size=size, cells=cells)
        if size % cells or cells % 2:
            expected, where = f"an even divisor of size={size}", "FrameDifference.cells"
            raise ConfigError("Cells must tile the picture.", expected=expected, got=cells, where=where)
        self.size, self.cells = size, cells
        self.dim = 2 * cells * cells + 2 * (cells // 2) ** 2 + 3

    def preprocess(self, material: Frames) -> dict[str, Tensor]:
        """Frames -> x [T - 1, 2, S, S] uint8 (before, after; brightness), time [T - 1] in the middle of each pair."""
        order = torch.argsort(material.time, stable=True)
        time = material.time[order].float()
        fresh = torch.cat([torch.ones(1, dtype=torch.bool), time.diff() > 0])
        small = _resized(material.pixels[order[fresh]], self.size).float()
        grey = torch.einsum("tchw,c->thw", small, small.new_tensor(LUMA)).round().byte()
        time = time[fresh]
        return {"x": torch.stack([grey[:-1], grey[1:]], dim=1), "time": (time[:-1] + time[1:]) / 2}

    def _formula(self, pairs: Tensor) -> Tensor:
        """[N, 2, S, S] uint8 -> [N, D]."""
        x = _blurred(pairs.float() / 255)
        change, (right, down) = x[:, 1] - x[:, 0], _slopes(x.mean(dim=1))  # [N, S, S]
        moved = F.softshrink(change, 0.01)  # pixel noise that is left after the blur
        cell = self.size // self.cells
        signed = F.avg_pool2d(moved[:, None], cell).flatten(1)  # [N, K * K]
        amount = F.avg_pool2d(moved.abs()[:, None], cell).flatten(1)  # [N, K * K]
        # Normal flow: the change over time times the gradient has the sign of the direction of movement.
        flow = torch.stack([-moved * right, -moved * down], dim=1)
        flow = F.avg_pool2d(flow, 2 * cell).flatten(1)  # [N, 2 * (K / 2) ** 2]
        place = torch.linspace(-1, 1, self.cells, device=x.device)
        share = amount / (amount.sum(dim=1, keepdim=True) + 0.02)
        grid = share.view(-1, self.cells, self.cells)
        total = torch.log1p(100 * amount.mean(dim=1))
        centre = torch.stack([total, (grid.sum(dim=1) * place).sum(dim=1), (grid.sum(dim=2) * place).sum(dim=1)], dim=1)
        return torch.cat([signed * 20, amount.mul(50).log1p(), flow * 400, centre], dim=1)


class LogMelProsody(Encoder):
    """Log-mel spectrum, level, pitch, voicing and their slopes, 20 steps per second. For audio.

    Args:
        bands: mel bands between 60 and 7600 Hz.
    """

    takes: ClassVar[Material] = "audio"
    STEP, WINDOW, HOP = 800, 400, 160  # samples at 16 kHz: 50 ms; 25 ms every 10 ms
    SPAN = STEP - HOP + WINDOW  # samples of the 5 windows of a step
    LONGEST, SHORTEST = 256, 40  # lags in samples: 62.5 Hz and 400 Hz

    def __init__(self, bands: int = 40) -> None:
        super().__init__()
        _at_least(self, 1, bands=bands)
        self.bands = bands
        self.dim = 2 * (bands + 3)

    def preprocess(self, material: Waveform) -> dict[str, Tensor]:
        """Waveform [N] -> x [T, SPAN] samples of each step, time [T]."""
        steps = max((len(material.x) - self.SPAN) // self.STEP + 1, 1)  # whole steps only
        x = F.pad(material.x, (0, max(self.SPAN - len(material.x), 0)))
        time = (torch.arange(steps) * self.STEP + self.SPAN / 2) / SAMPLE_RATE
        return {"x": x.unfold(0, self.SPAN, self.STEP).contiguous(), "time": time}

    def forward(self, inputs: dict[str, Tensor]) -> Features:
        """x [B, T, SPAN] -> Features [B, T, D]."""
        mask = inputs["x_mask"]
        values = per_step(inputs["x"], mask, self._formula)  # [B, T, D / 2]
        place, last = torch.arange(mask.shape[1], device=mask.device), mask.sum(dim=1, keepdim=True) - 1
        after, before = (place + 1).minimum(last.clamp(min=0)), (place - 1).clamp(min=0).expand_as(mask)  # [B, T]
        wide = values.shape[2]
        slope = values.gather(1, after[..., None].expand(-1, -1, wide))
        slope = slope - values.gather(1, before[..., None].expand(-1, -1, wide))
        return Features(torch.cat([values, slope * mask[..., None]], dim=2), mask, inputs["time"])

    def _formula(self, x: Tensor) -> Tensor:
        """[N, SPAN] samples -> [N, bands + 3]: log-mel, level, pitch, voicing."""
        windows = x.unfold(1, self.WINDOW, self.HOP) * torch.hann_window(self.WINDOW, device=x.device)  # [N, 5, 400]
        power = torch.fft.rfft(windows, n=512).abs().square().mean(dim=1)  # [N, 257]
        mel = (power @ mel_filters(self.bands, 512, SAMPLE_RATE).to(x.device) + 1e-4).log()
        level = (x.square().mean(dim=1) + 1e-7).log()
        pitch, voicing = self._pitch(x)
        return torch.cat([(mel + 4) / 3, torch.stack([(level + 7) / 3, pitch * voicing, voicing], dim=1)], dim=1)

    def _pitch(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[N, SPAN] samples -> octaves above 150 Hz and voicing 0..1, [N] each, by autocorrelation."""
        # 0.01: about -60 dB of full scale
        correlation = autocorrelation(x - x.mean(dim=1, keepdim=True), self.LONGEST + 1, 0.01)
        lags = torch.arange(self.SHORTEST, self.LONGEST + 1, device=x.device)
        octaves = torch.log2(SAMPLE_RATE / lags / 150)
        # Without the penalty of long lags, two periods would be as likely as one.
        sought = correlation[:, self.SHORTEST :] + 0.03 * octaves
        best = sought.argmax(dim=1)
        height = correlation[torch.arange(len(x), device=x.device), best + self.SHORTEST]
        return octaves[best], ((height - 0.3) / 0.4).clamp(0, 1)


def mel_filters(bands: int, size: int, rate: int, low: float = 60.0, high: float = 7600.0) -> Tensor:
    """Triangular filters of equal width on the mel scale (O'Shaughnessy 1987), each of sum 1: [size / 2 + 1, bands].

    Args:
        bands: number of triangles.
        size: points of the Fourier transform.
        rate: Hz.
        low, high: Hz, range of all filters.
    """
    corners = torch.linspace(1127 * math.log1p(low / 700), 1127 * math.log1p(high / 700), bands + 2)
    mel = 1127 * torch.log1p(torch.arange(size // 2 + 1) * (rate / size) / 700)
    width = corners[1] - corners[0]
    filters = (1 - (mel[:, None] - corners[None, 1:-1]).abs() / width).clamp(min=0)
    return filters / filters.sum(dim=0).clamp(min=0.1)  # a band without a point stays 0


class HashedWords(_Formula):
    """A fixed pseudo-random code of signs per word, plus half of one per pair of neighbours. For text.

    Codes are BLAKE2 digests: the same on every machine, without a vocabulary. Previous turns come first, each after a
    code of its speaker and marked as context; then the current utterance, which is cut last.

    Args:
        dim: width D, a multiple of 8.
        max_words: longest sequence; the oldest context goes first.
        pairs: whether pairs of neighbours are added.
    """

    takes: ClassVar[Material] = "text"
    # Single Chinese and Japanese characters, words with apostrophes, and punctuation that expresses emotion.
    WORD = re.compile(r"[぀-ヿ㐀-鿿]|[^\W_぀-ヿ㐀-鿿]+(?:['’][^\W_]+)*|[!?！？]|\.\.\.|…")

    def __init__(self, dim: int = 128, max_words: int = 64, pairs: bool = True) -> None:
        super().__init__()
        _at_least(self, 1, dim=dim, max_words=max_words)
        if dim % 8 or dim > 512:
            problem, expected = "A code is made of whole bytes.", "a multiple of 8 up to 512"
            raise ConfigError(problem, expected=expected, got=dim, where="HashedWords.dim")
        self.dim, self.max_words, self.pairs = dim, max_words, pairs
        self.options["pairs"] = pairs

    def preprocess(self, material: Utterance) -> dict[str, Tensor]:
        """Utterance -> x [T, D]."""
        now = self._line(material.speaker if material.turns else None, material.text)[: self.max_words]
        before = [code for turn in material.turns for code in self._line(turn.speaker or "", turn.text)]
        room = self.max_words - len(now)
        context = before[-room:] if room else []
        mark = 0.5 * self._code("<context>")
        return {"x": torch.stack([*(code + mark for code in context), *now])}

    def _line(self, speaker: str | None, text: str) -> list[Tensor]:
        words = self.WORD.findall(text.lower().replace("’", "'")) or ["<empty>"]
        codes = [self._code(word) for word in words]
        if self.pairs:
            codes[1:] = [c + 0.5 * self._code(f"{a} {b}") for c, a, b in zip(codes[1:], words, words[1:], strict=False)]
        return codes if speaker is None else [self._code(f"<speaker> {speaker.lower()}"), *codes]

    def _code(self, word: str) -> Tensor:
        """[D] of -1 and 1."""
        digest = hashlib.blake2b(word.encode(), digest_size=self.dim // 8).digest()
        bits = torch.frombuffer(bytearray(digest), dtype=torch.uint8)[:, None] >> torch.arange(8, dtype=torch.uint8) & 1
        return bits.flatten().float() * 2 - 1


class AuValues(_Formula):
    """The 35 action units of OpenFace: intensities (0..5) divided by 5, presences 0 or 1. For au.

    Args:
        max_steps: longer tables are averaged over this many equal intervals.
    """

    takes: ClassVar[Material] = "table"
    dim = 35

    def __init__(self, max_steps: int = 64) -> None:
        super().__init__()
        _at_least(self, 1, max_steps=max_steps)
        self.max_steps = max_steps

    def preprocess(self, material: ActionUnits) -> dict[str, Tensor]:
        """ActionUnits [T, 35] -> x [T, 35], time [T]."""
        if material.x.shape[1] != self.dim:
            raise MediaError("Not a table of action units.", expected="35 columns", got=material.x.shape[1])
        scale = torch.tensor([5.0 if name.endswith("_r") else 1.0 for name in material.names])
        steps = averaged(torch.cat([material.x / scale, material.time[:, None]], dim=1), self.max_steps)  # [T, 36]
        return {"x": steps[:, :-1].contiguous(), "time": steps[:, -1].contiguous()}
