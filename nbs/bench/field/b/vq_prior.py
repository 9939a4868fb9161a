#!/usr/bin/env python
# VQ-VAE (stage one) and a class-conditional recurrent prior over its codes (stage two)
import itertools

import torch
from sklearn import datasets
from torch import nn
import torch.nn.functional as F

STAGE1_ITERS, STAGE2_ITERS = 70, 80
WARM_ITERS = 12
N_CODES, CODE_DIM, GRID = 32, 8, 4
N_TOKENS = GRID * GRID


class Encoder(nn.Sequential):
    def __init__(self, ch=32):
        super().__init__(nn.Conv2d(1, ch, 3, padding=1), nn.ReLU(),
                         nn.Conv2d(ch, ch, 4, stride=2, padding=1), nn.ReLU(),
                         nn.Conv2d(ch, CODE_DIM, 1))


class Decoder(nn.Sequential):
    def __init__(self, ch=32):
        super().__init__(nn.Conv2d(CODE_DIM, ch, 3, padding=1), nn.ReLU(),
                         nn.ConvTranspose2d(ch, ch, 4, stride=2, padding=1), nn.ReLU(),
                         nn.Conv2d(ch, 1, 3, padding=1), nn.Tanh())


class VQVAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = Encoder()
        self.codebook = nn.Embedding(N_CODES, CODE_DIM)
        self.decoder = Decoder()
        nn.init.normal_(self.codebook.weight, std=0.3)

    def distances(self, z):
        flat = z.permute(0, 2, 3, 1).reshape(-1, CODE_DIM)
        return torch.cdist(flat, self.codebook.weight).square()

    def lookup(self, codes):
        return self.codebook(codes.view(-1, GRID, GRID)).permute(0, 3, 1, 2)

    @torch.no_grad()
    def tokenize(self, x):
        return self.distances(self.encoder(x)).argmin(1).view(len(x), N_TOKENS)

    def forward(self, x):
        z = self.encoder(x)
        d = self.distances(z)
        codes = d.argmin(1)
        e = self.lookup(codes)
        soft = F.softmax(-d / 0.5, dim=1)
        q = z + (e - z).detach()
        return self.decoder(q), z, e, soft, codes


class Prior(nn.Module):
    """p(code_1, ..., code_T | label), teacher forced"""

    def __init__(self, hidden=96):
        super().__init__()
        self.bos = N_CODES
        self.tok = nn.Embedding(N_CODES + 1, 32)
        self.pos = nn.Parameter(0.02 * torch.randn(N_TOKENS, 32))
        self.cls = nn.Embedding(10, hidden)
        self.gru = nn.GRU(32, hidden, batch_first=True)
        self.out = nn.Linear(hidden, N_CODES)

    def forward(self, codes, label):
        bos = torch.full_like(codes[:, :1], self.bos)
        inp = torch.cat([bos, codes[:, :-1]], dim=1)
        h0 = torch.tanh(self.cls(label)).unsqueeze(0)
        y, _ = self.gru(self.tok(inp) + self.pos, h0)
        return self.out(y + h0[0].unsqueeze(1))

    @torch.no_grad()
    def sample(self, label):
        codes = torch.zeros(len(label), N_TOKENS, dtype=torch.long)
        for t in range(N_TOKENS):
            p = self(codes, label)[:, t].softmax(-1)
            codes[:, t] = torch.multinomial(p, 1)[:, 0]
        return codes


def spread(book):
    """codes ought not to lie on top of each other"""
    d = torch.cdist(book, book).square()
    off = ~torch.eye(len(book), dtype=torch.bool)
    return torch.exp(-4.0 * d[off]).mean()


def usage(soft):
    """negative entropy of the average assignment"""
    p = soft.mean(0)
    return (p * (p + 1e-8).log()).sum()


class Loader:
    def __init__(self, batch=128):
        raw = datasets.load_digits()
        self.x = torch.as_tensor(raw.images).float().unsqueeze(1) / 8 - 1
        self.y = torch.as_tensor(raw.target).long()
        self.batch = batch

    def __next__(self):
        pick = torch.randperm(len(self.x))[:self.batch]
        return self.x[pick], self.y[pick]


def main(watch, seed=0):
    torch.manual_seed(seed)
    loader = Loader()
    ae, prior = VQVAE(), Prior()

    with watch(encoder=ae, generator=prior) as seen:
        # ---- stage one -------------------------------------------------------------
        # a random decoder would pull the codes about, so it waits for a few iterations
        ae.decoder.requires_grad_(False)
        opt_ae = torch.optim.AdamW(itertools.chain(ae.encoder.parameters(), ae.decoder.parameters()),
                                   lr=4e-3, weight_decay=0.01)
        opt_book = torch.optim.Adam(ae.codebook.parameters(), lr=1e-2)
        for it in range(STAGE1_ITERS):
            if it == WARM_ITERS:
                ae.decoder.requires_grad_(True)
            x, _ = next(loader)
            recon, z, e, soft, codes = ae(x)
            rec = F.mse_loss(recon, x)
            book = F.mse_loss(e, z.detach())
            commit = F.mse_loss(z, e.detach())
            even = usage(soft)
            apart = spread(ae.codebook.weight)
            loss = rec + book + 0.25 * commit + 0.02 * even + 0.5 * apart
            opt_ae.zero_grad()
            opt_book.zero_grad()
            loss.backward()
            opt_ae.step()
            opt_book.step()

        # ---- stage two -------------------------------------------------------------
        ae.requires_grad_(False)
        ae.eval()
        opt = torch.optim.Adam(prior.parameters(), lr=1.2e-2)
        for it in range(STAGE2_ITERS):
            x, label = next(loader)
            codes = ae.tokenize(x)
            logits = prior(codes, label)
            nll = F.cross_entropy(logits.flatten(0, 1), codes.flatten())
            opt.zero_grad()
            nll.backward()
            nn.utils.clip_grad_norm_(prior.parameters(), 5.0)
            opt.step()
            if it % 40 == 39:
                picture = ae.decoder(ae.lookup(prior.sample(torch.arange(10))))
    return seen
