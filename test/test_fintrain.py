#!/usr/bin/env python3
"""test_fintrain.py: data/fintrain.py on rows of every schema, made here; on real sets where FINDAP_DATA points at them.

    python3 test/test_fintrain.py                                 needs no network and nothing but the standard library
    FINDAP_DATA=/tmp/data python3 test/test_fintrain.py           also the sets of ../shared/data (unpack.sh /tmp/data)

Every file that is produced also goes through build/prepare, when that is built.
"""
import contextlib
import dataclasses
import gzip
import http.server
import importlib.util
import io
import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import types
import unittest
import zipfile
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "data" / "fintrain.py"
spec = importlib.util.spec_from_file_location("fintrain", SCRIPT)
fintrain = importlib.util.module_from_spec(spec)
sys.modules["fintrain"] = fintrain
sys.dont_write_bytecode = True
spec.loader.exec_module(fintrain)

PREPARE, MAKE_DEMO = ROOT / "build" / "prepare", ROOT / "build" / "make_demo"


def skip(test, reason):
    print(f"skipped: {reason}", file=sys.stderr)
    test.skipTest(reason)


# ------------------------------------------------------------------------------------------------------------------------------
# one row of every form, and what must become of it

def said(*contents, system=None):
    turns = [{"role": "system", "content": system}] if system else []
    return {"messages": turns + [{"role": ("user", "assistant")[i % 2], "content": c} for i, c in enumerate(contents)]}


MADE = {
    "messages": ({"messages": [{"content": "Is a bond a debt?", "role": "USER"}, {"content": "Yes.", "role": "assistant"}]},
                 said("Is a bond a debt?", "Yes.")),
    "conversations": ({"id": "a", "conversations": [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "What is a share?"},
                                                    {"from": "gpt", "value": "A part of a firm.", "weight": 1.0}]},
                      said("What is a share?", "A part of a firm.", system="Be brief.")),
    "alternating": ({"id": "0", "data": ["Hello", "Good day", "How is the market?", "Calm"]}, said("Hello", "Good day", "How is the market?", "Calm")),
    "instruction_output": ({"instruction": "Choose positive or negative.", "input": "Sales rose.", "output": "positive"},
                           said("Choose positive or negative.\nSales rose.", "positive")),
    "instruction_response": ({"instruction": "Write a loop in C.", "response": "for (;;);"}, said("Write a loop in C.", "for (;;);")),
    "instruction_instances": ({"id": "seed_0", "instruction": "Negate the number.",
                               "instances": [{"input": "3", "output": "-3"}, {"input": "", "output": "0"}]},
                              [said("Negate the number.\n3", "-3"), said("Negate the number.", "0")]),
    "query_response": ({"query": "2 + 2?", "response": "4", "type": "t", "original_question": "2 + 2?"}, said("2 + 2?", "4")),
    "query_answer": ({"id": "finqa0", "query": "Question: the change?\nAnswer:", "answer": -1.5, "text": "x"}, said("Question: the change?\nAnswer:", "-1.5")),
    "question_answer": ({"question": "One and one?", "answer": "Two."}, said("One and one?", "Two.")),
    "prompt_completion": ({"prompt": "Name a colour.", "completion": "Blue"}, said("Name a colour.", "Blue")),
    "prompt_response": ({"prompt": "Name a metal.", "response": "Tin"}, said("Name a metal.", "Tin")),
    "context_target": ({"context": "Instruction: i\nInput: t\nAnswer: ", "target": "neutral"}, said("Instruction: i\nInput: t\nAnswer: ", "neutral")),
    "sujet": ({"inputs": "x", "answer": "It fell.", "system_prompt": "You know finance.", "user_prompt": "What did the index do?", "task_type": "qa"},
              said("What did the index do?", "It fell.", system="You know finance.")),
    "news_title": ({"title": "Firm buys firm", "text": "A firm bought another.", "pub_time": "2020"},
                   said("You are given a text that consists of multiple sentences. Your task is to perform abstractive summarization on this text. "
                        "Use your understanding of the content to express the main ideas and crucial details in a shorter, coherent, and natural "
                        "sounding text.\nText: A firm bought another.", "Firm buys firm")),
    "conversation_questions": ({"questions": ["What was it in 2006?", "And the change?"], "text": "It was 5, then 6.", "table": [["year", "v"], [2006, 5]],
                                "answer": 1.0, "programs": ["5"]},
                               said("Context: It was 5, then 6.\nyear | v\n2006 | 5\nEarlier question: What was it in 2006?\n"
                                    "Question: And the change?\nAnswer:", "1.0")),
    "exercise": ({"questions": "Which is right?", "scenario": "N/A", "exhibit": "N/A", "answer_choices": "A. this\nB. that", "answer": "N/A",
                  "gpt4_answer": "Explanation: so.\nAnswer: B. that"},
                 said("Given the answer choices, please answer the question bellow.\n\nQuestion: Which is right?\n\nAnswer Choices: A. this\nB. that.\n\nAnswer:",
                      "Explanation: so.\nAnswer: B. that")),
    "plain": ({"title": "t", "text": "Trade is exchange.\n", "topic": "business"}, {"text": "Trade is exchange.\n"}),
    "plain_question": ({"question": "Three pens at 2 each?", "answer": "3*2=<<3*2=6>>6\n#### 6"}, {"text": "Question: Three pens at 2 each?\nAnswer: 3*2=<<3*2=6>>6\n#### 6"}),
    "aqua": ({"question": "Half of ten?", "options": ["A)5", "B)4"], "rationale": "10/2 = 5", "correct": "A"},
             {"text": "Question: Half of ten?\nOptions: A)5, B)4\nRationale: 10/2 = 5\nAnswer: A"}),
    "mathqa": ({"Problem": "half of ten ?", "Rationale": "10 / 2 = 5", "options": "a ) 5 , b ) 4", "correct": "a", "category": "general"},
               {"text": "Question: half of ten ?\nOptions: a ) 5 , b ) 4\nRationale: 10 / 2 = 5\nAnswer: a"}),
    "creak": ({"ex_id": "1", "sentence": "Soup is solid.", "label": "false", "explanation": "Soup is liquid."},
              {"text": "Claim: Soup is solid.\nTrue or false: false\nExplanation: Soup is liquid."}),
    "esnli_hub": ({"premise": "A man runs.", "hypothesis": "A man sleeps.", "label": 2, "explanation_1": "Who runs does not sleep.", "explanation_2": ""},
                  {"text": "Premise: A man runs.\nHypothesis: A man sleeps.\nRelation: contradiction\nExplanation: Who runs does not sleep."}),
    "esnli_csv": ({"pairID": "1", "gold_label": "entailment", "Sentence1": "A man runs.", "Sentence2": "A man moves.", "Explanation_1": "Running is moving."},
                  {"text": "Premise: A man runs.\nHypothesis: A man moves.\nRelation: entailment\nExplanation: Running is moving."}),
    "qasc": ({"id": "q", "question": "What melts ice?", "choices": {"text": ["heat", "cold"], "label": ["A", "B"]}, "answerKey": "A",
              "fact1": "Heat melts.", "fact2": "Ice is solid.", "combinedfact": "Heat melts ice."},
             {"text": "Question: What melts ice?\nOptions: (A) heat, (B) cold\nFact: Heat melts.\nFact: Ice is solid.\nFact: Heat melts ice.\nAnswer: (A) heat"}),
    "soda": ({"narrative": "Ann sells bread.", "dialogue": ["A loaf?", "Two, please."], "speakers": ["Ann", "Bo"], "PersonX": "Ann"},
             {"text": "Ann sells bread.\nAnn: A loaf?\nBo: Two, please."}),
    "strategyqa": ({"qid": "1", "question": "Is tin a metal?", "answer": True, "facts": ["Tin is Sn.", "Sn is a metal."], "evidence": [[["operation"]]]},
                   {"text": "Question: Is tin a metal?\nFacts: Tin is Sn. Sn is a metal.\nAnswer: yes"}),
    "unified_skg": ({"text_in": "how many rows ?", "struct_in": "col : a row 1 : 2", "seq_out": "1"},
                    {"text": "Structure: col : a row 1 : 2\nRequest: how many rows ?\nAnswer: 1"}),
    "natural_instructions": ({"task_name": "t", "id": "1", "definition": "Reverse the word.", "inputs": "tin", "targets": "nit"},
                             {"text": "Task: Reverse the word.\nInput: tin\nOutput: nit"}),
    "p3": ({"inputs_pretokenized": "Is it good? Fine film.", "targets_pretokenized": "Yes"}, {"text": "Is it good? Fine film.\nYes"}),
    "dialog_log": ({"original dialog id": "1", "log": [{"turn id": 1, "user utterance": "A table for two.", "system response": "At what time?"},
                                                       {"turn id": 2, "user utterance": "", "system response": "Hello?"}]},
                   {"text": "User: A table for two.\nSystem: At what time?\nSystem: Hello?"}),
}


def as_list(made):
    return made if isinstance(made, list) else [made]


class Case(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="test_fintrain-")
        self.addCleanup(folder.cleanup)
        self.dir = Path(folder.name)
        self.out = self.dir / "out"
        patch = mock.patch.object(fintrain.signal, "signal")     # main() must not change this process's handlers
        patch.start()
        self.addCleanup(patch.stop)

    def run_main(self, *words):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = fintrain.main([str(w) for w in words])
            except SystemExit as e:
                code = e.code
        self.stdout, self.stderr = out.getvalue(), err.getvalue()
        self.assertNotIn("Traceback", self.stderr)
        return code

    def get(self, name, source, *more, out=None):
        return self.run_main("get", name, "--from", source, "--out", out or self.out, *more)

    def write(self, name, rows):
        path = self.dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
        return path

    def rows(self, name):
        return [json.loads(line) for line in (self.out / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]

    def meta(self, name):
        return json.loads((self.out / f"{name}.meta.json").read_text(encoding="utf-8"))

    def left(self):
        return sorted(p.name for p in self.out.iterdir()) if self.out.exists() else []


class Table(Case):
    def test_all_sets_of_the_paper(self):
        sets = fintrain.SETS
        self.assertEqual(len(sets), 36)
        self.assertEqual(len({s.name.lower() for s in sets}), 36)
        self.assertEqual(sum(s.size for s in sets if s.kind == "cpt"), 10_177_294)     # the totals of tables D.1 and D.2
        self.assertEqual(sum(s.size for s in sets if s.kind == "it"), 3_161_401)
        self.assertEqual(sum(s.size for s in sets if s.kind == "it" and s.domain == "finance"), 719_401)
        for s in sets + fintrain.BUNDLES:
            self.assertTrue(s.sources or s.stand_in, s.name)
            for name in s.forms.split():
                self.assertIn(name, fintrain.FORMS)
            if s.stand_in and not s.sources:
                self.assertIn(s.stand_in.lower(), fintrain.BY_NAME)
            for name in s.bundle:
                self.assertIn(name.lower(), fintrain.BY_NAME)
            for source in s.sources.values():
                self.assertTrue(source.url.startswith("https://"), source.url)
                self.assertTrue(source.licence or "unknown: see https://" in source.licence_line)
        self.assertEqual(set(MADE) | {"prompt_response"}, set(fintrain.FORMS))     # every form has a row here

    def test_list(self):
        self.assertEqual(self.run_main("list"), 0)
        for s in fintrain.SETS:
            self.assertRegex(self.stdout, rf"(?m)^{s.name} +{s.kind} ")
        self.assertIn("not public, stand-in: p3_supernatural_sup", self.stdout)
        self.assertIn("cpt 10,177,294 rows, it 3,161,401 rows", self.stdout)
        self.assertEqual(self.run_main("list", "gsm8k", "ShareGPT", "UnifiedSKG"), 0)
        self.assertIn("https://huggingface.co/datasets/openai/gsm8k", self.stdout)
        self.assertIn("not public by itself", self.stdout)
        self.assertEqual(self.run_main("list", "GSM9K"), 1)
        self.assertIn("no set is called 'GSM9K' ---> GSM8K?", self.stderr)

    def test_help_and_usage(self):
        for words in (["--help"], ["list", "--help"], ["get", "--help"], ["recipe", "--help"]):
            done = subprocess.run([sys.executable, "-I", "-S", SCRIPT, *words], capture_output=True, text=True)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
        done = subprocess.run([sys.executable, SCRIPT, "get", "GSM8K", "--out", self.dir, "--limit", "0"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 2)
        done = subprocess.run(f"{shlex.quote(sys.executable)} {shlex.quote(str(SCRIPT))} list | head -n 1", shell=True, capture_output=True, text=True)
        self.assertEqual(done.stderr, "")


class Rows(Case):
    def test_every_form_exactly(self):
        for name, (row, expected) in MADE.items():
            with self.subTest(name):
                self.assertEqual(as_list(fintrain.FORMS[name][1](row)), as_list(expected))

    def test_every_set_in_every_form(self):
        """All 36 sets and the bundles; what they make goes through prepare."""
        produced = {"cpt": [], "it": []}
        for s in fintrain.SETS + fintrain.BUNDLES:
            for name in s.forms.split():
                with self.subTest(set=s.name, form=name):
                    row, expected = MADE[name]
                    source = self.write(f"{s.name}/{name}/train.jsonl", [row, row])
                    self.out = self.dir / "out" / name
                    self.assertEqual(self.get(s.name, source.parent, "--allow-size-mismatch"), 0, self.stderr)
                    self.assertEqual(self.rows(s.name), as_list(expected) * 2)
                    meta = self.meta(s.name)
                    self.assertEqual((meta["kind"], meta["forms"], meta["rows"]["read"]), (s.kind, [name], 2))
                    self.assertIn("licence: ", self.stdout)
                    produced[s.kind].append(self.out / f"{s.name}.jsonl")
        self.assertGreaterEqual(sum(map(len, produced.values())), 36)
        check_prepare(self, self.dir, produced)

    def test_dropped_rows(self):
        user, reply = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
        cases = {
            "empty answer": [user, {"role": "assistant", "content": " \n"}],
            "empty prompt": [{"role": "user", "content": ""}, reply],
            "begins with an assistant turn": [reply, user, reply],
            "system turn inside the conversation": [user, {"role": "system", "content": "S"}, reply],
            "turn of role 'thought'": [user, {"role": "thought", "content": "T"}, reply],
        }
        rows = [{"messages": [user, reply]}, {"messages": [user, reply, user]}] + [{"messages": m} for m in cases.values()] + [{"messages": [user]}]
        source = self.write("SlimOrca.jsonl", rows)
        self.assertEqual(self.get("SlimOrca", source, "--allow-size-mismatch"), 0)
        self.assertEqual(self.rows("SlimOrca"), [said("Q", "A")] * 2)     # a last turn that nothing answers is cut
        self.assertEqual(self.meta("SlimOrca")["rows"]["dropped"], {**{k: 1 for k in cases}, "empty answer": 2})
        self.assertIn("1 dropped: begins with an assistant turn", self.stdout)

    def test_exercise_with_scenario(self):
        row = {"questions": "Why?", "scenario": "A fund.", "exhibit": "A table.", "answer_choices": "N/A", "gpt4_answer": "So."}
        self.assertEqual(fintrain.FORMS["exercise"][1](row),
                         said("Given the scenatio, exhibit, please answer the question bellow.\n\nScenario: A fund.\n\nExhibit: A table.\n\nQuestion: Why?.\n\nAnswer:", "So."))

    def test_text_is_kept(self):
        odd = "  <|eot_id|> \u20ac \U0001f600 \u2028 \x00 \\n end  "
        self.assertEqual(self.get("ApexInstr", self.write("a.jsonl", [{"text": odd}]), "--allow-size-mismatch"), 0)
        data = (self.out / "ApexInstr.jsonl").read_bytes()
        self.assertEqual(json.loads(data), {"text": odd})
        self.assertEqual(data.count(b"\n"), 1)


class BadInput(Case):
    good = {"question": "1+1?", "answer": "2"}

    def refused(self, *message, source=None, name="GSM8K", more=("--allow-size-mismatch",)):
        self.assertEqual(self.get(name, source, *more), 1)
        errors = [line for line in self.stderr.splitlines() if "error:" in line]
        self.assertEqual(len(errors), 1, self.stderr)
        for part in message:
            self.assertIn(part, errors[0])
        self.assertEqual(self.left(), [])

    def test_bad_rows(self):
        for bad, message in [
            ({"question": "1+1?", "answer": ["2"]}, 'the row "answer" is a list, expected a string'),
            ({"question": "1+1?"}, 'the row has no "answer", found question'),
            ([1], "the row is a list, expected an object"),
            ({"question": "\ud800", "answer": "2"}, "the row holds half of a surrogate pair"),
        ]:
            with self.subTest(message):
                source = self.write("train.jsonl", [self.good, bad, self.good])
                self.refused(f"{source}:2: {message}", "1 of 3 rows are malformed, at most 0.1 % may be (--max-bad)", "--->", source=source)

    def test_bad_lines(self):
        for data, message in [(b'{"question": "1"', ":2: the row is not JSON: "), (b'{"question": "\xff"}', ":2: the row is not UTF-8 (byte 15 is 0xff)"),
                              (b"[" * 100_000, ":2: the row is not JSON")]:
            with self.subTest(message):
                source = self.dir / "train.jsonl"
                source.write_bytes(json.dumps(self.good).encode() + b"\n" + data + b"\n")
                self.refused(f"{source}{message}", "---> ", source=source)

    def test_threshold(self):
        source = self.write("train.jsonl", [self.good] * 9 + [{"question": 1, "answer": None}, {"question": {}}])
        self.refused("1 of 11 rows are malformed, at most 5 % may be", source=source, more=("--max-bad", "5", "--allow-size-mismatch"))
        self.assertEqual(self.get("GSM8K", source, "--max-bad", "10", "--allow-size-mismatch"), 0)
        self.assertIn(f"warning: {source}:11: the row \"question\" is an object, expected a string", self.stderr)
        rows = self.meta("GSM8K")["rows"]
        self.assertEqual((rows["read"], rows["written"], rows["malformed"], rows["dropped"]), (11, 9, 1, {"empty answer": 1}))

    def test_wrong_set(self):
        source = self.write("train.jsonl", [{"foo": 1, "bar": 2}] * 3000)
        self.refused(f"{source}:1: the row has the fields foo, bar, expected GSM8K's: text | question, answer", "is it the right set and file?", source=source)
        self.assertLess(self.stderr.count("\n"), 10)     # says it a few times, not 3,000

    def test_values(self):
        for name, row, message in [
            ("ESNLI", {**MADE["esnli_hub"][0], "label": -1}, '"label" is -1, expected one of 0, 1, 2'),
            ("QASC", {**MADE["qasc"][0], "answerKey": "Z"}, '"answerKey" is "Z", expected one of A, B'),
            ("StrategyQA", {**MADE["strategyqa"][0], "answer": "yes"}, '"answer" is a string, expected true or false'),
            ("SODA", {**MADE["soda"][0], "speakers": ["Ann"]}, '"speakers" has 1 items and "dialogue" 2'),
            ("SlimOrca", {"conversations": [{"from": "human"}]}, '"conversations"[0] has no "value"'),
            ("SlimOrca", {"conversations": ["x"]}, '"conversations"[0] is a string, expected an object'),
        ]:
            with self.subTest(message):
                self.refused(message, source=self.write("train.jsonl", [row]), name=name)

    def test_files(self):
        empty = self.dir / "empty.jsonl"
        empty.write_bytes(b"")
        self.refused("GSM8K: no row is left of 0 read", source=empty)
        broken = self.dir / "broken.json"
        broken.write_text('[{"question": "1",\n "answer": }]')
        self.refused(f"{broken}:2: is not JSON: Expecting value at column 12", "--->", source=broken)
        cut = self.dir / "cut.jsonl.gz"
        cut.write_bytes(gzip.compress(json.dumps(self.good).encode() * 99)[:-20])
        self.refused(f"{cut}: cannot be read", source=cut)
        self.refused("there is no such file or folder", source=self.dir / "nowhere")
        self.refused("ends in none of .jsonl", source=Path(__file__))
        table = self.dir / "train.csv"
        table.write_text("question,answer\n1+1?,2\n1+2?,3,4\n")
        self.refused(f"{table}:2: the row has 3 fields, expected 2 as in the header", source=table)
        table.write_text('question,answer\n1+1?,"2\n')
        self.refused(f"{table}:2: is not CSV", source=table)
        table.write_bytes(b"question,answer\n1+1?,2\n1+2?,\xe9\n")
        self.refused(f"{table}:3: is not UTF-8 (byte 6 is 0xe9)", source=table)

    def test_folder_of_other_sets(self):
        folder = self.write("sets/CREAK/train.jsonl", [self.good]).parent.parent
        self.refused(f"--from {folder}: holds no GSM8K/ and no GSM8K.jsonl, but CREAK", "--->", source=folder)

    def test_not_a_number(self):     # how tables write null: no text
        source = self.write("train.jsonl", [self.good, {"question": float("nan"), "answer": "2"}])
        self.assertEqual(self.get("GSM8K", source, "--allow-size-mismatch"), 0, self.stderr)
        rows = self.meta("GSM8K")["rows"]
        self.assertEqual((rows["written"], rows["dropped"]), (1, {"empty prompt": 1}))

    def test_full_disk(self):
        source = self.write("train.jsonl", [self.good] * 2000)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))     # a write beyond fails as on a full disk
        try:
            self.refused(f"{self.out / 'GSM8K.jsonl'}: cannot be written: File too large", source=source)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, old)

    def test_splits_are_not_mixed(self):
        folder = self.dir / "gsm8k"
        self.write("gsm8k/test.jsonl", [self.good])
        self.refused("holds test.jsonl, expected train files ---> name the file itself", source=folder)
        self.write("gsm8k/train-00000-of-00002.jsonl", [self.good])
        self.write("gsm8k/train-00001-of-00002.jsonl", [self.good] * 2)
        self.write("gsm8k/dataset_info.json", [{}])
        self.assertEqual(self.get("GSM8K", folder, "--allow-size-mismatch"), 0, self.stderr)
        self.assertEqual([f["file"] for f in self.meta("GSM8K")["source"]["files"]], [f"train-0000{i}-of-00002.jsonl" for i in (0, 1)])
        self.assertEqual(self.meta("GSM8K")["rows"]["written"], 3)


class Size(Case):
    def test_check(self):
        row = {"text": "T"}
        source = self.write("book_fineweb_unsup/train-0.jsonl", [row] * 4500).parent.parent     # by the name of the release's configuration
        self.assertEqual(self.run_main("get", "Book-Fin", "--from", source, "--out", self.out), 0, self.stderr)
        self.assertEqual(self.meta("Book-Fin")["size_check"], "ok")
        self.assertIn("4,500 rows (paper: 4,500) of 4,500 read; size ok", self.stdout)
        for rows, code in ((4456, 0), (4545, 0), (4454, 1), (4546, 1)):
            with self.subTest(rows=rows):
                self.out = self.dir / str(rows)
                self.assertEqual(self.get("Book-Fin", self.write("train.jsonl", [row] * rows)), code)
                if code:
                    self.assertIn(f"fintrain.py: error: Book-Fin: published size is 4,500 rows (+-1%), found {rows:,} of {rows:,} read ---> ", self.stderr)
                    self.assertEqual(self.left(), [])
        self.assertEqual(self.get("Book-Fin", self.dir / "train.jsonl", "--allow-size-mismatch"), 0)
        self.assertIn("warning: Book-Fin: published size is 4,500 rows", self.stderr)
        self.assertTrue(self.meta("Book-Fin")["size_check"].startswith("mismatch: "))

    def test_limit(self):
        source = self.write("train.jsonl", [{"question": str(i), "answer": "2"} for i in range(9)])
        self.assertEqual(self.get("GSM8K", source, "--limit", "4"), 0)
        self.assertEqual([r["text"][:11] for r in self.rows("GSM8K")], [f"Question: {i}" for i in range(4)])
        self.assertEqual(self.meta("GSM8K")["size_check"], "not checked: --limit")

    def test_sample(self):
        small = dataclasses.replace(fintrain.find_set("NaturalInstruction"), sample=50, size=50)
        rows = [{"definition": "D", "inputs": str(i), "targets": "T"} for i in range(1000)]
        source = self.write("train.jsonl", rows)
        with mock.patch.dict(fintrain.BY_NAME, {"naturalinstruction": small}):
            self.assertEqual(self.get("NaturalInstruction", source), 0, self.stderr)
            first = (self.out / "NaturalInstruction.jsonl").read_bytes()
            self.assertEqual(self.get("NaturalInstruction", source, "--force"), 0)
        self.assertEqual(first, (self.out / "NaturalInstruction.jsonl").read_bytes())
        kept = [int(r["text"].split("Input: ")[1].split("\n")[0]) for r in self.rows("NaturalInstruction")]
        self.assertEqual((len(kept), kept), (50, sorted(set(kept))))
        self.assertGreater(max(kept), 900)     # from all of the file, not from its beginning
        self.assertLess(abs(sum(kept) / 50 - 500), 150)
        self.assertEqual(self.meta("NaturalInstruction")["rows"]["not_sampled"], 950)


class Atomicity(Case):
    rows_ = [{"question": str(i), "answer": "2"} for i in range(100)]

    def setUp(self):
        super().setUp()
        self.source = self.write("train.jsonl", self.rows_)

    def good(self, *more):
        self.assertEqual(self.get("GSM8K", self.source, "--allow-size-mismatch", *more), 0, self.stderr)
        return {p.name: p.read_bytes() for p in self.out.iterdir()}

    def test_same_bytes(self):
        first = self.good()
        self.assertEqual(sorted(first), ["GSM8K.jsonl", "GSM8K.meta.json"])
        self.assertEqual(self.good("--force"), first)
        meta = json.loads(first["GSM8K.meta.json"])
        self.assertEqual(meta["output"]["bytes"], len(first["GSM8K.jsonl"]))
        self.assertEqual(meta["output"]["sha256"], fintrain.hashlib.sha256(first["GSM8K.jsonl"]).hexdigest())

    def test_nothing_is_overwritten(self):
        first = self.good()
        self.assertEqual(self.get("GSM8K", self.source, "--allow-size-mismatch"), 1)
        self.assertIn("exists already ---> --force replaces it", self.stderr)
        self.assertEqual({p.name: p.read_bytes() for p in self.out.iterdir()}, first)

    def test_failures_leave_what_was_there(self):
        first = self.good()
        bad = self.write("bad.jsonl", self.rows_ + [{"question": {}}])
        self.assertEqual(self.get("GSM8K", bad, "--allow-size-mismatch", "--force"), 1)
        self.assertEqual(self.get("GSM8K", self.source, "--force"), 1)     # the size
        other = self.write("other.jsonl", self.rows_[:50])
        for call in ("fsync", "replace"):
            with self.subTest(call), mock.patch.object(fintrain.os, call, side_effect=OSError(28, "No space left on device")):
                self.assertEqual(self.get("GSM8K", other, "--allow-size-mismatch", "--force"), 1)
                self.assertIn("cannot be written: No space left on device", self.stderr)
            self.assertEqual((self.out / "GSM8K.jsonl").read_bytes(), first["GSM8K.jsonl"])
            self.assertNotIn(".tmp", "".join(self.left()))
        with mock.patch.object(fintrain.Output, "write", side_effect=KeyboardInterrupt):
            self.assertEqual(self.get("GSM8K", self.source, "--allow-size-mismatch", "--force"), 130)
        self.assertNotIn(".tmp", "".join(self.left()))

    def test_out_is_a_file(self):
        self.assertEqual(self.get("GSM8K", self.source, "--allow-size-mismatch", out=self.source), 1)
        self.assertIn("cannot be written", self.stderr)

    def test_terminated(self):
        """SIGTERM in the middle leaves neither the file nor a temporary one."""
        program = (f"import importlib.util, os, signal, sys\nspec = importlib.util.spec_from_file_location('fintrain', {str(SCRIPT)!r})\n"
                   "m = importlib.util.module_from_spec(spec)\nsys.modules['fintrain'] = m\nspec.loader.exec_module(m)\nwrite = m.Output.write\n"
                   "def slow(self, line):\n    write(self, line)\n    if self.rows == 50: os.kill(os.getpid(), signal.SIGTERM)\nm.Output.write = slow\n"
                   f"sys.exit(m.main(['get', 'GSM8K', '--from', {str(self.source)!r}, '--out', {str(self.out)!r}, '--allow-size-mismatch']))")
        self.assertEqual(subprocess.run([sys.executable, "-B", "-c", program]).returncode, 143)
        self.assertEqual(self.left(), [])


class Formats(Case):
    rows_ = [{"question": f"{i}, \"so\"?\n\u20ac", "answer": str(i)} for i in range(3)]

    def check(self, path):
        with self.subTest(path.name):
            self.assertEqual(self.get("GSM8K", path, "--allow-size-mismatch", "--force"), 0, self.stderr)
            self.assertEqual(self.rows("GSM8K"), [{"text": f"Question: {r['question']}\nAnswer: {r['answer']}"} for r in self.rows_])

    def test_formats(self):
        plain = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in self.rows_)
        quoted = [[f'"{v.replace(chr(34), chr(34) * 2)}"' for v in r.values()] for r in self.rows_]
        files = {"a.jsonl": plain, "b.json": json.dumps(self.rows_), "c.json": plain, "d.json": json.dumps({"data": self.rows_}),
                 "e.json": json.dumps({str(i): r for i, r in enumerate(self.rows_)}), "f.jsonl": "\ufeff" + plain.replace("\n", "\r\n") + "\n\n",
                 "g.csv": "question,answer\n" + "".join(",".join(q) + "\n" for q in quoted),
                 "h.csv": "\ufeffquestion\tanswer\r\n" + "".join("\t".join(q) + "\r\n" for q in quoted)}
        for name, data in files.items():
            path = self.dir / name
            path.write_bytes(data.encode())
            self.check(path)
        path = self.dir / "i.jsonl.gz"
        path.write_bytes(gzip.compress(plain.encode()))
        self.check(path)

    def test_parquet(self):
        path = self.dir / "train-00000-of-00001.parquet"
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            path.write_bytes(b"PAR1")
            self.assertEqual(self.get("GSM8K", path), 1)
            self.assertIn("reading parquet needs the Python library pyarrow ---> pip install pyarrow", self.stderr)
            skip(self, "parquet: the Python library pyarrow is not installed")
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(self.rows_), path)
        self.check(path)
        nested = self.dir / "nested.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([MADE["messages"][0], MADE["messages"][0]]), nested)
        self.assertEqual(self.get("FingptNER", nested, "--allow-size-mismatch"), 0, self.stderr)
        self.assertEqual(self.rows("FingptNER"), [MADE["messages"][1]] * 2)
        path.write_bytes(path.read_bytes()[:-9])
        self.assertEqual(self.get("GSM8K", path, "--force"), 1)
        self.assertIn("is not readable parquet", self.stderr)

    def test_documents(self):
        for name, data in (("b/two.txt", "Second.\n"), ("a one.txt", "First."), ("LICENSE.txt", "All rights reserved."), ("README.txt", "Read me.")):
            path = self.dir / "books" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(data)
        self.assertEqual(self.get("Book-Fin", self.dir / "books", "--allow-size-mismatch"), 0, self.stderr)
        self.assertEqual(self.rows("Book-Fin"), [{"text": "First."}, {"text": "Second.\n"}])

    def test_several_sets(self):
        self.write("all/GSM8K.jsonl", self.rows_)
        self.write("all/orca-math-word-problems-200k/data/train-0.jsonl", self.rows_)
        self.assertEqual(self.run_main("get", "gsm8k", "OrcaMath", "MetaMathQA", "--from", self.dir / "all", "--out", self.out, "--allow-size-mismatch"), 1)
        self.assertEqual(self.left(), ["GSM8K.jsonl", "GSM8K.meta.json", "OrcaMath.jsonl", "OrcaMath.meta.json"])     # one failure doesn't stop the others
        self.assertIn("holds no MetaMathQA/ and no MetaMathQA.jsonl", self.stderr)


class Fetching(Case):
    def hub(self, rows, asked):
        def load_dataset(*words, **flags):
            asked.append((words, flags))
            if isinstance(rows, Exception):
                raise rows
            return iter(rows)
        return mock.patch.dict(sys.modules, {"datasets": types.SimpleNamespace(load_dataset=load_dataset)})

    def test_hub(self):
        asked = []
        with self.hub([{"question": str(i), "answer": "2"} for i in range(7473)], asked):
            self.assertEqual(self.run_main("get", "GSM8K", "--out", self.out, "--revision", "abc"), 0, self.stderr)
        self.assertEqual(asked, [(("openai/gsm8k", "main"), {"split": "train", "revision": "abc", "streaming": True})])
        meta = self.meta("GSM8K")
        self.assertEqual((meta["licence"], meta["size_check"], meta["source"]["revision"]), ("MIT", "ok", "abc"))
        self.assertIn("licence: MIT", self.stdout)
        with self.hub([{"question": "1", "answer": "2"}] * 7472, asked):     # within the paper's rounding, but not all of it
            self.assertEqual(self.run_main("get", "GSM8K", "--out", self.out, "--force"), 1)
        self.assertIn("openai/gsm8k:main has 7,473 rows, found 7,472", self.stderr)

    def test_sources(self):
        asked = []
        with self.hub([MADE["messages"][0]] * 511, asked):
            self.assertEqual(self.run_main("get", "FingptNER", "--out", self.out), 0, self.stderr)
            self.assertEqual(self.run_main("get", "FingptNER", "--out", self.out, "--force", "--source", "original"), 0, self.stderr)
            self.assertEqual(self.run_main("get", "GSM8K", "--out", self.out, "--source", "release"), 1)
        self.assertIn("GSM8K: has no source 'release', found original", self.stderr)
        self.assertEqual([words for words, _ in asked], [("Salesforce/FinTrain", "fingpt_ner_sup"), ("FinGPT/fingpt-ner", None)])
        self.assertEqual(self.meta("FingptNER")["licence"], "unknown: see https://huggingface.co/datasets/FinGPT/fingpt-ner")

    def test_stand_in(self):
        self.assertEqual(self.run_main("get", "UnifiedSKG", "--out", self.out), 1)
        self.assertIn("is not public by itself", self.stderr)
        self.assertIn("`fintrain.py get various_supervised_sup` stands in", self.stderr)
        small = dataclasses.replace(fintrain.find_set("ShareGPT"), sources={"stand-in": fintrain.Source("a/b", rows=2)})
        with self.hub([MADE["conversations"][0]] * 2, []), mock.patch.dict(fintrain.BY_NAME, {"sharegpt": small}):
            self.assertEqual(self.run_main("get", "ShareGPT", "--out", self.out), 0, self.stderr)
        self.assertIn("ShareGPT: stand-in, ", self.stdout)
        self.assertEqual((self.meta("ShareGPT")["source"]["kind"], self.meta("ShareGPT")["size_check"]), ("stand-in", "not checked: stand-in"))

    def test_failures(self):
        with mock.patch.dict(sys.modules, {"datasets": None}):
            self.assertEqual(self.run_main("get", "GSM8K", "--out", self.out), 1)
        self.assertIn("fetching needs the Python library datasets ---> pip install datasets, or download https://huggingface.co/datasets/openai/gsm8k", self.stderr)
        with self.hub(RuntimeError("403 Forbidden\nmore"), []):
            self.assertEqual(self.run_main("get", "GSM8K", "--out", self.out), 1)
        self.assertIn("cannot be fetched: 403 Forbidden ---> ", self.stderr)
        self.assertEqual(self.left(), [])

    def test_urls(self):
        rows = [MADE["mathqa"][0]] * 3
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as z:
            z.writestr("train.json", json.dumps(rows))
        pages = {"/x/M.zip": packed.getvalue(), "/a.json": json.dumps(rows).encode(), "/short.json": b"[]"}

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                page = pages.get(self.path)
                self.send_response(200 if page else 404)
                self.send_header("Content-Length", str(len(page or b"") + (99 if self.path == "/short.json" else 0)))
                self.end_headers()
                self.wfile.write(page or b"")

            def log_message(self, *_):
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        base = f"http://127.0.0.1:{server.server_port}"

        def fetched(*urls):
            made = dataclasses.replace(fintrain.find_set("MathQA"), size=6, sources={"original": fintrain.Source(tuple(base + u for u in urls), rows=6)})
            with mock.patch.dict(fintrain.BY_NAME, {"mathqa": made}), mock.patch.dict(os.environ, {"no_proxy": "127.0.0.1"}):
                return self.run_main("get", "MathQA", "--out", self.out, "--force")

        self.assertEqual(fetched("/x/M.zip#train.json", "/a.json"), 0, self.stderr)
        self.assertEqual(self.rows("MathQA"), [MADE["mathqa"][1]] * 6)
        for urls, message in ((["/nowhere.json"], "404"), (["/short.json"], "/short.json: "), (["/x/M.zip#other.json"], "other.json"), (["/a.json"], "has 6 rows, found 3")):
            self.assertEqual(fetched(*urls), 1)
            self.assertIn(message, self.stderr)


# ------------------------------------------------------------------------------------------------------------------------------
# prepare

def tokenizer(test, folder):
    """The demo's model directory: of the tree, or made anew."""
    if not PREPARE.exists():
        skip(test, "what fintrain.py writes was not given to prepare: build/prepare is not built")
    model = ROOT / "build" / "demo" / "model"
    if (model / "tokenizer.json").exists():
        return model
    if not MAKE_DEMO.exists():
        skip(test, "what fintrain.py writes was not given to prepare: build/make_demo is not built")
    subprocess.run([MAKE_DEMO, folder / "demo"], check=True, capture_output=True)
    return folder / "demo" / "model"


def check_prepare(test, folder, produced):
    """prepare takes every row of the files; nothing is malformed, and nothing is without a target."""
    model = tokenizer(test, folder)
    for kind, files in produced.items():
        if files:
            template = ["--template", "llama3"] if kind == "it" else []
            done = subprocess.run([PREPARE, "--tokenizer", model, "--kind", kind, *template, "--max-len", "8000", "--out", folder / f"shards_{kind}", *files],
                                  capture_output=True, text=True)
            test.assertEqual(done.returncode, 0, done.stderr)
            report = json.loads((folder / f"shards_{kind}.report.json").read_text())
            report = report.get("counts", report)
            rows = sum(f.read_bytes().count(b"\n") for f in files)
            test.assertEqual((report["rows_read"], report["rows_dropped_malformed"], report["rows_dropped_no_target"]), (rows, 0, 0), report)
            test.assertEqual(report["rows_kept"] + report["rows_dropped_too_long"], rows)


class Recipe(Case):
    def test_recipes(self):
        """The commands name every set once; the recipe's shards are all made; prepare takes the commands."""
        for flavour in ("paper", "code"):
            shards, sets = [], []
            for group in ("group1", "group2"):
                self.assertEqual(self.run_main("recipe", group, "--as", flavour, "--data", "DATA", "--shards", "SHARDS"), 0)
                commands = [shlex.split(line) for line in self.stdout.splitlines() if not line.startswith("#")]
                self.assertEqual(commands[0][:3], ["python3", "data/fintrain.py", "get"])
                names = commands[0][3:commands[0].index("--out")]
                sets += names
                files = [w for c in commands[1:-1] for w in c if w.endswith(".jsonl")]
                self.assertEqual(sorted(files), sorted(f"DATA/{n}.jsonl" for n in names))
                for c in commands[1:-1]:
                    self.assertEqual(c[0], "build/prepare")
                    self.assertTrue(all(fintrain.find_set(Path(f).stem).kind == c[c.index("--kind") + 1] for f in c if f.endswith(".jsonl")))
                    shards.append(Path(c[c.index("--out") + 1]).name)
            covered = [n for s in sets for n in (fintrain.find_set(s).bundle or [s])]
            self.assertEqual(sorted(covered), sorted(s.name for s in fintrain.SETS))
            stages = json.loads((ROOT / "data" / "recipes" / f"findap-{flavour}.json").read_text())["stages"]
            asked = {s for stage in stages for stream in stage["streams"] for s in stream["shards"]}
            self.assertEqual(asked - set(shards), set())
            self.assertEqual(set(shards) - asked, {"finance_it_group2"} if flavour == "code" else set())

    def test_commands_run(self):
        model = tokenizer(self, self.dir)
        data = self.dir / "data sets"
        for s in fintrain.SETS + fintrain.BUNDLES:
            self.write(f"data sets/{s.name}.jsonl", [{"text": "Trade is exchange."}] if s.kind == "cpt" else [MADE["messages"][1]])
        for flavour in ("paper", "code"):
            for group in ("group1", "group2"):
                self.assertEqual(self.run_main("recipe", group, "--as", flavour, "--data", data, "--shards", self.dir / "shards", "--tokenizer", model), 0)
                for line in self.stdout.splitlines():
                    if line.startswith("build/prepare"):
                        done = subprocess.run(line + " --dry-run", shell=True, cwd=ROOT, capture_output=True, text=True)
                        self.assertEqual(done.returncode, 0, done.stderr)


# ------------------------------------------------------------------------------------------------------------------------------
# real sets, where they are

REAL = [     # set, path, rows written, size is the published one
    ("GSM8K", "gsm8k", 7473, True), ("StrategyQA", "strategyqa", 2290, True), ("CREAK", "creak", 10176, True),
    ("Aqua", "aqua/dev.json", 254, False), ("FlareFinqa", "finqa/flare_finqa_valid.jsonl", 883, False),
    ("FlareFinqa", "finqa/flare_finqa_test_sample300.json", 300, False), ("FingptConvfinqa", "convfinqa/convfinqa_dev.json", 421, False),
    ("FingptNER", "ner/flare_ner_valid.jsonl.gz", None, False), ("FingptNERCls", "ner/finlora_ner_test.jsonl.gz", 3502, False),
    ("FingptHeadline", "headlines/flare_headlines_valid.jsonl.gz", 10260, False), ("SentimentTra", "tfns_nwgi/finlora_tfns_test.jsonl", 2388, False),
    ("SentimentTra", "fpb/flare_fpb_valid.jsonl.gz", 7740, False), ("SentimentCls", "fiqa_sa/finlora_fiqa_test.jsonl", 235, False),
    ("FlareFiqa", "fiqa_sa/flare_fiqasa_train.jsonl.gz", 7500, False), ("SelfInstruct", "instruct/self_instruct_seed_tasks.jsonl", None, False),
    ("SelfInstruct", "instruct/alpaca_en_demo.json", 999, False), ("MagicodeInstruct", "instruct/code_alpaca_2k.json", 2015, False),
    ("SlimOrca", "preference/kto_en_demo.json", None, False), ("Fineweb-Fin", "cpt_sec", 146, False), ("Fineweb-Fin", "cpt_fed/data/raw_data", 230, False),
    ("Fineweb-Fin", "cpt_wiki_fin", 158, False), ("Fineweb-Fin", "cpt_general/c4_demo.jsonl", 300, False),
    ("Book-Fin", "cpt_books/economic_consequences_of_the_peace_pg15776.txt", 1, False),
]


class Real(Case):
    def test_real_sets(self):
        data = os.environ.get("FINDAP_DATA")
        if not data:
            skip(self, "real sets: FINDAP_DATA is not set (bash ../shared/data/unpack.sh DIR; FINDAP_DATA=DIR)")
        produced = {"cpt": [], "it": []}
        base = self.out
        for i, (name, path, rows, published) in enumerate(REAL):
            source = Path(data) / path
            if not source.exists():
                print(f"skipped: real set {path} is not in {data}", file=sys.stderr)
                continue
            with self.subTest(path):
                self.out = base / str(i)
                self.assertEqual(self.get(name, source, *([] if published else ["--allow-size-mismatch"])), 0, self.stderr)
                meta = self.meta(name)["rows"]
                self.assertEqual(meta["written"], rows or meta["written"])
                self.assertEqual(meta["malformed"], 0)
                for row in self.rows_raw(name):
                    self.assertEqual(list(row), ["text" if fintrain.find_set(name).kind == "cpt" else "messages"])
                produced[fintrain.find_set(name).kind].append(self.out / f"{name}.jsonl")
                if not published:
                    self.assertEqual(self.get(name, source, "--force"), 1)     # the size check sees that it is a part
        self.assertTrue(any(produced.values()), f"FINDAP_DATA={data} holds none of the sets")
        check_prepare(self, self.dir, produced)

    def rows_raw(self, name):
        with open(self.out / f"{name}.jsonl", encoding="utf-8") as file:
            return [json.loads(line) for line in file]     # file lines end at \n only


if __name__ == "__main__":
    unittest.main()
