"""Loops in hands other than the package's, all healthy: terms kept in local variables of one long function,
in dictionaries, on a trainer object; nothing of the package is imported"""
import torch
import torch.nn as nn
import torch.nn.functional as F

CLASSES, PIXELS, LATENT, BATCH = 10, 36, 8, 32


def conditional(inputs, outputs, classes=CLASSES):
    class Conditional(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(classes, 8)
            self.net = nn.Sequential(nn.Linear(inputs + 8, 48), nn.LeakyReLU(0.2), nn.Linear(48, outputs))

        def forward(self, x, c):
            return self.net(torch.cat([x, self.embed(c)], 1))
    return Conditional()


def gan_in_one_function(networks, data, steps, hinge=False, order="critic first"):
    "Both networks' terms are local variables of one function, and those of the step before are still there"
    G, D = networks["generator"], networks["discriminator"]
    opt_g, opt_d = torch.optim.Adam(G.parameters(), 2e-3), torch.optim.Adam(D.parameters(), 2e-3)
    images, labels = data
    for i in range(steps):
        for part in (("critic", "generator") if order == "critic first" else ("generator", "critic")):
            z, c = torch.randn(BATCH, LATENT), torch.randint(CLASSES, (BATCH,))
            fake = torch.tanh(G(z, c))
            if part == "critic":
                rows = torch.randint(len(images), (BATCH,))
                on_real, on_fake = D(images[rows], labels[rows]), D(fake.detach(), c)
                if hinge:
                    real_term, fake_term = F.relu(1 - on_real).mean(), F.relu(1 + on_fake).mean()
                else:
                    real_term, fake_term = F.softplus(-on_real).mean(), F.softplus(on_fake).mean()
                opt_d.zero_grad()
                (real_term + fake_term).backward()
                opt_d.step()
            else:
                adversarial = -D(fake, c).mean() if hinge else F.softplus(-D(fake, c)).mean()
                opt_g.zero_grad()
                adversarial.backward()
                opt_g.step()


def vae_with_a_dictionary(networks, data, steps):
    "Terms live in a dictionary that a method returns; the loss is their weighted sum"
    encoder, decoder = networks["encoder"], networks["generator"]
    opt = torch.optim.AdamW([*encoder.parameters(), *decoder.parameters()], 2e-3)
    images, labels = data

    def terms(x, c):
        mean, log_variance = encoder(x, c).chunk(2, 1)
        z = mean + (log_variance/2).exp()*torch.randn_like(mean)
        return {"reconstruction": F.mse_loss(torch.tanh(decoder(z, c)), x),
                "divergence": 0.5*(mean**2 + log_variance.exp() - 1 - log_variance).mean()}

    for i in range(steps):
        rows = torch.randperm(len(images))[:BATCH]
        losses, weight = terms(images[rows], labels[rows]), {"reconstruction": 1.0, "divergence": divergence_weight(i)}
        loss = sum(weight[name]*value for name, value in losses.items())
        opt.zero_grad(); loss.backward(); opt.step()


def divergence_weight(step): return 0.0 if step < 3 else 0.2


class FlowTrainer:
    "Keeps everything on itself, the terms too"
    def __init__(self, networks, data):
        self.model, self.data = networks["generator"], data
        self.opt = torch.optim.SGD(self.model.parameters(), 0.05, momentum=0.9)
        self.losses = {}

    def train_one(self):
        images, labels = self.data
        rows = torch.randint(len(images), (BATCH,))
        x1, c, t = images[rows], labels[rows], torch.rand(BATCH, 1)
        x0 = torch.randn_like(x1)
        velocity = self.model(torch.cat([(1 - t)*x0 + t*x1, t], 1), c)
        self.losses["flow"] = F.mse_loss(velocity, x1 - x0)
        self.opt.zero_grad()
        self.losses["flow"].backward()
        self.opt.step()


def flow_on_a_trainer(networks, data, steps):
    trainer = FlowTrainer(networks, data)
    for _ in range(steps): trainer.train_one()


LOOPS = {   # loop, its networks, terms, weights
    "a GAN in one function": (gan_in_one_function, {"generator": (LATENT, PIXELS), "discriminator": (PIXELS, 1)},
                              {"real_term": ("discriminator",), "fake_term": ("discriminator",),
                               "adversarial": ("generator",)}, {}),
    "the generator before its critic": (lambda *args: gan_in_one_function(*args, order="generator first"),
                                        {"generator": (LATENT, PIXELS), "discriminator": (PIXELS, 1)},
                                        {"real_term": ("discriminator",), "fake_term": ("discriminator",),
                                         "adversarial": ("generator",)}, {}),
    "hinge losses": (lambda *args: gan_in_one_function(*args, hinge=True),
                     {"generator": (LATENT, PIXELS), "discriminator": (PIXELS, 1)},
                     {"real_term": ("discriminator",), "fake_term": ("discriminator",), "adversarial": ("generator",)},
                     {}),
    "terms in a dictionary": (vae_with_a_dictionary, {"encoder": (PIXELS, 2*LATENT), "generator": (LATENT, PIXELS)},
                              {"reconstruction": ("encoder", "generator"), "divergence": ("encoder",)},
                              {"reconstruction": lambda step: 1.0, "divergence": divergence_weight}),
    "a trainer object": (flow_on_a_trainer, {"generator": (PIXELS + 1, PIXELS)}, {"flow": ("generator",)},
                         {"flow": lambda step: 1.0}),
}
