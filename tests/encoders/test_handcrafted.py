from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hero_lightning.encoders.handcrafted import (
    AuValues,
    FrameDifference,
    FrameHog,
    HashedWords,
    LogMelProsody,
    mel_filters,
)
from hero_lightning.errors import ConfigError, MediaError
from hero_lightning.media.action_units import AU_COLUMNS
from hero_lightning.media.types import ActionUnits, Frames, Utterance, Waveform
from hero_lightning.types import Features, Turn


def encode(encoder, *materials) -> Features:
    return encoder.encode(encoder.collate([encoder.preprocess(m) for m in materials]))


def pictures(*grey: torch.Tensor, fps: float = 10.0) -> Frames:
    """[H, W] in 0..1 each -> Frames."""
    pixels = (torch.stack(grey) * 255).round().byte()[..., None].expand(-1, -1, -1, 3)
    return Frames(pixels, torch.arange(len(grey)) / fps)


def stripes(angle: float, side: int = 96) -> torch.Tensor:
    """A grating whose slopes point along `angle` (degrees)."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    turn = math.radians(angle)
    return 0.5 + 0.4 * torch.sin((x * math.cos(turn) + y * math.sin(turn)) * 0.4)


def square(x: float, y: float, side: int = 96) -> torch.Tensor:
    """A bright square with its centre at (x, y) in fractions."""
    out = torch.full((side, side), 0.2)
    left, top = int(x * side) - 12, int(y * side) - 12
    out[top : top + 24, left : left + 24] = 0.8
    return out


def sine(hertz: float, seconds: float = 1.0, level: float = 0.3) -> Waveform:
    return Waveform(level * torch.sin(2 * math.pi * hertz * torch.arange(round(16000 * seconds)) / 16000))


def noisy(frames: Frames, sigma: float, seed: int = 0) -> Frames:
    noise = torch.randn(frames.pixels.shape, generator=torch.Generator().manual_seed(seed)) * 255 * sigma
    return Frames((frames.pixels + noise).clamp(0, 255).byte(), frames.time)


MATERIAL = {
    FrameHog: [pictures(*(square(0.3 + 0.1 * k, 0.5) for k in range(n))) for n in (1, 4)],
    FrameDifference: [pictures(*(square(0.3 + 0.1 * k, 0.5) for k in range(n))) for n in (2, 5)],
    LogMelProsody: [sine(120, 0.31), sine(200, 1.7)],
    HashedWords: [Utterance("oh no!"), Utterance("I said hello, you know", "A", (Turn("B", "what?"),))],
    AuValues: [ActionUnits(torch.rand(n, 35) * 3, torch.arange(n) / 25, AU_COLUMNS) for n in (3, 100)],
}


@pytest.mark.parametrize("kind", MATERIAL)
def test_alone_equals_in_batch_and_width_is_as_promised(kind):
    encoder, materials = kind(), MATERIAL[kind]
    together = encode(encoder, *materials)
    assert together.x.shape[2] == encoder.dim
    for b, material in enumerate(materials):
        alone = encode(encoder, material)
        steps = int(alone.mask.sum())
        assert together.mask[b].tolist() == [k < steps for k in range(together.mask.shape[1])]
        torch.testing.assert_close(together.x[b, :steps], alone.x[0], atol=1e-5, rtol=1e-5)
        assert torch.isfinite(alone.x).all()
        assert alone.x.abs().max() < 15
        if alone.time is not None:
            torch.testing.assert_close(together.time[b, :steps], alone.time[0])
            assert (alone.time[0].diff() > 0).all()


@pytest.mark.parametrize("kind", MATERIAL)
def test_identity_holds_every_option(kind):
    assert kind().identity() == {"class": kind.__name__, "version": 1, **kind().options}
    assert not list(kind().parameters())
    assert not list(kind().buffers())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FrameHog(size=0), "size is out of range"),
        (lambda: FrameHog(size=60, cells=8), "divisors of size=60"),
        (lambda: FrameDifference(size=32, cells=5), "even divisor of size=32"),
        (lambda: LogMelProsody(bands=0), "bands is out of range"),
        (lambda: HashedWords(dim=100), "multiple of 8"),
        (lambda: HashedWords(max_words=0), "max_words is out of range"),
        (lambda: AuValues(max_steps=0), "max_steps is out of range"),
    ],
)
def test_wrong_options(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


# ---- FrameHog


@pytest.mark.parametrize(("angle", "bin"), [(0, 0), (30, 1), (60, 2), (90, 3), (120, 4), (150, 5)])
def test_hog_votes_for_the_direction(angle, bin):
    x = encode(FrameHog(), pictures(stripes(angle))).x[0, 0, : 6 * 64].view(6, 8, 8)
    assert x[:, 2:6, 2:6].mean(dim=(1, 2)).argmax() == bin


def test_hog_colour_grid_tells_red_from_blue_and_left_from_right():
    pixels = torch.zeros(2, 96, 96, 3, dtype=torch.uint8)
    pixels[0, :, :48, 0] = pixels[1, :, 48:, 2] = 255
    x = encode(FrameHog(), Frames(pixels, torch.arange(2))).x[0, :, -48:].view(2, 3, 4, 4)
    assert (x[0, 1, :, 0] > 3).all()
    assert x[0, 1, :, 3].abs().max() < 0.1
    assert (x[1, 2, :, 3] < -3).all()


def test_hog_bears_pixel_noise_and_brightness():
    encoder = FrameHog()
    near, far = pictures(square(0.4, 0.5)), pictures(square(0.6, 0.5))
    clean, other = (encode(encoder, f).x[0, 0] for f in (near, far))
    between = (clean - other).norm()
    assert (encode(encoder, noisy(near, 0.05)).x[0, 0] - clean).norm() < 0.5 * between
    darker = Frames((near.pixels * 0.7).byte(), near.time)
    shapes = slice(0, 6 * 64)
    assert (encode(encoder, darker).x[0, 0, shapes] - clean[shapes]).norm() < 0.25 * (clean - other)[shapes].norm()


# ---- FrameDifference


@pytest.mark.parametrize(("dx", "dy"), [(1, 0), (-1, 0), (0, 1), (0, -1)])
def test_difference_tells_the_direction(dx, dy):
    places = [(0.5 + 0.03 * k * dx, 0.5 + 0.03 * k * dy) for k in range(4)]
    x = encode(FrameDifference(), pictures(*(square(*p) for p in places))).x[0]
    flow = x[:, 128:160].view(3, 2, 16).sum(dim=2)  # [T, (right, down)]
    along, across = (flow[:, 0], flow[:, 1]) if dx else (flow[:, 1], flow[:, 0])
    assert (along * (dx + dy) > 1).all()
    assert (across.abs() < 0.2 * along.abs()).all()


def test_difference_tells_where_and_how_much():
    still, low = square(0.5, 0.5), pictures(square(0.3, 0.8), square(0.34, 0.8))
    rest = encode(FrameDifference(), pictures(still, still)).x[0, 0]
    assert rest.abs().max() == 0
    assert encode(FrameDifference(), noisy(pictures(still, still), 0.02)).x[0, 0, -3] < 0.1
    moved = encode(FrameDifference(), low).x[0, 0]
    assert moved[-3] > 0.5
    assert moved[-2] < -0.2  # left of the middle
    assert moved[-1] > 0.3  # below it


def test_difference_puts_pictures_in_order_and_leaves_repeated_ones_out():
    encoder = FrameDifference()
    frames = pictures(square(0.3, 0.5), square(0.4, 0.5), square(0.5, 0.5))
    order = [1, 0, 0, 2, 1]
    again = Frames(frames.pixels[order], frames.time[order])
    a, b = encode(encoder, frames), encode(encoder, again)
    assert torch.equal(a.x, b.x)
    assert a.time[0].tolist() == pytest.approx([0.05, 0.15])
    assert encode(encoder, pictures(square(0.5, 0.5))).mask.shape == (1, 0)


# ---- LogMelProsody


@pytest.mark.parametrize("hertz", [80, 120, 165, 220, 350])
def test_pitch_of_a_voice(hertz):
    voice = Waveform(sum(sine(hertz * k).x / k for k in range(1, 9)))
    x = encode(LogMelProsody(), voice).x[0, 2:-2]
    assert (x[:, 42] > 0.9).all()  # voiced
    torch.testing.assert_close(x[:, 41], torch.full((15,), math.log2(hertz / 150)), atol=0.05, rtol=0)


def test_noise_and_silence_have_no_pitch():
    noise = Waveform(0.2 * torch.randn(16000, generator=torch.Generator().manual_seed(0)))
    assert encode(LogMelProsody(), noise).x[0, :, 42].mean() < 0.15
    silence = encode(LogMelProsody(), Waveform(torch.zeros(16000))).x[0]
    assert silence[:, 41:43].abs().max() == 0
    assert torch.isfinite(silence).all()


def test_level_follows_loudness_and_bands_follow_pitch():
    x = [encode(LogMelProsody(), sine(1000, level=a)).x[0, 5] for a in (0.05, 0.5)]
    assert x[1][40] - x[0][40] == pytest.approx(2 * math.log(10) / 3, abs=0.01)
    tops = [int(encode(LogMelProsody(), sine(f)).x[0, 5, :40].argmax()) for f in (200, 500, 1000, 3000, 7000)]
    assert tops == sorted(set(tops))


def test_slopes_rise_with_a_rising_level():
    rising = Waveform(sine(200).x * torch.linspace(0.01, 1, 16000))
    x = encode(LogMelProsody(), rising).x[0]
    assert (x[1:-1, 43 + 40] > 0).all()
    torch.testing.assert_close(x[3, 43:], x[4, :43] - x[2, :43])


@given(samples=st.integers(1, 5000))
@settings(max_examples=25, deadline=None)
def test_steps_of_any_length(samples):
    out = encode(LogMelProsody(), Waveform(torch.ones(samples) * 0.1))
    assert out.x.shape == (1, max((samples - 1040) // 800 + 1, 1), 86)
    assert out.time[0, 0] == pytest.approx(0.0325)


def test_mel_filters_cover_the_band():
    filters = mel_filters(40, 512, 16000)
    assert filters.shape == (257, 40)
    assert (filters.sum(dim=0) > 0).all()
    assert (filters[3:240].sum(dim=1) > 0).all()


# ---- HashedWords


def test_words_are_the_same_on_every_machine():
    x = HashedWords(dim=16, pairs=False).preprocess(Utterance("Happy day"))["x"]
    assert ["".join("-+"[int(v > 0)] for v in row) for row in x] == ["+++-++---++--+-+", "+---++-+-+---+--"]


def test_same_word_same_code_other_word_nearly_orthogonal():
    encoder = HashedWords(pairs=False)
    x = encoder.preprocess(Utterance("Happy happy, sad! HAPPY?"))["x"]
    assert len(x) == 6
    assert torch.equal(x[0], x[1])
    assert torch.equal(x[0], x[4])
    cosine = torch.nn.functional.cosine_similarity(x[:, None], x[None], dim=2)
    assert (cosine[0, [2, 3, 5]].abs() < 0.35).all()
    assert x.square().mean() == 1


def test_pairs_tell_order():
    one, two = (HashedWords().preprocess(Utterance(t))["x"] for t in ("not good", "good not"))
    plain = HashedWords(pairs=False).preprocess(Utterance("not good"))["x"]
    assert torch.equal(one[0], plain[0])
    assert not torch.equal(one[1], plain[1])
    assert not torch.equal(one[1], two[0])


def test_context_comes_first_is_marked_and_goes_first():
    encoder = HashedWords(max_words=6)
    alone = encoder.preprocess(Utterance("I see you"))["x"]
    words = Utterance("I see you", "Ann", (Turn("Bob", "go away"), Turn(None, "now")))
    x = encoder.preprocess(words)["x"]
    assert len(x) == 6  # <speaker ann> i see you, after the last two of: <speaker bob> go away <speaker> now
    assert torch.equal(x[3:], alone)
    assert not torch.equal(x[1], encoder.preprocess(Utterance("now"))["x"][0])
    other = encoder.preprocess(Utterance("I see you", "Ann", (Turn("Bob", "stay here"), Turn(None, "now"))))["x"]
    assert torch.equal(x, other)  # what was cut cannot matter
    wide = HashedWords()
    assert not torch.equal(
        wide.preprocess(words)["x"],
        wide.preprocess(Utterance("I see you", "Ann", (Turn("Eve", "go away"), Turn(None, "now"))))["x"],
    )


@given(text=st.text(max_size=60), words=st.integers(1, 12))
@settings(deadline=None)
def test_any_text_gives_at_least_one_word(text, words):
    x = HashedWords(max_words=words).preprocess(Utterance(text))["x"]
    assert 1 <= len(x) <= words
    assert x.shape[1] == 128


def test_chinese_is_read_sign_by_sign():
    assert len(HashedWords().preprocess(Utterance("我很高兴！ok"))["x"]) == 6


# ---- AuValues


def test_units_are_scaled_and_thinned():
    x = torch.zeros(100, 35)
    x[:, AU_COLUMNS.index("AU12_r")] = torch.arange(100) / 20
    x[:, AU_COLUMNS.index("AU12_c")] = 1
    out = encode(AuValues(max_steps=10), ActionUnits(x, torch.arange(100) / 25, AU_COLUMNS))
    assert out.x.shape == (1, 10, 35)
    assert out.x[0, 0, AU_COLUMNS.index("AU12_r")] == pytest.approx(4.5 / 20 / 5)
    assert out.x[0, :, AU_COLUMNS.index("AU12_c")].tolist() == [1] * 10
    assert out.time[0, 0] == pytest.approx(4.5 / 25)
    few = encode(AuValues(), ActionUnits(x[:3], torch.arange(3) / 25, AU_COLUMNS))
    assert torch.equal(few.time[0], torch.arange(3) / 25)


def test_another_table_is_refused():
    with pytest.raises(MediaError, match="35 columns"):
        AuValues().preprocess(ActionUnits(torch.zeros(3, 4), torch.zeros(3), ("a",) * 4))
