# RealNVP with FiLM conditioning, 8x8 digits.  Trainer class, AMP-ready (the scaler is kept on cpu too).
from __future__ import annotations

import copy
import io
import math
from dataclasses import dataclass
from typing import Tuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass
class Config:
    dim: int = 64
    n_cls: int = 10
    hidden: int = 96
    n_blocks: int = 4
    bs: int = 128
    steps: int = 110
    lr: float = 2e-3
    wd: float = 1e-4
    clip: float = 5.0
    ema: float = 0.9
    alpha: float = 0.05
    aux_weight: float = 0.5
    seed: int = 0


class ActNorm(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(dim))
        self.logs = nn.Parameter(torch.zeros(dim))
        self.register_buffer("initialised", torch.tensor(False))

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:
        if not self.initialised:
            with torch.no_grad():
                self.loc.copy_(-x.mean(0))
                self.logs.copy_(-(x.std(0) + 1e-3).log())
                self.initialised.fill_(True)
        return (x + self.loc) * self.logs.exp(), self.logs.sum()

    def inverse(self, y: Tensor) -> Tensor:
        return y * (-self.logs).exp() - self.loc


class FiLMNet(nn.Module):
    def __init__(self, d_in: int, d_out: int, hidden: int, n_cls: int):
        super().__init__()
        self.inp = nn.Linear(d_in, hidden)
        self.mid = nn.Linear(hidden, hidden)
        self.film = nn.Linear(n_cls, 2 * hidden)
        self.out = nn.Linear(hidden, d_out)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        gain, shift = self.film(code).chunk(2, dim=-1)
        h = F.silu(self.inp(x))
        h = self.mid(h) * (1 + gain) + shift
        return self.out(F.silu(h))


class Coupling(nn.Module):
    def __init__(self, cfg: Config, mask: Tensor):
        super().__init__()
        self.register_buffer("mask", mask)
        self.net = FiLMNet(cfg.dim, 2 * cfg.dim, cfg.hidden, cfg.n_cls)
        self.rescale = nn.Parameter(torch.tensor(0.7))

    def st(self, x: Tensor, code: Tensor) -> Tuple[Tensor, Tensor]:
        s, t = self.net(x * self.mask, code).chunk(2, dim=-1)
        keep = 1 - self.mask
        return self.rescale * torch.tanh(s) * keep, t * keep

    def forward(self, x, code):
        s, t = self.st(x, code)
        return x * s.exp() + t, s.sum(-1)

    def inverse(self, y, code):
        s, t = self.st(y, code)
        return (y - t) * (-s).exp()


class ConditionalNVP(nn.Module):
    def __init__(self, cfg: Config):
        super().__init__()
        self.cfg = cfg
        checker = (torch.arange(64) // 8 + torch.arange(64) % 8) % 2
        self.norms = nn.ModuleList([ActNorm(cfg.dim) for _ in range(cfg.n_blocks)])
        self.couplings = nn.ModuleList(
            [Coupling(cfg, (checker if k % 2 else 1 - checker).float()) for k in range(cfg.n_blocks)])
        self.prior_mean = nn.Parameter(torch.zeros(cfg.n_cls, cfg.dim))

    def encode_labels(self, y: Tensor) -> Tensor:
        code = torch.zeros(len(y), self.cfg.n_cls)
        rows = torch.arange(len(y))
        code[rows, y] = 1.0
        return code

    def forward(self, x: Tensor, y: Tensor) -> Tuple[Tensor, Tensor]:
        code = self.encode_labels(y)
        logdet = x.new_zeros(len(x))
        for norm, coupling in zip(self.norms, self.couplings):
            x, ld = norm(x)
            logdet = logdet + ld
            x, ld = coupling(x, code)
            logdet = logdet + ld
        return x, logdet

    def log_prob(self, x: Tensor, y: Tensor) -> Tensor:
        z, logdet = self(x, y)
        z = z - self.encode_labels(y) @ self.prior_mean
        return -0.5 * (z ** 2 + math.log(2 * math.pi)).sum(-1) + logdet

    @torch.no_grad()
    def sample(self, y: Tensor, temperature: float = 0.8) -> Tensor:
        code = self.encode_labels(y)
        z = temperature * torch.randn(len(y), self.cfg.dim) + code @ self.prior_mean
        for norm, coupling in zip(reversed(self.norms), reversed(self.couplings)):
            z = norm.inverse(coupling.inverse(z, code))
        return z


class Trainer:
    def __init__(self, cfg: Config):
        self.cfg = cfg
        self.model = ConditionalNVP(cfg)
        self.shadow = copy.deepcopy(self.model).requires_grad_(False)
        self.opt = self.configure_optimizers()
        self.sched = torch.optim.lr_scheduler.LambdaLR(self.opt, lambda s: min(1.0, s / 8))
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0 ** 10)
        self.history = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        decay, no_decay = [], []
        for name, p in self.model.named_parameters():
            if p.ndim >= 2:
                decay.append(p)
            elif p.ndim < 2:
                no_decay.append(p)
        groups = [{"params": decay, "weight_decay": self.cfg.wd}, {"params": no_decay, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=self.cfg.lr)

    def setup(self):
        raw = load_digits()
        self.x = torch.tensor(raw.data, dtype=torch.float32)
        self.y = torch.tensor(raw.target)

    def preprocess(self, counts: Tensor) -> Tuple[Tensor, Tensor]:
        """17 grey levels -> uniform dequantisation -> logit.  Returns x and log|dx/dcounts|."""
        u = (counts + torch.rand(counts.shape)) / 17.0
        u = u * (1 - self.cfg.alpha) + 0.5 * self.cfg.alpha
        x = torch.log(u) - torch.log1p(-u)
        ldj = (F.softplus(x) + F.softplus(-x)).sum(-1) + self.cfg.dim * math.log((1 - self.cfg.alpha) / 17.0)
        return x, ldj

    def postprocess(self, x: Tensor) -> Tensor:
        u = (torch.sigmoid(x) - 0.5 * self.cfg.alpha) / (1 - self.cfg.alpha)
        return u.clamp(0, 1) * 2 - 1

    @torch.no_grad()
    def update_shadow(self):
        src = self.model.state_dict()
        for name, avg in self.shadow.state_dict().items():
            if avg.dtype.is_floating_point:
                avg.lerp_(src[name], 1 - self.cfg.ema)
            else:
                avg.copy_(src[name])

    def discriminative_loss(self, x: Tensor, y: Tensor) -> Tensor:
        """contrast the right label against a wrong one, on a quarter of the batch"""
        n = len(x) // 4
        wrong = (y[:n] + torch.randint(1, self.cfg.n_cls, (n,))) % self.cfg.n_cls
        margin = self.model.log_prob(x[:n], y[:n]) - self.model.log_prob(x[:n], wrong)
        return F.softplus(-margin / self.cfg.dim).mean()

    def training_step(self, idx: Tensor) -> float:
        counts, y = self.x[idx], self.y[idx]
        x, ldj = self.preprocess(counts)
        self.opt.zero_grad(set_to_none=True)
        nll = -(self.model.log_prob(x, y) + ldj).mean() / self.cfg.dim
        self.scaler.scale(nll).backward()
        aux = self.cfg.aux_weight * self.discriminative_loss(x, y)
        self.scaler.scale(aux).backward()
        self.scaler.unscale_(self.opt)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.cfg.clip)
        self.scaler.step(self.opt)
        self.scaler.update()
        self.sched.step()
        self.update_shadow()
        return nll.item()

    def fit(self, watch):
        with watch(generator=self.model, ema=self.shadow, declared=["clipping"]) as seen:
            for step in range(self.cfg.steps):
                idx = torch.randint(0, len(self.x), (self.cfg.bs,))
                self.history.append(self.training_step(idx))
                if step % 40 == 39:
                    self.validate(step)
        return seen

    def validate(self, step: int):
        self.shadow.eval()
        y = torch.arange(self.cfg.n_cls)
        self.preview = self.postprocess(self.shadow.sample(y))


def main(watch, seed=0):
    cfg = Config(seed=seed)
    torch.manual_seed(cfg.seed)
    trainer = Trainer(cfg)
    trainer.setup()
    return trainer.fit(watch)
