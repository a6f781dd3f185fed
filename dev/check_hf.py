"""Does what findap writes load in transformers, and does it compute the same there?

    ./train_findap_cpu --model OUT --data SHARD --dump dump.safetensors [--seq-len T ...]
    python3 dev/check_hf.py OUT dump.safetensors

Loads OUT with AutoModelForCausalLM in fp32, runs every document of the dumped batch alone (a document starts where the
position is 0), and compares logits, loss and every gradient. Exit status 1 when logits differ by more than 1e-5 or a
gradient by more than 1e-4 (norm of the difference over the norm)."""
from usage import usage
usage(__doc__, 2, 2)
import sys
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer


def relative(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-30)).item()


def main(directory, dump_path):
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    try:
        print(f"tokenizer: {len(AutoTokenizer.from_pretrained(directory))} entries")
    except Exception as e:                      # a directory without a tokenizer is legal; say so
        print(f"tokenizer: none ({type(e).__name__})")
    d = load_file(dump_path)
    tokens, positions, targets, weights = d["tokens"].long(), d["positions"], d["targets"].long(), d["weights"]
    B, T = tokens.shape
    logits = []
    for b in range(B):
        starts = [t for t in range(T) if t == 0 or positions[b, t] == 0] + [T]
        row = [model(input_ids=tokens[b:b + 1, s:e], use_cache=False).logits[0] for s, e in zip(starts, starts[1:])]
        logits.append(torch.cat(row))
    logits = torch.stack(logits)
    ok = True
    if "logits" in d:
        r = relative(d["logits"], logits)
        print(f"logits {r:.2e}")
        ok &= r < 1e-5
    chosen = weights > 0
    loss = (torch.nn.functional.cross_entropy(logits[chosen], targets[chosen], reduction="none") * weights[chosen]).sum() / weights[chosen].sum()
    print(f"loss {d['loss'].item():.7f}, transformers {loss.item():.7f}")
    ok &= abs(d["loss"].item() - loss.item()) < 1e-5 * abs(loss.item())
    loss.backward()
    worst, count = 0.0, 0
    for name, p in model.named_parameters():
        r = relative(d["grad." + name], p.grad)
        worst, count = max(worst, r), count + 1
        if r > 1e-4:
            print(f"grad.{name} {r:.2e}")
    print(f"worst of {count} gradients {worst:.2e}")
    sys.exit(0 if ok and worst < 1e-4 else 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
