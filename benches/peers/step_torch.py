#!/usr/bin/env python3
"""One training step of CAS-ViT (forward, loss, backward, clip, AdamW), or its inference, in PyTorch.

Prints a line when the first step is done, and at the end one JSON object with the keys of `perennial bench step --json`. `step.py`,
`start.py` and `workers.py` run it; under torchrun it is one process of several with DistributedDataParallel.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import sys
import time

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "peers"))
from casvit import casvit  # noqa: E402

CLASSES = 12
WARM_UP = 3


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="casvit_xs")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--inference", action="store_true")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--on-demand", action="store_true", help="a measurement for each line of standard input, not a single one")
    options = parser.parse_args()

    torch.manual_seed(42)
    torch.set_num_threads(options.threads)
    on_gpu = options.device != "cpu"
    # As Perennial: in f32, products are f32.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = on_gpu
    model = casvit(options.model, CLASSES).to(options.device, memory_format=torch.channels_last)
    images = torch.randn(options.batch, 3, options.image_size, options.image_size)
    images = images.to(options.device, memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (options.batch,)).to(options.device)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    autocast = torch.autocast(images.device.type, torch.bfloat16, enabled=options.bf16)
    model.train(not options.inference)
    if options.compile:
        # Folds the normalisations into the convolutions.
        torch._inductor.config.freezing = options.inference
        forward = torch.compile(model)
    else:
        forward = model
    if "WORLD_SIZE" in os.environ:
        torch.distributed.init_process_group("gloo")
        forward = torch.nn.parallel.DistributedDataParallel(forward)

    def train():
        with autocast:
            loss = torch.nn.functional.cross_entropy(forward(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    def infer():
        with torch.no_grad(), autocast:
            forward(images)

    work = infer if options.inference else train
    for step in range(WARM_UP):
        work()
        if on_gpu:
            torch.cuda.synchronize()
        if step == 0:
            print(json.dumps({"event": "first_step"}), flush=True)
    if options.on_demand:
        print(json.dumps({"event": "ready"}), flush=True)
    for _ in sys.stdin if options.on_demand else [""]:
        times = []
        for _ in range(options.steps):
            begin = time.perf_counter()
            work()
            if on_gpu:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - begin)
        median = statistics.median(times)
        record = {
            "event": "bench",
            "images_per_second": options.batch / median,
            "step_ms": median * 1e3,
            "device_memory_mb": torch.cuda.max_memory_reserved() / 1e6 if on_gpu else None,
            "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
        }
        print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
