"""What cameras see of drawn pedestrians: a scene, a person in it, and what the camera makes of the light."""

import dataclasses

import numpy as np

from dhm_keras.reid.pedestrians import Figure, darker, draw_person, rgb, rounded

VERSION = 1  # of the pixels: whoever changes what is drawn counts on

FACINGS = ("front", "back", "left", "right")


@dataclasses.dataclass(frozen=True)
class Camera:
    """What is the same on all images of a camera."""

    scene: object  # PIL.Image.Image, twice as high as an image and six times as wide
    gains: np.ndarray  # (3,), of the colours
    contrast: float
    brightness: float
    sharpness: float  # share of an image's pixels, in each direction, that the camera resolves
    scale: float
    facing: str  # how most people walk there

    @classmethod
    def drawn(cls, rng, difficulty, size):
        """A camera; at difficulty 0 they differ in what stands in the scene alone."""
        spread = lambda width: 1 + difficulty * rng.uniform(-width, width)
        return cls(
            gains=np.array([spread(0.16) for _ in range(3)]),
            contrast=spread(0.25),
            brightness=spread(0.25),
            sharpness=1 - 0.6 * difficulty * rng.random(),
            scale=spread(0.1),
            facing=FACINGS[rng.integers(len(FACINGS))],
            scene=_scene(rng, difficulty, size),
        )


def picture(camera, person, rng, difficulty, size, loose=0.0, facing=None):
    """An image of a person by a camera, as a detector would cut it out.

    Args:
        camera: `Camera`.
        person: `Person`; `None`: the detector was wrong, there is nobody.
        rng: `numpy.random.Generator`.
        difficulty: Float in [0, 1].
        size: Integers `(height, width)`.
        loose: Float. How far the box may be off besides, as a share of its size. Defaults to `0.0`.
        facing: String, one of `FACINGS`. Defaults to `None`: drawn, as people walk there.

    Returns:
        uint8 `(height, width, 3)`.
    """
    from PIL import Image

    height, width = 2 * size[0], 2 * size[1]  # reduced below, which antialiases
    left = int(rng.random() * 2 * width)
    image = camera.scene.crop((left, 0, left + width, height))
    across, down, stretch = rng.uniform(-1, 1, 3)
    drawn = camera.facing if rng.random() < 0.6 else FACINGS[rng.integers(len(FACINGS))]
    if rng.random() > 1.2 * difficulty:
        drawn = "front"
    facing = facing or drawn
    stride, swing = rng.uniform(-1, 1, 2) * (0.2 + 0.8 * difficulty)
    occluded, light = rng.random() < 0.5 * difficulty, rng.uniform(-1, 1, 2)
    if person is not None:
        tall = 0.92 * height * person.height * camera.scale * (1 + (0.01 + 0.12 * difficulty) * stretch)
        middle = width * (0.5 + (0.01 + 0.14 * difficulty + loose) * across)
        top = height * (0.5 + (0.01 + 0.06 * difficulty + loose) * down) - tall / 2
        draw_person(Figure(image, middle, top, tall, facing), person, facing, stride, swing)
        if occluded:
            _draw_occluder(image, rng)
    resolved = [max(round(camera.sharpness * side), 8) for side in reversed(size)]
    image = image.resize(resolved, Image.Resampling.BOX).resize(size[::-1], Image.Resampling.BILINEAR)
    return _developed(np.asarray(image, "float32"), camera, rng, difficulty, light)


def _developed(pixels, camera, rng, difficulty, light):
    """What the camera makes of the light `(height, width, 3)`: a gradient over the image, colours, contrast, noise."""
    down, across = (np.linspace(-1, 1, side, dtype="float32") for side in pixels.shape[:2])
    gradient = 1 + 0.3 * difficulty * (light[0] * down[:, None] + light[1] * across)
    exposure = camera.brightness * rng.uniform(1 - 0.2 * difficulty, 1 + 0.2 * difficulty)
    pixels = pixels * gradient[..., None].astype("float32") * (exposure * camera.gains).astype("float32")
    pixels = 118 + camera.contrast * (pixels - 118)
    pixels += (1 + 11 * difficulty) * rng.standard_normal(pixels.shape, dtype="float32")
    return np.clip(np.round(pixels), 0, 255).astype("uint8")


def _scene(rng, difficulty, size):
    """A wall and a pavement with what stands there: grey and alike at difficulty 0, coloured and full at 1."""
    from PIL import Image, ImageDraw

    height, width = 2 * size[0], 6 * size[1]
    grey = lambda: 150 + (10 + 60 * difficulty) * rng.uniform(-1, 1)
    colour = lambda: rgb(grey() + (5 + 30 * difficulty) * rng.uniform(-1, 1, 3))
    wall, pavement = colour(), colour()
    ground = int(height * (0.45 + 0.3 * difficulty * rng.uniform(-1, 1)))
    down = np.arange(height)[:, None, None]
    rows = np.where(down < ground, wall, pavement) * (0.9 + 0.2 * down / height)  # lighter to the bottom
    grain = (3 + 8 * difficulty) * rng.standard_normal((height // 4 + 1, width // 4 + 1, 1))
    grain = grain.repeat(4, 0).repeat(4, 1)[:height, :width]
    scene = Image.fromarray(np.clip(rows + grain, 0, 255).astype("uint8"))
    draw = ImageDraw.Draw(scene)
    for _ in range(int(4 + 14 * difficulty)):  # windows, doors, bins, cars
        left, top, across, down = rng.random(4) * (width, ground, width / 8, height / 3) + (0, 0, 4, 8)
        draw.rectangle((left, top, left + across, top + down), colour())
    for x, slant in rng.integers(-width // 4, width, (5, 2)):  # edges of the pavement's slabs
        draw.line((x, ground, x + slant // 2, height), darker(pavement, 0.88), 3)
    return scene


def _draw_occluder(image, rng):
    """A post, or something low, in front of the person."""
    from PIL import ImageDraw

    (width, height), (kind, place, extent) = image.size, rng.random(3)
    colour = rgb(rng.uniform(40, 190) + rng.uniform(-40, 40, 3))
    if kind < 0.5:
        left = width * (0.1 + 0.7 * place)
        box = (left, 0, left + width * (0.05 + 0.15 * extent), height)
    else:
        box = (width * (place - 0.6), height * (0.85 - 0.35 * extent), width * (place + 0.5), height)
    rounded(ImageDraw.Draw(image), box, width * 0.04, colour)
