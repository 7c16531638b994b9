"""The pictures of the demo dataset: a drawn person who talks, makes faces and gestures, in front of a scene.

Data flow: Clip -> scene and person (once) -> face, arms per picture -> + noise -> [T, H, W, 3] uint8.

Shapes: T pictures, H = W = SIZE pixels. Positions are fractions of the picture, x right, y down; a shape is a signed
distance field that becomes a soft mask. `Clip.shows` decides which emotion the scene, the face and the hands show.
"""

from __future__ import annotations

import numpy as np

from hero_lightning.datasets.demo.traits import TRAITS
from hero_lightning.datasets.demo.truth import Clip

SIZE = 112
"""Pixels."""
GRAIN = {0.0: 0.0, 0.33: 0.12, 0.67: 0.24, 1.0: 0.95}
"""Noise level -> share of the picture that is noise."""
_Y, _X = (np.mgrid[:SIZE, :SIZE].astype(np.float32) + 0.5) / SIZE


def film(clip: Clip, seed: int) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """A clip as pictures [T, H, W, 3] uint8, and its face box as fractions x0, y0, x1, y1."""
    rng = np.random.default_rng([seed, clip.number, 1])
    person = np.random.default_rng([seed, 977, clip.speaker])
    skin = np.array([225, 180, 150]) * person.uniform(0.6, 1.05) + person.uniform(-12, 12, 3)
    hair, shirt = person.uniform(20, 130, 3), person.uniform(50, 190, 3)
    cx, cy, near = 0.5 + rng.uniform(-0.05, 0.05), 0.35 + rng.uniform(-0.045, 0.045), rng.uniform(0.88, 1.08)
    rx, ry = 0.16 * near * person.uniform(0.94, 1.06), 0.21 * near * person.uniform(0.95, 1.05)
    stage = _scene(clip, rng)
    body = np.maximum(np.abs(_X - cx) - 0.1 - 0.35 * np.clip(_Y - 0.6, 0, 0.3), 0.6 - _Y)
    _paint(stage, body, shirt)
    _paint(stage, np.maximum(np.abs(_X - cx) - 0.07, np.abs(_Y - cy - ry) - 0.08), skin * 0.9)
    _paint(stage, _oval(cx, cy - 0.05, rx + 0.03, ry * 0.98), hair)
    _paint(stage, _oval(cx, cy, rx, ry), skin)
    pictures = np.repeat(stage[None], len(clip.times), axis=0)  # [T, H, W, 3]
    _draw_face(pictures, clip, (cx, cy, rx, ry), hair)
    _draw_arms(pictures, clip, cx, skin, shirt, rng)
    pictures *= rng.uniform(0.9, 1.1)
    box = (cx - rx - 0.04, cy - ry - 0.04, cx + rx + 0.04, cy + ry + 0.04)
    return _disturbed(pictures, GRAIN[clip.noise["picture"]], rng), tuple(round(float(b), 4) for b in box)  # type: ignore[return-value]


def _paint(picture: np.ndarray, distance: np.ndarray, colour: np.ndarray | tuple[int, int, int]) -> None:
    """Paints picture [..., H, W, 3] where distance [..., H, W] (in fractions) is negative, with soft edges."""
    mask = np.clip(0.5 - np.asarray(distance, np.float32) * np.float32(SIZE), 0, 1)[..., None]
    hit = mask.any(axis=tuple(range(mask.ndim - 3)))[..., 0]  # [H, W], over all pictures
    rows, columns = np.flatnonzero(hit.any(axis=1)), np.flatnonzero(hit.any(axis=0))
    if len(rows):
        inside = np.s_[..., rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1, :]
        picture[inside] += mask[inside] * (np.asarray(colour, np.float32) - picture[inside])


def _oval(cx: float, cy: float, rx: float, ry: float) -> np.ndarray:
    return (np.sqrt(((_X - cx) / rx) ** 2 + ((_Y - cy) / ry) ** 2) - 1) * min(rx, ry)


def _scene(clip: Clip, rng: np.random.Generator) -> np.ndarray:
    """A grey wall with grey clutter and the object that stands for the scene's emotion: [H, W, 3] float."""
    wall = rng.uniform(120, 190) + rng.uniform(-10, 10, 3)
    stage = np.empty((SIZE, SIZE, 3), np.float32)
    stage[:] = wall + (_Y * rng.uniform(-40, 40) + _X * rng.uniform(-40, 40))[..., None]
    for _ in range(6):
        x, y, w, h = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.03, 0.14), rng.uniform(0.03, 0.14)
        grey = rng.uniform(80, 210) + rng.uniform(-12, 12, 3)
        _paint(stage, np.maximum(np.abs(_X - x) - w, np.abs(_Y - y) - h), grey)
    scene = TRAITS[clip.shows["frame"]].scene
    if scene is None:
        return stage
    (x, y), shape, colour = scene
    dx, dy = _X - x - rng.uniform(-0.02, 0.02), _Y - y - rng.uniform(-0.03, 0.03)
    radius, r = rng.uniform(0.1, 0.12), np.hypot(dx, dy)
    square = np.maximum(np.abs(dx), np.abs(dy)) - radius
    field = {
        "disc": r - radius,
        "ring": np.abs(r - radius * 0.65) - radius * 0.45,
        "stripes": np.maximum(square, 0.015 - np.abs((dx + dy) % 0.07 - 0.035)),
        "wedge": np.maximum(square, np.abs(dx) - (dy + radius) / 2),
        "bars": np.maximum(square, 0.01 - np.abs(dx % 0.06 - 0.03)),
    }[shape]
    _paint(stage, field, colour)
    return stage


def _draw_face(pictures: np.ndarray, clip: Clip, head: tuple[float, float, float, float], hair: np.ndarray) -> None:
    """Draws brows, eyes and mouth on pictures [T, H, W, 3]; the mouth opens with the syllables."""
    face = TRAITS[clip.shows["expression"]].face
    cx, cy, rx, ry = head
    top, bottom, left, right = (int(v * SIZE) for v in (cy - ry, cy + ry, cx - rx, cx + rx))
    part = pictures[:, top:bottom, left:right]  # [T, h, w, 3], a view
    x, y = ((grid[top:bottom, left:right] - c) / r for grid, c, r in ((_X, cx, rx), (_Y, cy, ry)))  # -1..1
    unit = min(rx, ry)
    amount = clip.profile(clip.times)[:, None, None].astype(np.float32)  # [T, 1, 1]
    talk = clip.beats(clip.times)[:, None, None].astype(np.float32)
    for side in (-1, 1):
        ex = x - side * 0.42
        eye_y = 0.13 * (1 + face.eyes * amount)
        _paint(part, (np.sqrt((ex / 0.24) ** 2 + ((y + 0.18) / eye_y) ** 2) - 1) * eye_y * unit, (245, 245, 245))
        pupil = (np.hypot(ex * rx / unit, (y + 0.18) * ry / unit) - 0.09) * unit + np.zeros_like(amount)
        _paint(part, pupil, (25, 20, 20))
        line = -0.42 - 0.16 * face.raised * amount - face.frown * amount * 0.55 * ex * side
        _paint(part, np.maximum(np.abs(y - line) - 0.05, np.abs(ex) - 0.3) * unit, hair * 0.5)
    width = 0.42 * (1 + face.wide * amount)
    bend = (x / width) ** 2
    middle = 0.52 - 0.2 * face.smile * amount * (bend - 0.4)
    gape = 0.035 + (0.22 * face.gape * amount + 0.1 * talk) * np.sqrt(np.clip(1 - bend, 0, 1))
    _paint(part, np.maximum(np.abs(y - middle) - gape, (np.abs(x) - width)) * unit, (120, 25, 35))


def _draw_arms(
    pictures: np.ndarray, clip: Clip, cx: float, skin: np.ndarray, shirt: np.ndarray, rng: np.random.Generator
) -> None:
    """Draws both arms on pictures [T, H, W, 3]; hands strike with every syllable."""
    time, (left, right, tremble) = clip.times, TRAITS[clip.shows["motion"]].hands
    beat = clip.beats(time)[:, None]  # [T, 1]
    for side, stroke in ((-1, left), (1, right)):
        rest = np.array([cx + side * 0.2, 0.84]) + rng.uniform(-0.02, 0.02, 2)
        swing = np.sign(np.sin(2 * np.pi * 4.3 * time + side))[:, None]
        shake = tremble * clip.intensity * swing * np.array([1.0, 0.3])
        hand = rest + beat * np.array(stroke) * clip.intensity + shake  # [T, 2]
        shoulder = np.array([cx + side * 0.19, 0.66])
        edge = int((cx - side * 0.1) * SIZE)
        reach = np.s_[int(0.54 * SIZE) :, :edge] if side < 0 else np.s_[int(0.54 * SIZE) :, edge:]
        part = pictures[:, reach[0], reach[1]]  # [T, h, w, 3], a view
        px, py = _X[reach] - np.float32(shoulder[0]), _Y[reach] - np.float32(shoulder[1])
        ax, ay = (hand - shoulder).astype(np.float32).T[:, :, None, None]  # [T, 1, 1] each
        along = np.clip((px * ax + py * ay) / (ax**2 + ay**2), 0, 1)  # [T, h, w]
        _paint(part, np.hypot(px - along * ax, py - along * ay) - 0.035, shirt * 0.8)
        _paint(part, np.hypot(px - ax, py - ay) - 0.05, skin)


def _disturbed(pictures: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Mixes blotches of several sizes into pictures [T, H, W, 3]; some are constant over time, some change."""
    if share:
        blotches = np.zeros((len(pictures), 7, 7, 3), np.float32)
        for cells in (7, 14, 28, 56):
            still, moving = ((n, cells, cells, 3) for n in (1, len(pictures)))
            blotches = blotches + rng.standard_normal(still, np.float32) + 0.6 * rng.standard_normal(moving, np.float32)
            blotches = blotches.repeat(2, axis=1).repeat(2, axis=2)
        pictures *= 1 - share
        pictures += share * (128 + 32 * blotches)
    return np.clip(pictures, 0, 255).astype(np.uint8)
