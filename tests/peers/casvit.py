"""CAS-ViT in PyTorch, written from the paper (arXiv 2408.03703): the peer that Perennial's network is compared with.

Parameter and buffer names are those of the official checkpoints, so their state dicts load with `strict=True`.
"""

import torch
from torch import nn

# Blocks a stage, channels a stage.
VARIANTS = {
    "casvit_xs": ((2, 2, 4, 2), (48, 56, 112, 220)),
    "casvit_s": ((3, 3, 6, 3), (48, 64, 128, 256)),
    "casvit_m": ((3, 3, 6, 3), (64, 96, 192, 384)),
    "casvit_t": ((3, 3, 6, 3), (96, 128, 256, 512)),
}


def depthwise(dim):
    return nn.Conv2d(dim, dim, 3, padding=1, groups=dim)


class DropPath(nn.Module):
    """Leaves a residual branch out, for each sample by itself, with probability `rate`."""

    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def forward(self, x):
        if self.rate == 0.0 or not self.training:
            return x
        keep = 1.0 - self.rate
        mask = x.new_empty((x.shape[0], 1, 1, 1)).bernoulli_(keep)
        return x * mask / keep


class LocalIntegration(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(dim, dim, 1), nn.BatchNorm2d(dim), depthwise(dim), nn.GELU(), nn.Conv2d(dim, dim, 1)
        )

    def forward(self, x):
        return self.network(x)


class SpatialOperation(nn.Module):
    """x * mask, one mask of [batch, 1, height, width] for all channels."""

    def __init__(self, dim):
        super().__init__()
        self.block = nn.Sequential(
            depthwise(dim), nn.BatchNorm2d(dim), nn.ReLU(), nn.Conv2d(dim, 1, 1, bias=False), nn.Sigmoid()
        )

    def forward(self, x):
        return x * self.block(x)


class ChannelOperation(nn.Module):
    """x * mask, one mask of [batch, channels, 1, 1] for all places."""

    def __init__(self, dim):
        super().__init__()
        self.block = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(dim, dim, 1, bias=False), nn.Sigmoid())

    def forward(self, x):
        return x * self.block(x)


class AdditiveTokenMixer(nn.Module):
    """proj(dwc(phi(q) + phi(k)) * v)"""

    def __init__(self, dim):
        super().__init__()
        self.qkv = nn.Conv2d(dim, 3 * dim, 1, bias=False)
        self.oper_q = nn.Sequential(SpatialOperation(dim), ChannelOperation(dim))
        self.oper_k = nn.Sequential(SpatialOperation(dim), ChannelOperation(dim))
        self.dwc = depthwise(dim)
        self.proj = depthwise(dim)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=1)
        return self.proj(self.dwc(self.oper_q(q) + self.oper_k(k)) * v)


class Mlp(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.fc1 = nn.Conv2d(dim, hidden, 1)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(hidden, dim, 1)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


class AdditiveBlock(nn.Module):
    def __init__(self, dim, drop_path):
        super().__init__()
        self.local_perception = LocalIntegration(dim)
        self.norm1 = nn.BatchNorm2d(dim)
        self.attn = AdditiveTokenMixer(dim)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.BatchNorm2d(dim)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x):
        x = x + self.local_perception(x)
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Embedding(nn.Module):
    """Halves height and width."""

    def __init__(self, dim_in, dim_out):
        super().__init__()
        self.proj = nn.Conv2d(dim_in, dim_out, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(dim_out)

    def forward(self, x):
        return self.norm(self.proj(x))


class CasVit(nn.Module):
    """[batch, 3, height, width] to [batch, classes]; in training with a distillation head, a pair of them."""

    def __init__(self, depths, dims, num_classes, drop_path=0.0, distillation=False):
        super().__init__()
        stem = dims[0] // 2
        self.patch_embed = nn.Sequential(
            nn.Conv2d(3, stem, 3, stride=2, padding=1),
            nn.BatchNorm2d(stem),
            nn.ReLU(),
            nn.Conv2d(stem, dims[0], 3, stride=2, padding=1),
            nn.BatchNorm2d(dims[0]),
            nn.ReLU(),
        )
        total = sum(depths)
        rates = iter(drop_path * j / (total - 1) for j in range(total))
        self.network = nn.ModuleList()
        for stage, (depth, dim) in enumerate(zip(depths, dims)):
            self.network.append(nn.Sequential(*(AdditiveBlock(dim, next(rates)) for _ in range(depth))))
            if stage < 3:
                self.network.append(Embedding(dim, dims[stage + 1]))
        self.norm = nn.BatchNorm2d(dims[-1])
        self.head = nn.Linear(dims[-1], num_classes)
        self.dist_head = nn.Linear(dims[-1], num_classes) if distillation else None
        for linear in filter(None, (self.head, self.dist_head)):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, x):
        x = self.patch_embed(x)
        for stage in self.network:
            x = stage(x)
        features = self.norm(x).flatten(2).mean(-1)
        logits = self.head(features)
        if self.dist_head is None:
            return logits
        distilled = self.dist_head(features)
        return (logits, distilled) if self.training else (logits + distilled) / 2


def casvit(name, num_classes, drop_path=0.0, distillation=False):
    depths, dims = VARIANTS[name]
    return CasVit(depths, dims, num_classes, drop_path, distillation)


def variant_of(state_dict):
    """The (name, num_classes, distillation) that a state dict with official names fits."""
    width, channels = state_dict["patch_embed.3.weight"].shape[0], state_dict["head.weight"].shape[1]
    for name, (_, dims) in VARIANTS.items():
        if (dims[0], dims[-1]) == (width, channels):
            return name, state_dict["head.weight"].shape[0], "dist_head.weight" in state_dict
    raise ValueError(f"no CAS-ViT has {width} channels first and {channels} last")
