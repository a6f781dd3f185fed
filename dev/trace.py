#!/usr/bin/env python3
"""Where the time of training steps went, by a file of build/dev/libtrace.so: python3 dev/trace.py FILE.tsv [STEP]

For each step its wall time, the kernels' of the computing stream, and the transfers' with how much of them lay under computation; of one
step (the second, or STEP) each forward and backward pass by kind of kernel. A step goes from one update's end to the next one's."""
from usage import usage
usage(__doc__, 1, 2)
import collections, sys

KINDS = ("nvjet", "gemm", "attention_forward", "attention_backward", "swiglu", "rmsnorm", "rope", "adamw", "sum_of_squares", "cross_entropy", "embedding", "gather", "scatter", "memset", "copy")


def kind(name):
    low = name.lower()
    return next(("matrix products" if k in ("nvjet", "gemm") else k for k in KINDS if k in low), "other")


def under(begin, end, intervals):
    return sum(min(end, e) - max(begin, b) for b, e in intervals if e > begin and b < end)


def main():
    records = []
    for line in open(sys.argv[1]):
        begin, end, stream, name = line.rstrip("\n").split("\t")
        records.append((float(begin), float(end), stream, name))
    records.sort()
    moving = {r[2] for r in records if "nccl" in r[3].lower()}   # the stream that moves: NCCL's kernels, and what copy engines and their sums do
    updates, transfers = [], [r for r in records if r[2] in moving]
    for r in (r for r in records if "adamw" in r[3].lower()):   # an update's kernels lie close together
        if not updates or r[0] - updates[-1][1] > 1e5:
            updates.append([r[0], r[1], r[2]])
        updates[-1][1] = r[1]
    if len(updates) < 2:
        sys.exit("trace.py: error: fewer than two updates in this file: expected a run of several training steps")
    stream = updates[0][2]
    steps = []
    for a, b in zip(updates, updates[1:]):
        work = [r for r in records if r[2] == stream and a[1] <= r[0] < b[1]]
        moves = [(r[0], r[1]) for r in transfers if r[1] > a[1] and r[0] < b[1]]
        steps.append((a[1], b[0], b[1], work))
        print(f"step {len(steps)}: {(b[1] - a[1]) / 1e3:.1f} ms, kernels {sum(r[1] - r[0] for r in work) / 1e3:.1f}, update {(b[1] - b[0]) / 1e3:.1f}; transfers {sum(e - s for s, e in moves) / 1e3:.1f}, "
              f"of these {sum(under(r[0], r[1], moves) for r in work) / 1e3:.1f} under kernels")
    begin, update, end, work = steps[min(int(sys.argv[2]) if len(sys.argv) > 2 else 2, len(steps)) - 1]
    passes, now = [["forward", begin]], "forward"
    for r in work:
        turn = "backward" if "attention_backward" in r[3] and now == "forward" else "forward" if "attention_forward" in r[3] and now == "backward" else now
        if turn != now and r[0] < update:
            passes.append([turn, r[0]])
            now = turn
    table = []
    for (name, a), b in zip(passes, [p[1] for p in passes[1:]] + [update]):
        sums = collections.Counter()
        for r in work:
            if a <= r[0] < b:
                sums[kind(r[3])] += r[1] - r[0]
        sums["gaps"] = b - a - sum(sums.values())
        sums["all"] = b - a
        table.append(sums)
    print(f"\nms, a pass from its first attention to the next one's: {'':5}" + "".join(f"{name:>10}" for name, _ in passes))
    for k in sorted(set().union(*table), key=lambda k: -table[0][k] - table[-1][k]):
        print(f"{k:<58}" + "".join(f"{t[k] / 1e3:10.2f}" for t in table))


main()
