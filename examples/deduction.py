#!/usr/bin/env python3
"""Writes a small data set of one's own for relay: who has the key in the end? (Python 3 alone.)

    {"problem": "the key is with ann . ben swaps with ann . cid swaps with eve",
     "rounds": ["the key is with ben . cid swaps with eve", "the key is with ben"], "answer": "ben"}

A small relative of "tracking shuffled objects" of BIG-bench: people swap what they hold, one swap after another. Each round of the
chain of thought deduces what one swap changes, and says what is still to be told. So there are as many rounds as swaps, the length
of a problem.

    examples/deduction.py DIR [SEED]     writes into DIR:
      train.jsonl     10000 examples of 1..6 swaps
      test.jsonl      100 of each length 1..9, none of them in train.jsonl; 7..9 are longer than any that is trained on
      longer.jsonl    1000 problems of each length 7..9, with the number of their rounds, but no rounds and no answer

The same seed gives the same files.
"""
import json
import os
import random
import sys

NAMES = "ann ben cid dan eve".split()
THINGS = "key map cup pen".split()


def example(draw, length):
    """A problem of so many swaps, its rounds and its answer."""
    thing, holder = draw.choice(THINGS), draw.choice(NAMES)
    swaps = [draw.sample(NAMES, 2) for _ in range(length)]
    told = [f"{a} swaps with {b}" for a, b in swaps]
    states = [f"the {thing} is with {holder}"]
    for a, b in swaps:
        holder = {a: b, b: a}.get(holder, holder)
        states.append(f"the {thing} is with {holder}")
    texts = [" . ".join([state] + told[done:]) for done, state in enumerate(states)]
    return {"problem": texts[0], "rounds": texts[1:], "answer": holder}


def main():
    if len(sys.argv) not in (2, 3) or not (sys.argv[2:] or ["1"])[0].isdigit():
        sys.exit("usage: examples/deduction.py DIR [SEED], e.g. examples/deduction.py runs/key")
    folder, draw, known = sys.argv[1], random.Random(int((sys.argv[2:] or ["1"])[0])), set()

    def fresh(length):
        while (made := example(draw, length))["problem"] in known:
            pass
        return made

    def write(name, examples):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.writelines(json.dumps(e) + "\n" for e in examples)

    os.makedirs(folder, exist_ok=True)
    test = []
    for length in range(1, 10):
        for _ in range(100):
            test.append(fresh(length))
            known.add(test[-1]["problem"])
    write("test.jsonl", test)
    write("train.jsonl", [fresh(length) for length in draw.choices(range(1, 7), range(1, 7), k=10000)])
    longer = [fresh(length) for length in range(7, 10) for _ in range(1000)]
    write("longer.jsonl", [{"problem": e["problem"], "iterations": len(e["rounds"])} for e in longer])


if __name__ == "__main__":
    main()
