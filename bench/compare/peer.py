"""The jobs of bench/jobs.cpp and bench/gpu_jobs.cpp in PyTorch: a worker that bench/compare.py or compare_gpu.py starts and asks.

    jobs --describe > jobs.json
    peer.py jobs.json [--device cuda]                      -> {"torch": "2.15.0", ...}
    paper/looped_training_equal bf16 2 compiled 5          <- job, scalars, threads, variant, seconds: a line each
    {"rate": 17.2, "repetitions": 2, ...}                  -> a JSON line each

Variants: eager, compiled (torch.compile). Each is tried in several ways the first time it is asked for, and the fastest is kept:
scaled_dot_product_attention or attention written out; what is compiled; for inference in bf16, autocast or a model cast to it;
all threads or one. bf16 in training is autocast over float32 weights. Batches are tensors before the clock starts.

A looped batch holds problems of one length, sorted by columns, and an auto-regressive one sequences of about one length;
what padding is left is masked, and not counted.

On a GPU there is a third variant, graphs: CUDA graphs of compiled code, by torch.compile itself or of whole steps by hand. There bf16
in training is autocast, or bf16 weights, which a float32 copy of them is trained for; only asked rows go through the heads; and
nothing waits for a step's loss. A sixth word of a request: the seconds after which no further way is tried.
"""
import argparse
import itertools
import json
import math
import operator
import os
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

PAD = 0
AT_ONCE = "problems at once:"
IGNORED = -100  # cross_entropy asks nothing here
FUSED, WRITTEN_OUT = "scaled_dot_product_attention", "attention written out"
DEVICE = "cpu"  # or "cuda"
HIDDEN = -1e9  # what attention adds to the score of a key that is not seen; finite, since a padded query may see no other


def on_gpu():
    return DEVICE != "cpu"


def autocast_is_on():
    return torch.is_autocast_enabled() if on_gpu() else torch.is_autocast_cpu_enabled()


# --- The models ---


def rotary_table(config, causal):
    """Cosines and signed sines [positions, 1, heads, size], so that x cos + roll(x) sin turns x. A directional head is not turned."""
    heads, size = config["heads"], config["width"] // config["heads"]
    frequency = config["rotary_base"] ** (-torch.arange(0, size, 2) / size)
    angle = torch.arange(config["positions"])[:, None, None, None] * frequency
    angle = angle.repeat(1, 1, heads, 1)
    if not causal:
        angle[:, :, heads - config["directional_heads"]:] = 0
    return torch.cat([angle.cos()] * 2, -1), torch.cat([-angle.sin(), angle.sin()], -1)


def written_out(q, k, v, mask):
    scores = torch.matmul(q * (1 / math.sqrt(q.shape[-1])), k.transpose(-1, -2))
    return torch.matmul((scores if mask is None else scores + mask).softmax(-1), v)


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.heads, self.fused = config["heads"], False
        self.qkv, self.out = nn.Linear(config["width"], 3 * config["width"]), nn.Linear(config["width"], config["width"])

    def forward(self, x, rotation, mask, causal=False, cache=None):
        batch, n, width = x.shape
        cos, sin = rotation
        qkv = self.qkv(x).view(batch, n, 3, self.heads, width // self.heads)
        qk = qkv[:, :, :2]
        qk = torch.addcmul(qk * cos, qk.roll(cos.shape[-1] // 2, -1), sin)
        q, k, v = qk[:, :, 0].transpose(1, 2), qk[:, :, 1].transpose(1, 2), qkv[:, :, 2].transpose(1, 2)
        if cache is not None:
            k, v = cache.extend(k, v)
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=None if causal else mask, is_causal=causal)
        else:
            mixed = written_out(q, k, v, mask)
        return self.out(mixed.transpose(1, 2).reshape(batch, n, width))


class FeedForward(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.up, self.down = nn.Linear(config["width"], config["hidden"]), nn.Linear(config["hidden"], config["width"])

    def forward(self, x):
        return self.down(F.gelu(self.up(x)))


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(config["width"]), Attention(config)
        self.norm2, self.feed_forward = nn.LayerNorm(config["width"]), FeedForward(config)
        self.dropped = nn.Dropout(config["dropout"]) if config.get("dropout") else nn.Identity()

    def forward(self, x, *seen):
        x = x + self.dropped(self.attention(self.norm1(x), *seen))
        return x + self.dropped(self.feed_forward(self.norm2(x)))


class Stack(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config["layers"]))

    def forward(self, x, *seen):
        for layer in self.layers:
            x = layer(x, *seen)
        return x


class Loop(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.block, self.norm, self.normalise = Stack(config), nn.LayerNorm(config["width"]), config["normalise"]

    def forward(self, h, *seen):  # one iteration: the normalised state, which goes back in, or what does and the normalised state
        h = self.block(h, *seen)
        return self.norm(h) if self.normalise else (h, self.norm(h))


class Model(nn.Module):
    def __init__(self, config, causal):
        super().__init__()
        self.embedding = nn.Embedding(config["vocabulary"], config["width"])
        nn.init.normal_(self.embedding.weight, 0, 0.5)
        for name, table in zip(("cos", "sin"), rotary_table(config, causal)):
            self.register_buffer(name, table, persistent=False)
        self.read = weighted_loss

    def rotation(self, begin, end):
        """In the type that the layers compute in, or it would widen what it is multiplied with."""
        scalars = torch.bfloat16 if autocast_is_on() else self.embedding.weight.dtype
        return self.cos[begin:end].to(scalars), self.sin[begin:end].to(scalars)


def weighted_loss(head, rows, targets, weights):
    return (F.cross_entropy(head(rows).float(), targets, reduction="none") * weights).sum()


class LoopedTransformer(Model):
    def __init__(self, config):
        super().__init__(config, causal=False)
        self.loop = Loop(config)
        self.chain_head = nn.Linear(config["width"], config["vocabulary"])
        self.answer_head = nn.Linear(config["width"], config["vocabulary"])
        self.answer_weight = config["answer_weight"]

    def states(self, batch):
        """What the heads read after each iteration."""
        h = self.embedding(batch.tokens)
        rotation = self.rotation(0, batch.tokens.shape[1])
        mask = None if batch.mask is None else batch.mask.to(rotation[0].dtype)
        for _ in range(batch.iterations):
            h = self.loop(h, rotation, mask)
            if self.loop.normalise:
                yield h
            else:
                h, read = h
                yield read

    def loss(self, batch):
        if batch.asked:
            return self.loss_of_asked(batch)
        chain = []
        for h in self.states(batch):
            chain.append(self.chain_head(h))
        rows, iterations = batch.tokens.shape[0], batch.iterations
        chain_loss = F.cross_entropy(torch.stack(chain).flatten(0, 2).float(), batch.targets, ignore_index=IGNORED, reduction="sum")
        answer_loss = F.cross_entropy(self.answer_head(h[:, -1]).float(), batch.answers)
        return self.answer_weight * answer_loss + chain_loss / (rows * iterations)

    def loss_of_asked(self, batch):
        rows = []
        for h, asked in zip(self.states(batch), batch.asked):
            rows.append(h.flatten(0, 1).index_select(0, asked))
        chain_loss = self.read(self.chain_head, torch.cat(rows), batch.targets, batch.weights)
        return chain_loss + self.answer_weight * self.read(self.answer_head, h[:, -1], batch.answers, batch.answer_weights)

    def solve(self, batch):
        rounds = []
        for h in self.states(batch):
            rounds.append(self.chain_head(h).argmax(-1))
        return torch.stack(rounds, 1), self.answer_head(h[:, -1]).argmax(-1)


class CausalTransformer(Model):
    def __init__(self, config):
        super().__init__(config, causal=True)
        self.body, self.norm, self.head = Stack(config), nn.LayerNorm(config["width"]), nn.Linear(config["width"], config["vocabulary"])

    def loss(self, batch):
        rotation = self.rotation(0, batch.tokens.shape[1])
        mask = None if batch.mask is None else batch.mask.to(rotation[0].dtype)
        states = self.norm(self.body(self.embedding(batch.tokens), rotation, mask, True))
        if batch.asked is not None:
            return self.read(self.head, states.flatten(0, 1).index_select(0, batch.asked), batch.targets, batch.weights)
        logits = self.head(states)
        return F.cross_entropy(logits.flatten(0, 1).float(), batch.targets, ignore_index=IGNORED)

    def next_token(self, tokens, rotation, mask, causal, caches):
        """tokens [batch, n] go on where the caches end."""
        h = self.embedding(tokens)
        for layer, cache in zip(self.body.layers, caches):
            h = layer(h, rotation, mask, causal, cache)
        return self.head(self.norm(h[:, -1])).argmax(-1, keepdim=True)


class KvCache:
    """Keys and values of one layer [batch, heads, positions, size], allocated once; attention reads as far as is filled."""

    def __init__(self, config, batch, positions, scalars):
        size = config["width"] // config["heads"]
        self.keys, self.values = (torch.zeros(batch, config["heads"], positions, size, dtype=scalars, device=DEVICE) for _ in range(2))
        self.filled = 0

    def extend(self, k, v):
        begin, self.filled = self.filled, self.filled + k.shape[2]
        self.keys[:, :, begin:self.filled], self.values[:, :, begin:self.filled] = k, v
        return self.keys[:, :, :self.filled], self.values[:, :, :self.filled]


class StaticCache(KvCache):
    """The same for a CUDA graph, where all addresses and sizes are fixed: a token is written at `at`, which is on the device, and
    attention reads `limit` positions, masked beyond `at`."""

    def __init__(self, config, batch, positions, scalars, at):
        super().__init__(config, batch, positions, scalars)
        self.at, self.limit = at, positions
        if hasattr(torch, "_dynamo"):
            for tensor in (self.keys, self.values):
                torch._dynamo.mark_static_address(tensor)

    def extend(self, k, v):
        if k.shape[2] > 1:  # the prompt
            self.keys[:, :, :k.shape[2]], self.values[:, :, :k.shape[2]] = k, v
            return k, v
        self.keys.index_copy_(2, self.at, k)
        self.values.index_copy_(2, self.at, v)
        return self.keys[:, :, :self.limit], self.values[:, :, :self.limit]


# --- Batches ---


def spread(rows, value):
    """Rows of unequal length as one tensor, the shorter ones filled on their left."""
    width = max(map(len, rows))
    return torch.tensor([[value] * (width - len(row)) + row for row in rows])


class Batch:
    asked = None  # on a GPU: the rows that heads are asked about, and then targets and weights are of these

    def on_device(self):
        move = lambda value: [move(v) for v in value] if isinstance(value, list) else value.to(DEVICE) if torch.is_tensor(value) else value
        for name, value in vars(self).items():
            setattr(self, name, move(value))


class LoopedBatch(Batch):
    def __init__(self, config, examples):
        problems = [e["problem"] for e in examples]
        self.iterations = len(examples[0]["rounds"])
        self.tokens = spread(problems, PAD)
        self.answers = torch.tensor([e["answer"] for e in examples])
        columns = self.tokens.shape[1]
        targets = torch.full((self.iterations, len(examples), columns), IGNORED)
        for row, e in enumerate(examples):  # flush right, with the last <pad> before it
            for t, written in enumerate(e["rounds"]):
                asked = ([PAD] if len(written) < len(e["problem"]) else []) + written
                targets[t, row, columns - len(asked):] = torch.tensor(asked)
        self.targets = targets.flatten()
        self.mask = self.seen(config, problems, columns)
        if on_gpu():
            self.ask(config, targets)
        self.on_device()

    def ask(self, config, targets):
        """Instead of targets with gaps: the rows asked for at each iteration, the targets of all of them, and their weights."""
        count, share = targets.shape[1], 1.0 / (targets.shape[0] * targets.shape[1])
        flat = targets.flatten(1)
        self.asked = [(one != IGNORED).nonzero().flatten() for one in flat]
        self.targets = torch.cat([one[rows] for one, rows in zip(flat, self.asked)])
        sizes = (targets != IGNORED).sum(-1, keepdim=True).expand(targets.shape).flatten(1)  # of the round that a token is of
        each = torch.cat([one[rows] for one, rows in zip(sizes, self.asked)])
        self.weights = share / each if config["over_round"] == "mean" else torch.full(each.shape, share)
        self.answer_weights = torch.full((count,), 1.0 / count)

    @staticmethod
    def seen(config, problems, columns):
        """What attention adds to the scores [batch or 1, heads or 1, columns or 1, columns]; nothing where every head sees all."""
        masks = []
        if any(len(p) < columns for p in problems):
            padding = torch.arange(columns) < torch.tensor([columns - len(p) for p in problems])[:, None]
            masks.append((padding * HIDDEN)[:, None, None])
        if config["directional_heads"] > 0:
            heads = torch.zeros(config["heads"], columns, columns)
            after = torch.ones(columns, columns).triu(1) * HIDDEN
            for i in range(config["directional_heads"]):
                heads[-1 - i] = after if i % 2 == 0 else after.T
            masks.append(heads[None])
        return sum(masks).clamp(min=HIDDEN) if masks else None


class CausalBatch(Batch):
    def __init__(self, examples):
        sequences = [sequence(e) for e in examples]
        width = max(map(len, sequences)) - 1
        self.tokens = torch.full((len(examples), width), PAD)
        targets = torch.full((len(examples), width), IGNORED)
        for row, (e, s) in enumerate(zip(examples, sequences)):  # filled on the right: no position looks there
            first = len(e["problem"]) - 1
            self.tokens[row, :len(s) - 1] = torch.tensor(s[:-1])
            targets[row, first:len(s) - 1] = torch.tensor(s[first + 1:])
        self.targets = targets.flatten()
        self.mask = torch.full((width, width), HIDDEN).triu(1)
        if on_gpu():  # attention has no need of a mask but its own
            self.asked, self.mask = (self.targets != IGNORED).nonzero().flatten(), None
            self.targets = self.targets[self.asked]
            self.weights = torch.full(self.targets.shape, 1.0 / len(self.targets))
        self.on_device()


def sequence(example):
    return example["problem"] + example["text"]


# --- Ways to do a job ---

VARIANTS = dict(cpu=("eager", "compiled"), cuda=("eager", "compiled", "graphs"))
LIMITS = 64  # on a GPU attention reads the cache up to a multiple of this: a graph for each


class Compiled:
    """What torch.compile is given, with which of its options; and whether the whole is captured as a CUDA graph, by hand."""

    def __init__(self, what="", *options, captured=False):
        self.what, self.options, self.captured = what, options, captured

    def words(self):
        return [self.what and f"{self.what} compiled", *self.options, "captured" if self.captured else ""]


CUDA_GRAPHS = "triton.cudagraphs"  # torch.compile's mode reduce-overhead


class Way:
    """One way to do a job: prepares what it needs; a call is one repetition, sample() a part of one, to choose by."""

    def __init__(self, job, scalars, attention, compiled, cast):
        self.job, self.scalars, self.cast, self.compiled = job, scalars, cast, compiled
        self.config = {**job["model"], **{name: job[name] for name in ("normalise", "answer_weight", "over_round")}}
        self.looped = job["work"].startswith("looped")
        self.threads = torch.get_num_threads()
        torch.manual_seed(1)
        self.model = (LoopedTransformer if self.looped else CausalTransformer)(self.config).to(DEVICE)
        if cast:
            self.model.to(torch.bfloat16)
        for module in self.model.modules():
            if isinstance(module, Attention):
                module.fused = attention == FUSED
        self.compile(compiled)
        self.name = ", ".join(filter(None, [attention, *compiled.words(), self.CAST if cast else ""]))

    CAST = "cast to bf16"

    def compile(self, compiled):
        what = compiled.what

        mixed = self.job["batches"] > 1  # or the shape is one, and torch finds out what is not
        if on_gpu() and what == "step" and not compiled.options:
            mixed = True  # each token has more before it

        def made(function):
            return torch.compile(function, dynamic=mixed or None, options={name: True for name in compiled.options} or None)

        if what == "step":
            self.model.next_token = made(self.model.next_token)
        elif what:
            kind = Layer if what == "layer" else Loop if self.looped else Stack
            for module in [m for m in self.model.modules() if isinstance(m, kind)]:
                module.forward = made(module.forward)
            if on_gpu():
                self.model.read = torch.compile(weighted_loss, dynamic=True)

    def context(self):
        return torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=self.scalars == "bf16" and not self.cast)

    def sizes(self):
        """Problems to take at once: fewer than all, whose activations or keys and values stay in the processor's cache, may be faster."""
        return [n for n in (8, 16, 32) if n < len(self.job["problems"])] if hasattr(self, "take_at_once") else []

    def sample(self):
        self()


def captured(function):
    """The function as a CUDA graph: a call of it, and what that gives, the same tensors every time."""
    if not on_gpu():  # where this file's logic is tried
        return function
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        function()
        function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=captured.pool):
        result = function()
    captured.pool = graph.pool()  # one for all: nothing of a graph is used after the next has run

    def replay():
        graph.replay()
        return result

    return replay


captured.pool = None


class Training(Way):
    ways = (Compiled("layer"), Compiled("block"))
    ways_on_gpu = dict(compiled=(Compiled("block"),),
                       graphs=(Compiled("block", captured=True), Compiled("block", CUDA_GRAPHS)))
    CAST = "weights of bf16, and of float32 besides"
    parts = 1  # that a batch is cut into, if there is not enough memory for it

    def __init__(self, *way):
        super().__init__(*way)
        key = (lambda e: (len(e["rounds"]), len(e["problem"]))) if self.looped else (lambda e: len(sequence(e)))
        examples, size = sorted(self.job["problems"], key=key), self.job["batch"]
        self.dealt = [examples[i:i + size] for i in range(0, len(examples), size)]
        self.cut(1)
        self.parameters = list(self.model.parameters())
        self.learned = [p.detach().float().clone() for p in self.parameters] if self.cast else self.parameters
        groups = [dict(params=[p for p in self.learned if p.dim() > 1], weight_decay=0.01),
                  dict(params=[p for p in self.learned if p.dim() == 1], weight_decay=0.0)]
        more = dict(capturable=True) if self.compiled.captured and on_gpu() else {}
        try:
            self.optimiser = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.98), fused=True, **more)
        except (TypeError, RuntimeError):  # a release that has none, or none for a CPU
            self.optimiser = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.98), foreach=True, **more)

    def cut(self, parts):
        """Each batch into so many, whose gradients are added."""
        self.parts, self.steps = parts, None
        make = (lambda b: LoopedBatch(self.config, b)) if self.looped else CausalBatch
        self.batches = [[make(b[i::parts]) for i in range(parts)] for b in self.dealt]

    def step(self, batch):
        """The loss, where it is."""
        for p in self.parameters:
            p.grad = None
        total = 0
        for part in batch:
            if self.compiled.options:
                torch.compiler.cudagraph_mark_step_begin()
            with self.context():
                loss = self.model.loss(part)
            if self.parts > 1:  # all parts have as many problems; of tokens that is near enough
                loss = loss / self.parts
            loss.backward()
            total = total + loss.detach()
        if self.cast:
            for master, p in zip(self.learned, self.parameters):
                master.grad = None if p.grad is None else p.grad.float()
        nn.utils.clip_grad_norm_(self.learned, 1.0)
        self.optimiser.step()
        if self.cast:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, self.learned)
        return total

    def __call__(self):
        if self.steps is None:
            self.steps = [lambda batch=batch: self.step(batch) for batch in self.batches]
            if self.compiled.captured:
                for step in self.steps:
                    step()  # compiled now, and the optimiser's state is there
                self.steps = [captured(step) for step in self.steps]
        if not on_gpu():
            return [step().item() for step in self.steps]
        return torch.stack([step().clone() for step in self.steps]).tolist()

    def sample(self):
        if on_gpu():  # every shape, which also shows whether there is enough memory
            self()
        else:
            self.step(self.batches[len(self.batches) // 2])


class LoopedInference(Way):
    ways = (Compiled("layer"), Compiled("block"), Compiled("block", "freezing"))
    ways_on_gpu = dict(compiled=(Compiled("block"),), graphs=(Compiled("block", captured=True), Compiled(captured=True)))

    def __init__(self, *way):
        super().__init__(*way)
        self.model.eval()
        self.take_at_once(len(self.job["problems"]))

    def take_at_once(self, count):
        problems = self.job["problems"]
        self.batches = [LoopedBatch(self.config, problems[i:i + count]) for i in range(0, len(problems), count)]
        self.solve = [lambda batch=batch: self.solved(batch) for batch in self.batches]
        if self.compiled.captured:
            for one in self.solve:
                one()  # compiled now
            self.solve = [captured(one) for one in self.solve]

    def solved(self, batch):
        with torch.no_grad(), self.context():
            return self.model.solve(batch)

    def __call__(self):
        solved = [one() for one in self.solve]
        return [(rounds.tolist(), answers.tolist()) for rounds, answers in solved]


class Generation(Way):
    ways = (Compiled("layer"), Compiled("step"), Compiled("step", "freezing"))
    ways_on_gpu = dict(compiled=(Compiled("step"),),
                       graphs=(Compiled("step", captured=True), Compiled(captured=True), Compiled("step", CUDA_GRAPHS)))

    def __init__(self, *way):
        super().__init__(*way)
        self.model.eval()
        self.prompts = torch.tensor([e["problem"] for e in self.job["problems"]]).to(DEVICE)
        self.begin = self.prompts.shape[1]
        self.positions = self.begin + self.job["new_tokens"] - 1  # the last token is not read
        scalars = torch.bfloat16 if self.scalars == "bf16" else torch.float32
        self.causal = torch.full((self.begin, self.begin), HIDDEN).triu(1).to(DEVICE, scalars)
        self.static = self.compiled.captured or CUDA_GRAPHS in self.compiled.options
        self.take_at_once(len(self.prompts))

    def take_at_once(self, count):
        self.at_once = count
        scalars, layers = self.causal.dtype, self.model.body.layers
        if not self.static:
            self.caches = [KvCache(self.config, count, self.positions, scalars) for _ in layers]
            return
        room = -(-self.positions // LIMITS) * LIMITS
        self.at = torch.zeros(1, dtype=torch.int64, device=DEVICE)  # where the token is read that is the newest
        self.columns = torch.arange(room, device=DEVICE)
        self.text = torch.zeros(count, room + 1, dtype=torch.int64, device=DEVICE)
        self.caches = [StaticCache(self.config, count, room, scalars, self.at) for _ in layers]
        self.steps = {}

    def step(self, limit):
        """Reads text[at] and writes text[at + 1]. `limit`: the positions that attention reads."""
        for cache in self.caches:
            cache.limit = limit
        mask = ((self.columns[:limit] > self.at) * HIDDEN).to(self.causal.dtype)[None, None, None]
        rotation = tuple(table.index_select(0, self.at) for table in self.model.rotation(0, limit))
        token = self.model.next_token(self.text.index_select(1, self.at), rotation, mask, False, self.caches)
        self.text.index_copy_(1, self.at + 1, token)
        self.at += 1

    def write_static(self, begin, end):
        for at in range(begin, end):
            if not self.compiled.captured:
                torch.compiler.cudagraph_mark_step_begin()
                self.step(self.columns.numel())
                continue
            limit = -(-(at + 1) // LIMITS) * LIMITS
            if limit not in self.steps:
                self.at.fill_(at)
                self.step(limit)  # compiled now
                self.at.fill_(at)
                self.steps[limit] = captured(lambda: self.step(limit))
                self.at.fill_(at)
            self.steps[limit]()

    def write(self, token, begin, end):
        cos, sin = self.model.rotation(0, self.positions)
        written = []
        for at in range(begin, end):
            token = self.model.next_token(token, (cos[at:at + 1], sin[at:at + 1]), None, False, self.caches)
            written.append(token)
        return written

    def __call__(self):
        written = []
        with torch.no_grad(), self.context():
            for prompts in self.prompts.split(self.at_once):
                for cache in self.caches:
                    cache.filled = 0
                token = self.prefill(prompts, self.model.rotation(0, self.begin), self.causal, True, self.caches)
                if self.static:
                    self.text[:, self.begin] = token[:, 0]
                    self.at.fill_(self.begin)
                    self.write_static(self.begin, self.positions)
                    written += self.text[:, self.begin:self.positions + 1].tolist()
                else:
                    written += torch.cat([token] + self.write(token, self.begin, self.positions), 1).tolist()
        return written

    def prefill(self, *prompt):
        """On a GPU, where compiling takes long beside all else, the prompt, once in many tokens, is not compiled."""
        return (CausalTransformer.next_token.__get__(self.model) if on_gpu() else self.model.next_token)(*prompt)

    def sample(self):
        """Some tokens in the middle; on a GPU all."""
        if on_gpu():
            return self()
        middle = (self.begin + self.positions) // 2
        with torch.no_grad(), self.context():
            for cache in self.caches:
                cache.filled = middle
            self.write(self.prompts[:self.at_once, -1:], middle, middle + 8)


WAYS = {"looped_training": Training, "causal_training": Training, "looped_inference": LoopedInference, "generation": Generation}


class Absent(Exception):
    """This release, or this machine, cannot do what was asked."""


def seconds_of(function, at_least):
    """Seconds of one call, as the mean of as many as fill the time; and how many those were."""
    if on_gpu():
        torch.cuda.synchronize()  # a repetition waits for its own end: its results are read
    calls, begin = 0, time.perf_counter()
    while calls == 0 or time.perf_counter() - begin < at_least:
        function()
        calls += 1
    return (time.perf_counter() - begin) / calls, calls


def fresh(kind, arguments):
    """Without what was compiled for another way: every call would look through it."""
    if arguments[3].what:
        torch._dynamo.reset()
    return kind(*arguments)


def ways_of(kind, scalars, variant):
    """(attention, what is compiled, cast) of each; on a GPU those first that should be the fastest."""
    attentions = (WRITTEN_OUT, FUSED) if hasattr(F, FUSED) else (WRITTEN_OUT,)
    if variant != "eager" and not hasattr(torch, "compile"):
        raise Absent(f"PyTorch {torch.__version__} has no torch.compile")
    if not on_gpu():
        casts = (True, False) if scalars == "bf16" and kind != Training else (False,)
        return [(attention, compiled, cast)
                for attention, cast, compiled in itertools.product(attentions, casts, kind.ways if variant == "compiled" else (Compiled(),))]
    if kind != Generation:
        attentions = attentions[-1:]  # written out, it writes all scores
    casts = () if scalars != "bf16" else (True,) if kind == Generation else (True, False)  # generation casts its weights at every token
    ways = kind.ways_on_gpu[variant] if variant != "eager" else (Compiled(),)
    return [(attention, compiled, cast) for compiled, cast, attention in itertools.product(ways, casts or (False,), attentions[::-1])
            if attention == FUSED or not compiled.what]  # to compile both takes long


def choose_on_gpu(job, scalars, variant, within):
    """The fastest way, warm. What has been compiled stays: to compile again takes longer than all else."""
    kind, begin = WAYS[job["work"]], time.perf_counter()
    tried, best, failures = {}, None, {}
    for attention, compiled, cast in ways_of(kind, scalars, variant):
        if (tried or failures) and time.perf_counter() - begin > within:
            break
        way = None
        try:
            way = kind(job, scalars, attention, compiled, cast)
            for parts in (1, 2, 4, 8):
                try:
                    if parts > 1:
                        way.cut(parts)
                    way.sample()
                    break
                except torch.cuda.OutOfMemoryError:
                    if parts == 8 or kind != Training:
                        raise
                torch.cuda.empty_cache()
            way.sample()
            name = way.name + (f", {way.parts} parts of a batch" if getattr(way, "parts", 1) > 1 else "")
            tried[name] = seconds_of(way.sample, 0.5)[0]
            if best is None or tried[name] < tried[best.name]:
                way.name, best = name, way
        except Exception as error:  # whatever a compiler throws; the other ways remain
            way = None
            name = ", ".join(filter(None, [attention, *compiled.words(), "cast" if cast else ""]))
            failures[name] = f"{type(error).__name__}: {error}".splitlines()[0]
        del way
        torch.cuda.empty_cache()
    if best is None:
        raise Absent("; ".join(f"{name}: {why}" for name, why in failures.items()))
    best()
    best.tried, best.failed = tried, failures
    return best


def choose(job, scalars, threads, variant):
    """The fastest way, warm."""
    kind = WAYS[job["work"]]
    tried, failure = [], None
    for attention, compiled, cast in ways_of(kind, scalars, variant):
        arguments = (job, scalars, attention, compiled, cast)
        try:
            way = fresh(kind, arguments)
            way.sample()
            way.sample()  # the second may compile again, for other shapes
            tried.append((seconds_of(way.sample, 0.5)[0], way.name, arguments))
        except Exception as error:  # whatever a compiler throws; the other ways remain
            failure = f"{type(error).__name__}: {error}".splitlines()[0]
    if not tried:
        raise Absent(failure)
    seconds, _, arguments = min(tried, key=operator.itemgetter(0))
    way = fresh(kind, arguments)
    way()
    paces = {None: seconds_of(way, 0.5)[0]}  # by the number of problems at once; None: all
    for count in way.sizes():
        way = fresh(kind, arguments)
        way.take_at_once(count)
        way()
        paces[count] = seconds_of(way, 0.5)[0]
    if len(paces) > 1:
        best = min(paces, key=paces.get)
        way = fresh(kind, arguments)
        if best:
            way.take_at_once(best)
            way.name += f", {AT_ONCE} {best}"
        way()
    if threads > 1:  # small operations may not be worth a second thread
        torch.set_num_threads(1)
        way.sample()
        way.sample()
        alone = seconds_of(way.sample, 0.5)[0]
        torch.set_num_threads(threads)
        if alone < seconds_of(way.sample, 0.5)[0]:
            way.threads = 1
            torch.set_num_threads(1)
            way()
    way()
    way()  # warm, whatever has been compiled in between
    way.tried = {name: seconds for seconds, name, _ in tried}
    return way


def tokens_of(job):
    """That go through all layers in one repetition, padding not counted: bench/jobs.cpp counts the same."""
    if job["work"].startswith("looped"):
        return sum(len(e["problem"]) * len(e["rounds"]) for e in job["problems"])
    if job["work"] == "generation":
        return sum(len(e["problem"]) + job["new_tokens"] - 1 for e in job["problems"])
    return sum(len(sequence(e)) - 1 for e in job["problems"])


def main():
    global DEVICE
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else is printed is not an answer
    parser = argparse.ArgumentParser(description="The jobs in PyTorch; requests on standard input: the head of this file.")
    parser.add_argument("jobs", metavar="JOBS.json", help="which `jobs --describe` or `gpu_jobs --describe` writes")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options = parser.parse_args()
    with open(options.jobs) as file:
        jobs = {job["name"]: job for job in json.load(file)["jobs"]}
    DEVICE = options.device
    torch.set_flush_denormal(True)
    about = dict(torch=torch.__version__, python=sys.version.split()[0])
    if on_gpu():
        if not torch.cuda.is_available():
            sys.exit("this PyTorch finds no GPU")
        about["gpu"] = torch.cuda.get_device_name()
        torch.set_float32_matmul_precision("highest")  # float32 is float32
        if hasattr(torch, "_dynamo"):
            torch._dynamo.config.cache_size_limit = 64  # each way is compiled anew
    print(json.dumps(about), file=answers)
    ways = {}
    for line in sys.stdin:
        try:
            name, scalars, threads, variant, seconds, *within = line.split()
            job, threads, seconds = jobs[name], int(threads), float(seconds)
            if scalars not in ("float32", "bf16") or variant not in VARIANTS[DEVICE] or threads < 1:
                raise ValueError("no such scalars, variant or threads")
            torch.set_num_threads(threads)
            key = (name, scalars, threads, variant)
            if key not in ways:
                if on_gpu():
                    ways[key] = choose_on_gpu(job, scalars, variant, float(within[0]) if within else math.inf)
                else:
                    ways[key] = choose(job, scalars, threads, variant)
            way = ways[key]
            torch.set_num_threads(way.threads)
            each, repetitions = seconds_of(way, seconds)
            answer = dict(rate=job["units"] / each, repetitions=repetitions, way=way.name, threads=way.threads, tokens=tokens_of(job),
                          parameters=sum(p.numel() for p in way.model.parameters()), tried=way.tried)
            if on_gpu():
                answer.update(failed=way.failed, bytes=torch.cuda.max_memory_allocated())
        except Absent as absent:
            answer = dict(absent=str(absent))
        except (KeyError, ValueError) as error:
            answer = dict(error=f"{type(error).__name__}: {error} in the request: {line.strip()}")
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
