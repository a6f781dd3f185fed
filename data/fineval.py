#!/usr/bin/env python3
"""fineval.py: the test sets of FinEval (arXiv 2501.04961, table E.1) and of the Open FinLLM leaderboard by name, as JSONL for `eval`.

    fineval.py list [NAME...]                                what there is: published size, where it comes from, what the local copy is
    fineval.py convert NAME...|all --source DIR --out DIR    from original files, laid out as --source: DIR/fpb/Sentences_50Agree.txt, ...
    fineval.py fetch NAME...|all --out DIR [--revision REV]  from the public hub (needs `datasets` and the network)

Names are those of data/tasks. Written are NAME.jsonl, the rows that are tested, and NAME_train.jsonl, rows for examples (shots) and for the
overlap report, where there are any. Which rows: the split that FinEval and the leaderboard use where the files allow it; otherwise what is
there, and the line that is printed says what differs. Files that need no conversion, because they hold FLARE's fields already, are named by
`list NAME` ("as it is"): copy such a file to DIR/NAME.jsonl.

A row is FLARE's: id, query, answer, and where they apply text, choices, gold, token, label, label_type; sets whose prompt is built by the
task file carry its fields instead. This file holds facts about public sets and the words that FLARE's rows are made of; no row of any set.
"""
import argparse
import ast
import collections
import csv
import difflib
import gzip
import io
import json
import operator
import os
import random
import re
import signal
import sys
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

sys.path.insert(0, str(Path(__file__).resolve().parent))
import fintrain
from fintrain import Fail, Malformed, Source, type_name

SPLIT_SEED = 10086     # of CALM's splits: 70/10/20 by random.sample; German's published split comes out exactly


class Files:
    """The files under --source, and which row of which was read last: whatever is wrong with a row is said with its place."""

    def __init__(self, root):
        self.root, self.at = Path(root), str(root)

    def path(self, name):
        path = self.root / name
        if not path.exists():
            raise Fail(f"{path}: is not there ---> --source is the folder that holds {name.split('/')[0]}/")
        self.at = str(path)
        return path

    def rows(self, name):
        """JSONL, a JSON list or object of rows, CSV; also .gz."""
        path = self.path(name)
        place = str(path)
        for number, row in fintrain.read_file(path):
            self.at = f"{place}:{number}"
            if isinstance(row, Malformed):
                raise row
            if not isinstance(row, dict):
                raise Malformed(f"is {type_name(row)}, expected an object")
            yield row

    def text(self, name, encoding="utf-8-sig"):
        path = self.path(name)
        data = path.read_bytes()
        return (gzip.decompress(data) if name.endswith(".gz") else data).decode(encoding)

    def lines(self, name, encoding="utf-8-sig"):
        place = str(self.root / name)
        for number, line in enumerate(self.text(name, encoding).split("\n"), 1):     # splitlines() would also cut at U+2028
            self.at = f"{place}:{number}"
            if line.strip():
                yield line.rstrip("\r")

    def table(self, name):
        """Fields of each line of a CSV, the header first."""
        place = str(self.root / name)
        for number, cells in enumerate(csv.reader(io.StringIO(self.text(name), newline="")), 1):
            self.at = f"{place}:{number}"
            yield cells

    def folder(self, name):
        return sorted(p.name for p in self.path(name).iterdir())

    def sheet(self, name):
        """Rows of the first sheet of an .xlsx (a zip of XML) as {column letters: text}."""
        try:
            with zipfile.ZipFile(self.path(name)) as archive:
                strings = []
                if "xl/sharedStrings.xml" in archive.namelist():
                    strings = ["".join(t.text or "" for t in item.iter() if t.tag.endswith("}t")) for item in ElementTree.fromstring(archive.read("xl/sharedStrings.xml"))]
                sheet = ElementTree.fromstring(archive.read("xl/worksheets/sheet1.xml"))
        except (zipfile.BadZipFile, KeyError, ElementTree.ParseError, zlib.error) as e:
            raise Fail(f"{self.root / name}: is not a readable .xlsx: {e} ---> download it again") from None
        for number, row in enumerate((e for e in sheet.iter() if e.tag.endswith("}row")), 1):
            self.at = f"{self.root / name}: row {number}"
            cells = {}
            for cell in row:
                texts = [e.text or "" for e in cell.iter() if e.tag.endswith("}v") or e.tag.endswith("}t")]
                if texts:
                    value = "".join(texts)
                    cells[re.match("[A-Z]+", cell.get("r"))[0]] = strings[int(value)] if cell.get("t") == "s" else value
            yield cells


def make_row(number, query, answer, choices=None, **more):
    row = {"id": number, "query": query, "answer": answer, **more}
    if choices:
        row |= {"choices": list(choices), "gold": list(choices).index(answer)}
    return row


def letter_row(number, query, choices, gold, **more):
    """A question whose answer is a letter: the choices stand in the row, the task file lays them out."""
    if not 0 <= gold < len(choices):
        raise Malformed(f"the right choice is number {gold + 1} of {len(choices)}")
    return {"id": number, "query": query, "choices": choices, "gold": gold, "answer": "ABCDEFGHIJ"[gold], **more}


def said(row):
    """(query, answer) of FLARE's conversations"""
    turns = fintrain.get_list(row, "conversations")
    if len(turns) != 2:
        raise Malformed(f'"conversations" has {len(turns)} turns, expected a question and an answer')
    return fintrain.get(turns[0], "value"), fintrain.get(turns[1], "value")


def first_paraphrase(rows):
    """FLARE repeats each item under ten prompts; the harness tests the first of each ten."""
    return list(rows)[::10]


def split_of_calm(n):
    """(train, test): the indices CALM's 70/10/20 split takes of n rows."""
    generator = random.Random(SPLIT_SEED)
    train = generator.sample(range(n), int(0.7 * n))
    taken = set(train)
    rest = [i for i in range(n) if i not in taken]
    dev = set(generator.sample(rest, int(0.1 * n)))
    return train, [i for i in rest if i not in dev]


def calm(prefix, head, texts, answers, choices, end=" \nAnswer:"):
    """Rows of a table of customers, split as CALM splits."""
    rows = [make_row(f"{prefix}{i}", f"{head}\nText: {t}{end}", a, choices, text=t) for i, (t, a) in enumerate(zip(texts, answers))]
    train, test = split_of_calm(len(rows))
    return [rows[i] for i in test], [rows[i] for i in train]


# ------------------------------------------------------------------------------------------------------------------------------
# the sets: name -> (rows to test, rows to learn from) of the local files

CONVERT = {}


def converts(function):
    CONVERT[function.__name__.replace("_", "-")] = function
    return function


SENTIMENTS = ["positive", "neutral", "negative"]
FPB_ASK = ("Analyze the sentiment of this statement extracted from a financial news article. Provide your answer as either negative, positive, or neutral. "
           "For instance, 'The company's stocks plummeted following the scandal.' would be classified as negative.")


def fpb_row(number, sentence, label):
    return make_row(f"fpb{number}", f"{FPB_ASK}\nText: {sentence}\nAnswer:", label, SENTIMENTS, text=sentence)


@converts
def fpb(files):
    test = []
    for i, row in enumerate(files.rows("fpb/finlora_fpb_test.jsonl")):
        inside = re.search(r"Input: (.*)\nAnswer: $", fintrain.get(row, "context"), re.S)
        if not inside:
            raise Malformed("its context holds no Input: and Answer:")
        test.append(fpb_row(i, inside[1], fintrain.get(row, "target")))
    held_out = {row["text"].strip() for row in test}
    train = []
    for i, line in enumerate(files.lines("fpb/Sentences_50Agree.txt", "latin-1")):
        sentence, _, label = line.rpartition("@")
        if sentence.strip() not in held_out:
            train.append(fpb_row(f"train{i}", sentence.strip(), label.strip()))
    return test, train


def fpb_valid(files):
    """FLARE's own validation sentences: what overlaps with a training set made of the same pool."""
    rows = [said(row) for row in first_paraphrase(files.rows("fpb/flare_fpb_valid.jsonl.gz"))]
    return [fpb_row(f"valid{i}", query.split("\n", 1)[1], answer) for i, (query, answer) in enumerate(rows)]


FIQA = ["Negative", "Positive", "Neutral"]


def fiqa_row(row):
    query, answer = said(row)
    text = re.search(r"\nText: (.*)\nAnswer:$", query, re.S)
    if not text:
        raise Malformed("its question holds no Text: and Answer:")
    return make_row(fintrain.get(row, "id"), query, answer, FIQA, text=text[1])


@converts
def fiqasa(files):
    train = [row for name in ("flare_fiqasa_train.jsonl.gz", "flare_fiqasa_valid.jsonl") for row in first_paraphrase(files.rows(f"fiqa_sa/{name}"))]
    return [fiqa_row(row) for row in first_paraphrase(files.rows("fiqa_sa/flare_fiqasa_test.jsonl"))], [fiqa_row(row) for row in train]


def tsa_rows(files, split):
    out = []
    for kind in ("headline", "post"):
        path = f"fiqa_sa/task1_{kind}_ABSA_{split}.json"
        items = json.loads(files.text(path))
        for key, item in items.items():
            files.at = f"{files.root / path}: {key}"
            for i, info in enumerate(item["info"]):
                ask = (f"Given the following financial text, return a sentiment score for {info['target']} as a floating-point number ranging from -1 (indicating a very negative or bearish "
                       "sentiment) to 1 (indicating a very positive or bullish sentiment), with 0 designating neutral sentiment. Return only the numerical score first, follow it with a brief "
                       f"reasoning behind your score.\nText: {item['sentence']}\nAnswer:")
                out.append(make_row(f"tsa{kind}{key}.{i}", ask, str(float(info["sentiment_score"])), text=item["sentence"]))
    return out


@converts
def tsa(files):
    return tsa_rows(files, "test"), tsa_rows(files, "train")


STANCES = ["dovish", "hawkish", "neutral"]     # the order of the FLARE rows


@converts
def fomc(files):
    ask = ("Examine the excerpt from a central bank's release below. Classify it as HAWKISH if it advocates for a tightening of monetary policy, DOVISH if it suggests an easing of monetary "
           "policy, or NEUTRAL if the stance is unbiased. Your response should return only HAWKISH, DOVISH, or NEUTRAL.")

    def rows(split):
        sheet = files.sheet(f"fomc/lab-manual-split-combine-{split}-5768.xlsx")
        names = {name: column for column, name in next(sheet).items()}
        return [make_row(f"fomc{split}{i}", f"{ask}\nText: {cells[names['sentence']]}\nAnswer:", STANCES[int(float(cells[names["label"]]))], STANCES, text=cells[names["sentence"]])
                for i, cells in enumerate(sheet)]
    return rows("test"), rows("train")


NER_ASK = ("In the sentences extracted from financial agreements in U.S. SEC filings, identify the named entities that represent a person ('PER'), an organization ('ORG'), or a location ('LOC'). "
           "The required answer format is: 'entity name, entity type'. For instance, in \"Elon Musk, CEO of SpaceX, announced the launch from Cape Canaveral.\", the entities would be: "
           "'Elon Musk, PER\nSpaceX, ORG\nCape Canaveral, LOC'")


def conll(files, name):
    """Sentences as (tokens, BIO labels). The files mark with I- alone, B- only between two neighbours of one type; MISC is no type of the task."""
    tokens, labels = [], []
    for line in [*files.text(name).split("\n"), ""]:
        fields = line.split()
        if fields and fields[0] == "-DOCSTART-":
            continue
        if fields:
            tag = fields[-1]
            kind = tag[2:] if tag[:2] in ("B-", "I-") and tag[2:] in ("PER", "ORG", "LOC") else ""
            inside = kind and tag[0] == "I" and labels and labels[-1][2:] == kind
            tokens.append(fields[0])
            labels.append(f"{'I' if inside else 'B'}-{kind}" if kind else "O")
        elif tokens:
            yield tokens, labels
            tokens, labels = [], []


def entities(tokens, labels):
    out = []
    for token, label in zip(tokens, labels):
        if label.startswith("B-"):
            out.append([token, label[2:]])
        elif label.startswith("I-"):
            out[-1][0] += " " + token
    return out


@converts
def ner(files):
    test = []
    for row in first_paraphrase(files.rows("ner/flare_ner_test.jsonl.gz")):
        query, answer = said(row)
        labels, tokens = fintrain.get_texts(row, "label"), fintrain.get(row, "text").split(" ")
        if len(labels) != len(tokens):
            raise Malformed(f"has {len(tokens)} tokens and {len(labels)} labels")
        test.append(make_row(row["id"], query, answer, text=row["text"], token=tokens, label=labels))
    seen, train = set(), []
    for tokens, labels in conll(files, "ner/FIN5_train.conll.txt"):
        text, found = " ".join(tokens), entities(tokens, labels)
        if found and text not in seen:     # FLARE and FinGPT leave out what has no entity
            seen.add(text)
            train.append(make_row(f"fin5.{len(train)}", f"{NER_ASK}\nText: {text}\nAnswer:", "\n".join(f"{name}, {kind}" for name, kind in found), text=text, token=tokens, label=labels))
    return test, train


def tag_row(number, ask, tokens, labels):
    return make_row(number, f"{ask}\nText: {' '.join(tokens)}\nAnswer:", "\n".join(f"{t}:{l}" for t, l in zip(tokens, labels)), text=" ".join(tokens), token=tokens, label=labels)


FINER = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG"]     # the file's numbers
FINER_ASK = ("Label every token of the sentence, which comes from financial news, with the part it has in a named entity: 'B-PER', 'I-PER' (a person), 'B-LOC', 'I-LOC' (a location), "
             "'B-ORG', 'I-ORG' (an organization) or 'O' (none); B- begins an entity, I- continues it. Answer with one 'token:label' pair a line, in the order of the sentence.")


def finer_sentences(table):
    """The files say where articles begin, not where sentences do: a sentence ends at . ? ! and the closing quotes or brackets behind."""
    closing, ends = {'"', "”", "’", "''", ")"}, {".", "?", "!"}
    sentence, article = [], None
    for label, token, doc in table:
        ended = sentence and sentence[-1][0] in ends | closing and any(t in ends for t, _ in sentence[-3:])
        if sentence and (doc != article or (ended and token not in closing | ends)):
            yield sentence
            sentence = []
        article = doc
        sentence.append((token, FINER[int(label)]))
    if sentence:
        yield sentence


@converts
def finer_ord(files):
    def rows(split):
        table = files.table(f"finer_ord/{split}_gold_data.csv.gz")
        if next(table) != ["gold_label", "gold_token", "doc_idx"]:
            raise Malformed("the header is not gold_label,gold_token,doc_idx")
        return [tag_row(f"finer{split}{i}", FINER_ASK, [t for t, _ in s], [l for _, l in s]) for i, s in enumerate(finer_sentences(table))]
    return rows("test"), rows("train")


SC_ASK = ("In this task, you are provided with sentences extracted from financial news and SEC data. Your goal is to classify each sentence into either 'causal' or 'noise' based on whether or "
          "not it indicates a causal relationship between financial events. Please return only the category 'causal' or 'noise'.")


@converts
def sc(files):
    def rows(split):
        lines = files.lines(f"fincausal/fnp2020_{split}_task1.csv.gz")
        next(lines)
        out = []
        for line in lines:
            number, _, rest = line.partition(";")
            text, _, gold = rest.rpartition(";")
            if gold.strip() not in ("0", "1"):
                raise Malformed(f"ends in {gold.strip()[:20]!r}, expected 0 or 1")
            out.append(make_row(f"sc{number.strip()}", f"{SC_ASK}\nText: {text.strip()}\nAnswer:", ("noise", "causal")[int(gold)], ["causal", "noise"], text=text.strip()))
        return out
    return rows("trial"), rows("practice")


CD_ASK = ("Your job in this task is to perform sequence labeling on a provided text section, marking the chunks that represent the cause of an event and the effects that result from it. For each "
          "token in the text, assign a label to indicate its role in representing cause or effect. The labels you should use are 'B-CAUSE', 'I-CAUSE', 'B-EFFECT', 'I-EFFECT', and 'O'. A 'B-' "
          "prefix is used to denote the beginning of a cause or effect sequence, while an 'I-' prefix is used for continuation of a cause or effect sequence. If a token is not part of either a "
          "cause or effect sequence, label it as 'O'. Provide your answer as a sequence of 'token:label' pairs, with each pair on a new line.")


@converts
def cd(files):
    def rows(split):
        lines = files.lines(f"fincausal/fnp2020_{split}_task2.csv")
        next(lines)
        found = collections.defaultdict(list)
        for line in lines:
            fields = [field.strip() for field in line.split(";")]
            if len(fields) != 11:
                raise Malformed(f"has {len(fields)} fields, expected 11")
            found[fields[1]].append(fields)
        out = []
        for text, pairs in found.items():
            if len(pairs) != 1:     # one answer cannot mark several pairs over one another
                continue
            spans = [(text.find(pairs[0][k]), len(pairs[0][k]), kind) for k, kind in ((2, "CAUSE"), (3, "EFFECT"))]
            tokens = [(m[0], m.start()) for m in re.finditer(r"\w+(?:['’.,&-]\w+)*|[^\w\s]", text)]
            if not tokens or any(at < 0 or n == 0 for at, n, _ in spans):
                continue
            labels, before = [], None
            for _, start in tokens:
                kind = next((k for at, n, k in spans if at <= start < at + n), None)
                labels.append("O" if not kind else f"{'I' if kind == before else 'B'}-{kind}")
                before = kind
            out.append(tag_row(f"cd{pairs[0][0]}", CD_ASK, [t for t, _ in tokens], labels))
        return out
    return rows("trial"), rows("practice")


HEADLINE_LABELS = ["Price or Not", "Direction Up", "Direction Down", "Direction Constant", "PastPrice", "FuturePrice", "PastNews", "FutureNews", "Asset Comparision"]


@converts
def headlines(files):
    train = []
    for row in files.rows("headlines/flare_headlines_valid.jsonl.gz"):
        query, answer = said(row)
        label = [l for l in HEADLINE_LABELS if l in query.split("\n")[0]]
        if len(label) != 1:
            raise Malformed("its question is none of the nine")
        train.append(make_row(row["id"], query, answer, ["Yes", "No"], label_type=label[0]))
    return list(files.rows("headlines/flare_headlines_test_sample300.json")), train


@converts
def mlesg_zh(files):
    def rows(*splits):
        return [{"id": f"mlesgzh{row['pk']}", "text": fintrain.get(row, "News_Headline"), "answer": sorted(fintrain.get_texts(row, "ESG_Category"))}
                for split in splits for row in files.rows(f"ml_esg_zh/ML-ESG-1_Chinese_{split}.json")]
    return rows("Test-ans"), rows("Train", "Dev")


@converts
def ectsum(files):
    def rows(split):
        folder = f"ectsum/data/final/{split}"
        return [{"id": name[:-4], "text": files.text(f"{folder}/ects/{name}").strip(), "answer": files.text(f"{folder}/gt_summaries/{name}").strip()}
                for name in files.folder(f"{folder}/ects") if name.endswith(".txt")]
    return rows("test"), rows("val")


def marked_sentences(call, bullets):
    """0 or 1 for each line of the call: 1 for the line that shares most words with a bullet of the summary."""
    words = [set(re.findall(r"[a-z0-9]+", line.lower())) for line in call]
    marks = [0] * len(call)
    for bullet in bullets:
        wanted = set(re.findall(r"[a-z0-9]+", bullet.lower()))
        shares = [2 * len(wanted & w) / (len(wanted) + len(w) or 1) for w in words]
        marks[shares.index(max(shares))] = 1
    return marks


@converts
def ectsum_sentences(files):
    ask = ("Below is what was said in a company's earnings call, one sentence a line. For each line say whether it belongs to the call's summary: 1 if it does, 0 if it doesn't, one digit a "
           "line, in the order of the lines.")

    def marked(row):
        call = [line.strip() for line in row["text"].split("\n") if line.strip()]
        marks = marked_sentences(call, row["answer"].split("\n"))
        return make_row(row["id"], f"{ask}\nText: " + "\n".join(call) + "\nAnswer:", "\n".join(map(str, marks)), text="\n".join(call), label=marks)
    return tuple([marked(row) for row in rows] for rows in ectsum(files))


def flare_talk(row):
    query, answer = said(row)
    return make_row(row["id"], query, answer)


@converts
def finqa(files):
    return list(files.rows("finqa/flare_finqa_test_sample300.json")), [flare_talk(row) for row in files.rows("finqa/flare_finqa_valid.jsonl")]


def program_value(program):
    """The value of `ans` in a program of ConvFinQA: assignments of arithmetic on numbers and earlier names, with % behind a number for hundredths."""
    names = {}
    actions = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}

    def value(node):
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            return node.value
        if isinstance(node, ast.Name) and node.id in names:
            return names[node.id]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -value(node.operand)
        if isinstance(node, ast.BinOp) and type(node.op) in actions:
            return actions[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):     # no tower of powers
            base, power = value(node.left), value(node.right)
            if abs(power) <= 64:
                return base ** power
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], ast.Gt):
            return "yes" if value(node.left) > value(node.comparators[0]) else "no"
        raise Malformed(f"the program {program[:60]!r} is more than arithmetic")
    try:
        for step in ast.parse(re.sub(r"([\d.]+)%", r"(\1/100)", program.replace(";", "\n").replace("\n ", "\n"))).body:
            if not (isinstance(step, ast.Assign) and isinstance(step.targets[0], ast.Name)):
                raise Malformed(f"the program {program[:60]!r} is more than arithmetic")
            names[step.targets[0].id] = value(step.value)
        answer = names["ans"]
    except (SyntaxError, KeyError, ZeroDivisionError, OverflowError, RecursionError) as e:
        raise Malformed(f"the program {program[:60]!r} gives no number: {type(e).__name__}") from None
    return answer if isinstance(answer, str) else str(round(float(answer), 5))


CONVFINQA_ASK = ("In the context of this series of interconnected finance-related queries and the additional information provided by the pretext, table data, and posttext from a company's "
                 "financial filings, please provide a response to the final question. This may require extracting information from the context and performing mathematical calculations. Please "
                 "take into account the information provided in the preceding questions and their answers when formulating your response:")


@converts
def convfinqa(files):
    test = []
    for row in files.rows("convfinqa/convfinqa_dev.json"):
        asked, programs = fintrain.get_texts(row, "questions"), fintrain.get_texts(row, "programs")
        if len(asked) != len(programs):
            raise Malformed(f"has {len(asked)} questions and {len(programs)} programs")
        answers = [program_value(program) for program in programs]
        context = f"{fintrain.get(row, 'text')}\n{fintrain.get(row, 'table')}".strip()
        for i, (question, answer) in enumerate(zip(asked, answers)):
            before = "\n".join(f"q{k}: {asked[k]} ans{k}: {answers[k]}" for k in range(i))
            test.append(make_row(f"{row['id']}.{i}", f"{CONVFINQA_ASK}\nContext: {context}\nConversations: {before}\nQuestion: {question}\nAnswer:", answer, text=question))
    return test, []


@converts
def tatqa(files):
    test = []
    for row in files.rows("tatqa/tatqa_dataset_dev.json"):
        table = "\n".join("|" + "|".join(str(cell) for cell in cells) + "|" for cells in row["table"]["table"])
        context = "\n".join([table, *(p["text"] for p in sorted(row["paragraphs"], key=lambda p: p["order"]))])
        for asked in row["questions"]:
            answer = asked["answer"]
            answer = ", ".join(map(str, answer)) if isinstance(answer, list) else str(answer)
            if asked["scale"]:     # with its unit or without: both are right
                answer = [answer + {"percent": "%"}.get(asked["scale"], " " + asked["scale"]), answer]
            test.append(make_row(asked["uid"], f"Please answer the given financial question based on the context.\nContext: {context}\nQuestion: {asked['question']}\nAnswer:", answer,
                                 text=asked["question"], scale=asked["scale"], answer_type=asked["answer_type"]))
    return test, []


def financebench_row(row):
    seen = [fintrain.get(e, "evidence_text") for e in fintrain.get_list(row, "evidence")]
    if not seen:
        raise Malformed("has no evidence: it is no row of FinanceBench")
    return {"id": fintrain.get(row, "financebench_id"), "question": fintrain.get(row, "question"), "answer": fintrain.get(row, "answer"), "text": "\n\n".join(seen),
            "company": fintrain.get(row, "company"), "doc_name": fintrain.get(row, "doc_name")}


@converts
def financebench(files):
    return [financebench_row(row) for row in files.rows("financebench/financebench_open_source.jsonl")], []


def stock_row(row):
    query, answer = said(row)
    return make_row(row["id"], query, answer, ["Rise", "Fall"])


@converts
def bigdata22(files):
    return list(files.rows("bigdata22/fineval_CRA_Bigdata_test.json")), [stock_row(row) for row in files.rows("bigdata22/flare_bigdata22_valid.jsonl")]


# ACL18 as StockNet's authors and Adv-ALSTM define it: 88 stocks; a day counts when the adjusted close moved by more than 0.55 % up (Rise) or at least 0.5 % down (Fall) since the trading day
# before; validated on August and September 2015, tested on the three months behind. Those bounds give the published 2,555 and 3,720 exactly. A row shows the ten trading days before: per cent
# of open, high, low against the day's close, of close and adjusted close against the day before, and of the mean adjusted close of 5 to 30 days against the day's own.
ACL_RISE, ACL_FALL, ACL_WINDOW, ACL_MEANS = 0.0055, -0.005, 10, (5, 10, 15, 20, 25, 30)
ACL_HEAD = "date,open,high,low,close,adj-close,inc-5,inc-10,inc-15,inc-20,inc-25,inc-30"


def acl_features(days):
    """{day number: its line}, from the first day that has 30 days and a day before."""
    dates, (opens, highs, lows, closes, adjusted) = [d[0] for d in days], zip(*[[float(v) for v in d[1:6]] for d in days])
    out = {}
    for i in range(max(ACL_MEANS) - 1, len(days)):
        close = closes[i]
        values = [opens[i] / close - 1, highs[i] / close - 1, lows[i] / close - 1, close / closes[i - 1] - 1, adjusted[i] / adjusted[i - 1] - 1]
        values += [sum(adjusted[i - k + 1:i + 1]) / k / adjusted[i] - 1 for k in ACL_MEANS]
        out[i] = ",".join([dates[i], *(f"{100 * v:.1f}" for v in values)])
    return out


def acl_tweets(files, stock):
    """{date: its tweets, a line each}"""
    folder, out = files.root / "stocknet_acl18/tweet/preprocessed" / stock, {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name >= "2015-07":
            files.at = str(path)
            out[path.name] = [f"{path.name}: {' '.join(json.loads(line)['text'])}" for line in path.read_text("utf-8").split("\n") if line.strip()]
    return out


@converts
def acl18(files):
    test, train = [], []
    for name in files.folder("stocknet_acl18/price/raw"):
        stock = name[:-4]
        table = files.table(f"stocknet_acl18/price/raw/{name}")
        if next(table) != ["Date", "Open", "High", "Low", "Close", "Adj Close", "Volume"]:
            raise Malformed("the header is not Date,Open,High,Low,Close,Adj Close,Volume")
        days = [cells for cells in table if cells[0] >= "2015-05" and "null" not in cells]     # the first that counts needs 40 days behind it
        lines, tweets = acl_features(days), acl_tweets(files, stock)
        for i in range(max(ACL_MEANS) + ACL_WINDOW, len(days)):
            date, move = days[i][0], float(days[i][5]) / float(days[i - 1][5]) - 1
            if not "2015-08-01" <= date < "2016-01-01" or ACL_FALL < move < ACL_RISE:
                continue
            seen = range(i - ACL_WINDOW, i)
            context = "\n".join([ACL_HEAD, *(lines[k] for k in seen), "", "\n".join(tweet for k in seen for tweet in tweets.get(days[k][0], []))])
            ask = (f"Analyze the information and social media posts to determine if the closing price of ${stock.lower()} will ascend or descend at {date}. Please respond with either Rise or Fall."
                   f"\nContext: {context}\nAnswer:")
            row = make_row(f"acl{stock}{date}", ask, "Rise" if move >= ACL_RISE else "Fall", ["Rise", "Fall"], text=context)
            (test if date >= "2015-10-01" else train).append(row)
    return test, train


@converts
def german(files):
    train = [row | {"id": f"{part}{row['id']}"}      # both parts count from 0
             for part, name in (("train", "calm_german_train.jsonl.gz"), ("dev", "calm_german_dev.jsonl")) for row in files.rows(f"german_credit/{name}")]
    return list(files.rows("german_credit/calm_german_test.jsonl")), train


@converts
def australian(files):
    head = ("Assess the creditworthiness of a customer using the following table attributes for financial status. Respond with either 'good' or 'bad'. And all the table attribute names including 8 "
            "categorical attributes and 6 numerical attributes and values have been changed to meaningless symbols to protect confidentiality of the data. For instance, 'The client has attributes: "
            "A1: 0, A2: 21.67, A3: 11.5, A4: 1, A5: 5, A6: 3, A7: 0, A8: 1, A9: 1, A10: 11, A11: 1, A12: 2, A13: 0, A14: 1.', should be classified as 'good'. ")
    rows = [line.split() for line in files.lines("australian_credit/australian.dat")]
    texts = ["'The client has attributes: " + ", ".join(f"A{k}: {v}" for k, v in enumerate(row[:14], 1)) + ".'" for row in rows]
    return calm("australian", head, texts, [("bad", "good")[int(row[14])] for row in rows], ["good", "bad"], "\nAnswer:")


POLISH_NAMES = """net profit / total assets; total liabilities / total assets; working capital / total assets; current assets / short-term liabilities;
[(cash + short-term securities + receivables - short-term liabilities) / (operating expenses - depreciation)] * 365; retained earnings / total assets; EBIT / total assets;
book value of equity / total liabilities; sales / total assets; equity / total assets; (gross profit + extraordinary items + financial expenses) / total assets;
gross profit / short-term liabilities; (gross profit + depreciation) / sales; (gross profit + interest) / total assets; (total liabilities * 365) / (gross profit + depreciation);
(gross profit + depreciation) / total liabilities; total assets / total liabilities; gross profit / total assets; gross profit / sales; (inventory * 365) / sales; sales (n) / sales (n-1);
profit on operating activities / total assets; net profit / sales; gross profit (in 3 years) / total assets; (equity - share capital) / total assets;
(net profit + depreciation) / total liabilities; profit on operating activities / financial expenses; working capital / fixed assets; logarithm of total assets;
(total liabilities - cash) / sales; (gross profit + interest) / sales; (current liabilities * 365) / cost of products sold; operating expenses / short-term liabilities;
operating expenses / total liabilities; profit on sales / total assets; total sales / total assets; (current assets - inventories) / long-term liabilities; constant capital / total assets;
profit on sales / sales; (current assets - inventory - receivables) / short-term liabilities; total liabilities / ((profit on operating activities + depreciation) * (12/365));
profit on operating activities / sales; rotation receivables + inventory turnover in days; (receivables * 365) / sales; net profit / inventory;
(current assets - inventory) / short-term liabilities; (inventory * 365) / cost of products sold; EBITDA (profit on operating activities - depreciation) / total assets;
EBITDA (profit on operating activities - depreciation) / sales; current assets / total liabilities; short-term liabilities / total assets;
(short-term liabilities * 365) / cost of products sold; equity / fixed assets; constant capital / fixed assets; working capital; (sales - cost of products sold) / sales;
(current assets - inventory - short-term liabilities) / (sales - gross profit - depreciation); total costs / total sales; long-term liabilities / equity; sales / inventory;
sales / receivables; (short-term liabilities * 365) / sales; sales / short-term liabilities; sales / fixed assets""".replace("\n", " ").split("; ")


@converts
def polish(files):
    head = ("Predict whether the company will face bankruptcy based on the financial profile attributes provided in the following text. Respond with only 'no' or 'yes', and do not provide any "
            "additional information. \nFor instance, 'The client has attributes: net profit / total assets: -0.046186, ..., sales / short-term liabilities: 5.7063, sales / fixed assets: 1.3882.' "
            "should be classified as 'no'. ")
    texts, answers = [], []
    for year in (1, 5):
        for line in files.lines(f"polish/{year}year.arff.gz"):
            if line.startswith(("@", "%")):
                continue
            cells = line.split(",")
            if len(cells) != 65:
                raise Malformed(f"has {len(cells)} fields, expected 65")
            texts.append("'The client has attributes: " + ", ".join(f"{n}: {v if v == '?' else f'{float(v):.3f}'}" for n, v in zip(POLISH_NAMES, cells)) + ".'")
            answers.append(("no", "yes")[int(cells[64])])
    return calm("polish", head, texts, answers, ["no", "yes"])


@converts
def ccf(files):
    head = ("Detect the credit card fraud using the following financial table attributes. Respond with only 'yes' or 'no', and do not provide any additional information. Therein, the data contains 28 "
            "numerical input variables V1, V2, ..., and V28 which are the result of a PCA transformation and 1 input variable Amount which has not been transformed with PCA. The feature 'Amount' is "
            "the transaction Amount, this feature can be used for example-dependant cost-sensitive learning. For instance, 'The client has attributes: V1: 0.144, V2: 0.358, V3: 1.220, ..., "
            "V28: 0.201, Amount: 6.990.' should be classified as 'no'. ")
    names, texts, answers = [f"V{k}" for k in range(1, 29)] + ["Amount"], [], []
    for row in files.rows("ccf/creditcard_sample.csv"):
        texts.append("'The client has attributes: " + ", ".join(f"{n}: {float(row[n]):.3f}" for n in names) + ".'")
        answers.append(("no", "yes")[int(row["Class"])])
    return calm("ccf", head, texts, answers, ["no", "yes"])


@converts
def travelinsurance(files):
    head = ("Identify the claim status of insurance companies using the following table attributes for travel insurance status. Respond with only 'yes' or 'no', and do not provide any additional "
            "information. And the table attributes including 5 categorical attributes and 4 numerical attributes are as follows: \nAgency: Name of agency (categorical). \nAgency Type: Type of travel "
            "insurance agencies (categorical). \nDistribution Channel: Distribution channel of travel insurance agencies (categorical). \nProduct Name: Name of the travel insurance products "
            "(categorical). \nDuration: Duration of travel (categorical). \nDestination: Destination of travel (numerical). \nNet Sales: Amount of sales of travel insurance policies (categorical). "
            "\nCommission: Commission received for travel insurance agency (numerical). \nAge: Age of insured (numerical). \nFor instance: 'The insurance company has attributes: Agency: CBH, Agency "
            "Type: Travel Agency, Distribution Chanel: Offline, Product Name: Comprehensive Plan, Duration: 186, Destination: MALAYSIA, Net Sales: -29, Commision: 9.57, Age: 81.', should be "
            "classified as 'no'. ")
    columns = {"Agency": "Agency", "Agency Type": "Agency.Type", "Distribution Chanel": "Distribution.Channel", "Product Name": "Product.Name", "Duration": "Duration",
               "Destination": "Destination", "Net Sales": "Net.Sales", "Commision": "Commision..in.value.", "Age": "Age"}
    texts, answers = [], []
    for row in files.rows("travel_insurance/travel_insurance.csv"):
        texts.append("'The insurance company has attributes: " + ", ".join(f"{n}: {row[c]}" for n, c in columns.items()) + ".'")
        answers.append(row["Claim"].lower())
    return calm("trin", head, texts, answers, ["yes", "no"])


@converts
def lendingclub(files):
    head = "Assess the client's loan status based on the following loan records from Lending Club. Respond with only 'good' or 'bad', and do not provide any additional information. "
    texts, answers = [], []
    for row in files.rows("lending_club/derived_lending_club.csv"):
        answers.append(row.pop("Class"))
        texts.append("'The client has attributes as follows: " + " ".join(f"The state of {n} is {v}." for n, v in row.items()) + "'")
    return calm("lendingclub", head, texts, answers, ["good", "bad"])


MMLU_FINANCE = ("business_ethics", "econometrics", "high_school_macroeconomics", "high_school_microeconomics", "management", "marketing", "professional_accounting")


def mmlu_rows(files, split, wanted=None):
    out = []
    for name in files.folder(f"mmlu/data/mmlu/{split}"):
        subject = name[:-len(f"_{split}.csv")]
        if wanted and subject not in wanted:
            continue
        for i, row in enumerate(files.rows(f"mmlu/data/mmlu/{split}/{name}")):
            out.append(letter_row(f"{subject}.{split}.{i}", row["question"], [row[f"choice{k}"] for k in range(4)], int(row["answer"]), subject=subject))
    return out


@converts
def mmlu(files):
    return mmlu_rows(files, "test"), mmlu_rows(files, "dev")


@converts
def mmlu_finance(files):
    return mmlu_rows(files, "test", MMLU_FINANCE), mmlu_rows(files, "dev", MMLU_FINANCE)


@converts
def arc(files):
    test, train = [], []
    for kind in ("easy", "challenge"):
        for i, row in enumerate(files.rows(f"arc/arc_{kind}_test.jsonl")):
            test.append(letter_row(f"arc_{kind}.{i}", row["query"], fintrain.get_texts(row, "choices"), row["gold"], subset=kind))
        for i, row in enumerate(files.rows(f"arc/llmadapters_arc_{kind}_train.json" + (".gz" if kind == "easy" else ""))):
            whole = re.fullmatch(r"Please choose the correct answer to the question: (.*?)\n\n(Answer1: .*)\n\nAnswer format: .*", fintrain.get(row, "instruction"), re.S)
            if not whole:
                raise Malformed("its instruction is not a question with Answer1: ...")
            choices = [c.strip() for c in re.split(r"\s*Answer\d: ", whole[2])[1:]]
            train.append(letter_row(f"arc_{kind}.train.{i}", f"Question: {whole[1]}", choices, int(row["answer"].removeprefix("answer")) - 1, subset=kind))
    return test, train


@converts
def nq_open(files):
    return [{"id": f"nq{i}", **row} for i, row in enumerate(files.rows("nq_open/NQ-open.dev.jsonl"))], []


@converts
def mathqa(files):
    test = []
    for i, row in enumerate(files.rows("mathqa/llmadapters_mathqa_test.json")):
        question, _, options = fintrain.get(row, "instruction").rpartition(" The options: ")
        choices = mathqa_options(options.lower())     # the copy has its A to E in upper case, inside words too
        test.append(letter_row(f"mathqa{i}", f"Question: {question}", choices, "ABCDE".index(row["answer"])))
    return test, []


def mathqa_options(options):
    """'a ) 38 , b ) 27.675 , c ) 30 , ...'; some options hold a letter and a bracket of their own, so each is looked for behind the one before."""
    ends = [0]
    for letter in "abcde":
        mark = re.compile(rf"(?:^|,)[\s\['\"]*{letter}\s*\)").search(options, ends[-1])
        if not mark:
            raise Malformed(f"its options have no {letter} ): {options[:60]!r}")
        ends += [mark.start(), mark.end()]
    return [options[ends[2 * k + 2]:(ends + [None])[2 * k + 3]].strip(" '\"]") for k in range(5)]


@converts
def social_iqa(files):
    return list(files.rows("social_iqa/siqa_val.jsonl")), []


@converts
def hellaswag(files):
    return list(files.rows("hellaswag/derived_hellaswag_val_subset.jsonl")), []


@converts
def winogrande(files):
    test = []
    for i, row in enumerate(files.rows("winogrande/winogrande_val.jsonl")):
        both = fintrain.get_texts(row, "context_options")
        same = os.path.commonprefix(both)
        same = same[:same.rfind(" ") + 1]
        test.append(letter_row(f"winogrande{i}", f"{same}_ {fintrain.get(row, 'continuation')}", [text[len(same):] for text in both], row["gold"]))
    return test, []


@converts
def piqa(files):
    return [letter_row(f"piqa{i}", row["query"].strip(), row["choices"], row["gold"]) for i, row in enumerate(files.rows("piqa/piqa_val.jsonl"))], []


@converts
def mt_bench(files):
    references = {row["question_id"]: row["choices"][0]["turns"] for row in files.rows("mt_bench/reference_answer_gpt-4.jsonl")}
    return [{"question_id": str(row["question_id"]), "category": row["category"], "turns": fintrain.get_texts(row, "turns"), "reference": references.get(row["question_id"])}
            for row in files.rows("mt_bench/question.jsonl")], []


def gsm8k_row(number, row):
    worked, mark, answer = fintrain.get(row, "answer").rpartition("#### ")
    if not mark:
        raise Malformed("its answer has no ####")
    return {"id": number, "query": fintrain.get(row, "question"), "answer": answer.replace(",", "").strip(), "solution": worked.strip()}


@converts
def gsm8k(files):
    return tuple([gsm8k_row(f"gsm8k.{split}.{i}", row) for i, row in enumerate(files.rows(f"gsm8k/{split}.jsonl"))] for split in ("test", "train"))


# ------------------------------------------------------------------------------------------------------------------------------
# rows of the hub: FLARE's as they are, the others as the task files want them

FORMS = {}


def form(function):
    FORMS[function.__name__] = function
    return function


@form
def flare(row, number):
    fintrain.get(row, "query")
    if "answer" not in row:
        raise Malformed(f'has no "answer", found {", ".join(row)}')
    return row


@form
def extracted(row, number):     # FinEval's ECTSUM: the summary's sentences themselves
    return {"id": row.get("id", str(number)), "text": fintrain.get(row, "text"), "answer": fintrain.get(row, "label_text" if "label_text" in row else "answer")}


@form
def four_choices(row, number):     # MMLU
    return letter_row(f"{row.get('subject', 'mmlu')}.{number}", fintrain.get(row, "question"), fintrain.get_texts(row, "choices"), int(row["answer"]), subject=row.get("subject", ""))


@form
def labelled_choices(row, number):     # ARC, OpenBookQA
    choices = row["choices"]
    return letter_row(row["id"], "Question: " + fintrain.get(row, "question_stem" if "question_stem" in row else "question"), list(choices["text"]), list(choices["label"]).index(row["answerKey"]))


@form
def question_answers(row, number):     # NQ-open
    return {"id": f"nq{number}", "question": fintrain.get(row, "question"), "answer": fintrain.get_texts(row, "answer")}


@form
def problem_options(row, number):     # MathQA
    return letter_row(f"mathqa{number}", "Question: " + fintrain.get(row, "Problem"), mathqa_options(fintrain.get(row, "options").lower()), "abcde".index(row["correct"]))


@form
def three_answers(row, number):     # Social-IQA
    ask = f"Context: {fintrain.get(row, 'context')}\nQuestion: {fintrain.get(row, 'question')}\nChoices:\n" + "\n".join(f"{k}. {fintrain.get(row, 'answer' + k)}" for k in "ABC") + "\nAnswer:"
    return {"id": f"siqa{number}", "query": ask, "choices": ["A", "B", "C"], "gold": int(row["label"]) - 1}


@form
def endings(row, number):     # HellaSwag
    ask = f"{fintrain.get(row, 'activity_label')}: {fintrain.get(row, 'ctx')}\nChoose the best continuation:\n"
    return {"id": f"hellaswag{number}", "query": ask + "\n".join(f" {k}. {e}" for k, e in zip("ABCD", fintrain.get_texts(row, "endings"))) + "\nAnswer:",
            "choices": ["A", "B", "C", "D"], "gold": int(row["label"])}


@form
def blank(row, number):     # Winogrande
    return letter_row(f"winogrande{number}", fintrain.get(row, "sentence"), [fintrain.get(row, "option1"), fintrain.get(row, "option2")], int(row["answer"]) - 1)


@form
def goal(row, number):     # PIQA
    return letter_row(f"piqa{number}", "Question: " + fintrain.get(row, "goal"), [fintrain.get(row, "sol1"), fintrain.get(row, "sol2")], int(row["label"]))


@form
def two_turns(row, number):     # MT-bench
    return {"question_id": str(row["prompt_id"]), "category": row["category"], "turns": fintrain.get_texts(row, "prompt"), "reference": row.get("reference") or None}


@form
def worked_answer(row, number):     # GSM8K
    return gsm8k_row(f"gsm8k.{number}", row)


@form
def evidence(row, number):     # FinanceBench
    return financebench_row(row)


# ------------------------------------------------------------------------------------------------------------------------------
# the table of sets

@dataclass(frozen=True)
class Set:
    name: str
    paper: int = None          # rows in FinEval, table E.1 (rounded there to three digits)
    board: int = None          # rows of the leaderboard's test
    hub: tuple = ()            # of Source: what is tested
    form: str = "flare"
    train: str = None          # the split to learn from
    licence: str = "unknown: see its card"
    local: str = None          # what the local rows are, where they are not the published ones
    as_is: tuple = ()          # local files that run without conversion
    note: str = None

    @property
    def published(self):
        return ", ".join(f"{who} {n:,}" for who, n in (("FinEval", self.paper), ("leaderboard", self.board)) if n) or "not published"


def hub(where, config=None, split="test"):
    return (Source(where, config, split=split),)


def flare_set(name, where, licence="unknown: see its card", train=None, **more):
    return Set(name, hub=hub(where), licence=licence, train=train, **more)


CRA = "the split of CALM's code (seed 10086, 70/10/20) over the rows that are here"
SETS = [
    # FinEval's and the leaderboard's
    flare_set("fpb", "TheFinAI/en-fpb", "CC BY-NC-SA 3.0", "train", paper=970, board=970,
              local="FLARE's 970 test rows are not among the files: the quarter of the sentences that FinGPT (and so SentimentTra) held out; train: the other three quarters"),
    flare_set("fiqasa", "TheFinAI/flare-fiqasa", '"public" (FiQA, WWW\'18)', "train", paper=235, board=235, as_is=("fiqa_sa/flare_fiqasa_test.jsonl (each item ten times)",)),
    flare_set("tsa", "TheFinAI/flare-tsa", '"public" (FiQA, WWW\'18)', board=561, local="FiQA's task 1 test scores, one row a target: not FLARE's rows"),
    flare_set("fomc", "TheFinAI/finben-fomc", "CC BY-NC 4.0", paper=496, board=496, as_is=("fomc/flare_fomc_test_sample300.json",),
              local="the same 496 sentences (seed 5768), all under one of FLARE's paraphrases"),
    flare_set("ner", "ZixuanKe/flare-ner", "CC BY 3.0", "train", paper=98, board=98),
    flare_set("finer-ord", "TheFinAI/finben-finer-ord", "CC BY-NC 4.0", board=1075, local="the file has no sentence ends: cut at . ? !; the prompt is ours"),
    flare_set("finred", "TheFinAI/flare-finred", board=1068),
    flare_set("sc", "TheFinAI/flare-causal20-sc", "CC BY 4.0", board=8630, local="FNP 2020's trial part; train: its practice part"),
    flare_set("cd", "TheFinAI/flare-cd", "CC BY 4.0", board=226, local="FNP 2020's trial texts that have one pair of cause and effect, tokens and tags made here; train: its practice part"),
    flare_set("fnxl", "TheFinAI/flare-fnxl", board=318),
    flare_set("fsrl", "TheFinAI/flare-fsrl", board=97),
    flare_set("headlines", "TheFinAI/flare-headlines", "CC BY-NC-ND 4.0 or CC BY-SA 3.0, sources disagree", "train", board=20547,
              as_is=("headlines/flare_headlines_test_sample300.json",), local="300 of the test rows; train: the whole validation part"),
    flare_set("finarg-acc", "TheFinAI/flare-finarg-ecc-auc", board=969),
    flare_set("finarg-arc", "TheFinAI/flare-finarg-ecc-arc", board=690),
    flare_set("multifin", "TheFinAI/flare-multifin-en", board=546),
    flare_set("ma", "TheFinAI/flare-ma", paper=500, board=500),
    flare_set("mlesg", "TheFinAI/flare-mlesg", paper=300, board=300, note="only its Chinese sibling is among the local files: mlesg-zh"),
    Set("mlesg-zh", licence="CC BY-NC-SA 4.0", local="ML-ESG-1 in Chinese, the sibling of MLESG: other texts, several codes a headline", note="of neither suite"),
    flare_set("finqa", "TheFinAI/flare-finqa", "MIT", "train", board=1147, as_is=("finqa/flare_finqa_test_sample300.json", "finqa/flare_finqa_valid.jsonl"),
              local="300 of the test rows; train: the whole validation part"),
    flare_set("tatqa", "TheFinAI/flare-tatqa", "CC BY 4.0", paper=1670, board=1668, local="the same 1,668 questions (the dev part); the layout of the context and the form of the answers are ours"),
    Set("regulations", note="named by the leaderboard, no rows public"),
    flare_set("convfinqa", "TheFinAI/flare-convfinqa", "MIT", "train", board=1490, local="the same 1,490 turns; earlier answers are the right ones, values of the annotated programs",
              note="the hub's test rows write {answer0} where the harness puts the model's own earlier answer: `convert` makes rows that need no such turn"),
    flare_set("edtsum", "ChanceFocus/flare-edtsum", paper=2000, board=2000),
    Set("ectsum", 495, None, hub("ZixuanKe/flare-ectsum"), "extracted", licence="GPL-3.0",
        local="the same 495 calls; the answer is the reference summary that the set came with, not its sentences of the call; train: the validation part"),
    flare_set("ectsum-sentences", "TheFinAI/flare-ectsum", "GPL-3.0", board=495,
              local="the same 495 calls; which sentences belong to the summary is told here by the words they share with it; the prompt is ours; train: the validation part"),
    flare_set("bigdata22", "TheFinAI/flare-sm-bigdata", '"public"', "valid", paper=1470, board=1472,
              as_is=("bigdata22/fineval_CRA_Bigdata_test.json", "bigdata22/flare_bigdata22_test.jsonl", "bigdata22/flare_bigdata22_valid.jsonl")),
    flare_set("acl18", "TheFinAI/flare-sm-acl", "MIT", "valid", paper=3720, board=3720,
              local="the same 3,720 stock days by the documented bounds, window and rounding, all under one of FLARE's paraphrases; train: the 2,555 of the validation part"),
    flare_set("cikm18", "TheFinAI/flare-sm-cikm", '"public"', "valid", paper=1140, board=1143),
    flare_set("german", "ChanceFocus/flare-german", "CC BY 4.0", "train", paper=200, board=200, as_is=("german_credit/calm_german_test.jsonl",)),
    flare_set("australian", "ChanceFocus/flare-australian", "CC BY 4.0", "train", paper=139, board=139),
    flare_set("lendingclub", "ChanceFocus/cra-lendingclub", "CC0 1.0", "train", paper=2690, board=2691, local=f"the first quarter of 2016, other columns than FinBen's; {CRA}"),
    flare_set("ccf", "ChanceFocus/cra-ccf", "DbCL 1.0", "train", paper=2280, board=2279, local=f"a subsample in which 29 % are frauds (0.17 % in the whole): scores do not compare; {CRA}"),
    flare_set("ccfraud", "TheFinAI/cra-ccfraud", train="train", paper=2100, board=2098),
    flare_set("polish", "ChanceFocus/cra-polish", "CC BY 4.0", "train", paper=1740, board=1737, local=f"years 1 and 5 of 5; {CRA}"),
    flare_set("taiwan", "TheFinAI/cra-taiwan", train="train", paper=1370, board=1365),
    flare_set("portoseguro", "TheFinAI/cra-portoseguro", train="train", paper=2380, board=2382),
    flare_set("travelinsurance", "TheFinAI/cra-travelinsurace", "ODbL 1.0", "train", paper=2530, board=2534, local=f"19,659 of 63,326 rows with all 927 claims; {CRA}"),
    flare_set("financees", "TheFinAI/flare-es-financees", board=6359),
    flare_set("multifin-es", "TheFinAI/flare-es-multifin"),
    flare_set("efp", "TheFinAI/flare-es-efp"),
    flare_set("efpa", "TheFinAI/flare-es-efpa"),
    flare_set("fns-es", "TheFinAI/flare-es-fns"),
    flare_set("tsa-es", "TheFinAI/flare-es-tsa"),
    # FinEval's alone
    Set("financebench", 150, None, hub("PatronusAI/financebench", split="train"), "evidence", licence="CC BY-NC 4.0",
        note="Salesforce/FinEval's configuration of that name holds LendingClub's rows: never fetched from there"),
    Set("mmlu", 14042, None, hub("cais/mmlu", "all"), "four_choices", "dev", "MIT"),
    Set("mmlu-finance", 1460, None, tuple(Source("cais/mmlu", s, split="test") for s in MMLU_FINANCE), "four_choices", "dev", "MIT", note="seven subjects of MMLU; 1,461 rows"),
    Set("arc", 3548, None, hub("allenai/ai2_arc", "ARC-Easy") + hub("allenai/ai2_arc", "ARC-Challenge"), "labelled_choices", "train", "CC BY-SA 4.0",
        as_is=("arc/arc_easy_test.jsonl", "arc/arc_challenge_test.jsonl")),
    Set("nq-open", 7842, None, hub("google-research-datasets/nq_open", split="validation"), "question_answers", "train", "CC BY-SA 3.0", as_is=("nq_open/NQ-open.dev.jsonl",),
        local="the development part; where FinEval's 7,842 come from is not known"),
    Set("mt-bench", 80, None, hub("HuggingFaceH4/mt_bench_prompts", split="train"), "two_turns", licence="Apache-2.0", as_is=("mt_bench/question.jsonl",)),
    Set("mathqa", 2985, None, hub("allenai/math_qa"), "problem_options", "train", "Apache-2.0"),
    Set("social-iqa", 2636, None, hub("allenai/social_i_qa", split="validation"), "three_answers", "train", "CC BY 4.0", as_is=("social_iqa/siqa_val.jsonl",),
        local="the validation part, each question with two of its three answers; which rows FinEval's 2,636 are is not known"),
    Set("openbookqa", 500, None, hub("allenai/openbookqa", "main"), "labelled_choices", "train", "Apache-2.0"),
    Set("hellaswag", 10003, None, hub("Rowan/hellaswag", split="validation"), "endings", "train", "MIT", as_is=("hellaswag/derived_hellaswag_val_subset.jsonl",),
        local="1,000 of the 10,042 of the validation part; FinEval's 10,003 look like the test part, whose answers are not public"),
    Set("winogrande", 1767, None, hub("allenai/winogrande", "winogrande_xl", "validation"), "blank", "train", "Apache-2.0",
        local="the validation part; FinEval's 1,767 look like the test part, whose answers are not public"),
    Set("piqa", 3000, None, hub("ybisk/piqa", split="validation"), "goal", "train", as_is=("piqa/piqa_val.jsonl",),
        local="the validation part; what FinEval's 3,000 are is not known"),
    flare_set("cfa-easy", "TheFinAI/flare-cfa", "CC BY-NC 4.0 (card); CFA Institute's questions", paper=1030),
    flare_set("cfa-challenge", "ZixuanKe/CFA-Level-III", "CC BY-NC 4.0 (card); CFA Institute's questions", paper=90),
    # of neither
    Set("gsm8k", hub=hub("openai/gsm8k", "main"), form="worked_answer", train="train", licence="MIT", note="of neither suite"),
]
BY_NAME = {s.name: s for s in SETS}


def find_sets(names, able, why):
    """The sets of these names, each once; "all": those that `able` holds of."""
    found = {}
    for name in names:
        if name.lower() == "all":
            found |= {s.name: s for s in SETS if able(s)}
        elif name.lower() in BY_NAME:
            wanted = BY_NAME[name.lower()]
            if not able(wanted):
                raise Fail(f"{wanted.name}: {why}" + (f" ({wanted.note})" if wanted.note else "") + f" ---> `fineval.py list {wanted.name}`")
            found[wanted.name] = wanted
        else:
            near = difflib.get_close_matches(name.lower(), BY_NAME, 1, 0.5)
            raise Fail(f"no set is called {name!r} ---> " + (f"{near[0]}? " if near else "") + "`fineval.py list` names them all")
    return list(found.values())


# ------------------------------------------------------------------------------------------------------------------------------
# writing

def write_rows(path, rows, force):
    """A JSONL file that appears whole or not at all. The rows' number."""
    if path.exists() and not force:
        raise Fail(f"{path}: exists already ---> --force replaces it")
    path.parent.mkdir(parents=True, exist_ok=True)
    output = fintrain.Output(path)
    try:
        for row in rows:
            output.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
        output.commit()
    finally:
        output.abandon()
    return output.rows


def differs(wanted, n):
    """What to know of n local rows beside the published ones."""
    same = n in (wanted.paper, wanted.board)
    if wanted.local:
        return f"published: {wanted.published}; {wanted.local}"
    return f"published: {wanted.published}" + ("" if same or wanted.published == "not published" else "; FinEval's figure is rounded" if wanted.paper and round(n, -1) == wanted.paper else "; not the published number")


def convert_set(wanted, args):
    files, out = Files(args.source), Path(args.out)
    try:
        test, train = CONVERT[wanted.name](files)
    except (Malformed, ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError, StopIteration) as e:
        what = str(e) if isinstance(e, Malformed) else f"has no {e}" if isinstance(e, KeyError) else f"is not of its schema: {type(e).__name__}: {e}"
        raise Fail(f"{files.at}: {what} ---> is it the original file of {wanted.name}, undamaged?") from None
    if not test:
        raise Fail(f"{files.at}: no row is left ---> is it the original file of {wanted.name}?")
    n = write_rows(out / f"{wanted.name}.jsonl", test, args.force)
    line = f"{out / wanted.name}.jsonl: {n:,} rows; {differs(wanted, n)}"
    if train:
        line += f"\n  {wanted.name}_train.jsonl: {write_rows(out / f'{wanted.name}_train.jsonl', train, args.force):,} rows"
    if wanted.name == "fpb":
        line += f"\n  fpb_valid.jsonl: {write_rows(out / 'fpb_valid.jsonl', fpb_valid(files), args.force):,} rows of FLARE's validation part"
    print(f"{line}\n  licence: {wanted.licence}")


def fetched(wanted, split, revision):
    for source in wanted.hub:
        source = Source(source.where, source.config, split=split or source.split)
        for number, row in fintrain.fetch_hub(source, revision):
            try:
                yield FORMS[wanted.form](dict(row), number)
            except (Malformed, ValueError, KeyError, IndexError, TypeError) as e:
                raise Fail(f"{source.short}: row {number}: {e} ---> has the set changed? `fineval.py list {wanted.name}` says what is read") from None


def fetch_set(wanted, args):
    out = Path(args.out)
    n = write_rows(out / f"{wanted.name}.jsonl", fetched(wanted, None, args.revision), args.force)
    if n == 0:
        (out / f"{wanted.name}.jsonl").unlink()
        raise Fail(f"{wanted.hub[0].url}: has no rows in its {wanted.hub[0].split} part")
    same = n in (wanted.paper, wanted.board) or (wanted.paper and round(n, -1) == wanted.paper)
    line = f"{out / wanted.name}.jsonl: {n:,} rows; published: {wanted.published}" + ("" if same or wanted.published == "not published" else "; not the published number")
    if wanted.train:
        line += f"\n  {wanted.name}_train.jsonl: {write_rows(out / f'{wanted.name}_train.jsonl', fetched(wanted, wanted.train, args.revision), args.force):,} rows"
    print(f"{line}\n  from: {wanted.hub[0].url}; licence: {wanted.licence}")


def each(wanted, work, args):
    """Every set is tried; a failed one is named and makes the whole call fail."""
    failed = 0
    for s in wanted:
        try:
            work(s, args)
        except Fail as e:
            print(f"fineval.py: error: {e}", file=sys.stderr)
            failed += 1
        except (OSError, EOFError, zlib.error) as e:
            print(f"fineval.py: error: {s.name}: {getattr(e, 'filename', None) or args.out}: {getattr(e, 'strerror', None) or e}", file=sys.stderr)
            failed += 1
    return 1 if failed else 0


def convert(args):
    return each(find_sets(args.names, lambda s: s.name in CONVERT, "is not among the local files"), convert_set, args)


def fetch(args):
    return each(find_sets(args.names, lambda s: s.hub, "has no rows on the public hub"), fetch_set, args)


def list_sets(args):
    if args.names:
        for s in find_sets(args.names, lambda s: True, ""):
            print(f"{s.name}: rows published: {s.published}\n  licence: {s.licence}")
            for source in s.hub:
                print(f"  fetch: {source.short}, its {source.split} part ({source.url})")
            facts = {"convert": ("yes" + (f": {s.local}" if s.local else "")) if s.name in CONVERT else "not among the local files", "as it is": ", ".join(s.as_is), "note": s.note}
            for label, value in facts.items():
                if value:
                    print(f"  {label}: {value}")
        return 0
    table = [("name", "FinEval", "leaderboard", "convert", "fetch", "licence")]
    table += [(s.name, f"{s.paper:,}" if s.paper else "-", f"{s.board:,}" if s.board else "-", "yes" if s.name in CONVERT else "-", s.hub[0].short if s.hub else "-", s.licence) for s in SETS]
    widths = [max(len(row[i]) for row in table) for i in range(5)]
    for row in table:
        print("  ".join([f"{c:>{w}}" if k in (1, 2) else f"{c:<{w}}" for k, (c, w) in enumerate(zip(row, widths))] + [row[5]]).rstrip())
    print(f"\n{len(SETS)} sets, {len(CONVERT)} of them among the local files; `fineval.py list NAME` tells more")
    return 0


def parse_arguments(argv):
    parser = argparse.ArgumentParser(prog="fineval.py", description="The test sets of FinEval and of the Open FinLLM leaderboard by name, as JSONL for eval.",
                                     epilog="Exit status 0 only when every set was written whole.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="list | convert | fetch")
    p = commands.add_parser("list", help="what there is")
    p.add_argument("names", nargs="*", metavar="NAME", help="all that is known of these sets")
    p.set_defaults(run=list_sets)
    p = commands.add_parser("convert", help="make rows of original files")
    p.add_argument("names", nargs="+", metavar="NAME", help="as `list` prints them, or all")
    p.add_argument("--source", required=True, metavar="DIR", help="the folder that holds one folder a set")
    p.set_defaults(run=convert)
    q = commands.add_parser("fetch", help="fetch rows from the public hub")
    q.add_argument("names", nargs="+", metavar="NAME", help="as `list` prints them, or all")
    q.add_argument("--revision", metavar="REV", help="commit of the hub to fetch")
    q.set_defaults(run=fetch)
    for command in (p, q):
        command.add_argument("--out", required=True, metavar="DIR", help="where NAME.jsonl and NAME_train.jsonl go; made if missing")
        command.add_argument("--force", action="store_true", help="replace what is there")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_arguments(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))     # so that temporary files are removed
    try:
        return args.run(args)
    except Fail as e:
        print(f"fineval.py: error: {e}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("fineval.py: error: interrupted; nothing was left half-written", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
