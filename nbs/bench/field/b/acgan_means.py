"""
AC-GAN on the sklearn digits, in the manner of the usual one-file GAN scripts.

The latent of class c is drawn round a learned mean mu_c, and a classifier that was
trained beforehand (and is not trained any more) guides the generator as well as the
auxiliary head of the discriminator.
"""
import argparse
import copy

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--n_epochs", type=int, default=4, help="number of epochs of training")
parser.add_argument("--batch_size", type=int, default=64, help="size of the batches")
parser.add_argument("--lr_g", type=float, default=0.002)
parser.add_argument("--lr_d", type=float, default=0.001)
parser.add_argument("--b1", type=float, default=0.5)
parser.add_argument("--b2", type=float, default=0.99)
parser.add_argument("--latent_dim", type=int, default=24)
parser.add_argument("--n_classes", type=int, default=10)
parser.add_argument("--lambda_guide", type=float, default=0.5)
parser.add_argument("--sample_interval", type=int, default=35)


def weights_init_normal(m):
    classname = m.__class__.__name__
    if classname.find("Conv") != -1 or classname.find("Linear") != -1:
        nn.init.normal_(m.weight.data, 0.0, 0.06)
    elif classname.find("BatchNorm") != -1:
        nn.init.normal_(m.weight.data, 1.0, 0.02)
        nn.init.constant_(m.bias.data, 0.0)


class Generator(nn.Module):
    def __init__(self, opt):
        super().__init__()
        self.mu = nn.Embedding(opt.n_classes, opt.latent_dim)
        self.log_sigma = nn.Parameter(torch.full((opt.latent_dim,), -0.7))
        self.l1 = nn.Sequential(nn.Linear(opt.latent_dim, 64 * 2 * 2))
        self.conv_blocks = nn.Sequential(
            nn.BatchNorm2d(64),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(64, 48, 3, padding=1),
            nn.BatchNorm2d(48),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(48, 24, 3, padding=1),
            nn.BatchNorm2d(24),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(24, 1, 3, padding=1),
            nn.Tanh(),
        )

    def forward(self, noise, labels):
        z = self.mu(labels) + self.log_sigma.exp() * noise
        out = self.l1(z).view(z.size(0), 64, 2, 2)
        return self.conv_blocks(out)


class Discriminator(nn.Module):
    def __init__(self, opt):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 24, 3, stride=1, padding=1), nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(24, 48, 3, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True),
            nn.Dropout2d(0.1),
            nn.Conv2d(48, 64, 3, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True),
            nn.Flatten(),
        )
        self.adv_layer = nn.Linear(64 * 4, 1)
        self.aux_layer = nn.Linear(64 * 4, opt.n_classes)

    def forward(self, img):
        h = self.features(img)
        return self.adv_layer(h), self.aux_layer(h)


class DigitNet(nn.Module):
    """The classifier that guides; trained once, before everything else."""

    def __init__(self, n_classes=10):
        super().__init__()
        self.body = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 96), nn.BatchNorm1d(96), nn.ReLU(), nn.Dropout(0.2),
            nn.Linear(96, n_classes))

    def forward(self, x):
        return self.body(x)

    def predict_proba(self, x):
        return torch.softmax(self.forward(x), dim=1)


def pretrain(clf, loader, epochs=5):
    opt_c = torch.optim.Adam(clf.parameters(), lr=3e-3)
    for _ in range(epochs):
        for x, y in loader:
            opt_c.zero_grad()
            F.cross_entropy(clf(x), y).backward()
            opt_c.step()
    return clf


def update_average(model_tgt, model_src, beta):
    with torch.no_grad():
        for p_tgt, p_src in zip(model_tgt.parameters(), model_src.parameters()):
            p_tgt.copy_(beta * p_tgt + (1.0 - beta) * p_src)
        for b_tgt, b_src in zip(model_tgt.buffers(), model_src.buffers()):
            b_tgt.copy_(b_src)


def main(watch, seed=0):
    opt = parser.parse_args([])
    torch.manual_seed(seed)
    np.random.seed(seed)

    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16.0
    images = images * 2 - 1
    targets = torch.tensor(digits.target, dtype=torch.long)
    dataloader = DataLoader(TensorDataset(images, targets), batch_size=opt.batch_size, shuffle=True, drop_last=True)

    # Networks
    classifier = pretrain(DigitNet(opt.n_classes), dataloader)
    for p in classifier.parameters():
        p.requires_grad_(False)
    classifier.eval()

    generator = Generator(opt)
    discriminator = Discriminator(opt)
    generator.apply(weights_init_normal)
    discriminator.apply(weights_init_normal)
    g_running = copy.deepcopy(generator).eval()

    # Loss functions
    adversarial_loss = nn.BCEWithLogitsLoss()
    auxiliary_loss = nn.CrossEntropyLoss()

    # Optimizers
    optimizer_G = torch.optim.Adam(generator.parameters(), lr=opt.lr_g, betas=(opt.b1, opt.b2))
    optimizer_D = torch.optim.Adam(discriminator.parameters(), lr=opt.lr_d, betas=(opt.b1, opt.b2))

    fixed_noise = torch.randn(opt.n_classes * 4, opt.latent_dim)
    fixed_labels = torch.arange(opt.n_classes).repeat(4)
    sheets = []

    # ----------
    #  Training
    # ----------
    with watch(generator=generator, discriminator=discriminator, ema=g_running, judge=classifier,
               frozen=["judge"]) as seen:
        for epoch in range(opt.n_epochs):
            generator.train()
            discriminator.train()
            for i, (imgs, labels) in enumerate(dataloader):
                batch_size = imgs.shape[0]
                valid = torch.ones(batch_size, 1)
                fake = torch.zeros(batch_size, 1)
                real_imgs = imgs

                # -----------------
                #  Train Generator
                # -----------------
                optimizer_G.zero_grad()
                noise = torch.randn(batch_size, opt.latent_dim)
                gen_labels = torch.randint(0, opt.n_classes, (batch_size,))
                gen_imgs = generator(noise, gen_labels)

                validity, pred_label = discriminator(gen_imgs)
                g_adv = adversarial_loss(validity, valid)
                g_aux = auxiliary_loss(pred_label, gen_labels)
                g_guide = F.cross_entropy(classifier(gen_imgs), gen_labels)
                g_loss = g_adv + 0.5 * g_aux + opt.lambda_guide * g_guide
                g_loss.backward()
                optimizer_G.step()
                update_average(g_running, generator, beta=0.95)

                # ---------------------
                #  Train Discriminator
                # ---------------------
                optimizer_D.zero_grad()
                real_pred, real_aux = discriminator(real_imgs)
                d_real_loss = adversarial_loss(real_pred, valid * 0.9) + auxiliary_loss(real_aux, labels)
                fake_pred, _ = discriminator(gen_imgs.detach())
                d_fake_loss = adversarial_loss(fake_pred, fake)
                d_loss = (d_real_loss + d_fake_loss) / 2
                d_loss.backward()
                optimizer_D.step()

                batches_done = epoch * len(dataloader) + i
                if batches_done % opt.sample_interval == 0:
                    with torch.no_grad():
                        sheets.append(g_running(fixed_noise, fixed_labels).clamp(-1, 1))
    return seen
