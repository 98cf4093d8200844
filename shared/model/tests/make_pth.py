"""Writes the files in tests/data with PyTorch: `python make_pth.py` (needs torch and safetensors)."""

import argparse
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import save_file

DATA = Path(__file__).parent / "data"


def state(shift=0.0):
    """A little of everything that networks are saved in."""
    return OrderedDict(
        [
            ("conv.weight", torch.arange(24, dtype=torch.float32).reshape(2, 3, 2, 2) / 8 + shift),
            ("conv.bias", torch.tensor([0.5, -1.5]) + shift),
            ("norm.running_mean", torch.tensor([0.25, 1e-3], dtype=torch.float64) + shift),
            ("norm.num_batches_tracked", torch.tensor(7)),
            ("head.weight", (torch.tensor([[1.5, -2.0, 0.125]]) + shift).half()),
            ("head.bias", (torch.tensor([3.0]) + shift).bfloat16()),
            ("index", torch.tensor([[0, 1], [2, -3]], dtype=torch.int32)),
        ]
    )


def prefixed(tensors):
    return OrderedDict(("module." + name, tensor) for name, tensor in tensors.items())


def trained():
    """An optimizer with state, as checkpoints carry it."""
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    weight.sum().backward()
    optimizer.step()
    return optimizer.state_dict()


checkpoint = {
    "epoch": 12,
    "model": prefixed(state()),
    "model_ema": state(1.0),
    "optimizer": trained(),
    "args": argparse.Namespace(model="casvit_xs", lr=1e-3, betas=(0.9, 0.999), resume=None),
    "best": torch.tensor(0.5),
}
timm = {"arch": "casvit_xs", "model": "casvit_xs", "state_dict": state(), "state_dict_ema": state(1.0)}

DATA.mkdir(exist_ok=True)
torch.save(state(), DATA / "raw.pth")
torch.save(state(), DATA / "legacy.pth", _use_new_zipfile_serialization=False)
torch.save(checkpoint, DATA / "checkpoint.pth")
torch.save(timm, DATA / "timm.pth.tar")
torch.save({"model_ema": prefixed(state(1.0))}, DATA / "average_only.pt")
view = torch.arange(12, dtype=torch.float32).reshape(3, 4).t()
torch.save({"transposed": view, "column": view[:, 1]}, DATA / "views.pth")
torch.save({"weight": torch.zeros(1).expand(1 << 20, 1 << 10)}, DATA / "inflated.pth")
torch.save({"epoch": 3}, DATA / "no_tensors.pth")
torch.save({"mask": torch.tensor([True])}, DATA / "boolean.pth")
save_file(dict(state()), DATA / "raw.safetensors")
