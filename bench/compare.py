#!/usr/bin/env python3
"""bench/compare.py --bench build/release/bench/jobs --python /path/with/torch/bin/python: relay against PyTorch.

The same jobs on the same problems (bench/jobs.cpp, bench/compare/peer.py), one side after the other, again and again, so that
both see the same machine: library, PyTorch eager, PyTorch compiled, library, ... Rates are medians over the alternations with
their range; the ratio is that of the medians, library over PyTorch's faster variant, and its range that of the ratios of
single alternations. "of the limit" is the library's FLOP/s over what registers give with the same scalars and threads.

Without --python, or where it has no torch, the library is measured alone. Standard library only.
"""
import argparse
import datetime
import json
import os
import platform
import re
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
PEER = os.path.join(HERE, "compare", "peer.py")
VARIANTS = ("eager", "compiled")


class Problem(Exception):
    """One line for the user."""


# --- The library ---


class Library:
    def __init__(self, program):
        self.program = program
        described = self.run("--describe")
        try:
            self.description = json.loads(described)
            self.jobs = {job["name"]: job for job in self.description["jobs"]}
        except (ValueError, KeyError, TypeError):
            raise Problem(f"{program} --describe does not describe jobs: give the program built from bench/jobs.cpp") from None
        names = self.run("--benchmark_list_tests").split()
        self.benchmarks = {name.removesuffix("/real_time") for name in names}

    def run(self, *arguments, timeout=None):
        try:
            done = subprocess.run([self.program, *arguments], capture_output=True, text=True, timeout=timeout)
        except subprocess.TimeoutExpired:
            raise Problem(f"{shlex.join([self.program, *arguments])} took longer than {timeout:.0f} s") from None
        except OSError as error:
            build = f"cmake --build --preset release --target bench_{os.path.basename(self.program)}"
            raise Problem(f"cannot run {self.program}: {error.strerror}: build it with: {build}") from None
        if done.returncode != 0:
            raise Problem(f"{shlex.join([self.program, *arguments])} failed: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
        return done.stdout

    def measure(self, benchmark, seconds):
        """Counters of one benchmark."""
        out = self.run(f"--benchmark_filter=^{re.escape(benchmark)}(/real_time)?$", f"--benchmark_min_time={seconds:g}",
                       "--benchmark_format=json")
        return json.loads(out)["benchmarks"][0]


# --- PyTorch ---


def tuned(mkl, directory):
    """PyTorch's environment: the allocator keeps its memory, and MKL uses the instructions that there are. (Idle OpenMP threads look
    for work for some milliseconds, as they come, and then sleep while the library runs.) What the caller has set stays."""
    defaults = dict(MALLOC_MMAP_MAX_="0", MALLOC_TRIM_THRESHOLD_="8000000000")
    if mkl == "tuned" and (preload := believing_mkl(directory)):
        defaults["LD_PRELOAD"] = preload
    return {name: os.environ.get(name, value) for name, value in defaults.items()}


def believing_mkl(directory):
    """A library to preload: MKL, PyTorch's float32 products, asks it whether the CPU is Intel's, and else takes no AVX-512: on a
    CPU of another make that has it, half the rate. None where no compiler is found."""
    library = os.path.join(directory, "believing_mkl.so")
    try:
        subprocess.run([os.environ.get("CC", "cc"), "-shared", "-fPIC", "-x", "c", "-", "-o", library], check=True, text=True,
                       capture_output=True, input="int mkl_serv_intel_cpu_true(void) { return 1; }\n")
    except (OSError, subprocess.CalledProcessError):
        print("compare.py: no C compiler as $CC or cc: on a CPU that is not Intel's PyTorch may do without AVX-512", file=sys.stderr)
        return None
    return library


class Peer:
    """A worker process, kept alive with what it has compiled while the library runs."""

    def __init__(self, python, description, threads, environment, *more):
        self.log = tempfile.TemporaryFile(mode="w+")
        environment = {**os.environ, **environment, "OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen([python, PEER, description, *more], env=environment, text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=self.log, start_new_session=True)
        self.versions = self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            last = (self.log.read().strip() or "no message").splitlines()[-1]
            raise Problem(f"the PyTorch worker ended (code {self.process.wait()}): {last}")
        return json.loads(line)

    def ask(self, *request):
        try:
            self.process.stdin.write(" ".join(map(str, request)) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # answer() says why
        answer = self.answer()
        if "error" in answer:
            raise Problem(f"the PyTorch worker: {answer['error']}")
        return answer

    def end(self):
        try:
            os.killpg(self.process.pid, signal.SIGTERM)  # its compile workers, too
        except ProcessLookupError:
            pass
        self.process.wait()
        self.log.close()


def torch_of(python):
    """The version of torch that an interpreter has, or None."""
    try:
        done = subprocess.run([python, "-c", "import torch; print(torch.__version__)"], capture_output=True, text=True)
    except OSError as error:
        raise Problem(f"cannot run --python {python}: {error.strerror}") from None
    return done.stdout.strip() if done.returncode == 0 else None


# --- Measuring ---


def compare(library, job, scalars, threads, pythons, options, description, environment):
    """One job, the sides in turn. Rates: {"relay" or "torch VERSION, VARIANT": [one per alternation]}."""
    benchmark = f"{job['name']}/{scalars}/threads:{threads}"
    result = dict(job=job["name"], scalars=scalars, threads=threads, unit=job["unit"], tokens=job["tokens"], parameters=job["parameters"],
                  rates={"relay": []}, flops=[], ways={}, absent={})
    peers = {torch: Peer(python, description, threads, environment) for torch, python in pythons.items()}
    try:
        for _ in range(options.alternations):
            counters = library.measure(benchmark, options.seconds)
            result["rates"]["relay"].append(counters[job["unit"]])
            result["flops"].append(counters["flops"])
            for torch, peer in peers.items():
                for variant in options.variants:
                    side = f"torch {torch}, {variant}"
                    if side in result["absent"]:
                        continue
                    answer = peer.ask(job["name"], scalars, threads, variant, options.seconds)
                    if "absent" in answer:
                        result["absent"][side] = answer["absent"]
                        continue
                    for what in ("tokens", "parameters"):
                        if answer[what] != job[what]:
                            raise Problem(f"{job['name']}: not the same job: {what} {job[what]} here, {answer[what]} in PyTorch")
                    result["rates"].setdefault(side, []).append(answer["rate"])
                    result["ways"][side] = dict(way=answer["way"], threads=answer["threads"], seconds_tried=answer["tried"])
    finally:
        for peer in peers.values():
            peer.end()
    sides = [side for side in result["rates"] if side != "relay"]
    result["best"] = max(sides, key=lambda side: statistics.median(result["rates"][side]), default=None)
    return result


def scale(library, job, scalars, options):
    """The library alone with one thread and with two, in turn: the machine may be faster at one time than at another."""
    rates = {1: [], 2: []}
    for _ in range(options.alternations):
        for threads, of_these in rates.items():
            of_these.append(library.measure(f"{job['name']}/{scalars}/threads:{threads}", options.seconds)[job["unit"]])
    return dict(job=job["name"], scalars=scalars, unit=job["unit"], rates=rates)


def limit(library, scalars, threads):
    """The best of a few: whatever else runs on the machine can only lower it."""
    benchmark = f"machine_limit/{scalars}/threads:{threads}"
    return max(library.measure(benchmark, 0.3)["flops"] for _ in range(5)) if benchmark in library.benchmarks else None


# --- Reporting ---


def short(rate):
    return f"{rate:.0f}" if rate >= 1000 else f"{rate:.4g}"


def spread(rates, form):
    return f"{form(statistics.median(rates))} [{form(min(rates))} .. {form(max(rates))}]"


def ratio(ours, theirs):
    """Of the medians, with the range of the single alternations'."""
    each = [a / b for a, b in zip(ours, theirs)]
    return f"{statistics.median(ours) / statistics.median(theirs):.2f} [{min(each):.2f} .. {max(each):.2f}]"


def row(result, limits):
    ours, best = result["rates"]["relay"], result["best"]
    limit_here = limits.get((result["scalars"], result["threads"]))
    way = result["ways"].get(best)
    return [result["job"], result["scalars"], str(result["threads"]), result["unit"] + "/s", spread(ours, short),
            spread(result["rates"][best], short) if best else "", ratio(ours, result["rates"][best]) if best else "",
            f"{statistics.median(result['flops']) / limit_here:.0%}" if limit_here else "",
            f"{best}: {way['way']}" + (", 1 thread" if way["threads"] < result["threads"] else "") if best else ""]


HEADER = ["job", "scalars", "threads", "unit", "relay", "PyTorch", "relay / PyTorch", "of the limit", "PyTorch, the fastest way"]


def markdown(rows, header):
    lines = [header, ["---"] * len(header)] + rows
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def variants(results):
    """Every side of every job."""
    return [[r["job"], r["scalars"], str(r["threads"]), side, spread(rates, short), r["ways"][side]["way"],
             str(r["ways"][side]["threads"])] for r in results for side, rates in r["rates"].items() if side != "relay"]


VARIANTS_HEADER = ["job", "scalars", "threads", "variant", "rate", "fastest way", "threads that were fastest"]


SCALING_HEADER = ["job", "scalars", "unit", "1 thread", "2 threads", "2 threads / 1"]


def scaling(scaled):
    return [[s["job"], s["scalars"], s["unit"] + "/s", spread(s["rates"][1], short), spread(s["rates"][2], short),
             ratio(s["rates"][2], s["rates"][1])] for s in scaled]


def across(results):
    """The library in bf16 against PyTorch in float32, where both were measured."""
    by_scalars = {(r["job"], r["threads"], r["scalars"]): r for r in results if r["best"]}
    pairs = [(r, by_scalars.get((r["job"], r["threads"], "float32"))) for r in results if r["scalars"] == "bf16"]
    return [[ours["job"], str(ours["threads"]), ratio(ours["rates"]["relay"], theirs["rates"][theirs["best"]])]
            for ours, theirs in pairs if theirs]


def report(about, results, limits, scaled, options):
    parts = [f"# relay {about['revision']}{'' if about['torch'] == 'none' else ' against PyTorch'}, {about['date']}", ""]
    parts += [f"* {name}: {about[name]}" for name in ("cpu", "compiler", "flags", "relay", "torch", "environment", "command") if name in about]
    for (scalars, threads), flops in limits.items():
        parts.append(f"* limit, {scalars}, {threads} thread{'s' if threads > 1 else ''}: {flops / 1e9:.0f} GFLOP/s")
    parts += ["", f"Medians of {options.alternations} alternations of {options.seconds:g} s or more, [least .. most].", ""]
    if results:
        parts += [markdown([row(r, limits) for r in results], HEADER), ""]
    if across(results):
        parts += ["relay in bf16 against PyTorch in float32:", "", markdown(across(results), ["job", "threads", "ratio"]), ""]
    if scaled:
        parts += ["relay, two threads against one, in turn:", "", markdown(scaling(scaled), SCALING_HEADER), ""]
    if variants(results):
        parts += ["PyTorch's variants:", "", markdown(variants(results), VARIANTS_HEADER), ""]
    absent = {side: why for r in results for side, why in r["absent"].items()}
    parts += [f"* Not measured: {side}: {why}" for side, why in absent.items()]
    return "\n".join(parts) + "\n"


def cpu_model():
    try:
        with open("/proc/cpuinfo") as file:
            model = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
            return f"{model}, {os.cpu_count()} cores"
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def build_of(library):
    """Compiler and flags of the program, from the build directory it lies in."""
    compiler, flags = library.description["compiler"], "unknown: no compile_commands.json beside the program"
    directory = os.path.dirname(os.path.abspath(library.program))
    while directory != os.path.dirname(directory):
        commands = os.path.join(directory, "compile_commands.json")
        if os.path.exists(commands):
            with open(commands) as file:
                for entry in json.load(file):
                    if entry["file"].endswith("bench/jobs.cpp"):
                        words = shlex.split(entry["command"])
                        kept = re.compile(r"-(O|march|mtune|std|f|DNDEBUG|g)")
                        return f"{os.path.basename(words[0])} {compiler}", " ".join(w for w in words[1:] if kept.match(w))
        directory = os.path.dirname(directory)
    return compiler, flags


def revision():
    done = subprocess.run(["git", "-C", HERE, "describe", "--always", "--dirty"], capture_output=True, text=True)
    return os.environ.get("RELAY_COMMIT") or done.stdout.strip() or "of no known revision"


def positive_integer(text):
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is not a positive integer")
    return int(text)


def positive_number(text):
    if not re.fullmatch(r"\d+(\.\d+)?", text) or float(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return float(text)


def parse():
    parser = argparse.ArgumentParser(description="Compares relay with PyTorch on the same jobs.",
                                     epilog="What the numbers mean: the head of this file.")
    parser.add_argument("--bench", required=True, metavar="PATH", help="the program built from bench/jobs.cpp")
    parser.add_argument("--python", action="append", default=[], metavar="PATH", help="an interpreter that has torch; may be repeated")
    parser.add_argument("--jobs", default="", metavar="REGEX", help="only jobs whose name matches, e.g. 'paper/.*training'")
    parser.add_argument("--scalars", nargs="+", default=["float32", "bf16"], choices=["float32", "bf16"],
                        help="those that the program has (both)")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], choices=[1, 2], help="(1 2)")
    parser.add_argument("--alternations", type=positive_integer, default=5, help="how often the sides take turns (%(default)s)")
    parser.add_argument("--seconds", type=positive_number, default=5, help="that a side measures for at a time, at least (%(default)s)")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS,
                        help="of PyTorch, each in all its ways (all); the ratio is then that to the fastest of these")
    parser.add_argument("--scaling", action="store_true", help="the library's 2 threads against 1; without --python nothing else")
    parser.add_argument("--mkl", default="tuned", choices=["tuned", "plain"],
                        help="tuned: PyTorch's MKL is made to use AVX-512 on any CPU that has it; plain: as it comes (%(default)s)")
    parser.add_argument("--out", metavar="NAME", help="writes NAME.json and NAME.md")
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
    library = Library(options.bench)
    versions = {python: torch_of(python) for python in options.python}
    pythons = {torch: python for python, torch in versions.items() if torch}
    without = [python for python, torch in versions.items() if not torch]
    if without or not pythons:
        print("compare.py: no torch" + (f" in {', '.join(without)}" if without else ": give --python") +
              ("" if pythons else "; the library is measured alone"), file=sys.stderr)
    chosen = [job for job in library.jobs.values() if re.search(options.jobs, job["name"])]
    if not chosen:
        raise Problem(f"no job matches --jobs '{options.jobs}': there are {', '.join(library.jobs)}")
    measurements = [(job, scalars, threads) for threads in options.threads for scalars in options.scalars for job in chosen
            if f"{job['name']}/{scalars}/threads:{threads}" in library.benchmarks]
    if not measurements:
        raise Problem(f"{options.bench} has no jobs with {', '.join(options.scalars)}")

    about = dict(revision=revision(), date=datetime.datetime.now().astimezone().isoformat(timespec="seconds"), cpu=cpu_model(),
                 torch=", ".join(pythons) or "none", command=shlex.join(os.path.basename(a) if os.path.isabs(a) else a for a in sys.argv))
    about["compiler"], about["flags"] = build_of(library)
    about["relay"] = "trains " + "; ".join(dict.fromkeys(
        f"{job['name'].split('/')[0]} in {job['lanes']} lanes, {job['slices']} slice{'s' if job['slices'] > 1 else ''}" for job in chosen))
    kinds = dict.fromkeys((scalars, threads) for _, scalars, threads in measurements)
    limits = {kind: flops for kind in kinds if (flops := limit(library, *kind))}
    results, scaled = [], []
    if options.scaling:
        print(markdown([], SCALING_HEADER), flush=True)
        for job, scalars in dict.fromkeys((job["name"], scalars) for job, scalars, _ in measurements):
            scaled.append(scale(library, library.jobs[job], scalars, options))
            print("| " + " | ".join(scaling(scaled)[-1]) + " |", flush=True)
            if options.out:
                write(options.out, about, results, limits, scaled, options)
        if not pythons:
            measurements = []
    if measurements:
        print(markdown([], HEADER), flush=True)  # the rows follow as they are measured
    with tempfile.TemporaryDirectory() as directory:
        description = os.path.join(directory, "jobs.json")
        with open(description, "w") as file:
            json.dump(library.description, file)
        environment = tuned(options.mkl, directory)
        about["environment"] = "of PyTorch: OMP_NUM_THREADS=threads " + " ".join(f"{k}={os.path.basename(v)}" for k, v in environment.items())
        for job, scalars, threads in measurements:
            results.append(compare(library, job, scalars, threads, pythons, options, description, environment))
            print("| " + " | ".join(row(results[-1], limits)) + " |", flush=True)
            if options.out:  # after every job: what has been measured is not lost
                write(options.out, about, results, limits, scaled, options)


def write(name, about, results, limits, scaled, options):
    with open(name + ".md", "w") as file:
        file.write(report(about, results, limits, scaled, options))
    with open(name + ".json", "w") as file:
        limit_list = [dict(scalars=scalars, threads=threads, flops=flops) for (scalars, threads), flops in limits.items()]
        json.dump(dict(about=about, limits=limit_list, results=results, scaling=scaled), file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    try:
        main()
    except Problem as problem:
        sys.exit(f"compare.py: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)
