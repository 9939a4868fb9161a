"""The report's loop in plain PyTorch, as its authors might have kept it in one file:
nothing of the package is imported. REPAIRED is its twin with the two faults undone."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class Weaver(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.label_embedding = nn.Embedding(10, 64)
        self.fc = nn.Linear(128, width*7*7)
        self.blocks = nn.Sequential(*(layer for i in (width, width//2) for layer in (
            nn.Upsample(scale_factor=2), nn.Conv2d(i, i//2, 3, padding=1), nn.BatchNorm2d(i//2), nn.ReLU())))
        self.output = nn.Sequential(nn.Conv2d(width//4, 1, 3, padding=1), nn.Tanh())
        self.v_pred_head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width//4, 128), nn.ReLU(),
                                         nn.Linear(128, 16))

    def forward(self, z, labels):
        h = self.fc(torch.cat([z, self.label_embedding(labels)], dim=1)).view(len(z), -1, 7, 7)
        h = self.blocks(h)
        return self.output(h), self.v_pred_head(h)


class Witness(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        layers, channels = [], 1
        for out in (width, 2*width, 4*width):
            layers += [nn.Conv2d(channels, out, 3, stride=2, padding=1), nn.BatchNorm2d(out), nn.LeakyReLU(0.2),
                       nn.Dropout2d(0.3)]
            channels = out
        self.encoder = nn.Sequential(*layers, nn.Flatten())
        self.classifier = nn.Sequential(nn.Linear(channels*16, 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, 10))
        self.v_seen_head = nn.Sequential(nn.Linear(channels*16, 128), nn.ReLU(), nn.Linear(128, 16))

    def forward(self, x):
        h = self.encoder(x)
        return self.classifier(h), self.v_seen_head(h)


def make_judge():
    return nn.Sequential(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
                         nn.Dropout(0.25), nn.Linear(8*196, 10)).eval()


def weight_of(step, total):
    if step < total//3: return 1.0
    return 0.5 if step < 2*total//3 else 0.1


def train(weaver, witness, judge, images, labels, total=6, batch=32, repaired=False):
    weaver_opt = torch.optim.Adam(weaver.parameters(), lr=2e-4, betas=(0.5, 0.999))
    witness_opt = torch.optim.Adam(witness.parameters(), lr=2e-4, betas=(0.5, 0.999))
    weaver.train(); witness.train(); judge.eval()
    for step in range(total):
        rows = torch.randint(len(images), (batch,))
        real, real_labels = images[rows], labels[rows]
        z = torch.randn(batch, 64)
        y = torch.randint(0, 10, (batch,))
        fake, v_pred = weaver(z, y)
        logits, v_seen = witness(fake)
        with torch.no_grad():
            judge_target = judge(fake).argmax(dim=1)
        alignment = F.mse_loss(v_pred, v_seen.detach())
        if repaired:
            grounding = F.cross_entropy(logits, y)
            weaver_loss = alignment + weight_of(step, total)*grounding
        else:
            grounding = F.cross_entropy(logits, judge_target)
            weaver_loss = alignment + weight_of(step, total)*grounding.detach()   # the first fault
        weaver_opt.zero_grad()
        weaver_loss.backward()   # where it is told
        weaver_opt.step()
        witness_loss = F.cross_entropy(witness(fake.detach())[0], judge_target) + F.cross_entropy(witness(real)[0],
                                                                                                  real_labels)
        witness_opt.zero_grad()
        witness_loss.backward()
        witness_opt.step()
