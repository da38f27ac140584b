#!/usr/bin/env python3
"""bench/compare_gpu.py --bench build/release/bench/gpu_jobs --python /path/with/torch/bin/python: relay against PyTorch on a GPU.

The same jobs on the same problems (bench/gpu_jobs.cpp, bench/compare/peer.py), one after the other: the library, PyTorch's variants,
each in a process of its own that has all of the GPU's memory, and the library again. The batches of the library are the mixture as it
comes, ragged; those of PyTorch are of one task and length each, the same problems, sorted. Rates are medians with their range. "of the
matrix rate": the library's FLOP/s over those of a large product of the same library with the same scalars in the same run.

PyTorch's variants: eager; compiled, torch.compile's default mode; graphs, compiled code as CUDA graphs. Each is tried in several
ways, and the fastest is kept.

Without --python, or where it has no torch, the library is measured alone. With --minutes, what there is no time for is left out, and
said so. Without a GPU: one line, and exit code 77. Standard library only.
"""
import argparse
import datetime
import json
import os
import re
import select
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from compare import Library, Peer, Problem, markdown, positive_integer, positive_number, revision, short, spread, torch_of

VARIANTS = ("compiled", "eager", "graphs")  # in this order, all jobs of one before the next: there may not be time for all
MATRIX = "matrix_rate/{}/8192x8192x8192"


class Clock:
    def __init__(self, seconds):
        self.end = time.monotonic() + seconds

    def left(self):
        return self.end - time.monotonic()

    def timeout(self):
        return max(self.left(), 1) if self.left() < 1e6 else None


class TimedPeer(Peer):
    """A worker on the GPU that is waited for only so long."""

    def __init__(self, clock, python, description):
        self.clock = clock
        super().__init__(python, description, 1, {}, "--device", "cuda")

    def answer(self):
        ready, _, _ = select.select([self.process.stdout], [], [], self.clock.timeout())
        if not ready:
            raise Problem("the PyTorch worker: no time left")
        return super().answer()


# --- Measuring ---


def rates(library, clock, pattern, seconds, repetitions=1):
    """{benchmark: [counters of each repetition]}."""
    out = library.run(f"--benchmark_filter=^{pattern}(/real_time)?$", f"--benchmark_min_time={seconds:g}",
                      f"--benchmark_repetitions={repetitions}", "--benchmark_format=json", timeout=clock.timeout())
    measured = {}
    for one in json.loads(out)["benchmarks"]:
        if one.get("run_type", "iteration") != "iteration":
            continue
        name = re.sub(r"/(real_time|repeats:\d+)", "", one["name"])
        if one.get("error_occurred"):
            print(f"{name}: {one.get('error_message')}", file=sys.stderr)
            continue
        measured.setdefault(name, []).append(one)
    return measured


def measure_library(library, clock, result, job, options):
    """Of the numbers of slices, the fastest."""
    pattern = f"{re.escape(job['name'])}/{result['scalars']}(/slices:[0-9]+)?"
    if not result["slices"]:
        result["slices"] = {name: counters[0][job["unit"]] for name, counters in rates(library, clock, pattern, 0.3).items()}
    best = max(result["slices"], key=result["slices"].get)
    for counters in rates(library, clock, re.escape(best), options.seconds, options.times)[best]:
        result["rates"].setdefault("relay", []).append(counters[job["unit"]])
        result["flops"].append(counters["flops"])


def measure_variant(clock, result, job, variant, python, description, options):
    """A worker that takes much longer than it should to begin, to choose and to finish the last way is ended."""
    own = Clock(min(clock.left(), options.choosing + 60))
    peer = None
    try:
        if clock.left() < 20:
            raise Problem("no time left")
        peer = TimedPeer(own, python, description)
        for _ in range(options.times):
            answer = peer.ask(job["name"], result["scalars"], 1, variant, options.seconds, options.choosing)
            if "absent" in answer:
                raise Problem(answer["absent"])
            for what in ("tokens", "parameters"):
                if answer[what] != job[what]:
                    raise Problem(f"not the same job: {what} {job[what]} here, {answer[what]} in PyTorch")
            result["rates"].setdefault(variant, []).append(answer["rate"])
            result["ways"][variant] = {key: answer[key] for key in ("way", "tried", "failed", "bytes")}
    except Problem as problem:  # the other variants remain
        result["absent"][variant] = str(problem)
    finally:
        if peer:
            peer.end()


def compare(library, clock, jobs, python, description, options, write):
    results = [dict(job=job["name"], scalars=scalars, unit=job["unit"], tokens=job["tokens"], work=job["flops"], rates={}, flops=[], slices={},
                    ways={}, absent={}) for scalars in options.scalars for job in jobs]

    def each(what, measure):
        for result, job in zip(results, list(jobs) * len(options.scalars)):
            begin = time.monotonic()
            try:
                measure(result, job)
            except Problem as problem:
                result["absent"][what] = str(problem)
            if what in result["absent"]:
                said = f"not measured: {result['absent'][what]}"
            else:
                said = f"{short(statistics.median(result['rates'][what]))} {result['unit']}/s"
            print(f"{job['name']}, {result['scalars']}, {what}: {said} ({time.monotonic() - begin:.0f} s)", flush=True)
            write(results)

    each("relay", lambda result, job: measure_library(library, clock, result, job, options))
    if python:
        for variant in options.variants:
            each(variant, lambda result, job: measure_variant(clock, result, job, variant, python, description, options))
        if clock.left() > 15 * len(results):
            each("relay", lambda result, job: measure_library(library, clock, result, job, options))
    return results


# --- Reporting ---


def ratio(ours, theirs):
    """Of the medians, with the least and the most that single measurements could give."""
    least, most = min(ours) / max(theirs), max(ours) / min(theirs)
    return f"{statistics.median(ours) / statistics.median(theirs):.2f} [{least:.2f} .. {most:.2f}]"


HEADER = ["job", "scalars", "unit", "relay", "slices", *VARIANTS, *(f"relay / {variant}" for variant in VARIANTS), "TFLOP/s",
          "of the matrix rate"]


def row(result, machine):
    measured, ours = result["rates"], result["rates"].get("relay")
    matrix = machine.get(MATRIX.format(result["scalars"]))
    best = max(result["slices"], key=result["slices"].get, default="")
    cells = [result["job"], result["scalars"], result["unit"] + "/s", spread(ours, short) if ours else "", best.partition("slices:")[2]]
    cells += [spread(measured[v], short) if v in measured else "" for v in VARIANTS]
    cells += [ratio(ours, measured[v]) if ours and v in measured else "" for v in VARIANTS]
    flops = statistics.median(result["flops"]) if result["flops"] else None
    return cells + [f"{flops / 1e12:.1f}" if flops else "", f"{flops / matrix:.1%}" if flops and matrix else ""]


def report(about, machine, results, options):
    parts = [f"# relay {about['revision']} against PyTorch on a GPU, {about['date']}", ""]
    parts += [f"* {name}: {about[name]}" for name in ("gpu", "compiler", "torch", "command")]
    parts += [f"* {name}: " + (f"{rate / 1e12:.1f} TFLOP/s" if name.startswith("matrix") else f"{rate / 1e9:.0f} GB/s, read and written")
              for name, rate in machine.items()]
    parts += ["", f"Medians of {options.times} times {options.seconds:g} s or more of each side, of relay twice that where there was time, [least .. most].", ""]
    parts += [markdown([row(r, machine) for r in results], HEADER), ""]
    slices = [[name, r["unit"] + "/s", short(rate)] for r in results for name, rate in r["slices"].items() if len(r["slices"]) > 1]
    if slices:
        parts += ["relay, by the number of slices that a batch is cut into (0.3 s each):", "", markdown(slices, ["job", "unit", "rate"]), ""]
    ways = [[r["job"], r["scalars"], variant, way, f"{seconds * 1e3:.1f}", "kept" if way == r["ways"][variant]["way"] else ""]
            for r in results for variant in r["ways"] for way, seconds in r["ways"][variant]["tried"].items()]
    if ways:
        parts += ["PyTorch's ways, milliseconds of a repetition:", "", markdown(ways, ["job", "scalars", "variant", "way", "ms", ""]), ""]
    parts += [f"* Failed: {r['job']}, {r['scalars']}, {variant}: {way}: {why}"
              for r in results for variant in r["ways"] for way, why in r["ways"][variant]["failed"].items()]
    parts += [f"* Not measured: {r['job']}, {r['scalars']}, {side}: {why}" for r in results for side, why in r["absent"].items()]
    return "\n".join(parts) + "\n"


def gpu():
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=60).stdout.strip() or "unknown"
    except (OSError, subprocess.TimeoutExpired):
        return "unknown: no nvidia-smi"


def parse():
    parser = argparse.ArgumentParser(description="Compares relay with PyTorch on a GPU.", epilog="What the numbers mean: the head of this file.")
    parser.add_argument("--bench", required=True, metavar="PATH", help="the program built from bench/gpu_jobs.cpp")
    parser.add_argument("--python", metavar="PATH", help="an interpreter that has torch")
    parser.add_argument("--jobs", default="", metavar="REGEX", help="only jobs whose name matches, e.g. 'training'")
    parser.add_argument("--scalars", nargs="+", default=["bf16"], choices=["float32", "bf16"], help="(bf16)")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS, help="of PyTorch (all)")
    parser.add_argument("--times", type=positive_integer, default=3, help="that a side is measured at a time (%(default)s)")
    parser.add_argument("--seconds", type=positive_number, default=1, help="of one time, at least (%(default)s)")
    parser.add_argument("--choosing", type=positive_number, default=45, metavar="SECONDS",
                        help="after which no further way of a variant is tried (%(default)s)")
    parser.add_argument("--minutes", type=positive_number, help="for all of it")
    parser.add_argument("--out", metavar="NAME", help="writes NAME.json and NAME.md, after every job")
    options = parser.parse_args()
    if options.out:
        options.out = re.sub(r"\.(json|md)$", "", options.out)
        if not os.access(os.path.dirname(os.path.abspath(options.out)), os.W_OK):
            parser.error(f"--out {options.out}: its directory is not there, or cannot be written to")
    try:
        re.compile(options.jobs)
    except re.error as error:
        parser.error(f"--jobs {options.jobs}: {error}")
    return options


def main():
    options = parse()
    clock = Clock(60 * options.minutes if options.minutes else float("inf"))
    try:
        asked = subprocess.run([options.bench, "--benchmark_list_tests"], capture_output=True, text=True)
        if asked.returncode == 77:
            print(asked.stderr.strip(), file=sys.stderr)
            sys.exit(77)
    except OSError:
        pass  # Library says what to do
    library = Library(options.bench)
    torch = torch_of(options.python) if options.python else None
    if not torch:
        print("compare_gpu.py: no torch" + (f" in {options.python}" if options.python else ": give --python") + "; the library is measured alone",
              file=sys.stderr)
    chosen = [job for job in library.jobs.values() if re.search(options.jobs, job["name"])]
    if not chosen:
        raise Problem(f"no job matches --jobs '{options.jobs}': there are {', '.join(library.jobs)}")
    about = dict(revision=revision(), date=datetime.datetime.now().astimezone().isoformat(timespec="seconds"), gpu=gpu(),
                 compiler=library.description["compiler"], torch=torch or "none",
                 command=shlex.join(os.path.basename(a) if os.path.isabs(a) else a for a in sys.argv))
    machine = {name: one[0]["flops" if "flops" in one[0] else "bytes"]
               for name, one in rates(library, clock, "(matrix_rate/.*|memory_rate)", 0.5).items()}
    write = (lambda results: write_files(options.out, about, machine, results, options)) if options.out else (lambda results: None)
    with tempfile.TemporaryDirectory() as directory:
        description = os.path.join(directory, "jobs.json")
        with open(description, "w") as file:
            json.dump(library.description, file)
        results = compare(library, clock, chosen, options.python if torch else None, description, options, write)
    print("\n" + markdown([row(r, machine) for r in results], HEADER))
    if any("relay" in r["absent"] for r in results):
        raise Problem("; ".join(f"{r['job']}: {r['absent']['relay']}" for r in results if "relay" in r["absent"]))


def write_files(name, about, machine, results, options):
    with open(name + ".md", "w") as file:
        file.write(report(about, machine, results, options))
    with open(name + ".json", "w") as file:
        json.dump(dict(about=about, machine=machine, results=results), file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that workers end, too
    try:
        main()
    except Problem as problem:
        sys.exit(f"compare_gpu.py: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)
