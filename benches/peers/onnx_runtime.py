#!/usr/bin/env python3
"""The inference of an ONNX model by onnxruntime on the CPU.

Prints one JSON object, with the keys of `perennial bench step --json`. `onnx.py` runs it.
"""

import argparse
import json
import resource
import statistics
import time

import numpy as np
import onnxruntime

WARM_UP = 3


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    session = onnxruntime.InferenceSession(options.model, settings, providers=["CPUExecutionProvider"])
    (images,) = session.get_inputs()
    pixels = np.random.default_rng(42).standard_normal((options.batch, *images.shape[1:]), dtype=np.float32)
    times = []
    for step in range(WARM_UP + options.steps):
        begin = time.perf_counter()
        session.run(None, {images.name: pixels})
        if step >= WARM_UP:
            times.append(time.perf_counter() - begin)
    median = statistics.median(times)
    print(
        json.dumps(
            {
                "images_per_second": options.batch / median,
                "step_ms": median * 1e3,
                "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
            }
        )
    )


if __name__ == "__main__":
    main()
