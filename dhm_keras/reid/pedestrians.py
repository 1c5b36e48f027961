"""Drawings of pedestrians: who they are, and how they are drawn on an image."""

import colorsys
import dataclasses

import numpy as np

SKINS = ((240, 205, 178), (222, 172, 138), (188, 132, 96), (140, 88, 60), (96, 62, 44))
HAIRS = ((28, 24, 22), (66, 44, 30), (118, 80, 46), (196, 158, 98), (150, 148, 146))
COMMON = ((34, 35, 42), (66, 68, 76), (40, 48, 84), (126, 126, 130), (212, 210, 206))  # clothes that many wear
PATTERNS = ("plain", "stripes", "block", "logo")
CUTS = ("long", "long", "shorts", "skirt")
BAGS = ("none", "backpack", "handbag")


def rgb(colour):
    return tuple(int(value) for value in np.clip(colour, 0, 255))


def rounded(draw, box, radius, colour):
    """Draws a rectangle with rounded corners; Pillow 10.0 cannot round those of a small one."""
    try:
        draw.rounded_rectangle(box, radius, colour)
    except ValueError:
        draw.rectangle(box, colour)


def darker(colour, share=0.78):
    return tuple(int(share * value) for value in colour)


@dataclasses.dataclass(frozen=True)
class Person:
    """What is the same on all images of a person; colours are 0-255."""

    skin: tuple
    hair: tuple
    long_hair: bool
    upper: tuple
    second: tuple  # colour of the pattern
    pattern: str
    long_sleeves: bool
    lower: tuple
    cut: str
    shoes: tuple
    bag: str
    bag_colour: tuple
    build: float
    height: float

    @classmethod
    def drawn(cls, rng, difficulty):
        """A person; the more difficult, the more often the clothes have one of a few colours."""

        def colour():
            hue, saturation, value, share = rng.random(4)
            vivid = 255 * np.array(colorsys.hsv_to_rgb(hue, 0.45 + 0.5 * saturation, 0.35 + 0.6 * value))
            common = COMMON[rng.integers(len(COMMON))] + rng.uniform(-12, 12, 3)
            return rgb(common if share < 0.85 * difficulty else vivid)

        one_of = lambda values: values[rng.integers(len(values))]
        return cls(
            skin=rgb(one_of(SKINS) + rng.uniform(-8, 8, 3)),
            hair=rgb(one_of(HAIRS) + rng.uniform(-8, 8, 3)),
            long_hair=rng.random() < 0.4,
            upper=colour(),
            second=colour(),
            pattern=one_of(PATTERNS),
            long_sleeves=rng.random() < 0.5,
            lower=colour(),
            cut=one_of(CUTS),
            shoes=colour(),
            bag=one_of(BAGS),
            bag_colour=colour(),
            build=rng.uniform(0.85, 1.25),
            height=rng.uniform(0.9, 1.0),
        )


class Figure:
    """A place to draw a person on an image; lengths are shares of the person's height.

    Args:
        image: `PIL.Image.Image`.
        middle, top, height: Floats, of the person, in pixels.
        facing: String. Of `"left"` all is mirrored; what is drawn is `"right"`.
    """

    def __init__(self, image, middle, top, height, facing):
        from PIL import ImageDraw

        self.draw, self.corner, self.height = ImageDraw.Draw(image), (middle, top), height
        self.way = -1 if facing == "left" else 1

    def at(self, points):
        """Pixels of points `(x, y)`, right of the middle and below the top."""
        (middle, top), scale = self.corner, self.height
        return [(middle + self.way * scale * x, top + scale * y) for x, y in points]

    def polygon(self, points, colour):
        self.draw.polygon(self.at(points), colour)

    def _box(self, points):
        (left, top), (right, bottom) = self.at(points)
        return min(left, right), top, max(left, right), bottom

    def ellipse(self, x, y, across, down, colour):
        self.draw.ellipse(self._box(((x - across, y - down), (x + across, y + down))), colour)

    def box(self, left, top, right, bottom, colour):
        rounded(self.draw, self._box(((left, top), (right, bottom))), 0.02 * self.height, colour)

    def limb(self, points, width, colour):
        self.draw.line(self.at(points), colour, max(round(width * self.height), 1), joint="curve")
        for x, y in points:
            self.ellipse(x, y, width / 2, width / 2, colour)


def draw_person(figure, person, facing, stride, swing):
    """From the far to the near: shadow, far arm, legs, trunk, head, near arm, bag."""
    from_side = facing in ("left", "right")
    half = person.build * (0.075 if from_side else 0.115)  # the shoulders' width
    figure.ellipse(0, 0.985, 0.18, 0.02, (72, 72, 74))
    if from_side:
        _draw_arm(figure, person, 0, -swing * 0.13, shade=0.75)
    if from_side and person.bag == "backpack":
        figure.box(-half - 0.08, 0.19, -half + 0.04, 0.42, person.bag_colour)
    for way in (-1, 1):
        _draw_leg(figure, person, way, stride, from_side)
    _draw_trunk(figure, person, half, facing)
    if not from_side:
        for way in (-1, 1):
            _draw_arm(figure, person, way * half, way * (0.025 + 0.02 * swing), shade=0.88)
    _draw_head(figure, person, facing)
    if from_side:
        _draw_arm(figure, person, 0, swing * 0.13, shade=0.88)
    if person.bag == "backpack" and facing == "back":
        figure.box(-0.75 * half, 0.2, 0.75 * half, 0.43, person.bag_colour)
        figure.box(-0.5 * half, 0.32, 0.5 * half, 0.41, darker(person.bag_colour))
    elif person.bag == "backpack" and facing == "front":
        for way in (-1, 1):
            figure.limb(((0.6 * way * half, 0.17), (0.75 * way * half, 0.36)), 0.022, person.bag_colour)
    elif person.bag == "handbag":
        x = {"front": half + 0.02, "back": -half - 0.02}.get(facing, swing * 0.13)
        figure.limb(((x, 0.48), (x, 0.56)), 0.012, darker(person.bag_colour))
        figure.box(x - 0.055, 0.55, x + 0.055, 0.66, person.bag_colour)


def _draw_arm(figure, person, shoulder, out, shade):
    """From the shoulder, at `x`, to a hand that is `out` of it."""
    joints = ((shoulder, 0.195), (shoulder + 0.6 * out, 0.345), (shoulder + out, 0.49))
    figure.limb(joints, 0.042 * person.build, darker(person.skin, shade))
    sleeve = joints if person.long_sleeves else ((shoulder, 0.195), (shoulder + 0.4 * out, 0.285))
    figure.limb(
        (*sleeve[:-1], (sleeve[-1][0], sleeve[-1][1] - 0.03)), 0.056 * person.build, darker(person.upper, shade)
    )


def _draw_leg(figure, person, way, stride, from_side):
    """One leg of two, `way` -1 or 1: seen from the side the feet are apart, from the front one is lifted."""
    if from_side:
        hip, knee, foot = 0.0, 0.07 * way * stride, 0.15 * way * stride
        ground, shade = 0.96 - 0.02 * abs(stride), 0.8 if way < 0 else 1.0
    else:
        hip, knee, foot = (0.052 * person.build * way, 0.058 * person.build * way, 0.055 * person.build * way)
        ground, shade = 0.96 - 0.05 * max(way * stride, 0), 0.85 if way * stride > 0 else 1.0
    joints = ((hip, 0.51), (knee, 0.72), (foot, ground))
    bare = person.cut != "long"
    figure.limb(joints, (0.058 if bare else 0.078) * person.build, darker(person.skin if bare else person.lower, shade))
    figure.ellipse(foot + (0.03 if from_side else 0), ground + 0.012, 0.055 if from_side else 0.037, 0.02, person.shoes)
    if person.cut == "shorts":
        figure.limb((joints[0], (knee, 0.68)), 0.09 * person.build, darker(person.lower, shade))


def _draw_trunk(figure, person, half, facing):
    """The upper clothes with their pattern, and a skirt."""
    waist = 0.8 * half
    if person.cut == "skirt":
        figure.polygon(((-waist, 0.49), (waist, 0.49), (1.25 * half, 0.72), (-1.25 * half, 0.72)), person.lower)
    edge = lambda y: half + (waist - half) * (y - 0.175) / 0.35
    band = lambda top, bottom: ((edge(bottom), bottom), (-edge(bottom), bottom), (-edge(top), top), (edge(top), top))
    figure.limb(((0, 0.12), (0, 0.17)), 0.06, person.skin)
    figure.polygon(((-0.4 * half, 0.148), (0.4 * half, 0.148), (half, 0.175), (-half, 0.175)), person.upper)
    figure.polygon(band(0.175, 0.525), person.upper)
    if person.pattern == "stripes":
        for top in (0.2, 0.28, 0.36, 0.44):
            figure.polygon(band(top, top + 0.04), person.second)
    elif person.pattern == "block":
        figure.polygon(band(0.34, 0.525), person.second)
    elif person.pattern == "logo" and facing == "front":
        figure.ellipse(0, 0.27, 0.055, 0.045, person.second)


def _draw_head(figure, person, facing):
    """From the front a face, from the back hair, from the side half of each."""
    if person.long_hair:
        figure.box(-0.058, 0.06, 0.058 if facing in ("front", "back") else 0.02, 0.19, person.hair)
    figure.ellipse(0, 0.07, 0.055, 0.07, person.hair)
    if facing == "front":
        figure.ellipse(0, 0.085, 0.044, 0.052, person.skin)
    elif facing != "back":
        figure.ellipse(0.018, 0.088, 0.036, 0.05, person.skin)
