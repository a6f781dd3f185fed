#!/usr/bin/env python3
"""test_fineval.py: data/fineval.py and data/tasks on rows of every schema, made here; on the real sets where they are.

    python3 test/test_fineval.py                              needs no network and nothing but the standard library
    FINDAP_DATA=DIR python3 test/test_fineval.py              also the sets of ../shared/data that are in DIR (unpack.sh DIR)
"""
import collections
import contextlib
import gzip
import importlib.util
import io
import json
import os
import random
import sys
import tempfile
import types
import unittest
import zipfile
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.dont_write_bytecode = True
spec = importlib.util.spec_from_file_location("fineval", ROOT / "data" / "fineval.py")
fineval = importlib.util.module_from_spec(spec)
sys.modules["fineval"] = fineval
spec.loader.exec_module(fineval)
DATA = Path(os.environ["FINDAP_DATA"]) if os.environ.get("FINDAP_DATA") else None
TASKS = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted((ROOT / "data" / "tasks").glob("*.json"))}


def jsonl(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def talk(query, answer, **more):
    return {"id": "x0", "conversations": [{"from": "human", "value": query}, {"from": "agent", "value": answer}], **more}


def ten(row, other):
    """An item under ten prompts, of which the first counts."""
    return jsonl(row, *[other] * 9)


def sheet(*rows):
    """An .xlsx with shared strings and with numbers in place."""
    strings = sorted({cell for row in rows for cell in row if isinstance(cell, str)})
    xml = "".join(f'<row r="{i}">' + "".join(f'<c r="{"ABCDE"[k]}{i}"' + (f' t="s"><v>{strings.index(c)}</v></c>' if isinstance(c, str) else f"><v>{c}</v></c>") for k, c in enumerate(row)) + "</row>"
                  for i, row in enumerate(rows, 1))
    out = io.BytesIO()
    ns = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    with zipfile.ZipFile(out, "w") as z:
        z.writestr("xl/sharedStrings.xml", f"<sst {ns}>" + "".join(f"<si><t>{s}</t></si>" for s in strings) + "</sst>")
        z.writestr("xl/worksheets/sheet1.xml", f"<worksheet {ns}><sheetData>{xml}</sheetData></worksheet>")
    return out.getvalue()


def prices():
    """120 trading days that rise by 1 %, fall by 1 %, or move by 0.1 %, in turn, around October 2015."""
    lines, close, day = ["Date,Open,High,Low,Close,Adj Close,Volume"], 100.0, 0
    for month in (6, 7, 8, 9, 10):
        for date in range(1, 25):
            close *= (1.01, 0.99, 1.001)[day % 3]
            day += 1
            lines.append(f"2015-{month:02d}-{date:02d},{close * 1.01},{close * 1.02},{close * 0.98},{close},{close},1000")
    return "\n".join(lines) + "\n"


CREDIT = [f"A1{k} 6 A34 A43 1169" for k in range(10)]
MMLU = "question,choice0,choice1,choice2,choice3,answer\n\"Which, of these?\",one,\"two, or so\",three,four,1\n"
PAIR = "Index; Text; Cause; Effect; a; b; c; d; e; f; Sentence\n"
CALM_SPLIT = "fourteen numbers and a class"
MADE = {     # files of a set, and what must become of them: (rows to test, rows to train), each as (number, fields of the first)
    "fpb": ({"fpb/finlora_fpb_test.jsonl": jsonl({"context": "Instruction: Which?\nInput: Profit rose .\nAnswer: ", "target": "positive"}),
             "fpb/Sentences_50Agree.txt": "Profit rose .@positive\nCaf\xe9s closed @ noon .@negative\n".encode("latin-1"),
             "fpb/flare_fpb_valid.jsonl.gz": ten(talk("Tell.\nSales were 5 mn .", "neutral"), talk("Other.\nSales were 5 mn .", "neutral"))},
            (1, {"text": "Profit rose .", "answer": "positive", "gold": 0}), (1, {"text": "Caf\xe9s closed @ noon .", "answer": "negative"})),
    "fiqasa": ({"fiqa_sa/flare_fiqasa_test.jsonl": ten(talk("Which?\nText: $X up\nAnswer:", "Positive"), talk("Else?\nText: $X up\nAnswer:", "Positive")),
                "fiqa_sa/flare_fiqasa_train.jsonl.gz": ten(talk("Which?\nText: $Y down\nAnswer:", "Negative"), talk("", "")), "fiqa_sa/flare_fiqasa_valid.jsonl": ""},
               (1, {"query": "Which?\nText: $X up\nAnswer:", "gold": 1, "text": "$X up"}), (1, {"answer": "Negative", "gold": 0})),
    "tsa": ({f"fiqa_sa/task1_{k}_ABSA_{s}.json": json.dumps({"7": {"sentence": f"{k} {s}", "info": [{"target": "A", "sentiment_score": "-0.374"}, {"target": "B", "sentiment_score": "0.5"}]}})
             for k in ("headline", "post") for s in ("train", "test")}, (4, {"id": "tsaheadline7.0", "answer": "-0.374", "text": "headline test"}), (4, {"text": "headline train"})),
    "fomc": ({f"fomc/lab-manual-split-combine-{s}-5768.xlsx": sheet(["index", "sentence", "year", "label", "orig_index"], [0, f"Rates rise in {s}.", 1999, 1, 5], [1, "Rates fall.", 2000, 0, 6])
              for s in ("train", "test")}, (2, {"text": "Rates rise in test.", "answer": "hawkish", "gold": 1}), (2, {"text": "Rates rise in train."})),
    "ner": ({"ner/flare_ner_test.jsonl.gz": ten(talk("Find.\nText: Ann of Oslo .\nAnswer:", "Ann, PER\nOslo, LOC", text="Ann of Oslo .", label=["B-PER", "O", "B-LOC", "O"]), talk("", "")),
             "ner/FIN5_train.conll.txt": "-DOCSTART- -X- O O\n\nBank NN - I-ORG\nOne NN - I-ORG\nand CC - O\nOslo NN - I-LOC\nRome NN - B-LOC\n\nnothing NN - O\n\nX NN - I-MISC\n"},
            (1, {"token": ["Ann", "of", "Oslo", "."], "label": ["B-PER", "O", "B-LOC", "O"]}),
            (1, {"label": ["B-ORG", "I-ORG", "O", "B-LOC", "B-LOC"], "answer": "Bank One, ORG\nOslo, LOC\nRome, LOC"})),
    "finer-ord": ({f"finer_ord/{s}_gold_data.csv.gz": 'gold_label,gold_token,doc_idx\n5,Bank,0\n6,One,0\n0,fell,0\n0,.,0\n0,"""",0\n1,Ann,0\n0,said,0\n3,Oslo,1\n' for s in ("train", "test")},
                  (3, {"token": ["Bank", "One", "fell", ".", '"'], "label": ["B-ORG", "I-ORG", "O", "O", "O"], "answer": "Bank:B-ORG\nOne:I-ORG\nfell:O\n.:O\n\":O"}), (3, {})),
    "sc": ({f"fincausal/fnp2020_{s}_task1.csv.gz": "Index; Text; Gold\n0001.1; It fell; so did we.; 1\n0001.2; It is late.; 0\n" for s in ("trial", "practice")},
           (2, {"text": "It fell; so did we.", "answer": "causal", "gold": 0}), (2, {})),
    "cd": ({f"fincausal/fnp2020_{s}_task2.csv": PAIR + "1; Rates rose, so shares fell.; Rates rose; shares fell; ; ; 0; 10; 15; 26; x\n" + "2; Two of them.; Two; them; ; ; 0; 0; 0; 0; x\n" * 2
            for s in ("trial", "practice")}, (1, {"token": ["Rates", "rose", ",", "so", "shares", "fell", "."], "label": ["B-CAUSE", "I-CAUSE", "O", "O", "B-EFFECT", "I-EFFECT", "O"]}), (1, {})),
    "headlines": ({"headlines/flare_headlines_test_sample300.json": json.dumps([{"id": "h", "query": "q", "answer": "No", "choices": ["Yes", "No"], "gold": 1, "label_type": "PastNews"}]),
                   "headlines/flare_headlines_valid.jsonl.gz": jsonl(talk("Look.. Is there a Direction Up?\nText: gold\nAnswer:", "Yes"))},
                  (1, {"label_type": "PastNews", "gold": 1}), (1, {"label_type": "Direction Up", "gold": 0})),
    "mlesg-zh": ({f"ml_esg_zh/ML-ESG-1_Chinese_{s}.json": json.dumps([{"pk": 3, "URL": "u", "News_Headline": "\u7da0\u80fd", "ESG_Category": ["S05", "E07"]}]) for s in ("Test-ans", "Train", "Dev")},
                 (1, {"text": "\u7da0\u80fd", "answer": ["E07", "S05"]}), (2, {})),
    "ectsum": ({f"ectsum/data/final/{s}/{k}/A_q1_2021.txt": t for s in ("test", "val") for k, t in (("ects", "We grew.\nSales were $5 million.\nThanks.\n"), ("gt_summaries", "sales $5 million.\n"))},
               (1, {"id": "A_q1_2021", "answer": "sales $5 million.", "text": "We grew.\nSales were $5 million.\nThanks."}), (1, {})),
    "finqa": ({"finqa/flare_finqa_test_sample300.json": json.dumps([{"id": "f", "query": "q", "answer": "5.0", "text": "t"}]), "finqa/flare_finqa_valid.jsonl": jsonl(talk("q", "-1.5"))},
              (1, {"answer": "5.0"}), (1, {"query": "q", "answer": "-1.5"})),
    "convfinqa": ({"convfinqa/convfinqa_dev.json": json.dumps([{"id": "c", "questions": ["in 2007?", "the change?", "in percent?", "more?"], "text": "Prices.", "table": "- | 2007",
                                                               "programs": ["ans = 60.94", "ans = 60.94 - 25.14", "x0 = 60.94 - 25.14; ans = x0 / 25.14", "ans = 5% > 3"], "answer": 1.42403}])},
                  (4, {"id": "c.0", "answer": "60.94"}), (0, {})),
    "tatqa": ({"tatqa/tatqa_dataset_dev.json": json.dumps([{"table": {"uid": "t", "table": [["", "2019"], ["Sales", "5"]]}, "paragraphs": [{"order": 2, "text": "two"}, {"order": 1, "text": "one"}],
                                                           "questions": [{"uid": "u1", "question": "How much?", "answer": -12.6, "scale": "million", "answer_type": "arithmetic"},
                                                                         {"uid": "u2", "question": "Which?", "answer": ["a", "b"], "scale": "", "answer_type": "multi-span"}]}])},
              (2, {"id": "u1", "answer": ["-12.6 million", "-12.6"], "query": "Please answer the given financial question based on the context.\nContext: ||2019|\n|Sales|5|\none\ntwo\nQuestion: How much?\nAnswer:"}),
              (0, {})),
    "financebench": ({"financebench/financebench_open_source.jsonl": jsonl({"financebench_id": "f1", "company": "3M", "doc_name": "3M_2018", "question": "How much?", "answer": "$5",
                                                                            "evidence": [{"evidence_text": "page one"}, {"evidence_text": "page two"}]})},
                     (1, {"id": "f1", "question": "How much?", "answer": "$5", "text": "page one\n\npage two"}), (0, {})),
    "bigdata22": ({"bigdata22/fineval_CRA_Bigdata_test.json": json.dumps([{"id": "b", "query": "q", "answer": "Rise", "choices": ["Rise", "Fall"], "gold": 0}]),
                   "bigdata22/flare_bigdata22_valid.jsonl": jsonl(talk("q", "Fall"))}, (1, {"gold": 0}), (1, {"gold": 1})),
    "german": ({"german_credit/calm_german_test.jsonl": jsonl({"id": 0, "query": "q", "answer": "good", "choices": ["good", "bad"], "gold": 0}),
                **{f"german_credit/calm_german_{s}": jsonl({"id": 0, "query": "q", "answer": "bad", "choices": ["good", "bad"], "gold": 1}) for s in ("train.jsonl.gz", "dev.jsonl")}},
               (1, {"id": 0}), (2, {"id": "train0"})),
    "australian": ({"australian_credit/australian.dat": "".join(f"1 {k} 11.46 2 4 4 1.585 0 0 0 1 2 100 1213 {k % 2}\n" for k in range(10))}, (2, {"choices": ["good", "bad"]}), (7, {})),
    "polish": ({f"polish/{y}year.arff.gz": "@relation x\n@attribute Attr1 numeric\n\n@data\n" + "".join(",".join(["0.12345", "?"] + ["1"] * 62 + [str(k % 2)]) + "\n" for k in range(5)) for y in (1, 5)},
               (2, {"choices": ["no", "yes"]}), (7, {})),
    "ccf": ({"ccf/creditcard_sample.csv": ",Time," + ",".join(f"V{k}" for k in range(1, 29)) + ",Amount,Class\n" + "".join(f"{i},0.0," + ",".join(["-1.23456"] * 28) + f",9.99,{i % 2}\n" for i in range(10))},
            (2, {"choices": ["no", "yes"]}), (7, {})),
    "travelinsurance": ({"travel_insurance/travel_insurance.csv": '"Agency","Agency.Type","Distribution.Channel","Product.Name","Claim","Duration","Destination","Net.Sales","Commision..in.value.","Gender","Age"\n'
                         + "".join(f'"CBH","Travel Agency","Offline","Plan","{("No", "Yes")[k % 2]}",{k},"MALAYSIA",-29,9.57,"F",71\n' for k in range(10))}, (2, {"choices": ["yes", "no"]}), (7, {})),
    "lendingclub": ({"lending_club/derived_lending_club.csv": "funded_amnt,term,Class\n" + "".join(f"{k},term_36,{('good', 'bad')[k % 2]}\n" for k in range(10))}, (2, {"choices": ["good", "bad"]}), (7, {})),
    "acl18": ({"stocknet_acl18/price/raw/AB.csv": prices(), "stocknet_acl18/tweet/preprocessed/AB/2015-10-01": jsonl({"text": ["$", "ab", "up"]})}, (16, {"answer": "Rise"}), (32, {})),
    "mmlu": ({f"mmlu/data/mmlu/{s}/{name}_{s}.csv": MMLU for s in ("test", "dev") for name in ("anatomy", "marketing")},
             (2, {"id": "anatomy.test.0", "query": "Which, of these?", "choices": ["one", "two, or so", "three", "four"], "gold": 1, "answer": "B", "subject": "anatomy"}), (2, {})),
    "mmlu-finance": ({f"mmlu/data/mmlu/{s}/{name}_{s}.csv": MMLU for s in ("test", "dev") for name in ("anatomy", "marketing")}, (1, {"subject": "marketing"}), (1, {})),
    "arc": ({**{f"arc/arc_{k}_test.jsonl": jsonl({"query": "Question: Which?", "choices": ["x", "y", "z"], "gold": 2}) for k in ("easy", "challenge")},
             **{f"arc/llmadapters_arc_{k}": json.dumps([{"instruction": "Please choose the correct answer to the question: Why?\n\nAnswer1: so it is Answer2: not so\n\nAnswer format: answer1/answer2", "answer": "answer2"}])
                for k in ("easy_train.json.gz", "challenge_train.json")}}, (2, {"gold": 2, "answer": "C", "subset": "easy"}), (2, {"query": "Question: Why?", "choices": ["so it is", "not so"], "gold": 1})),
    "nq-open": ({"nq_open/NQ-open.dev.jsonl": jsonl({"question": "who", "answer": ["A", "B"]})}, (1, {"question": "who", "answer": ["A", "B"]}), (0, {})),
    "mathqa": ({"mathqa/llmadapters_mathqa_test.json": json.dumps([{"instruction": "half of 10 ? The options: A ) 5 , B ) b ) 6 , 7 , C ) 30 , D ) DAtA inADEquAtE , E ) nonE oF thEsE", "answer": "D"},
                                                                  {"instruction": "x ? The options: ['A ) 2 : 3', 'B ) 4', 'C ) 5', 'D ) 6', 'E ) 7']", "answer": "A"}])},
               (2, {"query": "Question: half of 10 ?", "choices": ["5", "b ) 6 , 7", "30", "data inadequate", "none of these"], "gold": 3, "answer": "D"}), (0, {})),
    "social-iqa": ({"social_iqa/siqa_val.jsonl": jsonl({"query": "Context: c\nAnswer:", "gold": 1, "choices": ["A", "B"]})}, (1, {"gold": 1}), (0, {})),
    "hellaswag": ({"hellaswag/derived_hellaswag_val_subset.jsonl": jsonl({"ind": None, "query": "They\nAnswer:", "gold": 3, "choices": ["A", "B", "C", "D"]})}, (1, {"gold": 3}), (0, {})),
    "winogrande": ({"winogrande/winogrande_val.jsonl": jsonl({"context_options": ["Ann beat Anna so Ann", "Ann beat Anna so Anna"], "continuation": "won.", "gold": 0})},
                   (1, {"query": "Ann beat Anna so _ won.", "choices": ["Ann", "Anna"], "gold": 0}), (0, {})),
    "piqa": ({"piqa/piqa_val.jsonl": jsonl({"query": "Question: dresser\n", "choices": ["pin", "wood"], "gold": 1})}, (1, {"query": "Question: dresser", "answer": "B"}), (0, {})),
    "mt-bench": ({"mt_bench/question.jsonl": jsonl({"question_id": 81, "category": "writing", "turns": ["Write.", "Again."]}, {"question_id": 101, "category": "math", "turns": ["2+2?", "And 3?"]}),
                  "mt_bench/reference_answer_gpt-4.jsonl": jsonl({"question_id": 101, "choices": [{"index": 0, "turns": ["4", "7"]}]})},
                 (2, {"question_id": "81", "turns": ["Write.", "Again."], "reference": None}), (0, {})),
    "gsm8k": ({f"gsm8k/{s}.jsonl": jsonl({"question": "Eggs?", "answer": "9*2=<<9*2=18>>18\n#### 1,018"}) for s in ("test", "train")}, (1, {"query": "Eggs?", "answer": "1018"}), (1, {})),
}
MADE["ectsum-sentences"] = (MADE["ectsum"][0], (1, {"label": [0, 1, 0], "answer": "0\n1\n0", "text": "We grew.\nSales were $5 million.\nThanks."}), (1, {}))


class Case(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="fineval-test-")
        self.addCleanup(folder.cleanup)
        self.dir = Path(folder.name)

    def put(self, files):
        for name, content in files.items():
            path = self.dir / "source" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            data = content.encode() if isinstance(content, str) else content
            path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)

    def run_it(self, *words):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = fineval.main([str(w) for w in words])
        return status, out.getvalue(), err.getvalue()

    def convert(self, name, *more):
        return self.run_it("convert", name, "--source", self.dir / "source", "--out", self.dir / "out", *more)

    def rows(self, name):
        path = self.dir / "out" / f"{name}.jsonl"
        return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line] if path.exists() else []

    def one_line(self, err, *parts):
        self.assertEqual(err.count("\n"), 1, err)
        for part in parts:
            self.assertIn(part, err)


class Tasks(unittest.TestCase):
    def test_each_set_has_its_task(self):
        self.assertEqual({s.name for s in fineval.SETS}, set(TASKS))
        self.assertEqual(set(MADE), set(fineval.CONVERT))
        for name, task in TASKS.items():
            with self.subTest(name):
                self.assertEqual((task["name"], task["file"]), (name, f"{name}.jsonl"))
                self.assertIn("{prompt}", task.get("cot", "{prompt}"))
                if name in fineval.CONVERT:
                    self.assertEqual(task.get("shots_file"), f"{name}_train.jsonl" if MADE[name][2][0] else None)

    def test_suites_are_whole(self):
        orders = collections.defaultdict(list)
        for task in TASKS.values():
            for suite, about in task["suites"].items():
                orders[suite].append(about["order"])
        self.assertEqual({suite: sorted(o) for suite, o in orders.items()}, {"fineval": list(range(1, 36)), "openfinllm": list(range(1, 42))})
        for task in TASKS.values():
            if "fineval" in task["suites"]:
                self.assertEqual(set(task["suites"]["fineval"]["published"]), {"Llama-Fin", "Llama-Fin w/o PA", "Llama-3-8B-Instruct", "GPT-4o"})
                self.assertEqual(task["suites"]["fineval"]["mode"], task["mode"])

    def test_names_are_given_once(self):
        names = [n.lower() for task in TASKS.values() for n in [task["name"], *task.get("aliases", [])]]
        self.assertEqual([n for n, k in collections.Counter(names).items() if k > 1], [])

    def test_published_sums(self):
        """The columns of the paper's tables 2 to 5 added up, in hundredths: a slip of one figure shows."""
        total = collections.Counter()
        for task in TASKS.values():
            total.update({who: round(100 * v) for who, v in task["suites"].get("fineval", {}).get("published", {}).items()})
        self.assertEqual(dict(total), PUBLISHED_SUMS)


PUBLISHED_SUMS = {"Llama-Fin": 196683, "Llama-Fin w/o PA": 205806, "Llama-3-8B-Instruct": 172895, "GPT-4o": 202642}


class Convert(Case):
    def test_every_schema(self):
        for name, (files, *expected) in MADE.items():
            with self.subTest(name):
                self.put(files)
                status, out, err = self.convert(name)
                self.assertEqual((status, err), (0, ""))
                self.assertIn("licence: ", out)
                for part, (number, fields) in zip((name, f"{name}_train"), expected):
                    rows = self.rows(part)
                    self.assertEqual(len(rows), number, part)
                    for key, value in fields.items():
                        self.assertEqual(rows[0].get(key), value, (part, key))
                    for row in rows:
                        self.assertTrue("gold" not in row or "answer" not in row or row["answer"] in (row["choices"][row["gold"]], "ABCDE"[row["gold"]]), row)

    def test_turns_see_the_right_answers_before(self):
        self.put(MADE["convfinqa"][0])
        self.convert("convfinqa")
        rows = self.rows("convfinqa")
        self.assertEqual([row["answer"] for row in rows], ["60.94", "35.8", "1.42403", "no"])
        self.assertTrue(rows[2]["query"].endswith("Context: Prices.\n- | 2007\nConversations: q0: in 2007? ans0: 60.94\nq1: the change? ans1: 35.8\nQuestion: in percent?\nAnswer:"), rows[2]["query"])

    def test_programs_are_arithmetic_only(self):
        self.assertEqual([fineval.program_value(p) for p in ("ans = 2 ** 3", "x = -5\nans = x * 2%", "ans = 4 > 3", "ans = 1 / 3")], ["8.0", "-0.1", "yes", "0.33333"])
        for bad in ("ans = 1 / 0", "ans = __import__('os')", "ans = x", "ans = 9 ** 9 ** 9", "ans = (1).real", "import os", "x = 1", "ans = [1]", "ans = 'a'", "ans =", "ans = " + "(" * 300 + "1" + ")" * 300):
            with self.assertRaises(fineval.Malformed, msg=bad):
                fineval.program_value(bad)

    def test_split_is_random_sample(self):
        train, test = fineval.split_of_calm(690)
        self.assertEqual((len(train), len(test)), (482, 139))
        random.seed(10086)
        self.assertEqual(train, random.sample(range(690), 482))
        self.assertFalse(set(train) & set(test))

    def test_tables_as_documented(self):
        for name, text in (("australian", "A1: 1, A2: "), ("polish", "net profit / total assets: 0.123, total liabilities / total assets: ?, "), ("ccf", "V1: -1.235, "), ("ccf", "Amount: 9.990.'"),
                           ("travelinsurance", "Agency: CBH, Agency Type: Travel Agency, Distribution Chanel: Offline, Product Name: Plan, Duration: "), ("travelinsurance", "Commision: 9.57, Age: 71.'"),
                           ("lendingclub", "The state of funded_amnt is ")):
            self.put(MADE[name][0])
            self.convert(name, "--force")
            self.assertIn(text, self.rows(name)[0]["text"])
        self.assertEqual(len(fineval.POLISH_NAMES), 64)
        by_class = {row["text"].split("A2: ")[1].split(",")[0]: row["answer"] for row in self.rows("australian") + self.rows("australian_train")}
        self.assertTrue(all(answer == ("bad", "good")[int(k) % 2] for k, answer in by_class.items()), by_class)

    def test_stock_days(self):
        self.put(MADE["acl18"][0])
        self.convert("acl18")
        days = [line.split(",") for line in prices().split("\n")[1:-1]]
        rows = self.rows("acl18")
        for row in rows + self.rows("acl18_train"):
            head, *lines = row["text"].split("\n")
            date = row["id"][-10:]
            i = next(k for k, d in enumerate(days) if d[0] == date)
            self.assertEqual([line.split(",")[0] for line in lines[:10]], [d[0] for d in days[i - 10:i]])     # the day itself is never shown
            self.assertEqual(row["answer"], ("Rise", "Fall", None)[i % 3])
            last, close = lines[9].split(","), [float(d[4]) for d in days[:i]]
            means = [f"{100 * (sum(close[-k:]) / k / close[-1] - 1):.1f}" for k in (5, 10, 15, 20, 25, 30)]
            self.assertEqual(last[1:], ["1.0", "2.0", "-2.0", *[f"{100 * (close[-1] / close[-2] - 1):.1f}"] * 2, *means])
            self.assertEqual("2015-10-01: $ ab up" in row["text"], "2015-10-01" < date <= days[next(k for k, d in enumerate(days) if d[0] == "2015-10-01") + 10][0])
        self.assertTrue(all("2015-10-01" <= row["id"][-10:] for row in rows))

    def test_damage_is_one_line_and_leaves_nothing(self):
        damaged = [("fpb", "fpb/finlora_fpb_test.jsonl", jsonl({"context": "no input", "target": "x"}), "fpb_test.jsonl:1"), ("fpb", "fpb/finlora_fpb_test.jsonl", "{", "fpb_test.jsonl:1: is not JSON"),
                   ("fiqasa", "fiqa_sa/flare_fiqasa_test.jsonl", jsonl(talk("Which?\nText: x\nAnswer:", "Maybe")), "fiqasa_test.jsonl:1"), ("fomc", "fomc/lab-manual-split-combine-test-5768.xlsx", b"PK nothing", ".xlsx: is not a readable"),
                   ("fomc", "fomc/lab-manual-split-combine-test-5768.xlsx", sheet(["sentence", "label"], ["x", 7]), "row 2"), ("ner", "ner/flare_ner_test.jsonl.gz", jsonl(talk("q", "a", text="one two", label=["O"])), "2 tokens and 1 labels"),
                   ("finer-ord", "finer_ord/test_gold_data.csv.gz", "gold_label,gold_token,doc_idx\n9,x,0\n", "test_gold_data.csv.gz:2"), ("sc", "fincausal/fnp2020_trial_task1.csv.gz", "h\n1; x; 2\n", "expected 0 or 1"),
                   ("cd", "fincausal/fnp2020_trial_task2.csv", PAIR + "1; x\n", "has 2 fields, expected 11"), ("convfinqa", "convfinqa/convfinqa_dev.json", "[3]", "is an integer, expected an object"),
                   ("tatqa", "tatqa/tatqa_dataset_dev.json", json.dumps([{"table": 3}]), "tatqa_dataset_dev.json:1"), ("financebench", "financebench/financebench_open_source.jsonl", jsonl({"evidence": []}), "no row of FinanceBench"),
                   ("australian", "australian_credit/australian.dat", "1 2 3\n", "australian.dat"), ("polish", "polish/1year.arff.gz", "@data\n1,2\n", "has 2 fields, expected 65"), ("ccf", "ccf/creditcard_sample.csv", "a,b\n1,2\n", 'has no'),
                   ("acl18", "stocknet_acl18/price/raw/AB.csv", "Date,Close\n", "the header is not"), ("mmlu", "mmlu/data/mmlu/test/anatomy_test.csv", "question,choice0,choice1,choice2,choice3,answer\nq,a,b,c,d,4\n", "the right choice is number 5 of 4"),
                   ("mathqa", "mathqa/llmadapters_mathqa_test.json", json.dumps([{"instruction": "x The options: A ) 1 , B ) 2", "answer": "A"}]), "its options have no c )"),
                   ("gsm8k", "gsm8k/test.jsonl", jsonl({"question": "q", "answer": "18"}), "no ####"), ("german", "german_credit/calm_german_train.jsonl.gz", b"\x1f\x8bcut", "german"), ("tsa", "fiqa_sa/task1_post_ABSA_test.json", "[1]", "tsa"),
                   ("nq-open", "nq_open/NQ-open.dev.jsonl", "\xff", "NQ-open.dev.jsonl"), ("sc", "fincausal/fnp2020_trial_task1.csv.gz", b"h\n\xff\xfe\n", "sc")]
        for name, path, content, says in damaged:
            with self.subTest(name=name, says=says):
                self.put(MADE[name][0])
                if path.endswith(".gz") and content == b"\x1f\x8bcut":
                    (self.dir / "source" / path).write_bytes(content)
                else:
                    self.put({path: content})
                status, out, err = self.convert(name)
                self.assertEqual((status, out), (1, ""))
                self.one_line(err, "fineval.py: error: ", says)
                self.assertEqual(list((self.dir / "out").glob("**/*")) if (self.dir / "out").exists() else [], [])

    def test_what_is_not_there(self):
        self.put(MADE["piqa"][0])
        status, _, err = self.convert("fpb")
        self.one_line(err, "finlora_fpb_test.jsonl: is not there", "--->")
        self.assertEqual(status, 1)
        for name, says in (("edtsum", "edtsum: is not among the local files"), ("regulations", "no rows public"), ("piqua", "no set is called 'piqua' ---> piqa?"), ("mlesg", "only its Chinese sibling")):
            status, _, err = self.convert(name)
            self.assertEqual(status, 1)
            self.one_line(err, says)
        # of several, those that are there are written; the others fail the call
        status, out, err = self.run_it("convert", "piqa", "ccf", "--source", self.dir / "source", "--out", self.dir / "out")
        self.assertEqual((status, len(self.rows("piqa"))), (1, 1))
        self.one_line(err, "creditcard_sample.csv")

    def test_nothing_is_replaced_unasked(self):
        self.put(MADE["piqa"][0])
        self.assertEqual(self.convert("PIQA")[0], 0)
        status, _, err = self.convert("piqa")
        self.assertEqual(status, 1)
        self.one_line(err, "exists already ---> --force")
        self.assertEqual(self.convert("piqa", "--force")[0], 0)


# ------------------------------------------------------------------------------------------------------------------------------
# the hub, faked

HUB = {     # form -> a row as the hub has it, and what must become of it
    "flare": ({"id": "a", "query": "q", "answer": "positive", "choices": ["positive"], "gold": 0}, {"id": "a", "query": "q", "answer": "positive", "gold": 0}),
    "extracted": ({"id": "e", "query": "q", "text": "a\nb", "label_text": "b", "answer": "0\n1"}, {"text": "a\nb", "answer": "b"}),
    "four_choices": ({"question": "q", "subject": "anatomy", "choices": ["a", "b", "c", "d"], "answer": 2}, {"query": "q", "gold": 2, "answer": "C", "subject": "anatomy"}),
    "labelled_choices": ({"id": "o", "question_stem": "Which", "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "2"}, {"query": "Question: Which", "choices": ["a", "b"], "gold": 1}),
    "question_answers": ({"question": "who", "answer": ["A", "B"]}, {"question": "who", "answer": ["A", "B"]}),
    "problem_options": ({"Problem": "half ?", "options": "a ) 5 , b ) 4 , c ) 3 , d ) 2 , e ) 1", "correct": "b"}, {"query": "Question: half ?", "choices": ["5", "4", "3", "2", "1"], "gold": 1}),
    "three_answers": ({"context": "c", "question": "q", "answerA": "x", "answerB": "y", "answerC": "z", "label": "3"}, {"query": "Context: c\nQuestion: q\nChoices:\nA. x\nB. y\nC. z\nAnswer:", "gold": 2}),
    "endings": ({"ind": 3, "activity_label": "Tango", "ctx": "They", "endings": ["a", "b", "c", "d"], "label": "1"}, {"query": "Tango: They\nChoose the best continuation:\n A. a\n B. b\n C. c\n D. d\nAnswer:", "gold": 1}),
    "blank": ({"sentence": "so _ won", "option1": "Ann", "option2": "Bo", "answer": "2"}, {"query": "so _ won", "choices": ["Ann", "Bo"], "gold": 1}),
    "goal": ({"goal": "dresser", "sol1": "a", "sol2": "b", "label": 0}, {"query": "Question: dresser", "gold": 0}),
    "two_turns": ({"prompt_id": 81, "prompt": ["Write.", "Again."], "category": "writing", "reference": []}, {"question_id": "81", "turns": ["Write.", "Again."], "reference": None}),
    "worked_answer": ({"question": "q", "answer": "w\n#### 5"}, {"query": "q", "answer": "5"}),
    "evidence": ({"financebench_id": "f", "company": "c", "doc_name": "d", "question": "q", "answer": "a", "evidence": [{"evidence_text": "e"}]}, {"text": "e", "question": "q"}),
}


class Fetch(Case):
    def fetch(self, name, rows, *more):
        self.asked = []

        def load_dataset(where, config, split, revision, streaming):
            self.asked.append((where, config, split))
            return iter(rows)
        with mock.patch.dict(sys.modules, {"datasets": types.SimpleNamespace(load_dataset=load_dataset)}):
            return self.run_it("fetch", name, "--out", self.dir / "out", *more)

    def test_every_form(self):
        self.assertEqual({s.form for s in fineval.SETS if s.hub}, set(fineval.FORMS))
        self.assertEqual(set(HUB), set(fineval.FORMS))
        for s in fineval.SETS:
            if not s.hub:
                continue
            with self.subTest(s.name):
                status, out, err = self.fetch(s.name, [HUB[s.form][0]])
                self.assertEqual((status, err), (0, ""))
                self.assertEqual(self.asked[0], (s.hub[0].where, s.hub[0].config, s.hub[0].split))
                for part in [s.name] + [f"{s.name}_train"] * bool(s.train):
                    rows = self.rows(part)
                    self.assertEqual(len(rows), len(s.hub))
                    for key, value in HUB[s.form][1].items():
                        self.assertEqual(rows[0].get(key), value)

    def test_financebench_is_not_taken_from_the_configuration_that_holds_another_set(self):
        self.assertNotIn("Salesforce/FinEval", {source.where for s in fineval.SETS for source in s.hub})
        status, _, err = self.fetch("financebench", [{"id": 1, "query": "Assess the client's loan status", "answer": "good"}])
        self.assertEqual(status, 1)
        self.one_line(err, "PatronusAI/financebench: row 1")
        self.assertEqual(list((self.dir / "out").glob("*")), [])

    def test_failures_are_one_line(self):
        for name, rows, says in (("fpb", [{"text": "x"}], "TheFinAI/en-fpb: row 1: has no \"query\""), ("mmlu", [], "has no rows"), ("piqa", [{"goal": "g", "sol1": "a", "sol2": "b", "label": -1}], "the right choice is number 0 of 2")):
            status, _, err = self.fetch(name, rows)
            self.assertEqual(status, 1)
            self.one_line(err, says)
        with mock.patch.dict(sys.modules, {"datasets": None}):
            status, _, err = self.run_it("fetch", "fpb", "--out", self.dir / "out")
        self.assertEqual(status, 1)
        self.one_line(err, "pip install datasets")
        self.assertEqual(self.fetch("mlesg-zh", [])[0], 1)


class List(Case):
    def test_list(self):
        status, out, err = self.run_it("list")
        self.assertEqual((status, err), (0, ""))
        for s in fineval.SETS:
            self.assertIn(s.name, out)
            self.assertEqual(self.run_it("list", s.name)[0], 0)
        self.assertIn("as it is: bigdata22/fineval_CRA_Bigdata_test.json", self.run_it("list", "bigdata22")[1])


REAL = {     # rows to test and to train, of the files of ../shared/data
    "fpb": (1212, 3629), "fiqasa": (235, 938), "tsa": (219, 954), "fomc": (496, 1984), "ner": (98, 509), "finer-ord": (997, 3106), "sc": (8580, 13478), "cd": (486, 903), "headlines": (300, 10260),
    "mlesg-zh": (131, 1176), "ectsum": (495, 249), "ectsum-sentences": (495, 249), "finqa": (300, 883), "convfinqa": (1490, 0), "tatqa": (1668, 0), "financebench": (150, 0), "bigdata22": (1472, 798), "acl18": (3720, 2555), "german": (200, 800),
    "australian": (139, 482), "polish": (2589, 9055), "ccf": (345, 1205), "travelinsurance": (3933, 13761), "lendingclub": (1973, 6899), "mmlu": (14042, 285), "mmlu-finance": (1461, 35), "arc": (3548, 3370),
    "nq-open": (3610, 0), "mathqa": (2985, 0), "social-iqa": (1954, 0), "hellaswag": (1000, 0), "winogrande": (1267, 0), "piqa": (1838, 0), "mt-bench": (80, 0), "gsm8k": (1319, 7473)}


class Real(Case):
    def test_real_sets(self):
        if DATA is None:
            print("skipped: real sets: FINDAP_DATA is not set (bash ../shared/data/unpack.sh DIR; FINDAP_DATA=DIR)", file=sys.stderr)
            self.skipTest("no real sets")
        self.assertEqual(set(REAL), set(fineval.CONVERT))
        there = []
        for name in REAL:
            status, out, err = self.run_it("convert", name, "--source", DATA, "--out", self.dir / "out")
            if "is not there" in err:
                print(f"skipped: {name}: {err.strip()}", file=sys.stderr)
                continue
            self.assertEqual((status, err), (0, ""), name)
            there.append(name)
        self.assertTrue(there, f"FINDAP_DATA={DATA} holds none of the sets")
        if len(there) == len(REAL):
            status, out, err = self.run_it("convert", "all", "--source", DATA, "--out", self.dir / "all")
            self.assertEqual((status, err), (0, ""))
            for path in (self.dir / "out").rglob("*.jsonl"):
                self.assertEqual(path.read_bytes(), (self.dir / "all" / path.relative_to(self.dir / "out")).read_bytes(), path)
        for name in there:
            expected = REAL[name]
            test, train = self.rows(name), self.rows(f"{name}_train")
            self.assertEqual((len(test), len(train)), expected, name)
            for part in (test, train):
                for row in part:
                    self.assertTrue("gold" not in row or row.get("answer", row["choices"][row["gold"]]) in (row["choices"][row["gold"]], "ABCDE"[row["gold"]]), (name, row))
                self.assertFalse([k for k, n in collections.Counter(row["id"] for row in part if "id" in row).items() if n > 1], name)
        # facts that the converters don't use: the last answer of each conversation, German's published split, FinEval's balance of Australian
        if "convfinqa" in there:
            last = {row["id"].rpartition(".")[0]: row["answer"] for row in self.rows("convfinqa")}
            for row in json.loads((DATA / "convfinqa/convfinqa_dev.json").read_text("utf-8")):
                want = row["answer"]
                self.assertTrue(last[row["id"]] == want if isinstance(want, str) else abs(float(last[row["id"]]) - want) <= 2e-5 * max(1, abs(want)), row["id"])
        if "german" in there:
            ages = [line.split() for line in (DATA / "german_credit/german.data").read_text().split("\n") if line.strip()]
            _, test = fineval.split_of_calm(len(ages))
            for i, row in zip(test, self.rows("german")):
                self.assertIn(f"The state of Credit amount is {ages[i][4]}.", row["query"])
                self.assertEqual(row["answer"], ("good", "bad")[int(ages[i][20]) - 1])
        if "fpb" in there:
            self.assertFalse({r["text"].strip() for r in self.rows("fpb")} & {r["text"].strip() for r in self.rows("fpb_train")})


if __name__ == "__main__":
    unittest.main()
