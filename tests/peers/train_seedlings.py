"""The recipe of Perennial's reference run in PyTorch, to compare accuracy and speed with.

    python tests/peers/train_seedlings.py seedlings --epochs 30

One JSON object an epoch. CAS-ViT xs from random weights, 64 pixels, batch 64, AdamW 1e-3 with weight decay 0.01 on
all parameters, cosine by epoch to 1e-6, gradient norm clipped at 5, Cutout 0.5, MixUp 0.8 or CutMix 1.0 (each batch with
probability 0.1, either with 0.5), label smoothing 0.1, average of the weights with decay 0.995, no flips.
"""

import argparse
import copy
import json
import math
import random
import time

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import nn

from casvit import VARIANTS, casvit
from pictures import find, normalise, read_rgb

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMOOTHING = 0.1


def cutout(pixels, probability, rng):
    """Cutout of torchtoolbox on an array: one value for all channels of a rectangle of 2 to 40 % of the area."""
    if rng.random() >= probability:
        return pixels
    height, width, _ = pixels.shape
    area, ratio = rng.uniform(0.02, 0.4) * height * width, rng.uniform(0.4, 2.5)
    w, h = min(int(math.sqrt(area / ratio)), width), min(int(math.sqrt(area * ratio)), height)
    left, top = rng.randint(0, width - w), rng.randint(0, height - h)
    pixels = pixels.copy()
    pixels[top : top + h, left : left + w] = rng.randint(0, 255)
    return pixels


def mix(x, labels, classes, rng):
    """timm's Mixup in batch mode (probability 0.1): the partner of a sample is its mirror image in the batch."""
    lam = 1.0
    if rng.random() < 0.1:
        use_cutmix = rng.random() < 0.5
        lam = rng.beta(1.0, 1.0) if use_cutmix else rng.beta(0.8, 0.8)
        if use_cutmix:
            height, width = x.shape[2:]
            ratio = math.sqrt(1 - lam)
            cut_h, cut_w = int(height * ratio), int(width * ratio)
            cy, cx = rng.randint(0, height), rng.randint(0, width)
            top, bottom = np.clip([cy - cut_h // 2, cy + cut_h // 2], 0, height)
            left, right = np.clip([cx - cut_w // 2, cx + cut_w // 2], 0, width)
            x[:, :, top:bottom, left:right] = x.flip(0)[:, :, top:bottom, left:right]
            lam = 1 - (bottom - top) * (right - left) / (height * width)
        else:
            x = x * lam + x.flip(0) * (1 - lam)
    one_hot = torch.full((len(labels), classes), SMOOTHING / classes)
    one_hot.scatter_(1, labels[:, None], 1 - SMOOTHING + SMOOTHING / classes)
    return x, one_hot * lam + one_hot.flip(0) * (1 - lam)


@torch.no_grad()
def average(ema, model, decay):
    for old, new in zip(ema.state_dict().values(), model.state_dict().values()):
        if old.is_floating_point():
            old.lerp_(new, 1 - decay)
        else:
            old.copy_(new)


@torch.no_grad()
def top1(model, x, y):
    model.eval()
    right = sum(int((model(a).argmax(1) == b).sum()) for a, b in zip(x.split(256), y.split(256)))
    return right / len(y)


def load(arguments):
    paths, names = find(arguments.data)
    classes = sorted(set(names))
    if len(classes) < 2:
        raise SystemExit(f"`{arguments.data}` has {len(classes)} classes")
    labels = np.array([classes.index(name) for name in names])
    train, val = train_test_split(np.arange(len(paths)), test_size=0.3, random_state=arguments.seed)
    pixels = np.stack([read_rgb(path, arguments.size) for path in paths])
    return pixels, labels, train, val, len(classes)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="one folder a class")
    parser.add_argument("--model", default="casvit_xs", choices=VARIANTS)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    cut_rng, mix_rng = random.Random(arguments.seed), np.random.RandomState(arguments.seed)
    pixels, labels, train, val, classes = load(arguments)
    val_x = torch.from_numpy(normalise(pixels[val], MEAN, STD))
    val_y = torch.from_numpy(labels[val])

    model = casvit(arguments.model, classes)
    ema = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, arguments.epochs, eta_min=1e-6)
    for epoch in range(arguments.epochs):
        model.train()
        start, total = time.monotonic(), 0.0
        for batch in np.array_split(mix_rng.permutation(train), np.arange(arguments.batch_size, len(train), arguments.batch_size)):
            cut = np.stack([cutout(pixels[i], 0.5, cut_rng) for i in batch])
            x = torch.from_numpy(np.ascontiguousarray(normalise(cut, MEAN, STD)))
            x, target = mix(x, torch.from_numpy(labels[batch]), classes, mix_rng)
            loss = nn.functional.cross_entropy(model(x), target)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            average(ema, model, 0.995)
            total += float(loss.detach()) * len(batch)
        schedule.step()
        seconds = time.monotonic() - start
        record = {
            "event": "epoch",
            "epoch": epoch + 1,
            "train_loss": total / len(train),
            "val_top1": top1(model, val_x, val_y),
            "ema_top1": top1(ema, val_x, val_y),
            "images_per_second": len(train) / seconds,
            "seconds": seconds,
        }
        print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
