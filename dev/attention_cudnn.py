#!/usr/bin/env python3
"""The yardstick for our attention: what PyTorch users get on the same GPU. Needs torch with CUDA; nothing is built or trained with it.

    python3 dev/attention_cudnn.py            every figure, one line each        python3 dev/attention_cudnn.py cudnn | flex

- cuDNN through scaled_dot_product_attention, native grouped queries (enable_gqa), causal, 1 x 8192, 32/8 heads of 128, bf16;
- FlexAttention, compiled, with documents of 120-1500 tokens packed into 2 x 8192, the same heads: the same lengths as attention_check's packed rows.

Protocol of dev/attention_check.cu, whose figures stand beside these: rested: a pause of 200 ms, two launches, three timed, three times over, median;
sustained: 400 launches, then five times 60, median. TFLOP/s count visible pairs only, 4 * head_dim a pair forward, 10 * head_dim backward; a
causal row, as is the custom, for half of all its pairs. Backward: the kernels of the backward pass alone, by running it
again and again over one graph; autograd's own sum into .grad is kept out by torch.autograd.grad.
"""
from usage import usage
usage(__doc__, 0, 1)
import statistics
import sys
import time

import torch
import torch.nn.functional as F

HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128
MASK = (1 << 64) - 1


def random_bits(seed, index):
    """findap/kernels/cuda.cuh's random_bits, so that the documents are attention_check's"""
    z = ((index + 1) * 0x9E3779B97F4A7C15 & MASK) ^ (seed * 0xD1B54A32D192ED03 & MASK)
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return ((z ^ (z >> 31)) >> 16) & 0xFFFFFFFF


def packed_documents(B, T):
    """lengths 120-1500 in turn, running on over rows: (B, T) number of each token's document, and the visible pairs of one head"""
    lengths = [120 + random_bits(3, i) % 1381 for i in range(97)]
    document, pairs, following = [], 0, 0
    for _ in range(B):
        row = []
        while len(row) < T:
            n = min(lengths[following % 97], T - len(row))
            row += [following] * n
            pairs += n * (n + 1) // 2
            following += 1
        document.append(row)
    return torch.tensor(document, device="cuda", dtype=torch.int32), pairs


def timed(f, n):
    a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda._sleep(3000000)   # the GPU idles a millisecond or two while Python prepares the launch: that is not the kernel's time
    a.record()
    for _ in range(n):
        f()
    b.record()
    b.synchronize()
    return a.elapsed_time(b) / n


def report(name, f, flops):
    for _ in range(3):   # compilation and plans stay out of the times
        f()
    rested = []
    for _ in range(3):
        torch.cuda.synchronize()
        time.sleep(0.2)
        timed(f, 2)
        rested += [timed(f, 1) for _ in range(3)]
    timed(f, 400)
    sustained = [timed(f, 60) for _ in range(5)]
    r, s = statistics.median(rested), statistics.median(sustained)
    print(f"{name:<66} rested {r:.3f} ms {flops / r * 1e-9:4.0f} TFLOP/s | sustained {s:.3f} ms {flops / s * 1e-9:4.0f} TFLOP/s", flush=True)


def inputs(B, T):
    """q, k, v as strided views of packed rows, the layout of ours: no copies inside the attention"""
    qkv = torch.randn(B, T, HEADS + 2 * KV_HEADS, HEAD_DIM, device="cuda", dtype=torch.bfloat16)
    q, k, v = (x.transpose(1, 2).detach().requires_grad_() for x in qkv.split([HEADS, KV_HEADS, KV_HEADS], dim=2))
    dout = torch.randn(B, T, HEADS, HEAD_DIM, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
    return q, k, v, dout


def measure(name, attention, B, T, pairs):
    torch.manual_seed(1)
    q, k, v, dout = inputs(B, T)
    flops = 4.0 * HEAD_DIM * HEADS * pairs

    # with gradients on, or the softmax statistics that training needs would not be written
    report(f"{name} forward", lambda: attention(q, k, v), flops)
    out = attention(q, k, v)
    report(f"{name} backward", lambda: torch.autograd.grad(out, (q, k, v), dout, retain_graph=True), 2.5 * flops)


def main():
    what = sys.argv[1] if len(sys.argv) > 1 else "all"
    if what not in ("all", "cudnn", "flex"):
        sys.exit("usage: attention_cudnn.py [cudnn | flex]")
    if not torch.cuda.is_available():
        sys.exit("no GPU that torch can use")
    print(f"torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}, {torch.cuda.get_device_name()}", flush=True)
    shape = f"{HEADS}/{KV_HEADS} heads of {HEAD_DIM}"
    if what in ("all", "cudnn"):
        from torch.nn.attention import SDPBackend, sdpa_kernel

        def cudnn(q, k, v):
            with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
                return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

        measure(f"cuDNN 1 x 8192 causal, {shape}", cudnn, 1, 8192, 8192 * 8192 / 2)
    if what in ("all", "flex"):
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention
        document, pairs = packed_documents(2, 8192)

        def visible(b, h, q, k):
            return (q >= k) & (document[b, q] == document[b, k])

        mask = create_block_mask(visible, 2, None, 8192, 8192, device="cuda")
        compiled = torch.compile(flex_attention, dynamic=False)
        measure(f"FlexAttention 2 x 8192 documents of 120-1500, {shape}", lambda q, k, v: compiled(q, k, v, block_mask=mask, enable_gqa=True), 2, 8192, pairs)


if __name__ == "__main__":
    main()
