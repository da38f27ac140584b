"""The jobs of bench/jobs.cpp in PyTorch: a worker that bench/compare.py starts and asks for rates.

    jobs --describe > jobs.json
    peer.py jobs.json                                      -> {"torch": "2.15.0", ...}
    paper/looped_training_equal bf16 2 compiled 5          <- job, scalars, threads, variant, seconds: a line each
    {"rate": 17.2, "repetitions": 2, ...}                  -> a JSON line each

Variants: eager, compiled (torch.compile). Each is tried in several ways the first time it is asked for, and the fastest is kept:
scaled_dot_product_attention or attention written out; what is compiled; for inference in bf16, autocast or a model cast to it;
all threads or one. bf16 in training is autocast over float32 weights. Batches are tensors before the clock starts.

A looped batch holds problems of one length, sorted by columns, and an auto-regressive one sequences of about one length;
what padding is left is masked, and not counted.
"""
import itertools
import json
import math
import os
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

PAD, EOS = 0, 2
AT_ONCE = "problems at once:"
IGNORED = -100  # cross_entropy asks nothing here
FUSED, WRITTEN_OUT = "scaled_dot_product_attention", "attention written out"
HIDDEN = -1e9  # what attention adds to the score of a key that is not seen; finite, since a padded query may see no other


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

    def forward(self, x, *seen):
        x = x + self.attention(self.norm1(x), *seen)
        return x + self.feed_forward(self.norm2(x))


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
        self.block, self.norm = Stack(config), nn.LayerNorm(config["width"])

    def forward(self, h, *seen):  # one iteration; the normalised state goes back in
        return self.norm(self.block(h, *seen))


class Model(nn.Module):
    def __init__(self, config, causal):
        super().__init__()
        self.embedding = nn.Embedding(config["vocabulary"], config["width"])
        nn.init.normal_(self.embedding.weight, 0, 0.5)
        for name, table in zip(("cos", "sin"), rotary_table(config, causal)):
            self.register_buffer(name, table, persistent=False)

    def rotation(self, begin, end):
        """In the type that the layers compute in, or it would widen what it is multiplied with."""
        scalars = torch.bfloat16 if torch.is_autocast_cpu_enabled() else self.embedding.weight.dtype
        return self.cos[begin:end].to(scalars), self.sin[begin:end].to(scalars)


class LoopedTransformer(Model):
    def __init__(self, config):
        super().__init__(config, causal=False)
        self.loop = Loop(config)
        self.chain_head = nn.Linear(config["width"], config["vocabulary"])
        self.answer_head = nn.Linear(config["width"], config["vocabulary"])

    def states(self, batch):
        h = self.embedding(batch.tokens)
        rotation = self.rotation(0, batch.tokens.shape[1])
        mask = None if batch.mask is None else batch.mask.to(rotation[0].dtype)
        for _ in range(batch.iterations):
            h = self.loop(h, rotation, mask)
            yield h

    def loss(self, batch):
        chain = []
        for h in self.states(batch):
            chain.append(self.chain_head(h))
        rows, iterations = batch.tokens.shape[0], batch.iterations
        chain_loss = F.cross_entropy(torch.stack(chain).flatten(0, 2).float(), batch.targets, ignore_index=IGNORED, reduction="sum")
        answer_loss = F.cross_entropy(self.answer_head(h[:, -1]).float(), batch.answers)
        return 0.1 * answer_loss + chain_loss / (rows * iterations)

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
        mask = batch.mask.to(rotation[0].dtype)
        logits = self.head(self.norm(self.body(self.embedding(batch.tokens), rotation, mask, True)))
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
        self.keys, self.values = (torch.zeros(batch, config["heads"], positions, size, dtype=scalars) for _ in range(2))
        self.filled = 0

    def extend(self, k, v):
        begin, self.filled = self.filled, self.filled + k.shape[2]
        self.keys[:, :, begin:self.filled], self.values[:, :, begin:self.filled] = k, v
        return self.keys[:, :, :self.filled], self.values[:, :, :self.filled]


# --- Batches ---


def spread(rows, value):
    """Rows of unequal length as one tensor, the shorter ones filled on their left."""
    width = max(map(len, rows))
    return torch.tensor([[value] * (width - len(row)) + row for row in rows])


class LoopedBatch:
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


class CausalBatch:
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


def sequence(example):
    return example["problem"] + sum(example["rounds"], []) + [EOS]


# --- Ways to do a job ---


class Way:
    """One way to do a job: prepares what it needs; a call is one repetition, sample() a part of one, to choose by."""

    def __init__(self, job, scalars, attention, compiled, options, cast):
        self.job, self.config, self.scalars, self.cast = job, job["model"], scalars, cast
        self.looped = job["work"].startswith("looped")
        self.threads = torch.get_num_threads()
        torch.manual_seed(1)
        self.model = (LoopedTransformer if self.looped else CausalTransformer)(self.config)
        if cast:
            self.model.to(torch.bfloat16)
        for module in self.model.modules():
            if isinstance(module, Attention):
                module.fused = attention == FUSED
        self.compile(compiled, options)
        words = [attention, compiled and f"{compiled} compiled", *options, "cast to bf16" if cast else ""]
        self.name = ", ".join(filter(None, words))

    def compile(self, what, options):
        def compiled(function):
            mixed = self.job["batches"] > 1  # or the shape is one, and torch finds out what is not
            return torch.compile(function, dynamic=mixed or None, options={name: True for name in options} or None)

        if what == "step":
            self.model.next_token = compiled(self.model.next_token)
        elif what:
            kind = Layer if what == "layer" else Loop if self.looped else Stack
            for module in [m for m in self.model.modules() if isinstance(m, kind)]:
                module.forward = compiled(module.forward)

    def context(self):
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.scalars == "bf16" and not self.cast)

    def sizes(self):
        """Problems to take at once: fewer than all, whose activations or keys and values stay in the processor's cache, may be faster."""
        return [n for n in (8, 16, 32) if n < len(self.job["problems"])] if hasattr(self, "take_at_once") else []

    def sample(self):
        self()


class Training(Way):
    compiled = (("layer", ()), ("block", ()))

    def __init__(self, *way):
        super().__init__(*way)
        key = (lambda e: (len(e["rounds"]), len(e["problem"]))) if self.looped else (lambda e: len(sequence(e)))
        examples, size = sorted(self.job["problems"], key=key), self.job["batch"]
        dealt = [examples[i:i + size] for i in range(0, len(examples), size)]
        self.batches = [LoopedBatch(self.config, b) if self.looped else CausalBatch(b) for b in dealt]
        self.parameters = list(self.model.parameters())
        groups = [dict(params=[p for p in self.parameters if p.dim() > 1], weight_decay=0.01),
                  dict(params=[p for p in self.parameters if p.dim() == 1], weight_decay=0.0)]
        try:
            self.optimiser = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.98), fused=True)
        except (TypeError, RuntimeError):  # a release that has none, or none for a CPU
            self.optimiser = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.98), foreach=True)

    def step(self, batch):
        self.optimiser.zero_grad(set_to_none=True)
        with self.context():
            loss = self.model.loss(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        return loss.item()

    def __call__(self):
        for batch in self.batches:
            self.step(batch)

    def sample(self):
        self.step(self.batches[len(self.batches) // 2])


class LoopedInference(Way):
    compiled = (("layer", ()), ("block", ()), ("block", ("freezing",)))

    def __init__(self, *way):
        super().__init__(*way)
        self.model.eval()
        self.take_at_once(len(self.job["problems"]))

    def take_at_once(self, count):
        problems = self.job["problems"]
        self.batches = [LoopedBatch(self.config, problems[i:i + count]) for i in range(0, len(problems), count)]

    def __call__(self):
        with torch.no_grad(), self.context():
            solved = [self.model.solve(batch) for batch in self.batches]
        return [(rounds.tolist(), answers.tolist()) for rounds, answers in solved]


class Generation(Way):
    compiled = (("layer", ()), ("step", ()), ("step", ("freezing",)))

    def __init__(self, *way):
        super().__init__(*way)
        self.model.eval()
        self.prompts = torch.tensor([e["problem"] for e in self.job["problems"]])
        self.begin = self.prompts.shape[1]
        self.positions = self.begin + self.job["new_tokens"] - 1  # the last token is not read
        scalars = torch.bfloat16 if self.scalars == "bf16" else torch.float32
        self.causal = torch.full((self.begin, self.begin), HIDDEN).triu(1).to(scalars)
        self.take_at_once(len(self.prompts))

    def take_at_once(self, count):
        self.at_once = count
        scalars = self.causal.dtype
        self.caches = [KvCache(self.config, count, self.positions, scalars) for _ in self.model.body.layers]

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
                token = self.model.next_token(prompts, self.model.rotation(0, self.begin), self.causal, True, self.caches)
                written += torch.cat([token] + self.write(token, self.begin, self.positions), 1).tolist()
        return written

    def sample(self):
        """Some tokens in the middle."""
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
    calls, begin = 0, time.perf_counter()
    while calls == 0 or time.perf_counter() - begin < at_least:
        function()
        calls += 1
    return (time.perf_counter() - begin) / calls, calls


def fresh(kind, arguments):
    """Without what was compiled for another way: every call would look through it."""
    if arguments[3]:
        torch._dynamo.reset()
    return kind(*arguments)


def choose(job, scalars, threads, variant):
    """The fastest way, warm."""
    kind = WAYS[job["work"]]
    attentions = (WRITTEN_OUT, FUSED) if hasattr(F, FUSED) else (WRITTEN_OUT,)
    casts = (True, False) if scalars == "bf16" and kind != Training else (False,)
    if variant == "compiled" and not hasattr(torch, "compile"):
        raise Absent(f"PyTorch {torch.__version__} has no torch.compile")
    tried, failure = [], None
    for attention, cast, (compiled, options) in itertools.product(
            attentions, casts, kind.compiled if variant == "compiled" else (("", ()),)):
        arguments = (job, scalars, attention, compiled, options, cast)
        try:
            way = fresh(kind, arguments)
            way.sample()
            way.sample()  # the second may compile again, for other shapes
            tried.append((seconds_of(way.sample, 0.5)[0], way.name, arguments))
        except Exception as error:  # whatever a compiler throws; the other ways remain
            failure = f"{type(error).__name__}: {error}".splitlines()[0]
    if not tried:
        raise Absent(failure)
    seconds, _, arguments = min(tried, key=lambda one: one[0])
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
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else is printed is not an answer
    if len(sys.argv) != 2:
        sys.exit("usage: peer.py JOBS.json, which `jobs --describe` writes; requests on standard input")
    with open(sys.argv[1]) as file:
        jobs = {job["name"]: job for job in json.load(file)["jobs"]}
    torch.set_flush_denormal(True)
    print(json.dumps(dict(torch=torch.__version__, python=sys.version.split()[0])), file=answers)
    ways = {}
    for line in sys.stdin:
        try:
            name, scalars, threads, variant, seconds = line.split()
            job, threads, seconds = jobs[name], int(threads), float(seconds)
            if scalars not in ("float32", "bf16") or variant not in ("eager", "compiled") or threads < 1:
                raise ValueError("no such scalars, variant or threads")
            torch.set_num_threads(threads)
            key = (name, scalars, threads, variant)
            if key not in ways:
                ways[key] = choose(job, scalars, threads, variant)
            way = ways[key]
            torch.set_num_threads(way.threads)
            each, repetitions = seconds_of(way, seconds)
            answer = dict(rate=job["units"] / each, repetitions=repetitions, way=way.name, threads=way.threads, tokens=tokens_of(job),
                          parameters=sum(p.numel() for p in way.model.parameters()), tried=way.tried)
        except Absent as absent:
            answer = dict(absent=str(absent))
        except (KeyError, ValueError) as error:
            answer = dict(error=f"{type(error).__name__}: {error} in the request: {line.strip()}")
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
