#!/usr/bin/env python3
"""scaling.py: the tables of doc/scaling.md, computed: bytes a link, memory a GPU, step time, where it stops scaling.

    python3 dev/scaling.py [TABLE...]     print the tables (all of them)
    python3 dev/scaling.py --check        compare with doc/scaling.md; exit 1 where they differ
    python3 dev/scaling.py --write        put them into doc/scaling.md

In the document a table stands below a line `<!-- scaling.py NAME -->`. The symbols are explained there. Standard library only.
"""
import math
import sys
from pathlib import Path
from statistics import NormalDist

DOC = Path(__file__).resolve().parent.parent / "doc" / "scaling.md"
GiB, GB = 2.0**30, 1e9

# ------------------------------------------------------------------------------------------------------------------------------
# numbers that are not computed; the document says of each whether it was measured

PEAK = 989.4e12           # bf16 FLOP/s of an H200, vendor
RATE_8B = 12000.0         # tokens/s of one GPU, Llama-3-8B, rows of 8,192: measured 11,425 to 12,200, by card
ROW = 8192                # tokens a row
HOST = 8                  # GPUs a host
USABLE = 139.0            # GiB of an H200
HBM = 4.27e12             # bytes/s, device copy, measured
RS_IN, AG_IN, AR_IN = 332 * GB, 334 * GB, 352 * GB   # bus bandwidth in a host, NCCL, NVLS off, 512 MiB, measured
PORT = 50 * GB            # bytes/s and direction of a 400 Gb/s port, one a GPU, vendor
SHARE = 0.8               # of a port that a collective gets: assumed
NET = PORT * SHARE
HOP_IN, HOP_NET = 3.4e-6, 14e-6   # seconds a ring step, constants of NCCL's own cost model (protocol Simple)
PCIE = 55 * GB            # bytes/s, device to host, all links at once, published
GPU_HOURS_A_FAILURE = 54 * 24 * 16384 / 419   # published: Llama 3 405B, 419 unexpected stops in 54 days on 16,384 GPUs


class Model:
    def __init__(self, name, layers, width, ffn, heads, kv_heads, vocab, head_dim=128):
        self.name, self.L, self.C, self.F, self.V, self.heads = name, layers, width, ffn, vocab, heads
        self.A, self.KV = heads * head_dim, kv_heads * head_dim
        self.matrices = width * (self.A + 2 * self.KV) + self.A * width + 3 * width * ffn     # of a layer
        self.layer = self.matrices + 2 * width
        self.embedding = vocab * width
        self.P = layers * self.layer + 2 * self.embedding + width
        self.products = layers * self.matrices + self.embedding                               # weights of matrix products
        self.attention = 2 * layers * self.A * (ROW + 1)                                      # FLOPs a token, forward, causal
        self.flops = 3 * (2 * self.products + self.attention)                                 # forward and backward

    def activations(self, rows, recompute):   # bytes, as train_findap.cu places them
        n, W = rows * ROW, self.A + 2 * self.KV
        big = 2 * (4 * self.C + W + self.A + 3 * self.F) + 4 * (self.heads + 2)               # kept for each layer; bf16, statistics fp32
        piece = 2 * (3 * self.C + W + self.A + 2 * self.F) + 4 * self.heads                   # block: one buffer for all
        kept = self.L * big if recompute == "none" else self.L * (2 * self.C + 8) + piece - 2 * self.C   # x2 and norm2 share nothing, norm1 and norm2 do
        around = 2 * (5 * self.C + W + self.A) + 4 * (self.heads + 2)
        chunk = (1 << 30) // (2 * self.V) // 256 * 256                                        # rows of logits at a time
        logits = chunk * self.V * 2
        scratch = max(logits, 2 * n * self.F, 2 * n * ROW * 16 if recompute == "none" and rows == 1 else 0)
        return n * (kept + around) + chunk * self.C * 2 + (64 << 20) + scratch


M8 = Model("8B", 32, 4096, 14336, 32, 8, 128256)
M70 = Model("70B", 80, 8192, 28672, 64, 8, 128256)
FLOPS = RATE_8B * M8.flops   # FLOP/s of a GPU at that rate; the 70B is taken to reach the same


def rate(m, recompute="none"):   # tokens/s of one GPU that only computes
    again = m.flops / 3 - 2 * m.embedding if recompute == "block" else 0   # the layers' forward pass once more
    return FLOPS / (m.flops + again)


MOMENTS = {"fp32": 8.0, "bf16": 4.0, "8bit": 2 * (1 + 4 / 256)}   # bytes a parameter, both
GRADS = {"fp32": 4, "bf16": 2}


def states(m, zero, shards, grads="fp32", moments="fp32"):
    """Bytes of weights, gradients and optimizer on one GPU. In flight: two layers and the LM head."""
    g, flight = GRADS[grads], 2 * m.layer + m.embedding
    state = (2 + MOMENTS[moments]) * m.P / shards
    if shards == 1:
        return (2 + g) * m.P + state
    weights = 2 * m.P if zero < 3 else 2 * m.P / shards + 2 * flight
    gradients = g * m.P if zero < 2 else g * m.P / shards + g * flight
    return weights + gradients + state


def exchange(m, size, hosts, gpus, bus, replicas=1, net=NET):
    """Seconds in the host, on the network, of the replicas' sum, and of latency, to reduce-scatter or all-gather `size` bytes a parameter of the model
    over gpus x hosts in two levels, both rings; replicas > 1: then all-reduce the shards over so many hosts, in a tree."""
    inside = size * m.P * (gpus - 1) / gpus / bus
    outside = size * m.P / gpus * (hosts - 1) / hosts / net
    summed = 2 * size * m.P / (gpus * hosts) * (replicas - 1) / replicas / net
    latency = (m.L + 2) * ((gpus - 1) * HOP_IN + (hosts - 1 + 2 * math.ceil(math.log2(replicas))) * HOP_NET)
    return inside, outside, summed, latency


def lasts(pass_):   # the two levels side by side; the replicas' sum after them, on the same stream, as the program does it
    inside, outside, summed, latency = pass_
    return max(inside, outside) + summed + latency


class Step:
    """One step. zero: 1, 2, 3; shards: GPUs that share one copy of the state; tokens: of a GPU and step; micro: of a micro-batch."""
    def __init__(self, m, gpus, zero, shards, tokens, grads="fp32", moments="fp32", recompute="none", micro=None, net=NET):
        g, one = GRADS[grads], min(HOST, gpus)
        k = max(1, round(tokens / (micro or tokens)))          # micro-batches
        hosts, replicas = max(1, shards // one), gpus // shards
        second = 1 / FLOPS
        forward = tokens * m.flops / 3 * second
        backward = 2 * forward + (tokens * (m.flops / 3 - 2 * m.embedding) * second if recompute == "block" else 0)
        ag = exchange(m, 2, hosts, one, AG_IN, 1, net) if shards > 1 else (0, 0, 0, 0)
        rs = exchange(m, g, hosts, one, RS_IN, 1, net) if shards > 1 else (0, 0, 0, 0)
        last = exchange(m, g, hosts, one, RS_IN, replicas, net) if shards > 1 else (0, 0, 0, 0)   # of the last micro-batch: with the replicas
        self.t_ag, self.t_rs = lasts(ag), lasts(last)
        self.forward, self.backward = forward, backward
        plain = lasts(rs)
        if zero == 1:
            f = max(forward / k, self.t_ag) + forward * (k - 1) / k
            b = max(backward / k, self.t_rs) + backward * (k - 1) / k
        elif zero == 2:
            f = max(forward / k, self.t_ag) + forward * (k - 1) / k
            b = (k - 1) * max(backward / k, plain) + max(backward / k, self.t_rs)
        else:
            f = k * max(forward / k, self.t_ag)
            b = (k - 1) * max(backward / k, self.t_ag + plain) + max(backward / k, self.t_ag + self.t_rs)
        share = m.embedding / m.P                              # the embedding's gradient comes last, its weights are needed first
        self.ends = share * (sum(ag[:3]) + sum(last[:3])) + (ag[3] + last[3]) / (m.L + 2) if shards > 1 else 0.0
        self.update = (2 * g + 2 * (4 + MOMENTS[moments])) * m.P / shards / HBM                # the norm reads the gradient once more
        self.exposed = f + b - forward - backward
        self.time = f + b + self.ends + self.update
        self.rate = tokens / self.time
        self.efficiency = self.rate / rate(m, recompute)


# ------------------------------------------------------------------------------------------------------------------------------
# tables

TABLES = {}


def table(f):
    TABLES[f.__name__] = f
    return f


def render(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|---|" + "--:|" * (len(head) - 1)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def ms(seconds): return f"{seconds * 1e3:,.0f}" if seconds >= 0.01 else f"{seconds * 1e3:.1f}"
def percent(x): return f"{100 * x:.1f} %" if x > 0.0995 else f"{100 * x:.2f} %"
def number(n): return f"{n:,}"


@table
def models():
    rows = [["parameters P", *(f"{m.P:,}" for m in (M8, M70))],
            ["of a layer; of the embedding (the LM head has as many)", *(f"{m.layer / 1e6:,.0f} M; {m.embedding / 1e6:,.0f} M" for m in (M8, M70))],
            ["weights of matrix products", *(f"{m.products / 1e9:.3f} G" for m in (M8, M70))],
            ["FLOPs a token, forward and backward, s = 8,192", *(f"{m.flops / 1e9:.2f} G" for m in (M8, M70))],
            ["tok/s a GPU at " + f"{FLOPS / 1e12:.0f} TFLOP/s ({FLOPS / PEAK:.1%})", *(f"{rate(m):,.0f}" for m in (M8, M70))],
            ["the same with --recompute block", *(f"{rate(m, 'block'):,.0f}" for m in (M8, M70))],
            ["activations of 1 x 8,192 tokens, GiB", *(f"{m.activations(1, 'none') / GiB:.2f}" for m in (M8, M70))],
            ["the same with --recompute block", *(f"{m.activations(1, 'block') / GiB:.2f}" for m in (M8, M70))]]
    return render(["", "8B", "70B"], rows)


def memory(m):
    rows = []
    for grads, moments in (("fp32", "fp32"), ("bf16", "fp32"), ("bf16", "8bit")):
        for zero in (1, 2, 3):
            cells = [states(m, zero, s, grads, moments) / GiB for s in (1, 8, 16, 64, 512, 4096)]
            cells[0] = cells[0] if zero == 1 else math.nan
            rows.append([f"ZeRO-{zero}, {grads} gradients, {moments} moments"] + ["" if math.isnan(c) else f"{c:,.1f}" + ("" if c < USABLE else " no") for c in cells])
    return render(["GiB a GPU, the state shared by", "1", "8", "16", "64", "512", "4,096"], rows)


@table
def memory_8b(): return memory(M8)


@table
def memory_70b(): return memory(M70)


@table
def links():
    rows = []
    for m in (M8, M70):
        for hosts in (1, 2, 8, 64, 512):
            rs, ag = exchange(m, 2, hosts, HOST, RS_IN), exchange(m, 2, hosts, HOST, AG_IN)
            hybrid = exchange(m, 2, 1, HOST, RS_IN, hosts)
            outside = 2 * m.P / HOST * (hosts - 1) / hosts
            rows.append([f"{m.name}, {HOST * hosts:,} GPUs", f"{2 * m.P * 7 / 8 / GB:.2f}", f"{outside / GB:.2f}", ms(rs[0]), ms(ag[0]), ms(rs[1]), ms(rs[3]), ms(hybrid[2]), ms(hybrid[3])])
    return render(["bf16, one pass over the model", "GB a GPU sends by NVLink", "GB a port sends", "RS inside, ms", "AG inside, ms", "RS or AG outside, ms",
                   "their ring steps, ms", "hybrid: AR outside, ms", "its steps, ms"], rows)


@table
def hybrid_bytes():
    rows = []
    for m, zero, micro in ((M8, 1, 4), (M8, 2, 4), (M8, 3, 1), (M8, 3, 4), (M70, 3, 1), (M70, 3, 4)):
        gradients, weights = 4 * (1 if zero == 1 else micro) * m.P, 2 * (1 if zero < 3 else 2 * micro) * m.P   # bytes of all passes of a step
        cells = [f"{(gradients + weights) * (HOST - 1) / HOST / GB:,.1f}"]
        for hosts in (8, 64, 512):
            far = (hosts - 1) / hosts / HOST
            cells += [f"{(gradients + weights) * far / GB:.2f}", f"{2 * 4 * m.P * far / GB:.2f}"]
        rows.append([f"{m.name}, ZeRO-{zero}, {micro} micro-batch" + ("es" if micro > 1 else ""), *cells])
    return render(["GB sent in a step, fp32 gradients", "by NVLink, a GPU"] + [f"{HOST * hosts:,} GPUs: a port, {way}" for hosts in (8, 64, 512) for way in ("over all", "hybrid")], rows)


@table
def breakeven():
    rows = []
    for label, bus in (("NVLink in a host, 332 GB/s (measured)", RS_IN), ("8 ports of 400 Gb/s a host: 8 x 40 GB/s", HOST * NET), ("8 x 200 Gb/s", HOST * NET / 2),
                       ("one port of 400 Gb/s a host", NET), ("one of 100 Gb/s", NET / 4)):
        cells = []
        for windows, size in ((1, 2), (2, 2), (2, 4), (2, 4)):   # AG under the forward; RS bf16, RS fp32 under the backward; ZeRO-3: AG and RS bf16
            cells.append(size * M8.P / bus * FLOPS / (windows * M8.flops / 3))
        cells[3] = (2 + 2) * M8.P / bus * FLOPS / (2 * M8.flops / 3)
        rows.append([label, *(f"{c:,.0f}" for c in cells)])
    return render(["tokens a GPU and micro-batch below which it is exposed", "AG under the forward", "RS bf16 under the backward", "RS fp32", "ZeRO-3: AG and RS bf16"], rows)


def step_row(label, m, gpus, zero, shards, rows_a_gpu, note="", **more):
    s = Step(m, gpus, zero, shards, rows_a_gpu * ROW, micro=ROW if m is M70 else None, **more)
    tokens = gpus * rows_a_gpu * ROW
    memory = states(m, zero, shards, more.get("grads", "fp32"), more.get("moments", "fp32")) + m.activations(1 if m is M70 else rows_a_gpu, more.get("recompute", "none"))
    return [label, number(gpus), number(tokens), f"{memory / GiB:.0f}" + ("" if memory / GiB < USABLE else " no"), ms(s.forward), ms(s.backward), ms(s.t_ag), ms(s.t_rs),
            ms(s.exposed), ms(s.ends), ms(s.update), f"{s.time:.3f}", f"{s.rate:,.0f}", percent(s.efficiency), f"{3.84e9 / tokens:,.0f}", f"{3.84e9 / tokens * s.time / 3600:.2f}"]


STEP_HEAD = ["", "GPUs", "tokens a step", "GiB a GPU", "forward, ms", "backward", "AG", "RS (and AR)", "exposed", "ends", "update", "step, s", "tok/s/GPU", "of one GPU", "3.84 G tokens: steps", "hours"]


@table
def step_8b():
    rows = [step_row("ZeRO-1", M8, 8, 1, 8, 2), step_row("ZeRO-2", M8, 8, 2, 8, 2), step_row("ZeRO-2", M8, 16, 2, 16, 1)]
    for g in (64, 512, 4096):
        rows.append(step_row("ZeRO-2 over all", M8, g, 2, g, 1))
        rows.append(step_row("hybrid: ZeRO-2 in a host", M8, g, 2, 8, 1))
        rows.append(step_row("hybrid, bf16 gradients", M8, g, 2, 8, 1, grads="bf16"))
    return render(STEP_HEAD, rows)


@table
def goal():
    """What one GPU must do for a step of 131,072 tokens in 1.36 s on 8, if nothing but what is modelled gets in the way."""
    rows = []
    for label, zero, grads in (("ZeRO-1, bf16 gradients", 1, "bf16"), ("ZeRO-2, bf16 gradients", 2, "bf16"), ("ZeRO-1, fp32 gradients", 1, "fp32"), ("ZeRO-2, fp32 gradients", 2, "fp32")):
        s = Step(M8, 8, zero, 8, 16384, grads=grads)
        rest = s.exposed + s.ends + s.update
        rows.append([label, ms(rest), f"{16384 / (1.36 - rest):,.0f}"])
    return render(["8 GPUs, 131,072 tokens", "beside computing, ms", "tok/s of one GPU for 1.36 s"], rows)


@table
def step_70b():
    lean = {"grads": "bf16", "moments": "8bit", "recompute": "block"}
    full = {"recompute": "block"}
    rows = [step_row("ZeRO-3, bf16 gradients, 8bit moments", M70, 8, 3, 8, 1, **lean), step_row("the same, 4 micro-batches", M70, 8, 3, 8, 4, **lean),
            step_row("ZeRO-3, fp32", M70, 16, 3, 16, 1, **full), step_row("ZeRO-3, fp32", M70, 64, 3, 64, 1, **full)]
    for g in (64, 512, 4096):
        rows.append(step_row("hybrid: in a host, bf16, 8bit", M70, g, 3, 8, 1, **lean))
    rows.append(step_row("hybrid: in 8 hosts, fp32", M70, 512, 3, 64, 1, **full))
    rows.append(step_row("hybrid: in 8 hosts, fp32", M70, 4096, 3, 64, 1, **full))
    rows.append(step_row("ZeRO-3 over all, fp32", M70, 4096, 3, 4096, 1, **full))
    return render(STEP_HEAD, rows)


@table
def fixed_step():
    rows = []
    for batch in (131072, 1048576, 4194304, 16777216):
        cells = []
        for g in (8, 16, 64, 512, 4096):
            t = batch // g
            s = Step(M8, g, 2, min(g, 8), t, grads="bf16", micro=min(t, 2 * ROW))
            cells.append(f"{t:,}: {s.time:.3f} s, {percent(s.efficiency)}" if t >= ROW else f"({t:,}: {s.time:.3f} s, {percent(s.efficiency)})")
        rows.append([f"{batch:,}", *cells])
    return render(["tokens a step", *(f"{g:,} GPUs" for g in (8, 16, 64, 512, 4096))], rows)


@table
def split_rows():
    rows, n = [], HOST
    for m in (M8, M70):
        compute = ROW / n / rate(m)                      # one row of 8,192 tokens by 8 GPUs of a host
        tensor = m.L * 4 * ROW * m.C * 2 * 2 * (n - 1) / n / AR_IN   # four all-reduces of the (tokens, C) a layer
        context = m.L * 3 * ROW * 2 * m.KV * 2 * (n - 1) / n / AG_IN  # K and V gathered twice, their gradients scattered once
        rows.append([m.name, ms(compute), f"{m.L * 4 * ROW * m.C * 2 / GB:.2f}", ms(tensor), percent(tensor / compute), f"{m.L * 3 * ROW * 2 * m.KV * 2 / GB:.2f}", ms(context), percent(context / compute)])
    return render(["one row of 8,192 over 8 GPUs", "compute, ms", "tensor parallel: GB reduced", "ms", "of compute", "context parallel: GB gathered", "ms", "of compute"], rows)


def expected_max(n):   # of n standard normal draws: the integral of 1 - F^n - (1-F)^n ... by the trapezoid rule
    d, step, total, x = NormalDist(), 0.005, 0.0, -9.0
    while x < 9.0:
        p = d.cdf(x)
        total += step * ((1 - p**n) - (1 if x < 0 else 0))
        x += step
    return total


@table
def failures():
    rows, every, restart = [], 600, 300   # seconds between checkpoints, and to start again
    for g in (8, 64, 512, 4096):
        between = GPU_HOURS_A_FAILURE / g
        cells = [number(g), f"{expected_max(g):.2f}", percent(0.01 * expected_max(g)), f"{between:,.0f}", percent((every / 2 + restart) / (between * 3600))]
        for m in (M8, M70):
            cells += [f"{12 * m.P / g / GB:,.2f}", f"{12 * m.P / g / PCIE:.3f}"]   # fp32 weights and moments, to pinned memory
        rows.append(cells)
    return render(["GPUs", "the slowest: standard deviations below the mean", "at 1 % each", "hours between failures", "time lost to them", "checkpoint of 8B: GB a GPU", "blocked, s", "of 70B: GB a GPU", "blocked, s"], rows)


# ------------------------------------------------------------------------------------------------------------------------------
# the document

def marker(line):
    return line[len("<!-- scaling.py "):-len(" -->")] if line.startswith("<!-- scaling.py ") and line.endswith(" -->") else None


def replaced(text):
    """The document with every table as computed, and the names of those it has."""
    out, names, skip = [], [], False
    for line in text.split("\n"):
        if skip and line.startswith("|"):
            continue
        skip = False
        out.append(line)
        name = marker(line)
        if name is not None:
            if name not in TABLES:
                sys.exit(f"scaling.py: error: {DOC.name}: there is no table {name}; expected one of {', '.join(TABLES)}")
            out += TABLES[name]()
            names.append(name)
            skip = True
    return "\n".join(out), names


def main(words):
    if words and words[0] in ("--check", "--write"):
        old = DOC.read_text(encoding="utf-8")
        new, names = replaced(old)
        missing = [n for n in TABLES if n not in names]
        if words[0] == "--write":
            DOC.write_text(new, encoding="utf-8")
        elif old != new:
            was, now = old.split("\n"), new.split("\n")
            at = next((i for i, (a, b) in enumerate(zip(was, now)) if a != b), min(len(was), len(now)))
            sys.exit(f"scaling.py: error: {DOC.name}:{at + 1} is not what is computed\n  there:    {''.join(was[at:at + 1])}\n  computed: {''.join(now[at:at + 1])}\n---> dev/scaling.py --write")
        if missing:
            sys.exit(f"scaling.py: error: {DOC.name} lacks the tables {', '.join(missing)}")
        print(f"scaling.py: {len(names)} tables of {DOC.name} {'written' if words[0] == '--write' else 'agree'}")
        return
    if "-h" in words or "--help" in words:
        print(__doc__.strip())
        return
    unknown = [w for w in words if w not in TABLES]
    if unknown:
        sys.exit(f"scaling.py: error: there is no table {unknown[0]}; expected some of {', '.join(TABLES)}, --check or --write")
    for name in words or TABLES:
        print(f"{name}\n" + "\n".join(TABLES[name]()) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
