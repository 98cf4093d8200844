"""A worker under torchrun: steps of 20 ms and a sum over all workers; a checkpoint every 20 steps by rank 0.

Prints a line for each step: its number and the time. What a restart costs shows between the lines.
"""

import json
import os
import pathlib
import time

import torch
import torch.distributed as dist

checkpoint = pathlib.Path(os.environ["TOY_CHECKPOINT"])
steps = int(os.environ["TOY_STEPS"])
# A store of its own for each restart: what the agent keeps has the addresses of workers that are dead.
agent = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
store = dist.PrefixStore("restart " + os.environ["TORCHELASTIC_RESTART_COUNT"], agent)
dist.init_process_group("gloo", store=store, rank=int(os.environ["RANK"]), world_size=int(os.environ["WORLD_SIZE"]))
weights = torch.zeros(250_000)
step = json.loads(checkpoint.read_text())["step"] if checkpoint.exists() else 0
while step < steps:
    time.sleep(0.02)
    dist.all_reduce(weights)
    step += 1
    if dist.get_rank() == 0:
        print(f"step {step} {time.time()}", flush=True)
        if step % 20 == 0:
            written = checkpoint.with_suffix(".new")
            written.write_text(json.dumps({"step": step}))
            written.rename(checkpoint)
dist.destroy_process_group()
