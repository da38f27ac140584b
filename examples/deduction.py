#!/usr/bin/env python3
"""Writes a small data set of one's own for relay: who has the key? (Python 3 alone.)

    {"problem": "ben gives it to eve . the key is with tom . tom gives it to ben .",
     "rounds": ["the key is with ben", "the key is with eve"], "answer": "eve"}

People hand an object on, and the sentences that tell of it stand in any order. Each round of the chain of thought is the next
deduction: where the object is after one more hand-over. So there are as many rounds as hand-overs, the length of a problem.

    examples/deduction.py DIR [SEED]     writes into DIR:
      train.jsonl     20000 examples of 1..6 hand-overs
      test.jsonl      200 of each length 1..9 (of 1: 100): 7..9 are longer than any that is trained on
      longer.jsonl    500 problems of each length 7..9, with the number of their rounds but no rounds and no answer

The same seed gives the same files. No problem stands in them twice.
"""
import json
import os
import random
import sys

NAMES = "ann ben cid dan eve fay gus hal ida jim kay leo max ned oli pam ray sue tom una".split()
THINGS = "key map cup pen".split()


def example(draw, length):
    """A problem of so many hand-overs, its rounds and its answer."""
    people = draw.sample(NAMES, length + 1)
    thing = draw.choice(THINGS)
    sentences = [f"the {thing} is with {people[0]} ."]
    sentences += [f"{giver} gives it to {taker} ." for giver, taker in zip(people, people[1:])]
    draw.shuffle(sentences)
    return {
        "problem": " ".join(sentences),
        "rounds": [f"the {thing} is with {taker}" for taker in people[1:]],
        "answer": people[-1],
    }


def main():
    if len(sys.argv) not in (2, 3) or not (sys.argv[2:] or ["1"])[0].isdigit():
        sys.exit("usage: examples/deduction.py DIR [SEED], e.g. examples/deduction.py runs/key")
    folder, draw, known = sys.argv[1], random.Random(int((sys.argv[2:] or ["1"])[0])), set()

    def fresh(length):
        while (made := example(draw, length))["problem"] in known:
            pass
        known.add(made["problem"])
        return made

    def write(name, lines):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)

    os.makedirs(folder, exist_ok=True)
    write("test.jsonl", [fresh(length) for length in range(1, 10) for _ in range(100 if length == 1 else 200)])
    longer = [fresh(length) for length in range(7, 10) for _ in range(500)]
    write("longer.jsonl", [{"problem": e["problem"], "iterations": len(e["rounds"])} for e in longer])
    write("train.jsonl", [fresh(length) for length in draw.choices(range(1, 7), range(1, 7), k=20000)])


if __name__ == "__main__":
    main()
