"""The leaderboard harness' scoring (spec openfinllm.md section 3, written anew from there) over scikit-learn, seqeval and rouge_score, against `eval score --pixiu-compat`.

    python dev/eval_pixiu_reference.py --program "./eval_cpu score" [--rows 4000] [--seed 1] [--harness DIR] [--write test/data/pixiu.json]

Random outputs, made so that each quirk is met often: choices inside other words, negations, keywords, empty lines, names that touch the last word, double blanks, letters beyond
ASCII, labels that are none. Every number the program prints under the harness' keys must agree to 1e-9. --harness: a checkout of The-FinAI/PIXIU; its own classes then
say what is right wherever they can without models of their own (not TSA, whose class is elsewhere, nor abstractive summaries). --write: a small set with the right numbers, for make test.
"""
import argparse, contextlib, importlib.util, io, json, os, random, re, subprocess, sys, tempfile, types
import warnings
import numpy as np
from sklearn.metrics import f1_score, matthews_corrcoef
from seqeval.metrics import f1_score as entity_score
from rouge_score import rouge_scorer

warnings.filterwarnings("ignore")
TASKS = "test/data/tasks"

# ---- the harness

def read_choice(row, task):
    choices = [c.lower() for c in row["choices"]]
    said = row["output"].strip().lower()
    kind = task["pixiu"]["class"]
    words = {"stock": {"rise": ["yes", "positive"], "fall": ["no", "negative", "neutral"]}, "credit": {"good": ["yes", "positive"], "bad": ["no", "negative", "neutral"]}}.get(kind, {})
    for c in choices:
        if c in said or any(w in said for w in words.get(c, [])):
            return c
    return {"stock": "fall", "credit": "good"}.get(kind, "missing")

def score_choices(rows, task):
    pred = [read_choice(r, task) for r in rows]
    gold = [r["choices"][r["gold"]].lower() for r in rows]
    labels = sorted(set(gold))
    ids = {l: i for i, l in enumerate(labels)}
    return {"acc": np.mean([p == g for p, g in zip(pred, gold)]), "missing": np.mean([p == "missing" for p in pred]), "f1": f1_score(gold, pred, average="weighted", labels=labels),
            "macro_f1": f1_score(gold, pred, average="macro", labels=labels), "mcc": matthews_corrcoef([ids[g] for g in gold], [ids.get(p, -1) for p in pred])}

def score_headlines(rows, task):
    pred = np.array([0 if r["output"].strip() == "Yes" else 1 for r in rows])
    gold = np.array([r["gold"] for r in rows])
    kinds = np.array([r["label_type"] for r in rows])
    return {"avg_f1": np.mean([f1_score(gold[kinds == k], pred[kinds == k], average="weighted", labels=[0, 1]) for k in set(kinds)])}

def score_qa(rows, task):
    return {"acc": np.mean([r["output"].strip() == r["answer"] for r in rows])}

def score_tsa(rows, task):
    errors, missing = [], 0
    for r in rows:
        numbers = re.findall(r"[0-9]+(?:\.[0-9]+)?", r["output"].split("\n")[0], flags=re.ASCII)
        if not numbers:
            missing += 1
            continue
        errors.append(r["gold"] - min(1.0, max(-1.0, float(numbers[0]))))
    return {"rmse": float(np.sqrt(np.mean(np.square(errors)))), "missing": missing / len(rows)}

def project(output, text):
    words = text.split()
    starts, at = [], 0
    for w in words:
        starts.append(at)
        at += len(w) + 1
    tags = ["O"] * len(words)
    for line in output.split("\n"):
        pieces = line.split(", ")
        name, kind = ", ".join(pieces[:-1]), pieces[-1]
        where = text.find(name) if name else -1
        while where >= 0:
            last = where + len(name) - 1
            first_word = next((i for i, s in enumerate(starts) if s >= where), None)
            behind = next((i for i, s in enumerate(starts) if s > last), None)
            if first_word is not None and behind is not None:
                tags[first_word] = "B-" + kind
                for i in range(first_word + 1, behind):
                    tags[i] = "I-" + kind
            where = text.find(name, last + 1)
    return tags

def score_ner(rows, task):
    return {"entity_f1": entity_score([r["label"] for r in rows], [project(r["output"], r["text"]) for r in rows])}

def score_sequence(rows, task):
    known = task["choices"]
    tags, ids = [], []
    for r in rows:
        one = [None] * len(r["label"])
        for i, line in enumerate(r["output"].split("\n")[:len(r["token"])]):
            parts = line.split(":")
            if len(parts) == 2 and parts[0] == r["token"][i] and parts[1] in known:
                one[i] = parts[1]
        tags.append([t or "O" for t in one])
        ids += [known.index(t) if t else -1 for t in one]
    gold = [known.index(t) for r in rows for t in r["label"]]
    return {"entity_f1": entity_score([r["label"] for r in rows], tags), "f1": f1_score(gold, ids, average="weighted")}

def score_relation(rows, task):
    gold = {g for r in rows for g in r["label"]}
    pred = {p for r in rows for p in r["output"].split("\n")}
    p, q = len(gold & pred) / len(pred), len(gold & pred) / len(gold)
    return {"precision": p, "recall": q, "f1": 2 * p * q / (p + q) if p + q else 0.0}

ROUGE = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)

def mean_rouge(pairs):
    scores = [ROUGE.score(g, p) for g, p in pairs]
    return {k: float(np.mean([s[k].fmeasure for s in scores])) for k in ("rouge1", "rouge2", "rougeL")}

def score_abstractive(rows, task):
    return mean_rouge([(r["answer"], r["output"]) for r in rows])

def score_extractive(rows, task):
    def chosen(labels, text):
        return "\n".join(line for i, line in enumerate(text.split("\n")) if i < len(labels) and labels[i] == 1)
    return mean_rouge([(chosen(r["label"], r["text"]), chosen(r["output"].split("\n"), r["text"])) for r in rows])   # "1" is not 1

SCORE = {"classification": score_choices, "stock": score_choices, "credit": score_choices, "headlines": score_headlines, "qa": score_qa, "tsa": score_tsa, "ner": score_ner, "sequence": score_sequence,
         "relation": score_relation, "abstractive": score_abstractive, "extractive": score_extractive}

# ---- the harness itself

def load_harness(directory):   # src/tasks/flare.py; what it imports and does not need for scoring is made of nothing
    def module(name, **names):
        m = sys.modules[name] = types.ModuleType(name)
        m.__path__ = []
        m.__dict__.update(names)
    for name in ("lm_eval", "evaluate", "pixiu", "pixiu.tasks", "pixiu.metrics", "pixiu.metrics.factscore_package"):
        module(name)
    module("lm_eval.base", Task=object, rf=None)
    module("lm_eval.metrics", mean=np.mean)
    module("bart_score", BARTScorer=None)
    module("pixiu.metrics.factscore_package.factscorer", FactScorer=None)
    module("pixiu.tasks.zhutils", process_zhtext=None)
    for name in ("utils", "flare"):
        spec = importlib.util.spec_from_file_location(f"pixiu.tasks.{name}", f"{directory}/src/tasks/{name}.py")
        m = sys.modules[f"pixiu.tasks.{name}"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(m)
    return m

def score_harness(flare, rows, task):   # None: its class needs more than is here
    kind = task["pixiu"]["class"]
    each = lambda c, key: [c.process_results(r, [r["output"]])[key] for r in rows]
    if kind in ("classification", "stock", "credit"):
        c = {"classification": flare.Classification, "stock": flare.StockMovement, "credit": flare.German}[kind]()
        pairs = each(c, "f1")
        return {"acc": np.mean(each(c, "acc")), "missing": np.mean(each(c, "missing")), "f1": c.weighted_f1(pairs), "macro_f1": c.macro_f1(pairs), "mcc": c.matthews_corrcoef(pairs)}
    if kind == "headlines":
        return {"avg_f1": flare.Headlines.label_avg(each(flare.Headlines(), "avg_f1"))}
    if kind == "qa":
        return {"acc": np.mean(each(flare.QA(), "acc"))}
    if kind == "ner":
        with contextlib.redirect_stdout(io.StringIO()):   # it prints what it reads
            return {"entity_f1": flare.NER.entity_f1(each(flare.NER(), "entity_f1"))}
    if kind == "sequence":
        c = flare.SequentialLabeling()
        c.LMAP = {l: i for i, l in enumerate(task["choices"])}
        return {"entity_f1": c.entity_f1(each(c, "entity_f1")), "f1": c.label_f1(each(c, "f1"))}
    if kind == "relation":
        c = flare.RelationExtraction()
        return {"precision": c.precision(each(c, "precision")), "recall": c.recall(each(c, "recall")), "f1": c.cal_f1(each(c, "f1"))}
    if kind == "extractive":
        c, texts = flare.ExtractiveSummarization(), [r["text"] for r in rows]
        return mean_rouge(list(zip(c.get_sum([r["label"] for r in rows], texts), c.get_sum([r["output"].split("\n") for r in rows], texts))))
    return None

# ---- random rows

BLANKS = ["", "", "", " ", "\n", "\t ", "\u00a0", "\x1c"]
FILLER = ["not", "Know", "economy", "the", "is", "eyes", "Yes", "no", "positive", "NEGATIVE", "neutral", "Yes.", "now", "\u00c9t\u00e9", "\u0130stanbul", "m\u00e1s", "rising", "goods", "0.5", "-1", "falls", "I", "don't"]

def choice_output(rng, choices):
    words = [rng.choice(FILLER + 2 * choices + [c.upper() for c in choices] + [c[:-1] for c in choices]) for _ in range(rng.choice([0, 1, 1, 1, 2, 3, 8]))]
    return rng.choice(BLANKS) + rng.choice([" ", " ", "\n", "", ", "]).join(words) + rng.choice(BLANKS)

def words_of(rng, n):
    return [rng.choice(["Elon", "Musk", "Acme", "Inc", ".", ",", "Bank", "of", "Z\u00fcrich", "\u6771\u4eac", "\U0001F600x", "a", "in", "Texas", "A,B", "x:y", "Corp"]) for _ in range(n)]

def row_choices(rng, task):
    choices = list(task["choices"])
    if rng.random() < 0.5:
        rng.shuffle(choices)
    never = task["choices"][-1] if len(choices) > 3 else None   # a label that is nobody's gold is "missing" to the MCC
    return {"choices": choices, "gold": rng.choice([i for i, c in enumerate(choices) if c != never]), "output": choice_output(rng, choices)}

def row_headlines(rng, task):
    return {"choices": ["Yes", "No"], "gold": rng.randrange(2), "label_type": rng.choice(["Price or Not", "Direction Up", "PastNews"]), "output": rng.choice(BLANKS) + rng.choice(["Yes", "Yes", "No", "yes", "Yes.", "", "No, Yes", "Ye s"]) + rng.choice(BLANKS)}

def row_qa(rng, task):
    answer = rng.choice(["127.4", "yes", "0.5", "-3", "the bank", "12%"])
    return {"answer": answer, "output": rng.choice(BLANKS) + rng.choice([answer, answer, answer + ".", answer.upper(), "12.0", "", "so " + answer]) + rng.choice(BLANKS)}

def row_tsa(rng, task):
    number = f"{rng.uniform(-1.3, 1.3):.{rng.randrange(0, 5)}f}"
    return {"gold": round(rng.uniform(-1, 1), 3), "output": rng.choice(["", "", "score ", "-", "a1b", ".", "\u0663 "]) + rng.choice([number, number, "none", "", "7.", ".25", "1.2.3", "12"]) + rng.choice(["", "\n0.9", " and 0.1", "."])}

def tags_of(rng, n, kinds):
    tags = []
    for _ in range(n):
        x = rng.random()
        tags.append("O" if x < 0.5 else ("B-" if x < 0.75 or not tags or tags[-1] == "O" else "I-") + rng.choice(kinds))
    return tags

def row_ner(rng, task):
    words = words_of(rng, rng.randrange(1, 14))
    text = "".join(w + rng.choice([" ", " ", " ", " ", "  ", "\u00a0", "\n"]) for w in words)
    if rng.random() < 0.7:
        text = text.strip()
    lines = []
    for _ in range(rng.randrange(0, 5)):
        a = rng.randrange(len(words))
        name = " ".join(words[a:a + rng.randrange(1, 4)])
        if rng.random() < 0.2:
            k = rng.randrange(len(text))
            name = text[k:k + rng.randrange(1, 8)]
        lines.append(name + rng.choice([", ", ", ", ", ", ",", ", , "]) + rng.choice(["PER", "ORG", "LOC", "LOC", "", "x-y", "per"]))
    label = tags_of(rng, len(text.split()), ["PER", "ORG", "LOC"]) if rng.random() < 0.4 else project("\n".join(x for x in lines if x[-3:] in ("PER", "ORG", "LOC") and ", , " not in x), text)
    return {"text": text, "label": label, "output": rng.choice(["\n", "\n", "\n\n"]).join(lines) + rng.choice(["", "\n", " "])}

def row_sequence(rng, task):
    token = words_of(rng, rng.randrange(1, 12))
    label = tags_of(rng, len(token), ["CAUSE", "EFFECT"])
    lines = []
    for w, l in zip(token, label):
        x = rng.random()
        lines.append(f"{w}:{l}" if x < 0.6 else f"{w}:{rng.choice(task['choices'])}" if x < 0.75 else f"{w}: {l}" if x < 0.8 else f"{w}:X" if x < 0.85 else w if x < 0.9 else "" if x < 0.95 else "other:O")
    if rng.random() < 0.2:
        lines.insert(rng.randrange(len(lines) + 1), "Here:")
    if rng.random() < 0.2:
        lines = lines[:rng.randrange(len(lines) + 1)] + lines[:2]
    return {"token": token, "label": label, "output": "\n".join(lines)}

def row_relation(rng, task):
    def one():
        return f"{rng.choice('ABCDE')} ; {rng.choice('FGH')} ; {rng.choice(['owned_by', 'brand', 'ceo'])}"
    gold = [one() for _ in range(rng.randrange(1, 3))]
    return {"label": gold, "output": rng.choice(["\n".join(gold + [one()]), gold[0], gold[0] + " ", "", "none", "\n".join(gold) + "\n", one()])}

def sentence(rng):
    return " ".join(rng.choice(["profit", "rose", "12.5%", "the", "bank's", "fell", "na\u00efve", "Q3", "guidance", "-", "1,234"]) for _ in range(rng.randrange(1, 15)))

def row_abstractive(rng, task):
    return {"answer": sentence(rng), "output": rng.choice([sentence(rng), sentence(rng), "", "?"])}

def row_extractive(rng, task):
    n = rng.randrange(1, 6)
    marks = [rng.randrange(2) for _ in range(n)]
    return {"text": "\n".join(sentence(rng) for _ in range(n)), "label": marks, "output": "\n".join(map(str, marks))}

ROW = {"classification": row_choices, "stock": row_choices, "credit": row_choices, "headlines": row_headlines, "qa": row_qa, "tsa": row_tsa, "ner": row_ner, "sequence": row_sequence, "relation": row_relation,
       "abstractive": row_abstractive, "extractive": row_extractive}
NAMES = ["sentiment", "topics", "fraud", "movement", "credit", "headlines", "quantity", "tone", "names", "causes", "triplets", "digest", "picked"]

def make(rng, name, n):
    task = json.load(open(f"{TASKS}/{name}.json"))
    rows = [dict(ROW[task["pixiu"]["class"]](rng, task), id=i) for i in range(n)]
    return rows, {k: float(v) for k, v in SCORE[task["pixiu"]["class"]](rows, task).items()}

def main():
    p = argparse.ArgumentParser()
    p.add_argument("--program", default="./eval_cpu score")
    p.add_argument("--rows", type=int, default=4000)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--harness")
    p.add_argument("--write")
    o = p.parse_args()
    if o.write:
        cases = []
        for name in NAMES:
            rows, want = make(random.Random(o.seed), name, 24)
            cases.append({"task": name, "rows": rows, "want": want})
        with open(o.write, "w") as f:
            json.dump(cases, f, ensure_ascii=False, separators=(",", ":"))
            f.write("\n")
        return
    worst = 0.0
    flare = load_harness(o.harness) if o.harness else None
    for name in NAMES:
        rows, want = make(random.Random(f"{o.seed} {name}"), name, o.rows)
        own = score_harness(flare, rows, json.load(open(f"{TASKS}/{name}.json"))) if flare else None
        want = own or want
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl", delete=False, encoding="utf-8") as f:
            for r in rows:
                f.write(json.dumps(r) + "\n")
        run = subprocess.run(o.program.split() + ["--task", f"{TASKS}/{name}.json", "--predictions", f.name, "--pixiu-compat", "--strict", "--bootstrap", "10"], capture_output=True, text=True)
        os.unlink(f.name)
        if run.returncode:
            sys.exit(f"{name}: {run.stderr}")
        got = json.loads(run.stdout)
        difference = max(abs(got[k] - v) if got.get(k) is not None else float("inf") for k, v in want.items())
        worst = max(worst, difference)
        print(f"{name:10} {len(rows)} rows  " + ("harness  " if own else "") + "  ".join(f"{k} {v:.6f}" for k, v in want.items()) + f"  difference {difference:.1e}")
    print(f"largest difference {worst:.1e}")
    sys.exit(worst > 1e-9)

main()
