'''
Minimal class-conditional DDPM with classifier-free guidance on 8x8 digits.

The cluster kills jobs after a while, so training always comes in two legs:
leg one writes a checkpoint, leg two picks it up and finishes the run.
'''
import copy
import io
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


@dataclass
class HParams:
    timesteps: int = 40
    dim: int = 128
    num_classes: int = 10
    cond_drop_prob: float = 0.1
    batch_size: int = 128
    lr: float = 2e-3
    weight_decay: float = 1e-4
    first_leg: int = 70
    total_steps: int = 154
    ema_decay: float = 0.97
    guidance: float = 1.5


def timestep_embedding(t, dim, max_period=1000.0):
    half = dim // 2
    freqs = torch.exp(-math.log(max_period) * torch.arange(half) / half)
    args = t[:, None].float() * freqs[None]
    return torch.cat([args.cos(), args.sin()], dim=-1)


class ResMLP(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.cond = nn.Linear(dim, 2 * dim)
        self.ff = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, x, c):
        scale, shift = self.cond(F.silu(c)).chunk(2, dim=-1)
        return x + self.ff(self.norm(x) * (1 + scale) + shift)


class EpsNet(nn.Module):
    def __init__(self, hp):
        super().__init__()
        self.hp = hp
        self.time_mlp = nn.Sequential(nn.Linear(64, hp.dim), nn.SiLU(), nn.Linear(hp.dim, hp.dim))
        self.class_emb = nn.Embedding(hp.num_classes + 1, hp.dim)   # last row: no class
        self.inp = nn.Linear(64, hp.dim)
        self.blocks = nn.ModuleList([ResMLP(hp.dim) for _ in range(2)])
        self.out = nn.Linear(hp.dim, 64)

    def forward(self, x, t, classes, cond_drop_prob=0.0):
        if cond_drop_prob > 0:
            drop = torch.bernoulli(torch.full((x.shape[0],), cond_drop_prob)).bool()
            classes = torch.where(drop, self.hp.num_classes, classes)
        c = self.time_mlp(timestep_embedding(t, 64)) + self.class_emb(classes)
        h = self.inp(x.flatten(1))
        for block in self.blocks:
            h = block(h, c)
        return self.out(h).view_as(x)


class EMA:
    def __init__(self, model, decay):
        self.online = model
        self.model = copy.deepcopy(model)
        self.model.eval()
        self.model.requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self):
        for averaged, current in zip(self.model.parameters(), self.online.parameters()):
            averaged.lerp_(current, 1 - self.decay)


class Diffusion:
    def __init__(self, hp):
        self.hp = hp
        self.betas = torch.linspace(1e-3, 0.25, hp.timesteps)
        self.alphas = 1 - self.betas
        self.abar = torch.cumprod(self.alphas, 0)

    def q_sample(self, x0, t, noise):
        a = self.abar[t].view(-1, 1, 1, 1)
        return a.sqrt() * x0 + (1 - a).sqrt() * noise

    def loss(self, model, x0, classes, rng):
        t = torch.from_numpy(rng.integers(0, self.hp.timesteps, size=x0.shape[0]))
        noise = torch.randn_like(x0)
        pred = model(self.q_sample(x0, t, noise), t, classes, self.hp.cond_drop_prob)
        return F.mse_loss(pred, noise)

    @torch.no_grad()
    def sample(self, model, classes, guidance):
        x = torch.randn(len(classes), 1, 8, 8)
        null = torch.full_like(classes, self.hp.num_classes)
        for i in reversed(range(self.hp.timesteps)):
            t = torch.full((len(classes),), i)
            e_c, e_u = model(x, t, classes), model(x, t, null)
            eps = e_u + guidance * (e_c - e_u)
            x0 = ((x - (1 - self.abar[i]).sqrt() * eps) / self.abar[i].sqrt()).clamp(-1, 1)
            if i == 0:
                return x0
            prev = self.abar[i - 1]
            mean = (prev.sqrt() * self.betas[i] * x0 + self.alphas[i].sqrt() * (1 - prev) * x) / (1 - self.abar[i])
            var = self.betas[i] * (1 - prev) / (1 - self.abar[i])
            x = mean + var.sqrt() * torch.randn_like(x)


def make_optimizer(model, hp):
    return torch.optim.AdamW(model.parameters(), lr=hp.lr, weight_decay=hp.weight_decay)


def lr_at(step, hp):
    return min(1.0, (step + 1) / 20)


def fit(hp, diffusion, model, ema, optimizer, loader, rng, start, stop, losses):
    step = start
    while step < stop:
        for x0, classes in loader:
            for group in optimizer.param_groups:
                group['lr'] = hp.lr * lr_at(step, hp)
            loss = diffusion.loss(model, x0, classes, rng)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            ema.update()
            losses.append(loss.item())
            step += 1
            if step >= stop:
                break
    return step


def save_checkpoint(model, ema, optimizer, step):
    blob = io.BytesIO()
    torch.save({'model': model.state_dict(), 'ema': ema.model.state_dict(),
                'optimizer': optimizer.state_dict(), 'step': step}, blob)
    blob.seek(0)
    return blob


def main(watch, seed=0):
    hp = HParams()
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    digits = load_digits()
    x = torch.from_numpy(digits.images).float().unsqueeze(1) / 8.0 - 1.0
    y = torch.from_numpy(digits.target)
    loader = DataLoader(TensorDataset(x, y), batch_size=hp.batch_size, shuffle=True, drop_last=True,
                        generator=torch.Generator().manual_seed(seed))
    diffusion = Diffusion(hp)
    losses = []

    # leg one
    model = EpsNet(hp)
    ema = EMA(model, hp.ema_decay)
    optimizer = make_optimizer(model, hp)
    step = fit(hp, diffusion, model, ema, optimizer, loader, rng, 0, hp.first_leg, losses)
    blob = save_checkpoint(model, ema, optimizer, step)
    del model, ema, optimizer

    # leg two
    ckpt = torch.load(blob)
    model = EpsNet(hp)
    model.load_state_dict(ckpt['model'])
    ema = EMA(model, hp.ema_decay)
    ema.model.load_state_dict(ckpt['ema'])
    optimizer = make_optimizer(model, hp)
    if 'optimizer' in ckpt:
        optimizer.load_state_dict(ckpt['optimizer'])
    step = ckpt['step']

    with watch(generator=model, ema=ema.model, start_step=step) as seen:
        step = fit(hp, diffusion, model, ema, optimizer, loader, rng, step, hp.total_steps, losses)
        grid = diffusion.sample(ema.model, torch.arange(hp.num_classes).repeat(3), hp.guidance)

    main.last = {'losses': losses, 'grid': grid, 'net': model,
                 'sample': lambda n, cls: diffusion.sample(ema.model, cls, hp.guidance)}
    return seen
