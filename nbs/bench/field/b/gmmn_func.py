"""Generative moment matching with one expert per class, written with torch.func.

    loss(theta) = MMD^2( {(phi(x_i), y_i)}, {(phi(G_theta(z_j, c_j)), c_j)} )

phi is a fixed feature map (first layers of a small classifier).
"""
from functools import partial

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.func import functional_call, grad_and_value
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

K, NZ, NH, NX, NF = 10, 16, 64, 64, 48
N, T = 160, 110


class ClassExperts(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(NZ, NH)
        self.code = nn.Parameter(0.3 * torch.randn(K, NH))
        self.w = nn.Parameter(torch.randn(K, NH, NX) / NH ** 0.5)
        self.b = nn.Parameter(torch.zeros(K, NX))
        band = torch.zeros(NZ)
        band[: NZ // 2] = 1.0
        self.register_buffer("mask", torch.stack([torch.roll(band, c) for c in range(K)]))

    def forward(self, z, c):
        h = torch.nn.functional.silu(self.lift(z * self.mask[c]) + self.code[c])
        x = torch.einsum("nh,nhd->nd", h, self.w[c]) + self.b[c]
        return torch.tanh(x)


class Phi(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(NX, 96), nn.ReLU(), nn.Linear(96, NF), nn.Tanh())
        self.top = nn.Linear(NF, K)

    def forward(self, x):
        return torch.cat([self.net(x), 0.5 * x], dim=1)


def fit_phi(phi, x, y, steps=60):
    opt = torch.optim.Adam(phi.parameters(), lr=5e-3)
    for _ in range(steps):
        i = torch.randint(len(x), (128,))
        loss = nn.functional.cross_entropy(phi.top(phi.net(x[i])), y[i])
        opt.zero_grad()
        loss.backward()
        opt.step()


def sqdist(a, b):
    return (a.square().sum(1)[:, None] + b.square().sum(1)[None] - 2 * a @ b.T).clamp_min(0)


def kernel(d2, bandwidth):
    return sum(torch.exp(-d2 / (2 * s * bandwidth)) for s in (0.25, 0.5, 1.0)) / 3


def same(a, b, rho=0.1):
    eq = (a[:, None] == b[None]).float()
    return rho + (1 - rho) * eq


def mmd2(f, c, g, y):
    """f, c: features and classes asked for; g, y: features and classes of the data"""
    bandwidth = sqdist(g, g).median().detach()
    kff = (kernel(sqdist(f, f), bandwidth) * same(c, c)).mean()
    kfg = (kernel(sqdist(f, g), bandwidth) * same(c, y)).mean()
    kgg = (kernel(sqdist(g, g), bandwidth) * same(y, y)).mean()
    return kff - 2 * kfg + kgg


def objective(params, net, phi, z, c, x, y):
    fake = functional_call(net, params, (z, c))
    return mmd2(phi(fake), c, phi(x), y)


def requests(n):
    return (K * torch.rand(n)).long()


def latents(n):
    return torch.randn(n, NZ)


def main(watch, seed=0):
    torch.manual_seed(seed)
    digits = load_digits()
    X = torch.tensor(digits.data, dtype=torch.float32) / 8 - 1
    Y = torch.tensor(digits.target)

    phi = Phi()
    fit_phi(phi, X, Y)
    phi.requires_grad_(False)

    net = ClassExperts()
    avg = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    params = dict(net.named_parameters())
    opt = torch.optim.Adam(params.values(), lr=1.5e-2)
    sched = torch.optim.lr_scheduler.LinearLR(opt, 1.0, 0.05, total_iters=T)
    step_fn = grad_and_value(partial(objective, net=net, phi=phi))

    trace = []
    with watch(generator=net, ema=avg, encoder=phi, frozen=["encoder"]) as seen:
        for t in range(T):
            i = torch.randint(len(X), (N,))
            grads, value = step_fn(params, z=latents(N), c=requests(N), x=X[i], y=Y[i])
            for name, p in params.items():
                p.grad = grads[name]
            opt.step()
            sched.step()
            avg.update_parameters(net)
            trace.append(value.item())
        with torch.no_grad():
            samples = avg(latents(K), torch.arange(K))
    return seen
