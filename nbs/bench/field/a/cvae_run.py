#!/usr/bin/env python
# Conditional beta-VAE, digits.   usage: python cvae_run.py --beta 1 --epochs 6
import argparse
import logging

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.distributions import Normal, kl_divergence

log = logging.getLogger('cvae')


def get_args(argv=None):
    ap = argparse.ArgumentParser()
    ap.add_argument('--z', type=int, default=6)
    ap.add_argument('--width', type=int, default=128)
    ap.add_argument('--depth', type=int, default=2)
    ap.add_argument('--beta', type=float, default=1.0)
    ap.add_argument('--sigma', type=float, default=0.35, help='observation noise')
    ap.add_argument('--lr', type=float, default=2e-3)
    ap.add_argument('--bs', type=int, default=64)
    ap.add_argument('--epochs', type=int, default=6)
    ap.add_argument('--clip', type=float, default=5.0)
    ap.add_argument('--log-every', type=int, default=20)
    return ap.parse_args([] if argv is None else argv)


class Enc(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.first = nn.Linear(64 + 10, a.width)
        self.blocks = nn.ModuleList([nn.Linear(a.width, a.width) for _ in range(a.depth - 1)])
        self.mu = nn.Linear(a.width, a.z)
        self.logvar = nn.Linear(a.width, a.z)

    def forward(self, x, y):
        h = F.relu(self.first(torch.cat([x, F.one_hot(y, 10).float()], 1)))
        for blk in self.blocks:
            h = h + F.relu(blk(h))
        return self.mu(h), self.logvar(h).clamp(-8, 8)


class Dec(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.cls = nn.Embedding(10, a.width)
        self.inp = nn.Linear(a.z, a.width)
        self.hid = nn.Linear(a.width, a.width)
        self.pix = nn.Linear(a.width, 64)

    def forward(self, z, y):
        h = F.relu(self.inp(z) + self.cls(y))
        h = F.relu(self.hid(h))
        return torch.tanh(self.pix(h))


def elbo_terms(dec, x, y, mu, logvar, sigma):
    q = Normal(mu, (0.5 * logvar).exp())
    p = Normal(torch.zeros_like(mu), torch.ones_like(mu))
    z = q.rsample()
    x_hat = dec(z, y)
    rec = (x_hat - x).pow(2).sum(1).mean() / (2 * sigma ** 2)
    kl = kl_divergence(q, p).sum(1).mean()
    return rec, kl


def get_data(seed):
    d = load_digits()
    x = torch.tensor(d.data).float() / 8.0 - 1.0
    y = torch.tensor(d.target).long()
    tr, te = train_test_split(range(len(x)), test_size=0.15, random_state=seed)
    return x[tr], y[tr], x[te], y[te]


def main(watch, seed=0):
    args = get_args()
    torch.manual_seed(seed)
    xtr, ytr, xte, yte = get_data(seed)

    enc, dec = Enc(args), Dec(args)
    params = list(enc.parameters()) + list(dec.parameters())
    opt = torch.optim.Adam(params, lr=args.lr)
    steps_per_epoch = len(xtr) // args.bs
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=args.epochs * steps_per_epoch)
    trace = []
    step = 0

    with watch(generator=dec, encoder=enc, declared=['clipping']) as seen:
        for epoch in range(args.epochs):
            order = torch.randperm(len(xtr))
            for i in range(steps_per_epoch):
                idx = order[i * args.bs:(i + 1) * args.bs]
                x, y = xtr[idx], ytr[idx]
                mu, logvar = enc(x, y)
                rec, kl = elbo_terms(dec, x, y, mu, logvar, args.sigma)
                loss = rec + args.beta * kl
                opt.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(params, args.clip)
                opt.step()
                sched.step()
                trace.append((rec.item(), kl.item()))
                if step % args.log_every == 0:
                    log.info('step %d rec %.3f kl %.3f', step, rec.item(), kl.item())
                step += 1
            with torch.no_grad():
                mu, logvar = enc(xte, yte)
                vrec, vkl = elbo_terms(dec, xte, yte, mu, logvar, args.sigma)
            log.info('epoch %d val rec %.3f kl %.3f', epoch, vrec.item(), vkl.item())

    main.last = {'trace': trace, 'net': dec, 'enc': enc, 'val': (vrec.item(), vkl.item()),
                 'sample': lambda n, y: dec(torch.randn(n, args.z), y).view(-1, 1, 8, 8)}
    return seen
