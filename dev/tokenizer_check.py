"""Compares our token ids with Hugging Face tokenizers and tiktoken: must end with 0 differences.

    python dev/tokenizer_check.py [--megabytes N]    needs FINDAP_DATA (unpacked data sets, with tokenizers/) and build/tokenizer_bench
    python dev/tokenizer_check.py --golden FILE      writes reference ids from a small tokenizer made here, for test_tokenizer.c

Texts: every string of every JSON, JSONL, CSV and text file under FINDAP_DATA (up to N MB of text in all; default: all), random Unicode
of several kinds, and every code point in several contexts. Special tokens are on (as in encode()) and off.
"""
import argparse, base64, csv, json, os, random, subprocess, sys, tempfile
from pathlib import Path

csv.field_size_limit(1 << 30)
BENCH = "build/tokenizer_bench"
SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def strings(value):
    if isinstance(value, str): yield value
    elif isinstance(value, dict):
        for item in value.values(): yield from strings(item)
    elif isinstance(value, list):
        for item in value: yield from strings(item)


def file_texts(path):
    raw = path.read_bytes()
    if b"\0" in raw[:4096]: return
    text = raw.decode("utf-8", "replace")
    try:
        if path.suffix == ".json": yield from strings(json.loads(text)); return
        if path.suffix == ".jsonl":
            for line in text.split("\n"):
                if line.strip(): yield from strings(json.loads(line))
            return
    except ValueError: pass
    for i in range(0, len(text), 20000): yield text[i:i + 20000]


def random_texts(count, seed):
    r = random.Random(seed)
    spaces = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2003\u200a\u2028\u2029\u202f\u205f\u3000"
    marks = [chr(c) for c in list(range(0x300, 0x370)) + list(range(0x483, 0x488)) + list(range(0x591, 0x5c8)) + list(range(0x610, 0x65f)) + [0x93c, 0x9be, 0x9d7, 0xbbe, 0x1161, 0x11a8, 0x3099, 0x309a, 0x11930, 0x1d165, 0x8d4, 0x1ab0, 0x1df6, 0x34f]]
    special = ["<|eot_id|>", "<|im_end|>", "<|endoftext|>", "<|begin_of_text|>", "<|reserved_special_token_1|>", "<|reserved_special_token_10|>", "<|", "|>", "<tool_call>"]
    kinds = [
        lambda: chr(r.choice([r.randrange(0x110000), r.randrange(0x3000), r.randrange(0x20000)])),
        lambda: chr(r.randrange(128)), lambda: r.choice(spaces), lambda: r.choice("'sStTmMdDrReEvVlL\u017f\u2019"), lambda: r.choice("0123456789\u0663\u00bd\u2460"),
        lambda: r.choice(marks), lambda: chr(r.choice([r.randrange(0x41, 0x250), r.randrange(0x1e00, 0x2000), r.randrange(0x1100, 0x1200), r.randrange(0xac00, 0xd7a4), r.randrange(0x900, 0xe00), r.randrange(0xf900, 0xfb50)])),
        lambda: r.choice(special), lambda: r.choice([" the", " of", "ing", "ation", "lorem", "GDP", "\u65e5\u672c", " \u0440\u044b\u043d\u043e\u043a"]),
    ]
    for _ in range(count):
        chosen = r.sample(kinds, r.randrange(1, len(kinds) + 1))
        text = "".join(r.choice(chosen)() for _ in range(r.choice([3, 10, 40, 200])))
        yield "".join(c for c in text if not 0xD800 <= ord(c) < 0xE000)


def every_code_point():
    for c in range(0x110000):
        if 0xD800 <= c < 0xE000: continue
        h = chr(c)
        yield f"{h}a {h}1{h}, '{h}'{h}e'l{h} {h}{h}\n{h}\t{h} x\u0345{h}\u0334e{h}\u0301\u0327{h} .{h}"


def ours(tokenizer, texts, plain):
    with tempfile.NamedTemporaryFile("w+", suffix=".jsonl") as source, tempfile.TemporaryFile("w+") as target:
        for text in texts: source.write(json.dumps(text) + "\n")
        source.flush(); source.seek(0)
        subprocess.run([BENCH, "--encode", tokenizer] + (["plain"] if plain else []), stdin=source, stdout=target, stderr=subprocess.DEVNULL, check=True)
        target.seek(0)
        return [json.loads(line) for line in target]


def compare(name, tokenizer, reference, texts, totals, plain=False):
    got, expected = ours(tokenizer, texts, plain), reference(texts)
    assert len(got) == len(expected) == len(texts)
    wrong = [i for i in range(len(texts)) if got[i] != expected[i]]
    for i in wrong[:3]: print(f"  {name}: {texts[i][:200]!a}\n    ours {got[i][:40]}\n    ref  {expected[i][:40]}")
    for k, v in zip(("texts", "tokens", "differences"), (len(texts), sum(map(len, expected)), len(wrong))): totals[k] = totals.get(k, 0) + v


def batches(texts, size=16 << 20):
    batch, total = [], 0
    for text in texts:
        batch.append(text); total += len(text) + 50
        if total > size: yield batch; batch, total = [], 0
    if batch: yield batch


def references(directory):
    from tokenizers import Tokenizer
    for name in ("llama3_tokenizer.json", "qwen2_5_tokenizer.json"):
        path = directory / name
        if not path.exists(): continue
        t, raw = Tokenizer.from_file(str(path)), Tokenizer.from_file(str(path))
        yield name, str(path), False, lambda texts, t=t: [e.ids for e in t.encode_batch_fast(texts, add_special_tokens=False)]
        document = json.loads(path.read_text()); document["added_tokens"] = []
        raw = Tokenizer.from_str(json.dumps(document))
        yield name + " (text only)", str(path), True, lambda texts, t=raw: [e.ids for e in t.encode_batch_fast(texts, add_special_tokens=False)]
    path = directory / "llama3_tokenizer.model"
    if path.exists():
        import tiktoken
        ranks = {base64.b64decode(a): int(b) for a, b in (line.split() for line in path.read_bytes().splitlines())}
        names = ["<|begin_of_text|>", "<|end_of_text|>"] + [f"<|reserved_special_token_{i}|>" for i in range(4)] + ["<|start_header_id|>", "<|end_header_id|>", "<|reserved_special_token_4|>", "<|eot_id|>"]
        names += [f"<|reserved_special_token_{i}|>" for i in range(5, 251)]
        e = tiktoken.Encoding("llama3", pat_str=SPLIT % "{1,3}", mergeable_ranks=ranks, special_tokens={n: len(ranks) + i for i, n in enumerate(names)})
        yield path.name, str(path), False, lambda texts: [e.encode(t, allowed_special="all") for t in texts]


def golden(path):
    """a BPE of 256 bytes + merges learned here, both families; hard texts and their ids: the test needs no Python"""
    from tokenizers import Tokenizer, models, pre_tokenizers, decoders, trainers, Regex, normalizers
    corpus = ["The bank's net interest margin rose 12.5% in 2023; we'll see revenue of $1,234,567 and it's what they've said.\n\n  It isn't growth, I'm told.\r\n",
              "Zinsertr\u00e4ge \u0438 \u0440\u044b\u043d\u043e\u043a \u4e2d\u56fd\u94f6\u884c \u65e5\u672c\u306e caf\u00e9 na\u00efve \ud55c\uad6d\uc5b4 0123456789 >>> === ---- \t\tif (x) {\n    return;\n}\n"] * 5
    def build(digits, nfc, ignore):
        t = Tokenizer(models.BPE(ignore_merges=ignore))
        if nfc: t.normalizer = normalizers.NFC()
        t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(SPLIT % digits), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
        t.decoder = decoders.ByteLevel()
        t.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
        t.add_special_tokens(["<|eot_id|>", "<|eot"])
        return t
    texts = [t for t in random_texts(120, 7) if len(t) < 60] + corpus[:2] + ["", "e\u0301 \u1100\u1161\u11a8 \u212b \u0958 q\u0307\u0323", "we'RE I'\u017f '\u017ft a'lL 'v 1234567 12\u06633", "a<|eot_id|>b<|eot|>  \n \n  x  ", "\U00010d40\u1c89\U0002ebf0\u2028 \x85\xa0z"]
    result = {"texts": texts, "tokenizers": []}
    for digits, nfc, ignore in (("{1,3}", False, True), ("", True, False)):
        t = build(digits, nfc, ignore)
        result["tokenizers"].append({"tokenizer": json.loads(t.to_str()), "ids": [t.encode(x, add_special_tokens=False).ids for x in texts]})
    Path(path).write_text(json.dumps(result, ensure_ascii=True, separators=(",", ":")))
    print(f"{path}: {len(texts)} texts, {os.path.getsize(path)} bytes")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--golden"); parser.add_argument("--megabytes", type=float, default=1e9); parser.add_argument("--random", type=int, default=200000)
    parser.add_argument("--data-only", action="store_true", help="leave out random Unicode and the code points")
    a = parser.parse_args()
    if a.golden: return golden(a.golden)
    if "FINDAP_DATA" not in os.environ: print("skipped: FINDAP_DATA (a directory of unpacked data sets) is not set"); return
    root = Path(os.environ["FINDAP_DATA"])
    def corpus():
        left = a.megabytes * 1e6
        for path in sorted(root.rglob("*")):
            if not path.is_file() or path.suffix not in (".json", ".jsonl", ".csv", ".tsv", ".txt", ".text", ".md", ".html", ".conll", "") or path.parent.name == "tokenizers": continue
            for text in file_texts(path):
                left -= len(text)
                if left < 0: return
                yield text.encode("utf-8", "replace").decode()
    failed = 0
    for kind, source in (("random Unicode", lambda: random_texts(a.random, 1)), ("every code point", every_code_point), ("data sets", corpus)):
        if a.data_only and source is not corpus: continue
        totals = {}
        refs = list(references(root / "tokenizers"))
        for batch in batches(source()):
            for name, path, plain, reference in refs: compare(name, path, reference, batch, totals.setdefault(name, {}), plain)
        for name, t in totals.items():
            print(f"{kind}: {name}: {t['texts']} texts, {t['tokens']} tokens, {t['differences']} differences", flush=True)
            failed += t["differences"]
    sys.exit(failed != 0)


main()
