# SNGAN-projection, hinge loss, mixed precision.  One file, digits 8x8.
import copy

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.parametrizations import spectral_norm as SN

NUM_CLASSES, DIM_Z, CH = 10, 16, 16
BS, STEPS, N_DIS = 48, 70, 2
LR_G, LR_D, GRAD_CLIP = 5e-3, 5e-3, 10.0


class CBN(nn.Module):
    """class-conditional batch norm"""
    def __init__(self, ch):
        super().__init__()
        self.bn = nn.BatchNorm2d(ch, affine=False)
        self.embed = nn.Embedding(NUM_CLASSES, ch * 2)
        nn.init.normal_(self.embed.weight[:, :ch].data, 1.0, 0.02)
        nn.init.zeros_(self.embed.weight[:, ch:].data)

    def forward(self, x, y):
        gamma, beta = self.embed(y)[:, :, None, None].chunk(2, 1)
        return self.bn(x) * gamma + beta


class G_(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(DIM_Z, CH * 2 * 4)
        self.n0, self.c0 = CBN(CH * 2), nn.Conv2d(CH * 2, CH * 2, 3, padding=1)
        self.n1, self.c1 = CBN(CH * 2), nn.Conv2d(CH * 2, CH, 3, padding=1)
        self.n2, self.to_im = CBN(CH), nn.Conv2d(CH, 1, 3, padding=1)

    def forward(self, z, y):
        h = self.fc(z).view(-1, CH * 2, 2, 2)
        h = self.c0(F.interpolate(F.relu(self.n0(h, y)), scale_factor=2))
        h = self.c1(F.interpolate(F.relu(self.n1(h, y)), scale_factor=2))
        return torch.tanh(self.to_im(F.relu(self.n2(h, y))))


class D_(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            SN(nn.Conv2d(1, CH, 3, padding=1)), nn.LeakyReLU(0.1), nn.AvgPool2d(2),
            SN(nn.Conv2d(CH, CH * 2, 3, padding=1)), nn.LeakyReLU(0.1), nn.AvgPool2d(2),
            SN(nn.Conv2d(CH * 2, CH * 4, 3, padding=1)), nn.ReLU())
        self.lin = SN(nn.Linear(CH * 4 + 1, 1))
        self.proj = SN(nn.Embedding(NUM_CLASSES, CH * 4))

    def forward(self, x, y):
        f = self.body(x).sum((2, 3)).float()
        spread = torch.sqrt(f.var(0, unbiased=False) + 1e-6).mean().expand(f.size(0), 1)
        return self.lin(torch.cat([f, spread], 1)).squeeze(1) + (self.proj(y) * f).sum(1)


def classifier(x, y):
    net = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
                        nn.Flatten(), nn.Linear(256, 10))
    o = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(50):
        i = torch.randint(len(x), (128,))
        o.zero_grad(set_to_none=True)
        F.cross_entropy(net(x[i]), y[i]).backward()
        o.step()
    o.zero_grad(set_to_none=True)
    return net.eval()


def groups(net, wd=1e-4):
    """no weight decay on biases and norm gains"""
    decay = [p for p in net.parameters() if p.ndim >= 2]
    no_decay = [p for p in net.parameters() if p.ndim < 2]
    return [{"params": decay, "weight_decay": wd}, {"params": no_decay, "weight_decay": 0.0}]


def draw_labels(n):
    return torch.ones(n, NUM_CLASSES).multinomial(1).squeeze(1)


def ema_update(avg, net, it, beta=0.95):
    b = min(beta, (1 + it) / (10 + it))
    src = net.state_dict()
    with torch.no_grad():
        for k, v in avg.state_dict().items():
            if v.dtype.is_floating_point:
                v.mul_(b).add_(src[k], alpha=1 - b)
            else:
                v.copy_(src[k])


def main(watch, seed=0):
    torch.manual_seed(seed)
    d = load_digits()
    X = torch.as_tensor(d.images, dtype=torch.float32)[:, None] / 8 - 1
    Y = torch.as_tensor(d.target)
    clf = classifier(X, Y)
    G, D = G_(), D_()
    Gavg = copy.deepcopy(G).eval().requires_grad_(False)
    optG = torch.optim.AdamW(groups(G), lr=LR_G, betas=(0.0, 0.99))
    optD = torch.optim.AdamW(groups(D), lr=LR_D, betas=(0.0, 0.99))
    scalerG = torch.amp.GradScaler("cpu", init_scale=2.0 ** 10)
    scalerD = torch.amp.GradScaler("cpu", init_scale=2.0 ** 10)
    perm, pos = torch.randperm(len(X)), 0
    hist = []

    with watch(generator=G, discriminator=D, ema=Gavg, judge=clf, frozen=["judge"],
               declared=["clipping"]) as seen:
        for it in range(STEPS):
            G.train(), D.train()
            for _ in range(N_DIS):
                if pos + BS > len(X):
                    perm, pos = torch.randperm(len(X)), 0
                idx, pos = perm[pos:pos + BS], pos + BS
                x, y = X[idx], Y[idx]
                z, yg = torch.randn(BS, DIM_Z), draw_labels(BS)
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    with torch.no_grad():
                        xg = G(z, yg)
                    lossD = F.relu(1 - D(x, y)).mean() + F.relu(1 + D(xg, yg)).mean()
                optD.zero_grad(set_to_none=True)
                scalerD.scale(lossD).backward()
                scalerD.step(optD)
                scalerD.update()

            z, yg = torch.randn(BS, DIM_Z), draw_labels(BS)
            D.requires_grad_(False)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                xg = G(z, yg)
                lossG = -D(xg, yg).mean() + 0.5 * F.cross_entropy(clf(xg), yg)
            optG.zero_grad(set_to_none=True)
            scalerG.scale(lossG).backward()
            scalerG.unscale_(optG)
            clip_grad_norm_(G.parameters(), GRAD_CLIP)
            scalerG.step(optG)
            scalerG.update()
            D.requires_grad_(True)
            ema_update(Gavg, G, it)
            hist.append((lossD.item(), lossG.item()))

            if (it + 1) % 35 == 0:
                ys = torch.arange(NUM_CLASSES).repeat(4)
                with torch.no_grad():
                    acc = (clf(Gavg(torch.randn(40, DIM_Z), ys)).argmax(1) == ys).float().mean().item()
                hist.append(("acc", acc))

    main.last = {"hist": hist, "net": G, "sample": lambda n, c: Gavg(torch.randn(n, DIM_Z), c)}
    return seen
