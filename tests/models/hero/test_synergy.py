"""Alignment of two modalities, and what synergy may and may not see."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hero_lightning.models.hero.synergy import Synergy, moments, resample
from tests.models.made import SHAPE


def prefix(lengths, total):
    return torch.arange(total)[None] < torch.tensor(lengths)[:, None]


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4), pad=st.integers(0, 3), steps=st.integers(2, 40))
@settings(max_examples=30, deadline=None)
def test_a_ramp_returns_a_ramp(lengths, pad, steps):
    total = max(lengths) + pad
    mask = prefix(lengths, total)
    ramp = torch.where(mask, torch.arange(total).float(), 1e6)[..., None]
    place, _ = moments(mask, mask, (None, None), steps)
    got = resample(ramp, mask, place)[..., 0]
    for row, n in zip(got, lengths, strict=True):
        torch.testing.assert_close(row, torch.linspace(0, n - 1, steps), atol=1e-4, rtol=0)


def test_holes_in_the_mask_are_skipped():
    mask = torch.tensor([[True, False, True, False, True]])
    x = torch.tensor([0.0, 9, 1, 9, 2])[None, :, None]
    got = resample(x, mask, torch.linspace(0, 1, 5)[None])[0, :, 0]
    assert got.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]


def test_moments_on_a_shared_clock_are_equal_seconds():
    # 10 Hz for 2 s against 2 Hz from 0.5 s to 1.5 s: a clip read at both must show the same second
    sound, movement = torch.arange(21)[None] * 0.1, torch.tensor([[0.5, 1.0, 1.5]])
    masks = torch.ones(1, 21, dtype=torch.bool), torch.ones(1, 3, dtype=torch.bool)
    places = moments(*masks, (sound, movement), 9)
    seconds = [resample(t[..., None], m, p)[0, :, 0] for t, m, p in zip((sound, movement), masks, places, strict=True)]
    even = torch.linspace(0, 2, 9)
    torch.testing.assert_close(seconds[0], even, atol=1e-5, rtol=0)
    torch.testing.assert_close(seconds[1], even.clamp(0.5, 1.5), atol=1e-5, rtol=0)


def test_rows_without_a_clock_are_spread_evenly():
    mask = prefix([4, 4, 1], 4)
    time = torch.arange(4).float().expand(3, -1).clone()
    other = time * 2
    other[1, 2] = torch.nan
    even = torch.linspace(0, 1, 8)
    a, v = moments(mask, mask, (time, other), 8)
    assert not torch.allclose(a[0], even)
    for row in (1, 2):
        torch.testing.assert_close(a[row], even)
        torch.testing.assert_close(v[row], even)
    assert moments(mask, mask, (time, None), 8)[0][0].equal(even)


@given(
    first=st.lists(st.floats(0, 9), min_size=1, max_size=5), second=st.lists(st.floats(0, 9), min_size=1, max_size=5)
)
@settings(max_examples=40, deadline=None)
def test_any_clock_gives_places_inside_the_sequence(first, second):
    clocks = [torch.tensor(sorted(t))[None] for t in (first, second)]
    masks = [torch.ones_like(t, dtype=torch.bool) for t in clocks]
    for place in moments(*masks, tuple(clocks), 16):
        assert ((place >= 0) & (place <= 1)).all()
        assert place.diff().ge(-1e-6).all()


def pair(seed=0):
    torch.manual_seed(seed)
    model = Synergy(SHAPE).eval()
    sound, movement = torch.randn(3, 9, 32), torch.randn(3, 6, 32)
    return model, (sound, prefix([9, 5, 7], 9)), (movement, prefix([6, 6, 3], 6))


def test_donors_and_shift():
    model, sound, movement = pair()
    own = model(sound, movement)
    rows, none = torch.arange(3), torch.zeros(3, dtype=torch.long)
    torch.testing.assert_close(model(sound, movement, donors=rows, shift=none), own)
    assert not torch.allclose(model(sound, movement, donors=rows, shift=none + 9), own, atol=1e-3)
    rolled = model(sound, movement, donors=torch.tensor([1, 2, 0]))
    swapped = (sound[0][[1, 2, 0]], sound[1][[1, 2, 0]])
    torch.testing.assert_close(rolled, model(swapped, movement))


def test_a_donor_keeps_the_geometry_of_the_own_clock():
    # the donor lasts 2 s, the movement 4 s: were its own seconds used, it would stand still for the second half
    mask = torch.ones(2, 5, dtype=torch.bool)
    sound = torch.arange(5.0)[None, :, None].expand(2, -1, 32)
    times = torch.tensor([[0.0, 1, 2, 3, 4], [0.0, 0.5, 1, 1.5, 2]])
    clock = torch.arange(5.0).expand(2, -1)
    place, _ = moments(mask, mask, (times, clock), 9)
    donors = torch.tensor([1, 1])
    got = resample(sound[donors], mask[donors], place)[0, :, 0]
    torch.testing.assert_close(got, torch.linspace(0, 4, 9))


def test_padding_does_not_matter_and_absent_rows_are_finite():
    model, sound, movement = pair()
    longer = tuple(torch.nn.functional.pad(t, p) for t, p in zip(sound, ((0, 0, 0, 4), (0, 4)), strict=True))
    torch.testing.assert_close(model(longer, movement), model(sound, movement))
    nothing = (sound[0], torch.zeros(3, 9, dtype=torch.bool))
    assert model(nothing, movement).isfinite().all()


def test_the_two_directions_differ():
    model, sound, movement = pair()
    assert not torch.allclose(model(sound, movement), model(movement, sound), atol=1e-3)
