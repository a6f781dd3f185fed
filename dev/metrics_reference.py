"""Writes cases with the results of the reference implementations, for test/test_metrics.c.

    python3 dev/metrics_reference.py test/data/metrics.json              a few of each, which are committed
    python3 dev/metrics_reference.py build/metrics.json --big DIR        thousands of each; DIR: the data of ../shared/data, unpacked: real texts and tags join the random ones
    FINDAP_METRICS=build/metrics.json build/test_metrics

Needs scikit-learn, seqeval, rouge_score (and its nltk), scipy. Where the reference is a program, it is called. What the leaderboard's harness does and exact match and the comparison
of numbers, which no program has as we want them, are written out below in the plainest way, not as the C does them.
"""
import csv, glob, gzip, json, math, os, random, re, sys, unicodedata, warnings
from usage import usage
usage(__doc__, *((3, 3) if "--big" in sys.argv else (1, 1)), ["--big"])
from decimal import Decimal
import numpy as np
from rouge_score import rouge_scorer
from nltk.stem import porter
from scipy import stats
from seqeval.metrics import f1_score as seq_f1, precision_score as seq_precision, recall_score as seq_recall
from seqeval.metrics.sequence_labeling import get_entities
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, mean_squared_error, precision_recall_fscore_support as prf

warnings.filterwarnings("ignore")
R = random.Random(1)
BIG = "--big" in sys.argv
AVERAGES = ["micro", "macro", "weighted"]


# ---- classes. Labels 0..K-1; a prediction without a label is K here, -1 in the file

def random_classes():
    K = R.choice([1, 2, 2, 3, 3, 4, 6, 10, 30] if BIG else [1, 2, 3, 3, 4])
    n = R.choice([1, 2, 3, 5, 10, 20, 50, 100, 400] if BIG else [1, 2, 3, 5, 10, 20, 50])
    weights = [R.random() ** R.choice([1, 4]) + 1e-3 for _ in range(K)]
    used = R.sample(range(K), R.randint(1, K)) if R.random() < 0.3 else list(range(K))    # labels that nobody has
    gold = R.choices(used, [weights[u] for u in used], k=n)
    skill, missing = R.random(), R.choice([0, 0, 0.1, 0.5, 1])
    constant = R.randrange(K) if R.random() < 0.1 else None
    pred = [K if R.random() < missing else constant if constant is not None else g if R.random() < skill else R.randrange(K) for g in gold]
    return K, gold, pred


def class_scores(K, gold, pred):
    sets = [sorted(set(gold)), sorted(set(gold) | set(pred)), list(range(K))]
    out = {"averages": [[list(prf(gold, pred, labels=s, average=a, zero_division=0)[:3]) for s in sets] for a in AVERAGES],
           "classes": [list(map(float, x)) for x in np.array(prf(gold, pred, labels=list(range(K)), zero_division=0)[:3]).T],
           "acc": accuracy_score(gold, pred), "mcc": matthews_corrcoef(gold, pred)}
    assert abs(harness_f1(gold, pred, "weighted") - out["averages"][2][0][2]) < 1e-12 and abs(harness_f1(gold, pred, "macro") - out["averages"][1][0][2]) < 1e-12
    assert abs(harness_mcc(gold, pred) - out["mcc"]) < 1e-9
    return out


# what the leaderboard's harness does with lists of labels, by its description
def harness_f1(gold, pred, average):
    total = weight = 0
    for c in set(gold):
        tp = sum(g == p == c for g, p in zip(gold, pred))
        fp, fn = pred.count(c) - tp, gold.count(c) - tp
        p, r = tp / (tp + fp) if tp + fp else 0, tp / (tp + fn) if tp + fn else 0
        w = gold.count(c) if average == "weighted" else 1
        total += w * (2 * p * r / (p + r) if p + r else 0)
        weight += w
    return total / weight


def harness_mcc(gold, pred):
    s, c, labels = len(gold), sum(g == p for g, p in zip(gold, pred)), set(gold) | set(pred)
    p, t = [pred.count(k) for k in labels], [gold.count(k) for k in labels]
    d = (s * s - sum(x * x for x in p)) * (s * s - sum(x * x for x in t))
    return (c * s - sum(a * b for a, b in zip(p, t))) / math.sqrt(d) if d > 0 else 0.0


def expected_f1(n, g, q):
    """of a class with g of n golds, when each row is predicted to be of it with probability q: the double sum over right and wrong predictions"""
    tp, fp = np.arange(g + 1)[:, None], np.arange(n - g + 1)[None, :]
    return float((2 * tp / (g + tp + fp) * stats.binom.pmf(tp, g, q) * stats.binom.pmf(fp, n - g, q)).sum())


def baselines(K, gold):
    counts = [gold.count(k) for k in range(K)]
    n, most, have = len(gold), counts.index(max(counts)), [k for k in range(K) if counts[k]]
    f = {k: expected_f1(n, counts[k], 1 / K) for k in have}
    b, r = np.arange(n + 1)[:, None], np.arange(n + 1)[None, :]        # micro: b predictions fall on labels that somebody has, r of them are right
    micro = float((2 * r / (n + b) * stats.binom.pmf(b, n, len(have) / K) * np.where(r <= b, stats.binom.pmf(r, b, 1 / len(have)), 0)).sum())
    return {"K": K, "gold": gold, "majority": list(map(float, scores_of(K, gold, [most] * n))),
            "uniform": [1 / K, sum(f[k] * counts[k] for k in have) / n, sum(f.values()) / len(have), micro, sum(f.values()) / K, 0]}


# the headlines: nine kinds of question, anything but "Yes" is a no, and the mean of nine weighted F1 scores
def headlines():
    rows = [(R.randrange(9), R.random() < 0.5, R.choice(["Yes", " Yes\n", "No", "Yes.", "yes", "", "No, it is not"])) for _ in range(R.choice([9, 30, 200] if BIG else [9, 30]))]
    values = []
    for kind in sorted({k for k, _, _ in rows}):
        gold = [0 if yes else 1 for k, yes, _ in rows if k == kind]
        values.append(f1_score(gold, [0 if o.strip() == "Yes" else 1 for k, _, o in rows if k == kind], labels=[0, 1], average="weighted", zero_division=0))
    return {"kind": [k for k, _, _ in rows], "gold": [0 if y else 1 for _, y, _ in rows], "pred": [0 if o.strip() == "Yes" else 1 for _, _, o in rows], "avg_f1": sum(values) / len(values)}


# ---- entities, relations, numbers

def random_tags(n, style):
    types = R.sample(["PER", "ORG", "LOC", "A-B", "us-gaap:X", "", "_", "I", "é"], R.randint(1, 4))
    letters = {"bio": "BIO", "broken": "BIOOII", "bioes": "BIOES", "odd": "BIOESULx.é"}[style]
    tags = []
    for _ in range(n):
        c = R.choice(letters)
        t = R.choice(types)
        tags.append("O" if c == "O" and R.random() < 0.95 else c if R.random() < 0.05 else c + "-" + t if R.random() < 0.97 else c + t)
    return tags


def entity_case(sentences):
    gold, pred = [s[0] for s in sentences], [s[1] for s in sentences]
    g, p = set(get_entities(gold)), set(get_entities(pred))
    return {"gold": gold, "pred": pred, "right": len(g & p), "predicted": len(p), "golds": len(g), "f1": float(seq_f1(gold, pred)), "p": float(seq_precision(gold, pred)), "r": float(seq_recall(gold, pred))}


def random_entities(real):
    style = R.choice(["bio", "broken", "bioes", "odd"])
    sentences = []
    for _ in range(1 if style == "odd" else R.choice([1, 2, 5, 12])):     # odd letters: seqeval's state leaks from sentence to sentence
        gold = R.choice(real) if real and R.random() < 0.5 and style != "odd" else random_tags(R.choice([1, 2, 3, 5, 10, 25]), style)
        other = random_tags(len(gold), style)
        keep = R.random()
        sentences.append((gold, [g if R.random() < keep else o for g, o in zip(gold, other)]))
    return entity_case(sentences)


def random_relations():
    pool = [R.choice(["Apple", "Tim Cook", "a", "ä", ""]) + " ; " + R.choice(["X", "Y", "x"]) + " ; " + R.choice(["employer", "owned_by", "brand"]) for _ in range(R.randint(1, 12))]
    rows = [([R.choice(pool) for _ in range(R.randint(0, 4))], [R.choice(pool) for _ in range(R.randint(0, 4))]) for _ in range(R.choice([1, 2, 6]))]
    each = [[len(set(g) & set(p)), len(set(p)), len(set(g))] for g, p in rows]
    gold, pred = {x for g, _ in rows for x in g}, {x for _, p in rows for x in p}
    p, r = len(gold & pred) / len(pred) if pred else 0, len(gold & pred) / len(gold) if gold else 0
    return {"rows": [[g, p] for g, p in rows], "each": each, "all": [len(gold & pred), len(pred), len(gold)], "f1": 2 * p * r / (p + r) if p + r else 0}


def random_rmse():
    n = R.choice([1, 2, 5, 30, 300] if BIG else [1, 2, 5, 30])
    gold = [round(R.uniform(-1, 1), 3) for _ in range(n)]
    pred = [None if R.random() < 0.1 else R.choice([round(R.uniform(-1, 1), 3), g]) for g in gold]
    used = [(g, p) for g, p in zip(gold, pred) if p is not None]
    return {"gold": gold, "pred": pred, "rmse": float(np.sqrt(mean_squared_error(*zip(*used)))) if used else None, "constant": float(np.std(gold)),
            "uniform": math.sqrt(np.mean([((1 - g) ** 3 + (1 + g) ** 3) / 6 for g in gold]))}       # the mean of (g - u)^2 over u in [-1, 1]


# ---- from raw outputs, as the leaderboard's harness goes about it. eval_pixiu.h answers for "pred", metrics.h for the scores

def harness_class(kind, choices, output):
    out = output.strip().lower()
    more = {"stock": [["yes", "positive"], ["no", "negative", "neutral"]], "credit": [["yes", "positive"], ["no", "negative", "neutral"]]}.get(kind, [[]] * len(choices))
    for i, c in enumerate(choices):
        if c.lower() in out or any(w in out for w in more[i]):
            return i
    return {"classification": len(choices), "stock": 1, "credit": 0}[kind]


def harness_tags(text, output):
    words, starts, at = text.split(), [], 0
    for w in words:
        starts.append(at)
        at += len(w) + 1
    tags = ["O"] * len(words)
    for line in output.split("\n"):
        *entity, kind = line.split(", ")
        entity = ", ".join(entity)
        pos = text.find(entity) if entity else -1
        while pos >= 0:
            end = pos + len(entity) - 1
            a, b = next((i for i, x in enumerate(starts) if x >= pos), None), next((i for i, x in enumerate(starts) if x > end), None)
            if a is not None and b is not None:
                for i in range(a, max(b, a + 1)):
                    tags[i] = ("I-" if i > a else "B-") + kind
            pos = text.find(entity, end + 1)
    return tags


def harness_labels(tokens, output, labels):
    ids = [-1] * len(tokens)
    for i, line in enumerate(output.split("\n")[:len(tokens)]):
        parts = line.split(":")
        if len(parts) == 2 and parts[0] == tokens[i] and parts[1] in labels:
            ids[i] = labels.index(parts[1])
    return ids


def random_harness():
    kind = R.choice(["classification", "classification", "stock", "credit", "tsa", "ner", "sequence", "relation", "qa"])
    n = R.choice([1, 3, 8, 40] if BIG else [2, 4])
    out = {"class": kind}
    if kind in ("classification", "stock", "credit"):
        choices = {"stock": ["Rise", "Fall"], "credit": ["good", "bad"]}.get(kind) or R.choice([["positive", "neutral", "negative"], ["NoRelation", "Support", "Attack"], ["no", "yes"]])
        say = lambda g: R.choice([choices[g], choices[g].upper() + ".", " " + R.choice(choices), "not " + R.choice(choices) + ", " + choices[g], "I don't know", "the economy", "", "Yes", "Positive!", "it may go either way", "neutral"])
        gold = [R.randrange(len(choices)) for _ in range(n)]
        rows = [[say(g), g] for g in gold]
        pred = [harness_class(kind, choices, o) for o, _ in rows]
        out.update(choices=choices, rows=rows, pred=[-1 if p == len(choices) else p for p in pred], acc=accuracy_score(gold, pred), f1=harness_f1(gold, pred, "weighted"), macro_f1=harness_f1(gold, pred, "macro"),
                   mcc=harness_mcc(gold, pred), missing=sum(p == len(choices) for p in pred) / n)
    elif kind == "tsa":
        rows = [[R.choice(["0.5", "-0.3", "The score is 0.25 or so", "none\n0.5", "", "1", "7", ".5", "0.5.5", "-1 for it", "12e-1"]), round(R.uniform(-1, 1), 2)] for _ in range(n)]
        found = [re.findall(r"[0-9]+(?:\.[0-9]+)?", o.split("\n")[0]) for o, _ in rows]
        pred = [min(1.0, max(-1.0, float(f[0]))) if f else None for f in found]
        errors = [p - g if p is not None else None for p, (_, g) in zip(pred, rows)]
        used = [e for e in errors if e is not None]
        out.update(rows=rows, pred=pred, errors=errors, rmse=math.sqrt(sum(e * e for e in used) / len(used)) if used else None, missing=1 - len(used) / n)
    elif kind == "ner":
        rows = []
        for _ in range(n):
            words = [R.choice(["Apple", "Inc", "Bank", "of", "the", "New", "York", "Übersee", "John", ","]) for _ in range(R.randint(1, 12))]
            spans = [" ".join(words[i:i + R.randint(1, 2)]) for i in (R.randrange(len(words)) for _ in range(R.randint(0, 3)))]
            rows.append([" ".join(words), "\n".join(s + R.choice([", ", ", ", ",", ""]) + R.choice(["PER", "ORG", "LOC", "org"]) for s in spans), random_tags(len(words), "bio")])
        pred = [harness_tags(t, o) for t, o, _ in rows]
        out.update(rows=rows, pred=pred, entity_f1=float(seq_f1([g for _, _, g in rows], pred)))
    elif kind == "sequence":
        labels, rows = ["O", "I-CAUSE", "B-CAUSE", "I-EFFECT", "B-EFFECT"], []
        for _ in range(n):
            tokens = [R.choice(["Profit", "fell", "3:1", "as", "costs", "rose", "."]) for _ in range(R.randint(1, 10))]
            gold = [R.choice(labels) for _ in tokens]
            lines = [t + R.choice([":", ":", ":", ": ", ""]) + (g if R.random() < 0.7 else R.choice(labels + ["X"])) for t, g in zip(tokens, gold)]
            if R.random() < 0.3:
                lines.insert(R.randrange(len(lines) + 1), "Here you are:")
            rows.append([tokens, "\n".join(lines[:R.randint(0, len(lines))] if R.random() < 0.3 else lines), gold])
        pred = [harness_labels(t, o, labels) for t, o, _ in rows]
        gold, flat = [labels.index(g) for _, _, gs in rows for g in gs], [p for ps in pred for p in ps]
        out.update(labels=labels, rows=rows, pred=pred, f1=float(f1_score(gold, flat, labels=sorted(set(gold) | set(flat)), average="weighted", zero_division=0)),
                   entity_f1=float(seq_f1([g for _, _, g in rows], [["O" if p < 0 else labels[p] for p in ps] for ps in pred])))
    elif kind == "relation":
        relation = lambda: R.choice("AB") + " ; " + R.choice("CD") + " ; " + R.choice(["brand", "employer"])
        rows = [["\n".join(R.choice([relation(), relation(), "none", " " + relation()]) for _ in range(R.randint(0, 3))), [relation() for _ in range(R.randint(1, 3))]] for _ in range(n)]
        gold, said = {g for _, gs in rows for g in gs}, {x for o, _ in rows for x in o.split("\n")}
        p, r = len(gold & said) / len(said), len(gold & said) / len(gold)
        out.update(rows=rows, p=p, r=r, f1=2 * p * r / (p + r) if p + r else 0.0)
    else:
        rows = [[R.choice(["127.4", " 127.4\n", "127.40", "The answer is 127.4", "yes", "Yes", ""]), R.choice(["127.4", "yes"])] for _ in range(n)]
        out.update(rows=rows, acc=sum(o.strip() == g for o, g in rows) / n)
    return out


# ---- texts

WORDS = """the a of to in and company revenues revenue rose rising increased increases increasing fell falling earnings quarterly profitability profitable operations operational relational national
conditionally agreed agreeing feed bled hopping hoped hopeful hopefulness dying lying news sky skies dies died tied spied flies happy enjoy enjoyment cries geology geologically archaeology theology fulfilled
fully carefully digitization vietnamization sensibility sensitivity formality electrical electricity allowance inference adjustment replacement adoption communism activate effective bowdlerize probate rate cease
controlling rolls Apple's Q3 12.5% $1.2bn 1,234 2019-2020 e-mail U.S. naïve café Übernahme ÖL İstanbul 3K K 株式 ½ x² — … don't shareholders' EPS EBITDA percent bps billion yyyy syzygy proceed exceeding
succeeded inning innings outings howe cannings ied ing eed sses ies ss s""".split()


def random_word():
    if R.random() < 0.6:
        return R.choice(WORDS)
    if R.random() < 0.5:      # a made-up stem with a suffix that a rule is about
        return "".join(R.choice("abcdeilnorstuyz") for _ in range(R.randint(1, 6))) + R.choice(
            "ational tional enci anci izer bli alli entli eli ousli ization ation ator alism iveness fulness ousness aliti iviti biliti fulli logi icate ative alize iciti ical ful ness al ance ence er ic able ible ant ement "
            "ment ent sion tion ou ism ate iti ous ive ize sses ies ss s eed ed ing ied y ll e at bl iz tt ss zz ated bled ized ying yed".split())
    return "".join(R.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(R.randint(1, 9)))


def random_text():
    if R.random() < 0.02:
        return R.choice(["", " ", "\n", "...", "é", "\n\na\n"])
    words, text = R.choice([WORDS[:12], None]), ""
    for _ in range(R.choice([1, 2, 5, 12, 30, 80])):
        w = R.choice(words) if words else random_word()
        text += (w.upper() if R.random() < 0.1 else w) + R.choice([" "] * 12 + [", ", ". ", ".\n", "\n", "\n\n", "\t", " - ", "\u00a0", "\u2028"])
    return text


def changed(text):
    words = text.split(" ")
    keep = R.random()
    words = [w if R.random() < keep else random_word() for w in words if R.random() < 0.9]
    if R.random() < 0.3:
        R.shuffle(words)
    return " ".join(words)


TYPES = ["rouge1", "rouge2", "rougeL"]
SCORERS = [rouge_scorer.RougeScorer(TYPES, use_stemmer=s) for s in (False, True)]


def rouge_case(gold, pred):
    return {"gold": gold, "pred": pred, "scores": [[list(s.score(gold, pred)[t]) for t in TYPES] for s in SCORERS]}


def random_rouge(real):
    gold = R.choice(real) if real and R.random() < 0.5 else random_text()
    return rouge_case(gold, R.choice([changed(gold), changed(gold), R.choice(real) if real and R.random() < 0.5 else random_text()]))


def normalised(text):
    text = re.sub(r"[\s\x1c-\x1f\x85]+", " ", unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())).strip()
    return re.sub(r"[.,;:!? ]+$", "", text) or text


def random_match():
    a = R.choice(["12.5", "125", "-3", "3", "-3%", "3%", "12.", "12", "Rise", "rise.", "RISE !", " rise", "Übernahme", "übernahme?", "u\u0308bernahme", "a  b", "a\tb", "a\u00a0b", "1,234.5", "12345", "10²", "102", "...", "?", "",
                  "Straße", "STRASSE", "yes, no", "yes no", "U.S.", "us", ".5", "5", "net income; 5.", "Net  Income; 5", "ａ", "a"])
    b = R.choice([a, a.upper(), a + R.choice([".", " ", "!", "\n"]), " " + a, random_match.pool[R.randrange(len(random_match.pool))]])
    random_match.pool.append(a)
    return {"a": a, "b": b, "normalised": normalised(a) == normalised(b)}


random_match.pool = ["x"]


# ---- numbers: the value is known before the text is written

def random_number():
    digits, decimals = R.choice([1, 2, 3, 4, 6, 9]), R.choice([0, 0, 1, 2, 3, 5])
    x = Decimal(R.randrange(10 ** (digits - 1) if digits > 1 else 0, 10 ** digits)).scaleb(-decimals)
    return write_number(x, R.choice(["", "", "", "%", " percent", "bps", " million", "bn", "k", "e3"]), R.random() < 0.3)


def write_number(x, unit, negative):
    decimals = max(0, -x.as_tuple().exponent)
    text = f"{x:,.{decimals}f}" if R.random() < 0.5 else f"{x:.{decimals}f}"
    if R.random() < 0.1:
        text = text.replace(",", "\u00a0")
    factor = {"": 0, "%": -2, " percent": -2, "bps": -4, " million": 6, "bn": 9, "k": 3, "e3": 3}[unit]
    currency = R.choice(["", "", "$", "€"]) if unit not in ("%", " percent", "bps") else ""
    text = currency + text + unit
    if negative:
        text = R.choice(["-" + text, "\u2212" + text, "(" + text + ")"])
    value = float((-x if negative else x).scaleb(factor))
    return {"text": text, "value": value, "unit": float(Decimal(1).scaleb(factor - decimals)), "percent": unit in ("%", " percent", "bps")}


def near(p, g, unit, share):
    bound = max(unit / 2, abs(g) * share)
    return None if abs(abs(p - g) - bound) <= 1e-7 * bound + 1e-13 else abs(p - g) < bound      # None: too near to say


def matches(p, g):
    """strict, rounded, relaxed; None where it hangs on the last bit"""
    pv, gv = p["value"], g["value"]
    strict = round(pv, 5) == round(gv, 5)
    rounded = True if strict else near(pv, gv, g["unit"], 0)
    answers = [rounded, near(pv, gv, g["unit"], 0.01)]
    small = min(abs(pv), abs(gv)) < 10
    if not p["percent"] and not g["percent"] and small:
        answers += [near(pv * 100, gv, g["unit"], 0.01), near(pv / 100, gv, g["unit"], 0.01)]
    if p["percent"] and not g["percent"]:
        answers.append(near(pv * 100, gv, g["unit"], 0.01))
    if g["percent"] and not p["percent"]:
        answers.append(near(pv / 100, gv, g["unit"], 0.01))
    relaxed = True if True in answers else None if None in answers else False
    return [strict, rounded, relaxed]


def random_comparison():
    while True:
        g = random_number()
        way = R.randrange(6)
        if way == 0:
            p = random_number()
        else:       # the same number, or nearly, or as a percentage, written anew
            x = abs(Decimal(repr(g["value"])))
            if way > 1:
                x *= Decimal(R.choice([1.001, 0.995, 1.009, 1.011, 1.02, 1.0001])).quantize(Decimal("0.0001"))
            scale = R.choice([0, 0, 2, -2])
            x = x.scaleb(scale)
            x = x.quantize(Decimal(1).scaleb(-R.choice([0, 1, 2, 3, 5]))) if R.random() < 0.5 else x.quantize(Decimal(1).scaleb(-min(9, max(0, -x.as_tuple().exponent))))
            p = write_number(x, R.choice(["", "", "%"]), (g["value"] < 0) != (R.random() < 0.05))
        m = matches(p, g)
        if None not in m:
            return {"pred": p, "gold": g, "matches": m}


# ---- statistics

def random_statistics():
    n = R.choice([2, 3, 5, 20, 200] if BIG else [2, 3, 5, 20])
    a = [R.choice([0.0, 1.0]) if R.random() < 0.5 else round(R.random(), 3) for _ in range(n)]
    b = [x if R.random() < 0.5 else round(R.random(), 3) for x in a]
    mean = stats.t.interval(0.95, n - 1, loc=np.mean(a), scale=stats.sem(a)) if stats.sem(a) > 0 else (np.mean(a), np.mean(a))
    test = stats.ttest_rel(b, a) if np.std(np.array(b) - a) > 1e-9 else None
    k, m = R.randint(0, n), R.choice([0, 1, 3, 10, 100, 1000, 20000])
    x = R.randint(0, m)
    w = stats.binomtest(k, n).proportion_ci(0.95, "wilson")
    df, q = R.choice([1, 2, 3, 5, 8, 30, 199, 201, 5000, 1e6]), R.choice([max(round(R.random(), 4), 1e-4), 10.0 ** -R.randint(1, 8), 0.975, 0.025, 0.5])
    t = round(R.uniform(-8, 8), 3)
    return {"a": a, "b": b, "mean": float(np.mean(a)), "sem": float(stats.sem(a)), "mean_low": float(mean[0]), "mean_high": float(mean[1]), "paired_p": float(test.pvalue) if test else None,
            "k": k, "n": n, "wilson": [float(w.low), float(w.high)], "mcnemar": [x, m - x, float(stats.binomtest(x, m).pvalue) if m else 1.0],
            "df": df, "q": q, "t_quantile": float(stats.t.ppf(q, df)), "normal_quantile": float(stats.norm.ppf(q)), "t": t, "t_cdf": float(stats.t.cdf(t, df))}


def random_fit():
    n = R.choice([3, 4, 7, 12])
    size = [100 * 2.0 ** i for i in range(n)]
    slope = R.uniform(0.1, 0.5)
    f1 = [round(1 - math.exp(0.5 - slope * math.log(d) + R.gauss(0, 0.05)), 5) for d in size]
    fit = stats.linregress(np.log(size), np.log(1 - np.array(f1)))
    wide = stats.t.ppf(0.975, n - 2) * fit.stderr
    return {"size": size, "f1": f1, "slope": float(fit.slope), "intercept": float(fit.intercept), "r2": float(fit.rvalue ** 2), "error": float(fit.stderr), "low": float(-fit.slope - wide), "high": float(-fit.slope + wide)}


def scores_of(K, gold, pred):      # the six of CellMetric
    labels = sorted(set(gold))
    f = [prf(gold, pred, labels=l, average=a, zero_division=0)[2] for a, l in (("weighted", labels), ("macro", labels), ("micro", labels), ("macro", None))]
    return [accuracy_score(gold, pred), *f, matthews_corrcoef(gold, pred)]


def quick_scores(K, gold, pred):   # the same for many replicates
    g, p, t = np.bincount(gold, minlength=K + 1), np.bincount(pred, minlength=K + 1), np.bincount(gold[gold == pred], minlength=K + 1)
    n, f, seen, have = len(gold), 2 * t / np.maximum(g + p, 1), (g + p) > 0, g > 0
    d = (n * n - (p * p).sum()) * (n * n - (g * g).sum())
    return [t.sum() / n, (f * g).sum() / n, f[have].mean(), 2 * t[have].sum() / (g[have] + p[have]).sum(), f[seen].mean(), (t.sum() * n - (p * g).sum()) / math.sqrt(d) if d > 0 else 0.0]


def bootstrap_case(replicates):
    """rows drawn with replacement; the errors are as exact as so many replicates are, which the test allows for"""
    K, gold, pred = 0, [], []
    while K < 2 or len(gold) < 50 or len(set(gold)) < 2:
        K, gold, pred = random_classes()
    other = [g if R.random() < 0.5 else p for g, p in zip(gold, pred)]
    g, p, o = np.array(gold), np.array(pred), np.array(other)
    draws = np.random.default_rng(len(gold)).integers(0, len(g), (replicates, len(g)))
    assert np.allclose(quick_scores(K, g, p), scores_of(K, gold, pred), atol=1e-12) and np.allclose(quick_scores(K, g, o), scores_of(K, gold, other), atol=1e-12)
    a, b = (np.array([quick_scores(K, g[d], x[d]) for d in draws]) for x in (p, o))
    return {"K": K, "gold": gold, "pred": pred, "other": other, "replicates": replicates, "error": a.std(0, ddof=1).tolist(), "low": np.percentile(a, 2.5, 0).tolist(), "high": np.percentile(a, 97.5, 0).tolist(),
            "difference_error": (b - a).std(0, ddof=1).tolist(), "difference_low": np.percentile(b - a, 2.5, 0).tolist(), "difference_high": np.percentile(b - a, 97.5, 0).tolist()}


# ---- real texts and tags

def real_data(folder):
    texts, tags = [], []
    for path in sorted(glob.glob(folder + "/ectsum/**/*.txt", recursive=True))[:4000]:
        texts.append(open(path, encoding="utf-8", errors="replace").read()[:600])
    for line in open(folder + "/fpb/Sentences_50Agree.txt", encoding="latin-1"):
        texts.append(line.rsplit("@", 1)[0])
    for line in open(folder + "/finqa/flare_finqa_valid.jsonl", encoding="utf-8"):
        texts.append(json.dumps(json.loads(line), ensure_ascii=False)[:600])
    with gzip.open(folder + "/finer_ord/test_gold_data.csv.gz", "rt", encoding="utf-8") as f:
        names, documents = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG"], {}
        for row in csv.DictReader(f):
            documents.setdefault(row["doc_idx"], []).append(names[int(row["gold_label"])])
        tags += [d[i:i + 40] for d in documents.values() for i in range(0, len(d), 40)]
    for path in glob.glob(folder + "/ner/*.conll.txt"):
        sentence = []
        for line in open(path, encoding="utf-8", errors="replace"):
            if line.strip():
                sentence.append(line.split()[-1])
            elif sentence:
                tags.append(sentence)
                sentence = []
    print(f"real: {len(texts)} texts, {len(tags)} sentences with tags")
    return texts, tags


def finite(x):
    return all(map(finite, x.values())) if isinstance(x, dict) else all(map(finite, x)) if isinstance(x, list) else not isinstance(x, float) or math.isfinite(x)


def shorter(x):
    return {k: shorter(v) for k, v in x.items()} if isinstance(x, dict) else [shorter(v) for v in x] if isinstance(x, list) else float(f"{x:.12g}") if isinstance(x, float) else x


def main():
    texts, tags = real_data(sys.argv[sys.argv.index("--big") + 1]) if BIG else ([], [])
    ascii_by_lower = {c for c in map(chr, range(128, 0x110000)) if not 0xD800 <= ord(c) < 0xE000 and re.search("[a-z0-9]", c.lower())}
    assert ascii_by_lower == {"\u0130", "\u212a"}, ascii_by_lower       # what rouge.h relies on
    stemmer = porter.PorterStemmer()
    words = {random_word().lower() for _ in range(200000 if BIG else 400)} | {w for t in texts for w in re.findall("[a-z0-9]+", t.lower())}
    words = sorted(w for w in words if re.fullmatch("[a-z0-9]{4,}", w))
    def a_class():
        K, gold, pred = random_classes()
        return {"K": K, "gold": gold, "pred": [-1 if p == K else p for p in pred], **class_scores(K, gold, pred)}

    def a_baseline():
        K, gold, _ = random_classes()
        return baselines(K, gold[:60])
    own = rouge_case("Q3 revenue rose 12.5% to $1.2bn, beating the company's own guidance.", "The company's revenue rose 12.5 percent in Q3 to $1.2 bn and beat guidance")
    sections = {"classes": (a_class, 36, 6000), "baselines": (a_baseline, 30, 5000), "headlines": (headlines, 8, 5000), "harness": (random_harness, 24, 20000), "entities": (lambda: random_entities(tags), 24, 6000),
                "relations": (random_relations, 20, 5000), "rmse": (random_rmse, 15, 5000), "rouge": (lambda: random_rouge(texts), 26, 6000), "matches": (random_match, 60, 5000), "comparisons": (random_comparison, 60, 20000),
                "statistics": (random_statistics, 20, 5000), "fits": (random_fit, 10, 5000), "bootstraps": (lambda: bootstrap_case(20000 if BIG else 5000), 2, 20)}
    out = {"stems": [[w, stemmer.stem(w)] for w in words]}
    for name, (make, few, most) in sections.items():
        out[name] = [make() for _ in range(most if BIG else few)] + ([own] if name == "rouge" else [])
        odd = [c for c in out[name] if not finite(c)]
        out[name] = [c for c in out[name] if finite(c)]
        print(len(out[name]), name, f"({len(odd)} without a finite result left out, as {odd[0]})" if odd else "", flush=True)
    for b in out["bootstraps"]:
        for key in ("pred", "other"):
            b[key] = [-1 if p == b["K"] else p for p in b[key]]
    if not BIG:       # 12 digits say what 1e-9 asks for
        out = shorter(out)
    with open(sys.argv[1], "w", encoding="utf-8") as f:
        f.write("{\n" + ",\n".join(json.dumps(k) + ": [\n" + ",\n".join(json.dumps(c, ensure_ascii=False, separators=(",", ":"), allow_nan=False) for c in v) + "]" for k, v in out.items()) + "\n}\n")
    print(f"{len(words)} stems; {os.path.getsize(sys.argv[1])} bytes")


if __name__ == "__main__":
    main()
