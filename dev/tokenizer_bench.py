"""Times our encoder and Hugging Face tokenizers on the same documents, one thread each, one after the other, and prints the ratio.

    python dev/tokenizer_bench.py TOKENIZER.json FILE.jsonl [threads]     build/tokenizer_bench must be built
"""
from usage import usage
usage(__doc__, 2, 3)
import json, os, subprocess, sys, time
os.environ.update(RAYON_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
from tokenizers import Tokenizer

tokenizer, path = sys.argv[1:3]
threads = sys.argv[3] if len(sys.argv) > 3 else "1"
texts = [(lambda j: j if isinstance(j, str) else j["text"])(json.loads(line)) for line in open(path)]
size = sum(len(t.encode()) for t in texts)
reference = Tokenizer.from_file(tokenizer)
best = {}
for _ in range(2):
    for name, encode in (("encode", lambda: sum(len(reference.encode(t, add_special_tokens=False).ids) for t in texts)),
                         ("encode_batch_fast", lambda: sum(len(e.ids) for e in reference.encode_batch_fast(texts, add_special_tokens=False)))):
        start = time.perf_counter()
        tokens = encode()
        best[name] = max(best.get(name, 0), size / 1e6 / (time.perf_counter() - start))
line = subprocess.run(["build/tokenizer_bench", tokenizer, path, threads], capture_output=True, text=True, check=True).stdout.strip()
ours = float(line.split("best ")[1].split()[0])
print(f"{len(texts)} documents, {size / 1e6:.1f} MB, {tokens} tokens; ours: {line}")
for name, rate in best.items(): print(f"Hugging Face {name}: {rate:.2f} MB/s, ratio {ours / rate:.1f}")
