"""Holds casvit.py against golden numbers of the official implementation.

    python tests/peers/check_fixtures.py FIXTURES        # a folder with models/casvit_*.json

Weights and pictures are made by the formula that the numbers were made with; nothing is downloaded.
Computes in f64, so the tolerance is 1e-9 relative.
"""

import json
import sys
import zlib
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from casvit import casvit

TOLERANCE = 1e-9


def values(name, count):
    """u(name, i) in [-1, 1] for i < count: SplitMix64 of FNV-1a of the name."""
    fnv = 0xCBF29CE484222325
    for byte in name.encode():
        fnv = (fnv ^ byte) * 0x100000001B3 % 2**64
    with np.errstate(over="ignore"):
        z = np.uint64(fnv) + np.arange(count, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) / 2.0**53 * 2 - 1


def tensor(name, shape, rule, salt):
    if rule == "zero_i64":
        return torch.zeros(shape, dtype=torch.int64)
    u = values(name + salt, int(np.prod(shape)))
    scaled = lambda: u * np.sqrt(3 / np.prod(shape[1:]))
    value = {
        "bn_mean": lambda: 0.1 * u,
        "bn_var": lambda: 1 + 0.5 * np.abs(u),
        "near_one": lambda: 1 + 0.1 * u,
        "bias": lambda: 0.1 * u,
        "weight_half": lambda: 0.5 * scaled(),
        "weight": scaled,
    }[rule]()
    return torch.from_numpy(value.astype(np.float32).reshape(shape))


class Check:
    def __init__(self, name):
        self.name, self.numbers, self.worst = name, 0, 0.0

    def close(self, what, ours, theirs, scale=None, tolerance=TOLERANCE):
        ours, theirs = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
        if ours.shape != theirs.shape:
            raise SystemExit(f"{self.name}: {what}: shape {ours.shape}, should be {theirs.shape}")
        scale = max(float(np.abs(theirs).max()) if scale is None else scale, 1e-30)
        error = float(np.abs(ours - theirs).max()) / scale
        self.numbers += theirs.size
        self.worst = max(self.worst, error / tolerance * TOLERANCE)
        if not error <= tolerance:
            raise SystemExit(f"{self.name}: {what}: off by {error:.3g} relative, tolerance {tolerance:g}")


def check_case(check, model, start, case, salt, distillation):
    batch, height, width = case["batch"], case["height"], case["width"]
    where = f"{height}x{width}"
    picture = (1.5 * values("input" + salt, batch * 3 * height * width)).astype(np.float32)
    if zlib.crc32(picture.tobytes()) != case["input_crc32"]:
        raise SystemExit(f"{check.name}: {where}: the formula gives another input")
    picture = torch.from_numpy(picture.reshape(batch, 3, height, width)).double()

    model.load_state_dict(start)
    model.eval()
    with torch.no_grad():
        check.close(f"{where} eval logits", model(picture), case["eval_logits"]["f64"])
    if "train_logits" not in case:
        return

    model.train()
    model.zero_grad(set_to_none=True)
    picture.requires_grad_(True)
    labels = torch.tensor(case["labels"])
    output = model(picture)
    expected = case["train_logits"]["f64"]
    if distillation:
        for head, logits in zip(("head", "dist_head"), output):
            check.close(f"{where} train logits of {head}", logits.detach(), expected[head])
        loss = sum(cross_entropy(logits, labels) for logits in output) / 2
    else:
        check.close(f"{where} train logits", output.detach(), expected)
        loss = cross_entropy(output, labels)
    check.close(f"{where} loss", loss.detach(), case["loss"]["f64"])
    loss.backward()

    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    total = case["grad_norm"]["f64"]
    check.close(f"{where} gradient norm", sum(float(g.square().sum()) for g in gradients.values()) ** 0.5, total)
    if [row[0] for row in case["grads"]["rows"]] != list(gradients):
        raise SystemExit(f"{check.name}: {where}: other parameters, or in another order")
    for name, l2, _, first, _ in case["grads"]["rows"]:
        check.close(f"{where} gradient norm of {name}", gradients[name].norm(), l2, max(l2, 1e-6 * total))
        check.close(f"{where} gradient of {name}", gradients[name].flatten()[:4], first, max(l2, 1e-6 * total))
    check.close(f"{where} input gradient", picture.grad.norm(), case["input_grad"]["l2_f64"])

    state = model.state_dict()
    columns = case["bn_after_train_forward"]["columns"]
    for row in case["bn_after_train_forward"]["rows"]:
        row = dict(zip(columns, row))
        for statistic in ("running_mean", "running_var"):
            what = f"{row['bn']}.{statistic}"
            check.close(f"{where} {what}", state[what].norm(), row[f"{statistic}_l2_f64"])
    model.eval()
    with torch.no_grad():
        after = case["eval_logits_after_train_forward"]["f64"]
        check.close(f"{where} eval logits after training", model(picture), after)


def check_model(path):
    fixture = json.loads(path.read_text())
    check, salt, distillation = Check(path.stem), fixture["salt"], fixture["distillation"]
    start = {}
    for name, shape, rule, crc32 in fixture["state_dict"]["rows"]:
        start[name] = tensor(name, shape, rule, salt)
        if zlib.crc32(start[name].numpy().tobytes()) != crc32:
            raise SystemExit(f"{check.name}: the formula gives another `{name}`")
    model = casvit(path.stem.removesuffix("_dist"), fixture["num_classes"], distillation=distillation)
    if list(model.state_dict()) != list(start):
        raise SystemExit(f"{check.name}: other names than the official state dict, or in another order")
    parameters = sum(p.numel() for p in model.parameters())
    if parameters != fixture["param_count"]:
        raise SystemExit(f"{check.name}: {parameters} parameters, should be {fixture['param_count']}")
    model.double()
    for case in fixture["cases"]:
        check_case(check, model, start, case, salt, distillation)
    print(f"ok {check.name}: {check.numbers} numbers, worst {check.worst:.2g} relative", flush=True)


def main():
    if len(sys.argv) != 2:
        raise SystemExit("usage: check_fixtures.py FIXTURES")
    paths = sorted(Path(sys.argv[1]).glob("models/casvit_*.json"))
    if not paths:
        raise SystemExit(f"`{sys.argv[1]}` has no models/casvit_*.json")
    for path in paths:
        check_model(path)


if __name__ == "__main__":
    main()
