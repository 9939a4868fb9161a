"""AC-GAN with a Wasserstein critic and gradient penalty (8x8 digits)."""
from copy import deepcopy
from typing import Dict, Tuple

import torch
from torch import Tensor, autograd, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from sklearn.datasets import load_digits

CONFIG = {
    "n_classes": 10,
    "z_dim": 16,
    "hidden": 96,
    "batch": 64,
    "iters": 90,
    "n_critic": 2,
    "lambda_gp": 5.0,
    "lambda_cls": 1.0,
    "lr_g": 2e-3,
    "lr_d": 2e-3,
    "betas": (0.0, 0.9),
    "ema_decay": 0.95,
    "sample_every": 15,
    "seed": 0,
}


class CondGenerator(nn.Module):
    def __init__(self, cfg: Dict):
        super().__init__()
        h = cfg["hidden"]
        self.label_emb = nn.Embedding(cfg["n_classes"], cfg["z_dim"])
        self.net = nn.Sequential(
            nn.Linear(cfg["z_dim"] * 2, h), nn.BatchNorm1d(h), nn.ReLU(),
            nn.Linear(h, h), nn.BatchNorm1d(h), nn.ReLU(),
            nn.Linear(h, 64), nn.Tanh(),
        )

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        inp = torch.cat((z, self.label_emb(y)), dim=-1)
        return self.net(inp).view(-1, 1, 8, 8)


class Critic(nn.Module):
    def __init__(self, cfg: Dict):
        super().__init__()
        h = cfg["hidden"]
        self.trunk = nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, h), nn.LeakyReLU(0.2),
            nn.Linear(h, h), nn.LeakyReLU(0.2),
        )
        self.adv = nn.Linear(h, 1)
        self.aux = nn.Linear(h, cfg["n_classes"])

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:
        f = self.trunk(x)
        return self.adv(f).squeeze(1), self.aux(f)


class Scorer(nn.Module):
    """A small digit classifier, only used to put a number on the samples."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.4), nn.Linear(64, 10))

    def forward(self, x):
        return self.body(x)


def fit_scorer(images: Tensor, labels: Tensor) -> Scorer:
    scorer = Scorer()
    opt = torch.optim.Adam(scorer.parameters(), lr=5e-3)
    for _ in range(120):
        idx = torch.randint(0, len(images), (128,))
        loss = F.cross_entropy(scorer(images[idx]), labels[idx])
        opt.zero_grad()
        loss.backward()
        opt.step()
    scorer.eval()
    scorer.requires_grad_(False)
    return scorer


class Trainer:
    def __init__(self, cfg: Dict, images: Tensor, labels: Tensor, scorer: nn.Module):
        self.cfg = cfg
        self.loader = DataLoader(TensorDataset(images, labels), batch_size=cfg["batch"], shuffle=True, drop_last=True)
        self.G = CondGenerator(cfg)
        self.D = Critic(cfg)
        self.G_ema = deepcopy(self.G).eval().requires_grad_(False)
        self.scorer = scorer
        self.opt_G = torch.optim.Adam(self.G.parameters(), lr=cfg["lr_g"], betas=cfg["betas"])
        self.opt_D = torch.optim.Adam(self.D.parameters(), lr=cfg["lr_d"], betas=cfg["betas"])
        self.iter = 0
        self.history = []

    # ------------------------------------------------------------------ data
    def batches(self):
        while True:
            for batch in self.loader:
                yield batch

    def draw(self, n: int) -> Tuple[Tensor, Tensor]:
        z = torch.randn(n, self.cfg["z_dim"])
        y = torch.randint(self.cfg["n_classes"], (n,))
        return z, y

    # ---------------------------------------------------------------- losses
    def gradient_penalty(self, real: Tensor, fake: Tensor) -> Tensor:
        eps = torch.rand(real.size(0), 1, 1, 1)
        mixed = (eps * real + (1 - eps) * fake).requires_grad_(True)
        score, _ = self.D(mixed)
        grad = autograd.grad(score.sum(), mixed, create_graph=True)[0]
        return ((grad.flatten(1).norm(2, dim=1) - 1) ** 2).mean()

    def critic_step(self, real: Tensor, y_real: Tensor) -> Dict[str, float]:
        z, y = self.draw(real.size(0))
        with torch.no_grad():
            fake = self.G(z, y)
        s_real, c_real = self.D(real)
        s_fake, _ = self.D(fake)
        wass = s_fake.mean() - s_real.mean()
        gp = self.gradient_penalty(real, fake)
        cls = F.cross_entropy(c_real, y_real)
        loss = wass + self.cfg["lambda_gp"] * gp + self.cfg["lambda_cls"] * cls
        self.opt_D.zero_grad()
        loss.backward()
        self.opt_D.step()
        return {"wass": wass.item(), "gp": gp.item(), "cls": cls.item()}

    def generator_step(self, y_real: Tensor) -> Dict[str, float]:
        z, y = self.draw(y_real.size(0))
        score, logits = self.D(self.G(z, y))
        adv = -score.mean()
        cls = F.cross_entropy(logits, y)
        loss = adv + self.cfg["lambda_cls"] * cls
        self.opt_G.zero_grad()
        loss.backward()
        self.opt_G.step()
        return {"g_adv": adv.item(), "g_cls": cls.item()}

    # ------------------------------------------------------------------- ema
    @torch.no_grad()
    def update_ema(self):
        decay = self.cfg["ema_decay"]
        for p_ema, p in zip(self.G_ema.parameters(), self.G.parameters()):
            p_ema.lerp_(p, 1 - decay)
        for b_ema, b in zip(self.G_ema.buffers(), self.G.buffers()):
            b_ema.copy_(b)

    @torch.no_grad()
    def evaluate(self, per_class: int = 20) -> float:
        y = torch.arange(self.cfg["n_classes"]).repeat_interleave(per_class)
        z = torch.randn(len(y), self.cfg["z_dim"])
        samples = self.G_ema(z, y)
        return (self.scorer(samples).argmax(1) == y).float().mean().item()

    # ------------------------------------------------------------------ loop
    def train(self):
        stream = self.batches()
        while self.iter < self.cfg["iters"]:
            logs = {}
            for _ in range(self.cfg["n_critic"]):
                real, y_real = next(stream)
                logs.update(self.critic_step(real, y_real))
            logs.update(self.generator_step(y_real))
            self.update_ema()
            self.iter += 1
            if self.iter % self.cfg["sample_every"] == 0:
                logs["acc"] = self.evaluate()
            self.history.append(logs)


def main(watch, seed=0):
    cfg = dict(CONFIG, seed=seed)
    torch.manual_seed(cfg["seed"])
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    labels = torch.tensor(data.target)
    scorer = fit_scorer(images, labels)
    trainer = Trainer(cfg, images, labels, scorer)
    with watch(generator=trainer.G, discriminator=trainer.D, ema=trainer.G_ema,
               judge=trainer.scorer, frozen=["judge"]) as seen:
        trainer.train()
    main.last = {"history": trainer.history, "net": trainer.G,
                 "sample": lambda n, y: trainer.G_ema(torch.randn(n, cfg["z_dim"]), y)}
    return seen
