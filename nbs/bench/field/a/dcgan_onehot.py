"""Conditional DCGAN on the 8x8 digits, after the PyTorch DCGAN tutorial.

The label goes in as a one-hot vector next to the noise (generator) and as
one-hot planes next to the picture (discriminator).
"""
import random

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim
import torch.utils.data
from sklearn.datasets import load_digits

# ---- settings, as in the tutorial
batch_size = 64
image_size = 8
nc = 1
nz = 24
ngf = 24
ndf = 24
n_class = 10
num_epochs = 2
lr = 3e-3
beta1 = 0.5


def weights_init(m):
    classname = m.__class__.__name__
    if classname.find('Conv') != -1:
        nn.init.normal_(m.weight.data, 0.0, 0.05)
    elif classname.find('BatchNorm') != -1:
        nn.init.normal_(m.weight.data, 1.0, 0.02)
        nn.init.constant_(m.bias.data, 0)


class Generator(nn.Module):
    def __init__(self):
        super(Generator, self).__init__()
        self.stem = nn.Sequential(
            nn.ConvTranspose2d(nz + n_class, ngf * 2, 2, 1, 0, bias=False),
            nn.BatchNorm2d(ngf * 2),
            nn.ReLU(True),
        )
        self.up = nn.Sequential(
            nn.ConvTranspose2d(ngf * 2, ngf, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ngf),
            nn.ReLU(True),
        )
        self.out = nn.Sequential(
            nn.ConvTranspose2d(ngf, nc, 4, 2, 1, bias=False),
            nn.Tanh(),
        )

    def forward(self, noise, onehot):
        h = torch.cat([noise, onehot], 1).view(-1, nz + n_class, 1, 1)
        h = self.stem(h)
        h = self.up(h)
        return self.out(h)


class Discriminator(nn.Module):
    def __init__(self):
        super(Discriminator, self).__init__()
        self.main = nn.Sequential(
            nn.Conv2d(nc + n_class, ndf, 4, 2, 1, bias=False),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf, ndf * 2, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ndf * 2),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf * 2, 1, 2, 1, 0, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, img, planes):
        return self.main(torch.cat([img, planes], 1)).view(-1)


def to_planes(onehot):
    return onehot.view(-1, n_class, 1, 1).expand(-1, -1, image_size, image_size)


def load_images(seed):
    digits = load_digits()
    X = digits.images.astype('float32') / 16.0
    X = X * 2.0 - 1.0
    y = digits.target.astype('int64')
    # a second, slightly noisy copy of every digit
    rng = np.random.RandomState(seed)
    noisy = np.clip(X + 0.05 * rng.randn(*X.shape), -1, 1).astype('float32')
    X = np.concatenate([X, noisy])
    y = np.concatenate([y, y])
    return torch.from_numpy(X).unsqueeze(1), torch.from_numpy(y)


def main(watch, seed=0):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)

    images, targets = load_images(seed)
    dataset = torch.utils.data.TensorDataset(images, targets)
    dataloader = torch.utils.data.DataLoader(dataset, batch_size=batch_size, shuffle=True,
                                             drop_last=True, num_workers=0)

    netG = Generator()
    netG.apply(weights_init)
    netD = Discriminator()
    netD.apply(weights_init)

    criterion = nn.BCELoss()
    real_label = 1.
    fake_label = 0.
    fixed_noise = torch.randn(n_class * 4, nz)
    fixed_onehot = F.one_hot(torch.arange(n_class).repeat(4), n_class).float()

    optimizerD = optim.Adam(netD.parameters(), lr=lr, betas=(beta1, 0.999))
    optimizerG = optim.Adam(netG.parameters(), lr=lr, betas=(beta1, 0.999))

    img_list = []
    G_losses = []
    D_losses = []
    iters = 0

    with watch(generator=netG, discriminator=netD) as seen:
        for epoch in range(num_epochs):
            for i, data in enumerate(dataloader, 0):
                # (1) Update D: maximize log(D(x)) + log(1 - D(G(z)))
                netD.zero_grad()
                real, y = data
                b_size = real.size(0)
                label = torch.full((b_size,), real_label)
                real_onehot = F.one_hot(y, n_class).float()
                output = netD(real, to_planes(real_onehot))
                errD_real = criterion(output, label)
                errD_real.backward()
                D_x = output.mean().item()

                noise = torch.randn(b_size, nz)
                fake_y = torch.randint(0, n_class, (b_size,))
                fake_onehot = F.one_hot(fake_y, n_class).float()
                fake = netG(noise, fake_onehot)
                label.fill_(fake_label)
                output = netD(fake.detach(), to_planes(fake_onehot))
                errD_fake = criterion(output, label)
                errD_fake.backward()
                D_G_z1 = output.mean().item()
                errD = errD_real + errD_fake
                optimizerD.step()

                # (2) Update G: maximize log(D(G(z)))
                netG.zero_grad()
                label.fill_(real_label)
                output = netD(fake, to_planes(fake_onehot))
                errG = criterion(output, label)
                errG.backward()
                D_G_z2 = output.mean().item()
                optimizerG.step()

                G_losses.append(errG.item())
                D_losses.append(errD.item())
                if iters % 50 == 0:
                    with torch.no_grad():
                        img_list.append(netG(fixed_noise, fixed_onehot).detach().cpu())
                iters += 1

    main.last = {'G': G_losses, 'D': D_losses, 'images': img_list,
                 'net': netG,
                 'sample': lambda n, y: netG(torch.randn(n, nz), F.one_hot(y, n_class).float())}
    return seen
