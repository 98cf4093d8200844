"""Reading a folder of pictures as Perennial does: RGB, Pillow's bilinear, normalised.

    python tests/peers/pictures.py png SRC DST       copies pictures as PNG, which every decoder reads alike

Two JPEG decoders may differ by a few levels in a pixel: where logits are compared, PNG takes that out of the comparison.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif"}


def read_rgb(path, size):
    """[size, size, 3], u8"""
    with Image.open(path) as picture:
        picture = picture.convert("RGB")
        if picture.size != (size, size):
            picture = picture.resize((size, size), Image.Resampling.BILINEAR)
        return np.asarray(picture)


def normalise(pixels, mean, std):
    """[..., height, width, 3] u8 to [..., 3, height, width] f32"""
    scaled = pixels.astype(np.float32) / np.float32(255)
    return np.moveaxis((scaled - np.float32(mean)) / np.float32(std), -1, -3)


def find(folder):
    """The pictures under `folder` in ascending order, and the class of each: the folder that it is in."""
    paths = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in SUFFIXES)
    return paths, [p.parent.name for p in paths]


def copy_as_png(source, target):
    for path in find(source)[0]:
        copy = (target / path.relative_to(source)).with_suffix(".png")
        copy.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as picture:
            picture.convert("RGB").save(copy)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["png", source, target]:
            copy_as_png(Path(source), Path(target))
        case _:
            raise SystemExit(__doc__)
