"""Writes looped.json and causal.json beside this file: what PyTorch says of two small models.

    python3 tests/golden/make_golden.py

Run by hand, when the models change; tests/train/golden.cpp compares. Everything is computed in float64, one sample at a
time, so there is no padding and no mask but the causal one. Weights are rounded to three decimals, so that the file
holds them exactly; gradients and states are written with nine digits, losses with all.
"""
import json
import math
import os

import torch
import torch.nn as nn
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)

VOCABULARY, FIRST_VALUE, PAD, EOS = 13, 8, 0, 2
CONFIG = dict(width=16, layers=2, heads=2, hidden=24, positions=64)
ADAMW = dict(rate=0.02, beta1=0.9, beta2=0.98, epsilon=1e-8, decay=0.01, clip=0.5)
SCHEDULE = dict(steps=10, warm_up=0.2, final=0.05)


def rotate(x):  # [heads, n, size]
    n, size = x.shape[-2:]
    angle = torch.arange(n)[:, None] * 10000.0 ** (-torch.arange(0, size, 2) / size)[None]
    a, b = x.chunk(2, -1)
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


class Attention(nn.Module):
    def __init__(self, causal):
        super().__init__()
        d = CONFIG["width"]
        self.qkv, self.out, self.causal = nn.Linear(d, 3 * d), nn.Linear(d, d), causal

    def forward(self, x):  # [n, width]
        n, d = x.shape
        q, k, v = self.qkv(x).view(n, 3, CONFIG["heads"], -1).permute(1, 2, 0, 3)
        q, k = rotate(q), rotate(k)
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if self.causal:
            scores = scores.masked_fill(torch.ones(n, n, dtype=torch.bool).triu(1), -math.inf)
        return self.out((scores.softmax(-1) @ v).transpose(0, 1).reshape(n, d))


class FeedForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(CONFIG["width"], CONFIG["hidden"]), nn.Linear(CONFIG["hidden"], CONFIG["width"])

    def forward(self, x):
        return self.down(F.gelu(self.up(x)))


class Layer(nn.Module):
    def __init__(self, causal):
        super().__init__()
        d = CONFIG["width"]
        self.norm1, self.attention = nn.LayerNorm(d), Attention(causal)
        self.norm2, self.feed_forward = nn.LayerNorm(d), FeedForward()

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.feed_forward(self.norm2(x))


class Stack(nn.Module):
    def __init__(self, causal):
        super().__init__()
        self.layers = nn.ModuleList(Layer(causal) for _ in range(CONFIG["layers"]))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class Loop(nn.Module):
    def __init__(self):
        super().__init__()
        self.block, self.norm = Stack(False), nn.LayerNorm(CONFIG["width"])

    def forward(self, h0, iterations, inject):  # the normalised state goes back in
        states, h = [], h0
        for t in range(1, iterations + 1):
            h = self.norm(self.block(h + h0 if inject and t > 1 else h))
            states.append(h)
        return states


class LoopedTransformer(nn.Module):
    def __init__(self):
        super().__init__()
        d = CONFIG["width"]
        self.embedding, self.loop = nn.Embedding(VOCABULARY, d), Loop()
        self.chain_head, self.answer_head = nn.Linear(d, VOCABULARY), nn.Linear(d, VOCABULARY)

    def states(self, example, inject):
        return self.loop(self.embedding(torch.tensor(example["problem"])), len(example["rounds"]), inject)

    def loss(self, example, inject, weights):
        states = self.states(example, inject)
        answer = F.cross_entropy(self.answer_head(states[-1][-1:]), torch.tensor([example["answer"]]))
        chain = 0.0
        for state, written in zip(states, example["rounds"]):
            columns = len(example["problem"])
            row = ([PAD] if len(written) < columns else []) + written  # flush right, with the last <pad>
            logits = self.chain_head(state[columns - len(row):])
            chain = chain + F.cross_entropy(logits, torch.tensor(row), reduction=weights["over_round"])
        return weights["answer_weight"] * answer + weights["lambda"] * chain / len(example["rounds"])


class CausalTransformer(nn.Module):
    def __init__(self):
        super().__init__()
        d = CONFIG["width"]
        self.embedding, self.body, self.norm = nn.Embedding(VOCABULARY, d), Stack(True), nn.LayerNorm(d)
        self.head = nn.Linear(d, VOCABULARY)

    def forward(self, tokens):
        return self.head(self.norm(self.body(self.embedding(torch.tensor(tokens)))))

    def losses(self, example):  # of the tokens after the problem
        text = sum(example["rounds"], []) + [EOS]
        whole, n = example["problem"] + text, len(example["problem"])
        return F.cross_entropy(self(whole[:-1])[n - 1:], torch.tensor(text), reduction="none")


def weights_of(model, seed):
    torch.manual_seed(seed)
    for name, p in model.named_parameters():
        deviation = 0.5 if name.startswith("embedding") else 0.1 if p.dim() == 1 else 0.3
        p.data = torch.normal(1.0 if "norm" in name and name.endswith("weight") else 0.0, deviation, p.shape)
        p.data = (p.data * 1000).round() / 1000


def short(tensor):
    return [float(f"{v:.9g}") for v in tensor.detach().flatten().tolist()]


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: short(p.grad) for name, p in model.named_parameters()}


def train(model, loss):
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimiser = torch.optim.AdamW([dict(params=matrices, weight_decay=ADAMW["decay"]), dict(params=vectors, weight_decay=0.0)],
                                  lr=1.0, betas=(ADAMW["beta1"], ADAMW["beta2"]), eps=ADAMW["epsilon"])
    losses, norms = [], []
    for step in range(1, SCHEDULE["steps"] + 1):
        up = max(1.0, round(SCHEDULE["warm_up"] * SCHEDULE["steps"]))
        down = (SCHEDULE["steps"] - step) / SCHEDULE["steps"]
        for group in optimiser.param_groups:
            group["lr"] = ADAMW["rate"] * min(1.0, step / up) * max(SCHEDULE["final"], down)
        optimiser.zero_grad()
        value = loss()
        value.backward()
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), ADAMW["clip"]).item())
        optimiser.step()
        losses.append(value.item())
    for name, p in model.named_parameters():
        p.data = start[name]
    return dict(losses=losses, gradient_norms=norms)


def write(name, content):
    head = dict(torch=torch.__version__.split("+")[0], vocabulary=VOCABULARY, first_value=FIRST_VALUE, config=CONFIG,
                adamw=ADAMW, schedule=SCHEDULE)
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), name)
    with open(path, "w") as file:
        json.dump(head | content, file, separators=(",", ":"))
        file.write("\n")
    print(path, os.path.getsize(path), "bytes")


# Different lengths and different numbers of rounds in one batch; one round fills its row, so that it has no covered <pad>.
EXAMPLES = [
    dict(problem=[8, 3, 9, 5, 10, 4, 7], rounds=[[9, 5, 10, 4, 7], [11, 4, 7], [12, 7], [10]], answer=10),
    dict(problem=[11, 3, 12, 4, 8], rounds=[[11, 5, 12, 4, 9], [8, 3, 7], [9]], answer=9),
    dict(problem=[9, 6, 12, 7], rounds=[[12]], answer=12),
]

looped = LoopedTransformer()
weights_of(looped, 1)
variants = []
for inject, loss_weights in [(False, {"lambda": 0.7, "answer_weight": 0.3, "over_round": "mean"}),
                             (True, {"lambda": 0.2, "answer_weight": 1.0, "over_round": "sum"})]:
    loss = lambda: sum(looped.loss(e, inject, loss_weights) for e in EXAMPLES) / len(EXAMPLES)
    states = [[short(h) for h in looped.states(e, inject)] for e in EXAMPLES]
    variants.append(dict(inject=inject, loss=loss_weights, states=states, gradient=gradients(looped, loss()),
                         training=train(looped, loss)))
write("looped.json", dict(examples=EXAMPLES, weights={n: p.flatten().tolist() for n, p in looped.named_parameters()},
                          variants=variants))

causal = CausalTransformer()
weights_of(causal, 2)
loss = lambda: torch.cat([causal.losses(e) for e in EXAMPLES]).mean()
logits = [short(causal(e["problem"])) for e in EXAMPLES]
write("causal.json", dict(examples=EXAMPLES, weights={n: p.flatten().tolist() for n, p in causal.named_parameters()},
                          logits=logits, gradient=gradients(causal, loss()), training=train(causal, loss)))
