#!/usr/bin/env python3
"""overlap_reference.py: findap/eval_overlap.h computed again with sets of strings: no hashes, no rolling, no table.

    overlap_reference.py make DIR                          the small cases of test/data/overlap: train.jsonl, test.jsonl, expected.json
    overlap_reference.py check TRAIN.jsonl... -- TEST.jsonl < JSON of `eval overlap --json` on the same files

Standard library only. Prints what differs; exit status 1 then.
"""
import json
import random
import re
import sys
import unicodedata
from collections import Counter
from pathlib import Path

WORDS, CHARS, LEAST = 13, 50, 20
KEYS = ["text", "query", "question", "context", "input", "instruction", "prompt", "sentence", "turns", "conversations", "messages", "choices"]
LABELS = {"text", "question", "sentence", "input", "headline"}


def fold(text):
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def letter(c):
    return unicodedata.category(c)[0] in "LMN"


def windows(text, whole, lines):
    """(kind, content, begin, end) of the folded text"""
    at = [i for i, c in enumerate(text) if letter(c)]
    for k in range(len(at) - CHARS + 1):
        yield "chars", "".join(text[i] for i in at[k:k + CHARS]), at[k], at[k + CHARS - 1] + 1
    words, i = [], 0
    while i < len(text):
        if letter(text[i]):
            j = i
            while j < len(text) and letter(text[j]):
                j += 1
            words.append((i, j))
            i = j
        else:
            i += 1
    for k in range(len(words) - WORDS + 1):
        yield "words", tuple(text[a:b] for a, b in words[k:k + WORDS]), words[k][0], words[k + WORDS - 1][1]
    if not whole:
        return
    parts = [text]
    for line in text.split("\n"):
        parts += [line] if lines else []
        pieces = line.split(":")
        for k in range(1, len(pieces)):
            if ":".join(pieces[:k]).strip() in LABELS:
                parts.append(":".join(pieces[k:]))
                break
    for part in parts:
        content = "".join(c for c in part if letter(c))
        if len(content) >= LEAST:
            yield "whole", content, 0, 0


def strings(value):
    if isinstance(value, str):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from strings(item)


def test_texts(row):
    for key in KEYS:
        value = row.get(key)
        if key in ("conversations", "messages"):
            value = value[0] if isinstance(value, list) and value else None
        for text in strings(value):
            yield fold(text), key != "choices"


def overlap(trains, tests):
    """What eval_overlap.h says of one test file: [{row, coverage, by}], and the counts"""
    seen = {(kind, content) for row in trains for text in strings(row) for kind, content, _, _ in windows(fold(text), True, True)}
    shared = Counter(w for row in tests for w in {(kind, content) for text, whole in test_texts(row) for kind, content, _, _ in windows(text, whole, False)})
    n = len(tests)
    limit = max(2, n // 50, min(n // 2, 10))
    hits, untold, mostly = [], 0, 0
    for number, row in enumerate(tests):
        count, hit = Counter(), Counter()
        for text, whole in test_texts(row):
            prompt = [False] * len(text)
            for kind, content, begin, end in windows(text, False, False):
                if shared[kind, content] > limit:
                    prompt[begin:end] = [True] * (end - begin)
            for kind, content, begin, end in windows(text, whole, False):
                if shared[kind, content] <= limit and not any(prompt[begin:end]):
                    count[kind] += 1
                    hit[kind] += (kind, content) in seen
        by = [kind for kind in ("words", "chars", "whole") if hit[kind]]
        coverage = max([hit[kind] / count[kind] for kind in by], default=0)
        untold += not count
        mostly += coverage >= 0.5
        if by:
            hits.append({"row": number, "coverage": coverage, "by": by})
    return {"rows": n, "hit": len(hits), "untold": untold, "mostly": mostly, "hits": hits}


def read(path):
    return [json.loads(line) for line in Path(path).read_text("utf-8").split("\n") if line.strip()]


def make(folder):
    """Made-up words; spans of training rows copied into test rows, at lengths around both windows, with other case, punctuation, blanks and compatibility forms."""
    r = random.Random(7)
    vocabulary = sorted({"".join(r.choice("bcdfglmnprst") + r.choice("aeiouéßж") for _ in range(r.randint(1, 4))) for _ in range(600)} | {"12", "1,116.10", "ﬁn", "Straße", "½", "株式"})

    def words(n):
        return [r.choice(vocabulary) for _ in range(n)]

    def disguise(span):
        how = r.randrange(5)
        return [[w.upper() for w in span], [w + r.choice([",", " .", "!", ""]) for w in span], [unicodedata.normalize("NFD", w) for w in span], span, ["'" + w + "'" for w in span]][how]

    trains, tests = [], []
    for i in range(60):
        body = words(r.randint(5, 60) if i % 7 else r.randint(5, 9))
        shape = i % 5
        trains.append([{"text": " ".join(body)}, {"messages": [{"role": "user", "content": "Text: " + " ".join(body)}, {"role": "assistant", "content": "yes"}]},
                       {"query": "Say whether it rose or fell, and nothing else whatever you think of the matter at hand.\nText: " + " ".join(body) + "\nAnswer:", "answer": "no"},
                       {"conversations": [{"from": "human", "value": "\n".join([" ".join(body[:9]), " ".join(body[9:])])}, {"from": "gpt", "value": "x"}]}, {"deep": {"list": [" ".join(body)]}}][shape])
        trains[-1]["_"] = i
        own, kept = words(r.randint(0, 25)), disguise(body[r.randrange(3):][:r.choice([4, 6, 9, 11, 12, 13, 14, 20, 60])])
        text = " ".join([*own[:len(own) // 2], *kept, *own[len(own) // 2:]] if i % 4 else words(r.randint(3, 40)))
        if i % 7 == 0:
            text = " ".join(disguise(body)) if i % 2 else r.choice(body)     # a whole text; a word, of which nothing can be told
        tests.append([{"query": "Say whether it rose or fell, and nothing else whatever you think of the matter at hand.\nText: " + text + "\nAnswer:", "answer": "no"},
                      {"text": text, "answer": " ".join(body)}, {"question": text, "choices": [" ".join(words(8)), " ".join(kept)]},
                      {"conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": " ".join(body)}]}][1 if i % 14 == 0 else 0 if i < 40 else i % 4])
        tests[-1]["id"] = f"t{i}"
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", trains), ("test", tests)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    expected = overlap(trains, tests)
    (folder / "expected.json").write_text(json.dumps(expected) + "\n", "utf-8")
    print({k: v for k, v in expected.items() if k != "hits"}, Counter(k for h in expected["hits"] for k in h["by"]))


def check(trains, test):
    want, told = overlap([row for path in trains for row in read(path)], read(test)), json.load(sys.stdin)["tests"][0]
    got = {k: told[k] for k in want if k != "hits"} | {"hits": [{k: h[k] for k in ("row", "coverage", "by")} for h in told["hits"]]}
    wrong = [(a, b) for a, b in zip(want["hits"], got["hits"]) if (a["row"], a["by"]) != (b["row"], b["by"]) or abs(a["coverage"] - b["coverage"]) > 1e-12]
    wrong += [(k, want[k], got[k]) for k in want if k != "hits" and want[k] != got[k]]
    print(f"{test}: {want['rows']:,} rows, {want['hit']:,} hit, {len(wrong)} differences {wrong[:5] if wrong else ''}")
    return 1 if wrong else 0


if __name__ == "__main__":
    words = sys.argv[1:]
    if words[:1] == ["make"] and len(words) == 2:
        make(Path(words[1]))
    elif words[:1] == ["check"] and words[-2:-1] == ["--"]:
        sys.exit(check(words[1:-2], words[-1]))
    else:
        asked = words in (["-h"], ["--help"])
        print(__doc__.strip(), file=sys.stdout if asked else sys.stderr)
        sys.exit(0 if asked else 2)
