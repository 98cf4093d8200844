"""Reading a folder of pictures as Perennial does: RGB, Pillow's bilinear, normalised."""

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
