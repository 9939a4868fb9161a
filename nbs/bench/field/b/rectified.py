"""minimal class-conditional rectified flow; picks up from its own checkpoint"""
import io
import math
from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from sklearn.datasets import load_digits
from torch.utils.checkpoint import checkpoint

args = SimpleNamespace(d=64, h=96, k=10, bs=64, accum=2, lr=6e-3, wd=0.0, ema=0.9,
                       p_uncond=0.1, first=50, total=175, clip=1.0, t_mu=0.0, t_sigma=1.0)


def timestep_embedding(t, dim=32, max_period=1000.0):
    half = dim // 2
    freqs = torch.exp(-math.log(max_period) * torch.arange(half) / half)
    ang = 30.0 * t[:, None] * freqs[None]
    return torch.cat([ang.cos(), ang.sin()], dim=-1)


class res(nn.Module):
    def __init__(self, h):
        super().__init__()
        self.n = nn.LayerNorm(h, elementwise_affine=False)
        self.mod = nn.Linear(h, 3 * h)
        self.ff = nn.Sequential(nn.Linear(h, h), nn.GELU(), nn.Linear(h, h))
        nn.init.zeros_(self.mod.weight)
        nn.init.zeros_(self.mod.bias)

    def forward(self, x, c):
        a, b, g = self.mod(F.silu(c)).chunk(3, -1)
        return x + g * self.ff(self.n(x) * (1 + a) + b)


class velocity(nn.Module):
    def __init__(self, d, h, k):
        super().__init__()
        self.null = k
        self.stem = nn.Sequential(nn.Linear(d, h), nn.GELU(), nn.Linear(h, h))
        self.t_mlp = nn.Sequential(nn.Linear(32, h), nn.SiLU(), nn.Linear(h, h))
        self.y_table = nn.Embedding(k + 1, h)
        nn.init.normal_(self.y_table.weight, std=0.5)
        self.blocks = nn.ModuleList(res(h) for _ in range(3))
        self.head = nn.Linear(h, d)

    def forward(self, x, t, y):
        c = self.t_mlp(timestep_embedding(t)) + self.y_table(y)
        h = checkpoint(self.stem, x, use_reentrant=False) + c
        for blk in self.blocks:
            h = blk(h, c)
        return self.head(h)


def get_data():
    d = load_digits()
    x = torch.from_numpy(d.data).float().div(8).sub(1)
    return x, torch.from_numpy(d.target).long()


def batches(x, y, bs, rng):
    while True:
        order = rng.permutation(len(x))
        for s in range(0, len(order) - bs + 1, bs):
            j = torch.from_numpy(order[s:s + bs])
            yield x[j], y[j]


def couple(x0, x1, y):
    """mini-batch optimal transport: put the data into the order of the noise"""
    cost = torch.cdist(x0, x1).pow(2).numpy()
    _, col = linear_sum_assignment(cost)
    col = torch.from_numpy(col)
    return x0, x1[col], y[col]


def logit_normal(n):
    return torch.sigmoid(args.t_mu + args.t_sigma * torch.randn(n))


def fm_loss(net, x1, y):
    x0 = torch.randn_like(x1)
    x0, x1, y = couple(x0, x1, y)
    t = logit_normal(len(x1))
    xt = torch.lerp(x0, x1, t[:, None])
    drop = torch.rand(len(y)) < args.p_uncond
    y = torch.where(drop, torch.full_like(y, net.null), y)
    return (net(xt, t, y) - (x1 - x0)).square().mean()


@torch.no_grad()
def sample(net, y, steps=12, cfg=2.0):
    x = torch.randn(len(y), args.d)
    for i in range(steps):
        t = torch.full((len(y),), i / steps)
        vc, vu = net(x, t, y), net(x, t, torch.full_like(y, net.null))
        x = x + (vu + cfg * (vc - vu)) / steps
    return x.clamp(-1, 1)


@torch.no_grad()
def ema_update(ema, net, decay):
    for a, b in zip(ema.parameters(), net.parameters()):
        a.lerp_(b, 1 - decay)


def build_opt(net, lr=None):
    return torch.optim.AdamW(net.parameters(), lr=lr or args.lr, betas=(0.9, 0.95), weight_decay=args.wd)


def lr_at(step):
    return args.lr * (1 - step / args.total)


def fit(net, ema, opt, loader, start, stop, log):
    for step in range(start, stop):
        for g in opt.param_groups:
            g["lr"] = lr_at(step)
        opt.zero_grad()
        for micro in range(args.accum):
            x1, y = next(loader)
            loss = fm_loss(net, x1, y) / args.accum
            loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), args.clip)
        opt.step()
        ema_update(ema, net, args.ema)
        log.append(loss.item() * args.accum)
        if (step + 1) % 25 == 0:
            grid = sample(ema, torch.arange(10))
            log.append(grid.std().item())
    return opt


def save(net, ema, opt, step):
    buf = io.BytesIO()
    torch.save({"net": net.state_dict(), "ema": ema.state_dict(), "opt": opt.state_dict(), "step": step}, buf)
    buf.seek(0)
    return buf


def main(watch, seed=0):
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    x, y = get_data()
    loader = batches(x, y, args.bs, rng)
    log = []

    # yesterday's run
    net = velocity(args.d, args.h, args.k)
    ema = deepcopy(net).requires_grad_(False)
    opt = build_opt(net)
    fit(net, ema, opt, loader, 0, args.first, log)
    ckpt = save(net, ema, opt, args.first)

    # today
    state = torch.load(ckpt)
    net = velocity(args.d, args.h, args.k)
    ema = deepcopy(net).requires_grad_(False)
    opt = build_opt(net)
    net.load_state_dict(state["net"])
    ema.load_state_dict(state["ema"])
    opt.load_state_dict(state["opt"])
    with watch(generator=net, ema=ema, declared=["accumulation", "clipping"], start_step=state["step"]) as seen:
        fit(net, ema, opt, loader, state["step"], args.total, log)
    return seen
