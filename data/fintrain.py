#!/usr/bin/env python3
"""fintrain.py: the 36 training sets of Llama-Fin (arXiv 2501.04961, tables D.1 and D.2) by name, as JSONL for `prepare`.

    fintrain.py list [NAME...]                            what there is: kind, published size, licence, where it comes from
    fintrain.py get NAME... --out DIR [--from PATH]       fetch (or read a local copy), convert, check the size, write NAME.jsonl
    fintrain.py recipe group1|group2                      the commands that make the shards of data/recipes/

What this file knows are facts about public data sets: names, sizes, licences, columns. It contains no row of any of them.

What a row becomes. A cpt set becomes {"text"}: every token is trained, also in the "verifiable" general sets, whose questions and
answers the paper trains as plain text. An it set becomes {"messages"}: `prepare` renders the template and trains the assistant
turns alone, each with its end-of-turn token. Rows without an answer are dropped, as in the paper (App. B.2), and counted.

Two sources, where both exist. `release` is Salesforce/FinTrain, the authors' own rows: {"text", "messages"} in the *_sup
configurations, {"title", "text", "topic"} in the *_unsup ones; nothing is left to us there. `original` is the set that they started
from, in its own columns. How the authors laid those columns out as one text or one prompt is not published, so for originals
the layout below is ours: one field a line, a label before each. Sizes are the paper's, rounded there to three digits.

Only the standard library is needed; `datasets` for fetching and `pyarrow` for parquet are imported when they are used.
"""
import argparse
import csv
import difflib
import gzip
import hashlib
import http.client
import json
import math
import os
import random
import re
import shlex
import shutil
import signal
import sys
import tempfile
import urllib.request
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

SAMPLE_SEED = 42          # the seed of the released code; which rows the paper sampled is not published
SIZE_TOLERANCE = 0.01     # of the published size: it is rounded, and rows without an answer are dropped


class Fail(Exception):
    """One line for the user. Nothing was written."""


class Malformed(Exception):
    """A row that is not of its schema: counted, and an error above --max-bad."""


class Dropped(Exception):
    """A well-formed row with nothing to train: counted by reason."""


# ------------------------------------------------------------------------------------------------------------------------------
# values of a row

def type_name(value):
    names = {bool: "true or false", int: "an integer", float: "a number", str: "a string", list: "a list", dict: "an object"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def get(row, key):
    """The field as text. Numbers become text, as in the released code; null is the empty text."""
    if key not in row:
        raise Malformed(f'has no "{key}", found {", ".join(map(str, row)) or "no field"}')
    value = row[key]
    if value is None or (isinstance(value, float) and not math.isfinite(value)):     # NaN: how tables write null
        return ""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise Malformed(f'"{key}" is {type_name(value)}, expected a string')
    return value


def get_list(row, key):
    if key not in row:
        raise Malformed(f'has no "{key}", found {", ".join(map(str, row)) or "no field"}')
    if not isinstance(row[key], list):
        raise Malformed(f'"{key}" is {type_name(row[key])}, expected a list')
    return row[key]


def get_texts(row, key):
    return [get({f"{key}[{i}]": item}, f"{key}[{i}]") for i, item in enumerate(get_list(row, key))]


def one_of(row, key, values):
    value = row.get(key)
    if isinstance(value, bool) or value not in values:
        raise Malformed(f'"{key}" is {json.dumps(value, default=str)[:60]}, expected one of {", ".join(map(str, values))}')
    return values[values.index(value)]


# ------------------------------------------------------------------------------------------------------------------------------
# the two kinds of output row

def text(value):
    if not value.strip():
        raise Dropped("empty text")
    return {"text": value}


def lines(*pairs):
    """A cpt text of labelled lines; pairs whose value is empty are left out."""
    return text("\n".join(f"{label}: {value}" if label else value for label, value in pairs if value.strip()))


def require(value, what):
    if not value.strip():
        raise Dropped(f"empty {what}")
    return value


def chat(*turns):
    """An it row of (role, content) pairs; drops what `prepare` would refuse or could not train."""
    messages = []
    for role, content in turns:
        if role == "system" and not content.strip():
            continue
        if role == "system" and messages:
            raise Dropped("system turn inside the conversation")
        require(content, {"user": "prompt", "assistant": "answer"}.get(role, role))
        messages.append({"role": role, "content": content})
    while messages and messages[-1]["role"] != "assistant":
        messages.pop()    # nothing answers it, so nothing of it is trained
    speakers = [m["role"] for m in messages if m["role"] != "system"]
    if not speakers:
        raise Dropped("empty answer")
    if speakers[0] == "assistant":
        raise Dropped("begins with an assistant turn")
    return {"messages": messages}


def question(prompt, answer, system=""):
    return chat(("system", system), ("user", prompt), ("assistant", answer))


def joined(*parts):
    return "\n".join(part for part in parts if part.strip())


# ------------------------------------------------------------------------------------------------------------------------------
# forms: the columns a set comes in, and how a row of them becomes output rows. A file's form is told from its first row.

FORMS = {}    # name -> (columns that tell it, function of a row)


def form(*columns):
    def register(function):
        FORMS[function.__name__] = (columns, function)
        return function
    return register


ROLES = {"system": "system", "user": "user", "human": "user",
         "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "agent": "assistant"}


def turns_of(row, key):
    """[{role, content}] or [{from, value}], as (role, content) pairs."""
    pairs = []
    for i, item in enumerate(get_list(row, key)):
        if not isinstance(item, dict):
            raise Malformed(f'"{key}"[{i}] is {type_name(item)}, expected an object with role and content')
        role_key, content_key = ("role", "content") if "role" in item else ("from", "value")
        try:
            role, content = get(item, role_key).lower(), get(item, content_key)
        except Malformed as e:
            raise Malformed(f'"{key}"[{i}] {e}') from None
        if role not in ROLES:
            raise Dropped(f"turn of role {role[:20]!r}")    # the released code knows thought and observation too; no template does
        pairs.append((ROLES[role], content))
    return pairs


@form("messages")
def messages(row):           # the release, it
    return chat(*turns_of(row, "messages"))


@form("conversations")
def conversations(row):      # SlimOrca, ShareGPT, PIXIU's FLARE files
    return chat(*turns_of(row, "conversations"))


@form("data")
def alternating(row):        # UltraChat: user and assistant in turn
    return chat(*((("user", "assistant")[i % 2], content) for i, content in enumerate(get_texts(row, "data"))))


@form("instruction", "output")
def instruction_output(row):     # FinGPT, MathInstruct, Alpaca
    return question(joined(get(row, "instruction"), get({"input": row.get("input")}, "input")), get(row, "output"))


@form("instruction", "response")
def instruction_response(row):   # Magicoder
    return question(get(row, "instruction"), get(row, "response"))


@form("instruction", "instances")
def instruction_instances(row):  # Self-Instruct's seed tasks: one conversation an instance
    rows = []
    for i, instance in enumerate(get_list(row, "instances")):
        if not isinstance(instance, dict):
            raise Malformed(f'"instances"[{i}] is {type_name(instance)}, expected an object with input and output')
        rows.append(question(joined(get(row, "instruction"), get(instance, "input")), get(instance, "output")))
    return rows


@form("query", "response")
def query_response(row):         # MetaMathQA
    return question(get(row, "query"), get(row, "response"))


@form("query", "answer")
def query_answer(row):           # FLARE
    return question(get(row, "query"), get(row, "answer"))


@form("question", "answer")
def question_answer(row):        # Orca-Math
    return question(get(row, "question"), get(row, "answer"))


@form("prompt", "completion")
def prompt_completion(row):      # Self-Instruct
    return question(get(row, "prompt"), get(row, "completion"))


@form("prompt", "response")
def prompt_response(row):
    return question(get(row, "prompt"), get(row, "response"))


@form("context", "target")
def context_target(row):         # FinLoRA's copies of the FinGPT sets: the prompt is rendered already
    return question(get(row, "context"), get(row, "target"))


@form("user_prompt", "answer")
def sujet(row):
    return question(get(row, "user_prompt"), get(row, "answer"), get({"system_prompt": row.get("system_prompt")}, "system_prompt"))


@form("title", "text")
def news_title(row):             # EDT, the source of TradeTheEvent: the title is the summary. The words of the prompt are FLARE's for EDTSUM.
    ask = ("You are given a text that consists of multiple sentences. Your task is to perform abstractive summarization on this text. "
           "Use your understanding of the content to express the main ideas and crucial details in a shorter, coherent, and natural "
           "sounding text.")
    return question(f"{ask}\nText: {require(get(row, 'text'), 'prompt')}", get(row, "title"))


@form("questions", "text", "table")
def conversation_questions(row):     # ConvFinQA as Program-of-Thoughts packs it: only the last question has its answer in words
    asked = get_texts(row, "questions")
    if not asked:
        raise Dropped("empty prompt")
    table = row["table"]
    if isinstance(table, list):
        table = "\n".join(" | ".join(map(str, cells)) if isinstance(cells, list) else str(cells) for cells in table)
    context = joined(get(row, "text"), get({"table": table}, "table"))
    before = joined(*(f"Earlier question: {q}" for q in asked[:-1]))
    return question(joined(f"Context: {context}", before, f"Question: {asked[-1]}", "Answer:"), get(row, "answer"))


@form("questions", "gpt4_answer")
def exercise(row):               # the released template, its spelling included; what is "N/A" is left out, and not announced
    parts = [("scenatio", "Scenario", "scenario"), ("exhibit", "Exhibit", "exhibit"), ("answer choices", "Answer Choices", "answer_choices")]
    there = [(told, label, get(row, key)) for told, label, key in parts if get(row, key).strip() not in ("", "N/A")]
    ask = require(get(row, "questions"), "prompt")
    body = [f"{label}: {value}" for told, label, value in there if told != "answer choices"] + [f"Question: {ask}"]
    body += [f"{label}: {value}" for told, label, value in there if told == "answer choices"]
    head = f"Given the {', '.join(told for told, _, _ in there)}, please" if there else "Please"
    return question("\n\n".join([f"{head} answer the question bellow.", *body]) + ".\n\nAnswer:", get(row, "gpt4_answer"))


@form("text")
def plain(row):                  # the release, cpt; books and web pages. The title is not part of the text there either.
    return text(get(row, "text"))


@form("question", "answer")
def plain_question(row):         # GSM8K, DeepMind mathematics
    return lines(("Question", require(get(row, "question"), "prompt")), ("Answer", require(get(row, "answer"), "answer")))


@form("question", "options", "rationale", "correct")
def aqua(row):
    return lines(("Question", require(get(row, "question"), "prompt")), ("Options", ", ".join(get_texts(row, "options"))),
                 ("Rationale", get(row, "rationale")), ("Answer", require(get(row, "correct"), "answer")))


@form("Problem", "Rationale", "options", "correct")
def mathqa(row):
    return lines(("Question", require(get(row, "Problem"), "prompt")), ("Options", get(row, "options")),
                 ("Rationale", get(row, "Rationale")), ("Answer", require(get(row, "correct"), "answer")))


@form("sentence", "label", "explanation")
def creak(row):
    return lines(("Claim", require(get(row, "sentence"), "prompt")), ("True or false", one_of(row, "label", ("true", "false"))),
                 ("Explanation", get(row, "explanation")))


def entailment(premise, hypothesis, label, explanation):
    return lines(("Premise", require(premise, "prompt")), ("Hypothesis", require(hypothesis, "prompt")), ("Relation", label),
                 ("Explanation", explanation))


@form("premise", "hypothesis", "label", "explanation_1")
def esnli_hub(row):
    label = one_of(row, "label", (0, 1, 2))
    return entailment(get(row, "premise"), get(row, "hypothesis"), ("entailment", "neutral", "contradiction")[label], get(row, "explanation_1"))


@form("Sentence1", "Sentence2", "gold_label", "Explanation_1")
def esnli_csv(row):
    label = one_of(row, "gold_label", ("entailment", "neutral", "contradiction"))
    return entailment(get(row, "Sentence1"), get(row, "Sentence2"), label, get(row, "Explanation_1"))


@form("question", "choices", "answerKey")
def qasc(row):
    choices = row["choices"]
    if not isinstance(choices, dict):
        raise Malformed(f'"choices" is {type_name(choices)}, expected an object with text and label')
    labels, texts = get_texts(choices, "label"), get_texts(choices, "text")
    key = one_of(row, "answerKey", labels)
    if len(labels) != len(texts):
        raise Malformed(f'"choices" has {len(labels)} labels and {len(texts)} texts')
    facts = [get({k: row.get(k)}, k) for k in ("fact1", "fact2", "combinedfact")]
    return lines(("Question", require(get(row, "question"), "prompt")), ("Options", ", ".join(f"({a}) {b}" for a, b in zip(labels, texts))),
                 *(("Fact", fact) for fact in facts), ("Answer", f"({key}) {texts[labels.index(key)]}"))


@form("narrative", "dialogue", "speakers")
def soda(row):
    speakers, said = get_texts(row, "speakers"), get_texts(row, "dialogue")
    if len(speakers) != len(said):
        raise Malformed(f'"speakers" has {len(speakers)} items and "dialogue" {len(said)}, expected as many')
    if not said:
        raise Dropped("empty text")
    return lines(("", get(row, "narrative")), *zip(speakers, said))


@form("question", "answer", "facts")
def strategyqa(row):
    if not isinstance(row["answer"], bool):
        raise Malformed(f'"answer" is {type_name(row["answer"])}, expected true or false')
    return lines(("Question", require(get(row, "question"), "prompt")), ("Facts", " ".join(get_texts(row, "facts"))),
                 ("Answer", "yes" if row["answer"] else "no"))


@form("text_in", "struct_in", "seq_out")
def unified_skg(row):
    return lines(("Structure", get(row, "struct_in")), ("Request", require(get(row, "text_in"), "prompt")),
                 ("Answer", require(get(row, "seq_out"), "answer")))


@form("definition", "inputs", "targets")
def natural_instructions(row):
    return lines(("Task", require(get(row, "definition"), "prompt")), ("Input", get(row, "inputs")),
                 ("Output", require(get(row, "targets"), "answer")))


@form("inputs_pretokenized", "targets_pretokenized")
def p3(row):                     # the prompts are texts already
    return text(joined(require(get(row, "inputs_pretokenized"), "prompt"), require(get(row, "targets_pretokenized"), "answer")))


@form("log")
def dialog_log(row):             # DialogStudio
    said = []
    for i, turn in enumerate(get_list(row, "log")):
        if not isinstance(turn, dict):
            raise Malformed(f'"log"[{i}] is {type_name(turn)}, expected an object with "user utterance" and "system response"')
        said += [("User", get(turn, "user utterance")), ("System", get(turn, "system response"))]
    return lines(*said)


# ------------------------------------------------------------------------------------------------------------------------------
# the table of sets

FINTRAIN = "Salesforce/FinTrain"


@dataclass(frozen=True)
class Source:
    where: object             # a data set of the hub, or a tuple of URLs (ZIP#MEMBER: a member of an archive)
    config: str = None
    licence: str = None       # None: not known with certainty
    rows: int = None          # how many there are exactly, where that is published
    split: str = "train"

    @property
    def on_hub(self):
        return isinstance(self.where, str)

    @property
    def url(self):
        return f"https://huggingface.co/datasets/{self.where}" if self.on_hub else self.where[0].partition("#")[0]

    @property
    def short(self):
        """For people: owner/name:config on the hub, or the site."""
        if self.on_hub:
            return self.where + (f":{self.config}" if self.config else "")
        parts = self.url.split("/")
        return "github.com/" + "/".join(parts[3:5]) if self.url.startswith(GITHUB) else parts[2]

    @property
    def licence_line(self):
        return self.licence or f"unknown: see {self.url}"


@dataclass(frozen=True)
class Set:
    name: str
    kind: str                 # "cpt" or "it"
    domain: str               # "finance" or "general"
    size: int                 # rows, as tables D.1 and D.2 give them; None: not published
    forms: str                # of FORMS, told apart in this order
    sources: dict             # the first is the default; empty: not public
    upstream: str = None      # licences of what the set was made from
    group: int = 1            # of the paper: where the set is used first
    code_group: int = 1       # of the released code, where TradeTheEvent, ConvFinQA, FinQA, FiQA-QA and Sujet enter in group 2
    sample: int = None        # the paper took that many rows of more
    splits: str = "train"     # of local copies
    stand_in: str = None      # what is used instead when the set itself is not public
    note: str = None
    bundle: tuple = ()        # sets that the release has only together


def release(config, rows=None):
    return Source(FINTRAIN, config, None, rows)


CPT_FORMS, IT_FORMS = "plain", "messages conversations"
GENERAL_IT = ("SelfInstruct", "SlimOrca", "UltraChat", "ShareGPT", "OrcaMath", "MetaMathQA", "MathInstruct", "MagicodeInstruct")


def cpt(name, domain, size, forms, sources, **more):
    return Set(name, "cpt", domain, size, f"{CPT_FORMS} {forms}", sources, **more)


def it(name, domain, size, forms, sources, **more):
    return Set(name, "it", domain, size, f"{IT_FORMS} {forms}", sources, **more)


def fingpt(name, size, config, original, rows=None, note=None, upstream=None, code_group=1):
    return it(name, "finance", size, "instruction_output context_target query_answer conversation_questions",
              {"release": release(config), "original": Source(f"FinGPT/{original}", rows=rows)}, upstream=upstream, note=note, code_group=code_group)


GITHUB = "https://raw.githubusercontent.com"
VARIOUS = "various_supervised_sup"
SETS = [
    # Table D.1: texts
    cpt("NaturalInstruction", "general", 100_000, "natural_instructions", {"original": Source("Muennighoff/natural-instructions")},
        sample=100_000, upstream="Apache-2.0 (allenai/natural-instructions)", note="the release has it together with P3: p3_supernatural_sup"),
    cpt("PromptSource", "general", 100_000, "p3", {}, sample=100_000, upstream="Apache-2.0 (bigscience/P3)",
        stand_in="p3_supernatural_sup", note="which 100,000 rows of P3's 660 configurations were taken is not published"),
    cpt("MathQA", "general", 29_837, "mathqa",
        {"original": Source(("https://math-qa.github.io/math-QA/data/MathQA.zip#train.json",), None, "Apache-2.0", 29_837)}),
    cpt("Aqua", "general", 97_500, "aqua", {"original": Source("deepmind/aqua_rat", "raw", "Apache-2.0", 97_467)}),
    cpt("CREAK", "general", 10_200, "creak", {"original": Source(
        (f"{GITHUB}/yasumasaonoe/creak/5e892b28b6dad3e87769cfc01f00a6577ca44068/data/creak/train.json",), None, "MIT", 10_176)}),
    cpt("ESNLI", "general", 549_367, "esnli_hub esnli_csv", {"original": Source(
        tuple(f"{GITHUB}/OanaMariaCamburu/e-SNLI/master/dataset/esnli_train_{i}.csv" for i in (1, 2)), None, None, 549_367)},
        upstream="MIT-style (file LICENSE of OanaMariaCamburu/e-SNLI)"),
    cpt("QASC", "general", 8_130, "qasc", {"original": Source("allenai/qasc", None, "CC BY 4.0", 8_134)}),
    cpt("SODA", "general", 1_190_000, "soda", {"original": Source("allenai/soda", None, "CC BY 4.0")}),
    cpt("StrategyQA", "general", 2_290, "strategyqa", {"original": Source(
        tuple(f"{GITHUB}/eladsegal/strategyqa/1ba1e97452e189569357876f2854b01357ffbe37/data/strategyqa/{s}.json" for s in ("train", "dev")),
        None, "MIT", 2_290)}, splits="train dev", note="the paper's size is train and dev together"),
    cpt("UnifiedSKG", "general", 779_000, "unified_skg", {}, stand_in=VARIOUS,
        note="made of 21 sets by the code of github.com/hkunlp/unifiedskg; these rows are public only among the nine sets of the stand-in"),
    cpt("GSM8K", "general", 7_470, "plain_question", {"original": Source("openai/gsm8k", "main", "MIT", 7_473)}),
    cpt("ApexInstr", "general", 1_470_000, "", {"release": release("apex_instruct_for_annealing_sup", 1_472_062)},
        note="the paper cites OpenCoder; marks like <|user|> stand in the released texts and are text"),
    cpt("DeepmindMath", "general", 379_000, "plain_question", {"release": release("dm_mathematics_sup")},
        upstream="Apache-2.0 (google-deepmind/mathematics_dataset)"),
    cpt("DialogueStudio", "general", 1_070_000, "dialog_log", {"release": release("dialog_studio_sup")},
        upstream="many, one a dialogue set (Salesforce/dialogstudio, gated)"),
    cpt("Fineweb-Fin", "finance", 4_380_000, "", {"release": release("finance_unsup")},
        note="the list of its 70 web sites and the filter's model are not published; any {\"text\"} rows or .txt files, such as SEC filings, "
             "stand in with --from --allow-size-mismatch"),
    cpt("Book-Fin", "finance", 4_500, "", {"release": release("book_fineweb_unsup", 4_500)}, group=2, code_group=2,
        upstream="whole books, many under copyright",
        note="the list of its books is not published; open textbooks, one {\"text\"} row or .txt file each, "
             "stand in with --from --allow-size-mismatch"),
    # Table D.2: prompts
    fingpt("FingptFinred", 27_600, "fingpt_finred_sup", "fingpt-finred", 27_558),
    fingpt("FingptNERCls", 13_500, "fingpt_ner_cls_sup", "fingpt-ner-cls", upstream="CC BY 3.0 (SEC filings, FIN5)"),
    fingpt("FingptNER", 511, "fingpt_ner_sup", "fingpt-ner", upstream="CC BY 3.0 (SEC filings, FIN5)"),
    fingpt("FingptHeadline", 82_200, "fingpt_headline_cls_sup", "fingpt-headline-cls",
           upstream="CC BY-NC-ND 4.0 or CC BY-SA 3.0, sources disagree (gold headlines)"),
    fingpt("SentimentCls", 47_600, "fingpt_sentiment_cls_sup", "fingpt-sentiment-cls", upstream="CC BY-NC-SA 3.0 (Financial PhraseBank) and others"),
    fingpt("SentimentTra", 76_800, "fingpt_sentiment_train_sup", "fingpt-sentiment-train", 76_772,
           upstream="CC BY-NC-SA 3.0 (Financial PhraseBank) and others",
           note="holds about three quarters of the sentences that the FPB and FiQA-SA tests draw from"),
    it("TradeTheEvent", "finance", 258_000, "news_title query_answer", {"release": release("trade_the_event_sup")}, code_group=2,
       note="the original (EDT) is a Google Drive link in Zhihan1996/TradeTheEvent; its title and text columns are read with --from"),
    it("SelfInstruct", "general", 82_000, "prompt_completion instruction_output instruction_instances",
       {"original": Source("yizhongw/self_instruct", "self_instruct", "Apache-2.0", 82_612)}),
    it("SlimOrca", "general", 518_000, "", {"original": Source("Open-Orca/SlimOrca", None, "MIT")}),
    it("UltraChat", "general", 774_000, "alternating", {"original": Source("stingning/ultrachat", None, "MIT")}),
    it("ShareGPT", "general", 100_000, "", {"stand-in": Source("flydust/ShareGPT-Vicuna-unfiltered-axolotl", None, None, 111_912)}, sample=100_000,
       upstream="Apache-2.0 on the card of anon8231489123/ShareGPT_Vicuna_unfiltered, which it repacks",
       stand_in="flydust/ShareGPT-Vicuna-unfiltered-axolotl", note="which copy and which 100,000 conversations were taken is not published"),
    it("FinanceInstruct", "finance", 178_000, "sujet", {"release": release("sujet_finance_instruct_sup", 177_597),
       "original": Source("sujet-ai/Sujet-Finance-Instruct-177k", None, "Apache-2.0", 177_597)}, upstream="18 data sets of the hub", code_group=2),
    fingpt("FingptConvfinqa", 8_890, "fingpt_convfinqa_sup", "fingpt-convfinqa", upstream="MIT (czyssrs/ConvFinQA)", code_group=2,
           note="a copy of the original has 11,104 training rows, the paper counts 8,890: the original needs --allow-size-mismatch"),
    it("FlareFinqa", "finance", 6_250, "query_answer", {"release": release("flare_finqa_sup"), "original": Source("ChanceFocus/flare-finqa")},
       upstream="MIT (czyssrs/FinQA)", code_group=2),
    fingpt("FlareFiqa", 17_100, "fingpt_fiqa_qa_sup", "fingpt-fiqa_qa", 17_110, upstream='"public" (FiQA, WWW\'18)', code_group=2),
    it("OrcaMath", "general", 200_000, "question_answer", {"original": Source("microsoft/orca-math-word-problems-200k", None, "MIT")}),
    it("MetaMathQA", "general", 395_000, "query_response", {"original": Source("meta-math/MetaMathQA", None, "MIT")}),
    it("MathInstruct", "general", 262_000, "instruction_output", {"original": Source("TIGER-Lab/MathInstruct", None, "MIT")},
       upstream="one a subset, CC BY-NC 4.0 among them (Camel-Math)"),
    it("MagicodeInstruct", "general", 111_000, "instruction_response instruction_output",
       {"original": Source("ise-uiuc/Magicoder-Evol-Instruct-110K", None, "Apache-2.0")}),
    it("Exercise", "finance", 2_950, "exercise", {"release": release("cfa_exercise_sup", 2_946)}, group=2, code_group=2,
       upstream="extracted from CFA preparation books under copyright", note="also the prompts of preference alignment (genrm sample)"),
]

# What the release has only together: the authors' own rows of several sets in one file.
BUNDLES = [
    cpt(VARIOUS, "general", None, "", {"release": release(VARIOUS)},
        bundle=("MathQA", "Aqua", "CREAK", "ESNLI", "QASC", "SODA", "StrategyQA", "UnifiedSKG", "GSM8K")),
    cpt("p3_supernatural_sup", "general", 200_000, "p3 natural_instructions", {"release": release("p3_supernatural_sup", 13_254_484)},
        sample=200_000, bundle=("PromptSource", "NaturalInstruction"),
        note="the paper took 100,000 rows of each; the release does not tell them apart"),
    it("extra_sup", "general", None, "", {"release": release("extra_sup")}, bundle=GENERAL_IT,
       note="may be the paper's general mix or part of it; its card doesn't say"),
]
BY_NAME = {s.name.lower(): s for s in SETS + BUNDLES}


def find_set(name):
    if name.lower() in BY_NAME:
        return BY_NAME[name.lower()]
    near = difflib.get_close_matches(name.lower(), BY_NAME, 1, 0.5)
    raise Fail(f"no set is called {name!r} ---> " + (f"{BY_NAME[near[0]].name}? " if near else "") + "`fintrain.py list` names them all")


# ------------------------------------------------------------------------------------------------------------------------------
# reading local copies: (number of the row, the row or a Malformed)

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt")
SPLIT_WORDS = {"train": "train", "training": "train", "dev": "dev", "valid": "dev", "validation": "dev", "val": "dev", "test": "test"}
NOT_DATA = re.compile(r"licen[cs]e|readme|notice|use_policy|.*\.meta\.json$|dataset_infos?\.json$|state\.json$|download_stats\.json$", re.I)


def suffix_of(path):
    name = path.name.lower()
    name = name[:-3] if name.endswith(".gz") else name
    return next((s for s in SUFFIXES if name.endswith(s)), None)


def decode(data, number):
    try:
        return data.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as e:
        raise Malformed(f"is not UTF-8 (byte {e.start + 1} is 0x{data[e.start]:02x}) ---> iconv -f latin1 -t utf-8") from None


def parse_line(data, number):
    try:
        return json.loads(decode(data, number))
    except Malformed as e:
        return e
    except (ValueError, RecursionError) as e:
        return Malformed(f"is not JSON: {e}")


def read_lines(file):
    for number, data in enumerate(file, 1):
        if data.strip():
            yield number, parse_line(data, number)


def read_json(path, file):
    data = decode(file.read(), 1)
    try:
        whole = json.loads(data)
    except RecursionError:
        raise Fail(f"{path}: is JSON nested too deeply to be a list of rows") from None
    except json.JSONDecodeError as e:
        if e.msg == "Extra data":     # rows, one a line, whatever the name says
            yield from read_lines(data.encode().splitlines())
            return
        raise Fail(f"{path}:{e.lineno}: is not JSON: {e.msg} at column {e.colno} ---> download it again, or is it another format?") from None
    except ValueError as e:           # an integer of thousands of digits
        raise Fail(f"{path}: is not JSON of a data set: {e}") from None
    if isinstance(whole, dict):       # {"data": [...]}, or rows under their ids
        whole = whole["data"] if isinstance(whole.get("data"), list) else list(whole.values())
    if not isinstance(whole, list):
        raise Fail(f"{path}: is {type_name(whole)}, expected a list of rows")
    yield from enumerate(whole, 1)


def read_csv(path, file):
    csv.field_size_limit(1 << 30)
    head = file.readline()
    file.seek(0)
    delimiter = "\t" if head.count(b"\t") > head.count(b",") else ","
    line = 0

    def decoded():
        nonlocal line
        for line, data in enumerate(file, 1):
            yield decode(data, line)

    table = decoded()
    try:
        for number, row in enumerate(csv.DictReader(table, delimiter=delimiter, strict=True), 1):
            if None in row or None in row.values():
                found = len(row) - 1 + len(row[None]) if None in row else sum(v is not None for v in row.values())
                row = Malformed(f"has {found} fields, expected {len(row) - (None in row)} as in the header")
            yield number, row
    except csv.Error as e:
        raise Fail(f"{path}:{line}: is not CSV: {e}") from None
    except Malformed as e:     # in a table one cannot tell where the next row begins
        raise Fail(f"{path}:{line}: {e}") from None


def read_parquet(path):
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise Fail(f"{path}: reading parquet needs the Python library pyarrow ---> pip install pyarrow") from None
    try:
        number = 0
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=4096):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (OSError, ValueError) as e:     # pyarrow's errors are of these
        raise Fail(f"{path}: is not readable parquet: {str(e).splitlines()[0]} ---> download it again") from None


def read_file(path):
    suffix = suffix_of(path)
    if suffix == ".parquet":
        yield from read_parquet(path)
        return
    try:
        with (gzip.open if path.name.lower().endswith(".gz") else open)(path, "rb") as file:
            if suffix == ".jsonl":
                yield from read_lines(file)
            elif suffix == ".json":
                yield from read_json(path, file)
            elif suffix == ".txt":
                yield 1, {"title": path.name, "text": decode(file.read(), 1)}
            else:
                yield from read_csv(path, file)
    except Malformed as e:
        yield 1, e
    except (OSError, EOFError, zlib.error) as e:
        raise Fail(f"{path}: cannot be read: {getattr(e, 'strerror', None) or e}") from None


def local_files(given, wanted, alone):
    """The files of a set under the path of --from: a file, DIR/NAME/, DIR/NAME.jsonl, or DIR itself when one set is asked for."""
    root = Path(given)
    if not root.exists():
        raise Fail(f"--from {root}: there is no such file or folder")
    if root.is_file():
        if not alone:
            raise Fail(f"--from {root}: is one file, but several sets are asked for ---> give a folder with one folder or file a set")
        if not suffix_of(root):
            raise Fail(f"--from {root}: ends in none of {' '.join(SUFFIXES)} (also with .gz)")
        return root.parent, [root]
    configs = [s.config for s in wanted.sources.values() if s.config]
    names = [wanted.name] + configs + [s.where.split("/")[-1] for s in wanted.sources.values() if s.on_hub]
    there = {}
    for entry in sorted(root.iterdir()):
        if entry.is_dir() or (suffix_of(entry) and not NOT_DATA.match(entry.name)):
            there.setdefault(entry.name.split(".")[0].lower() if entry.is_file() else entry.name.lower(), entry)
    found = next((there[n.lower()] for n in names if n.lower() in there), root if alone else None)
    others = [s.name for s in SETS if s.name != wanted.name and s.name.lower() in there]
    if found == root and others:
        raise Fail(f"--from {root}: holds no {wanted.name}/ and no {wanted.name}.jsonl, but {', '.join(others[:4])} ---> name the folder or file that is meant")
    if found is None:
        raise Fail(f"--from {root}: holds no {wanted.name}/ and no {wanted.name}.jsonl ---> with several sets, one folder or file each")
    if found.is_file():
        return root, [found]
    suffixes = SUFFIXES if wanted.forms.split() == ["plain"] else SUFFIXES[:-1]     # a .txt is a document of a set of texts
    files = [p for p in sorted(found.rglob("*")) if p.is_file() and suffix_of(p) in suffixes and not NOT_DATA.match(p.name)
             and not any(part.startswith(".") for part in p.relative_to(found).parts)]
    files = [p for p in files if set(configs) & set(p.relative_to(found).parts[:-1])] or files
    split = {p: {SPLIT_WORDS[w] for w in re.split("[^a-z]+", str(p.relative_to(found)).lower()) if w in SPLIT_WORDS} for p in files}
    chosen = [p for p in files if split[p] & set(wanted.splits.split())]
    if not chosen and any(split.values()):     # never train on a test set by accident
        raise Fail(f"--from {found}: holds {', '.join(p.name for p in files[:4])}, expected {' and '.join(wanted.splits.split())} files "
                   "---> name the file itself if you mean it")
    chosen = chosen or files
    if not chosen:
        raise Fail(f"--from {found}: holds no file that ends in one of {' '.join(suffixes)} (also with .gz)")
    return found, chosen


# ------------------------------------------------------------------------------------------------------------------------------
# fetching

def fetch_hub(source, revision):
    """Rows of a data set of the hub, streamed in their order by the `datasets` library."""
    try:
        import datasets
    except ImportError:
        raise Fail(f"fetching needs the Python library datasets ---> pip install datasets, or download {source.url} "
                   "by hand and give --from PATH") from None
    try:
        yield from enumerate(datasets.load_dataset(source.where, source.config, split=source.split, revision=revision, streaming=True), 1)
    except Exception as e:     # the library lets through errors of every library below it
        raise Fail(f"{source.url}: cannot be fetched: {(str(e) or type(e).__name__).splitlines()[0][:200]} ---> a gated set needs "
                   "`huggingface-cli login`; or download it by hand and give --from PATH") from None


def fetch_url(where, folder):
    """Downloads a URL, or the member of an archive after its #, and reads it as a local copy."""
    url, _, member = where.partition("#")
    path = Path(folder) / url.rpartition("/")[2]
    try:
        with urllib.request.urlopen(url, timeout=60) as answer, open(path, "wb") as file:
            shutil.copyfileobj(answer, file)
            expected = answer.headers.get("Content-Length")
        if expected and int(expected) != path.stat().st_size:
            raise Fail(f"{url}: ended after {path.stat().st_size:,} of {int(expected):,} bytes ---> try again")
        if member:
            path = Path(zipfile.ZipFile(path).extract(member, folder))
    except (OSError, http.client.HTTPException, zipfile.BadZipFile, KeyError) as e:
        raise Fail(f"{where}: cannot be fetched: {e} ---> download it by hand and give --from PATH") from None
    yield from read_file(path)


def fetch(source, revision):
    """(name for messages, number of the row, row)"""
    if source.on_hub:
        yield from ((source.short, number, row) for number, row in fetch_hub(source, revision))
        return
    for where in source.where:
        with tempfile.TemporaryDirectory(prefix="fintrain-") as folder:
            yield from ((where, number, row) for number, row in fetch_url(where, folder))


# ------------------------------------------------------------------------------------------------------------------------------
# converting

class Converter:
    """Output lines of the rows it is given, and the counts of what became of the others."""

    def __init__(self, wanted, max_bad):
        self.set, self.max_bad = wanted, max_bad
        self.forms = {}           # file -> function of a row
        self.names = []           # of the forms met
        self.read = self.malformed = 0
        self.dropped = {}
        self.first_bad = None

    def tell_form(self, row):
        for name in self.set.forms.split():
            columns, function = FORMS[name]
            if all(c in row for c in columns):
                self.names += [name] * (name not in self.names)
                return function
        known = " | ".join(", ".join(FORMS[name][0]) for name in self.set.forms.split())
        raise Malformed(f"has the fields {', '.join(map(str, row)) or '(none)'}, expected {self.set.name}'s: {known}")

    def bad(self, file, number, error):
        self.malformed += 1
        message = f"{file}:{number}: the row {error}"
        self.first_bad = self.first_bad or message
        if self.malformed <= 5:
            print(f"fintrain.py: warning: {message}", file=sys.stderr)
        if self.malformed % 1000 == 0:
            self.check_bad()

    def check_bad(self):
        if self.malformed > self.max_bad / 100 * self.read:
            hint = "" if "--->" in self.first_bad else " ---> is it the right set and file?"
            raise Fail(f"{self.malformed:,} of {self.read:,} rows are malformed, at most {self.max_bad:g} % may be (--max-bad); "
                       f"the first: {self.first_bad}{hint}")

    def convert(self, file, number, row):
        """The row's output lines, as bytes."""
        self.read += 1
        try:
            if isinstance(row, Malformed):
                raise row
            if not isinstance(row, dict):
                raise Malformed(f"is {type_name(row)}, expected an object")
            if file not in self.forms:
                self.forms[file] = self.tell_form(row)
            made = self.forms[file](row)
            made = made if isinstance(made, list) else [made]
            return [json.dumps(m, ensure_ascii=False, separators=(",", ":")).encode() + b"\n" for m in made]
        except UnicodeEncodeError:
            self.bad(file, number, Malformed("holds half of a surrogate pair, which is no character"))
        except Malformed as e:
            self.bad(file, number, e)
        except Dropped as e:
            self.dropped[str(e)] = self.dropped.get(str(e), 0) + 1
        return []


class Sample:
    """A uniform, seeded sample of `size` lines, in their order (algorithm R)."""

    def __init__(self, size):
        self.size, self.seen, self.kept, self.random = size, 0, [], random.Random(SAMPLE_SEED)

    def add(self, line):
        self.seen += 1
        if len(self.kept) < self.size:
            self.kept.append((self.seen, line))
        else:
            i = self.random.randrange(self.seen)
            if i < self.size:
                self.kept[i] = (self.seen, line)

    def lines(self):
        return (line for _, line in sorted(self.kept))


class Output:
    """A file that appears whole or not at all: written beside its place, synced, renamed."""

    def __init__(self, path):
        self.path, self.temporary = path, path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self.hash, self.rows, self.bytes = hashlib.sha256(), 0, 0
        self.file = open(self.temporary, "wb")

    def write(self, line):
        self.file.write(line)
        self.hash.update(line)
        self.rows += 1
        self.bytes += len(line)

    def commit(self):
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        os.replace(self.temporary, self.path)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)      # the new name, too, survives a crash
        finally:
            os.close(folder)

    def abandon(self):
        try:
            self.file.close()
        except OSError:     # what could not be written is not wanted any more, and the error that led here says more
            pass
        finally:
            self.temporary.unlink(missing_ok=True)


def size_problem(wanted, source, read, written):
    """What is wrong with the number of rows; None when nothing is."""
    if source and source.rows and read != source.rows:
        return f"{source.short} has {source.rows:,} rows, found {read:,}"
    if wanted.size and not (source and wanted.stand_in) and abs(written - wanted.size) > SIZE_TOLERANCE * wanted.size:
        return f"published size is {wanted.size:,} rows (+-{SIZE_TOLERANCE:.0%}), found {written:,} of {read:,} read"
    return None


def choose_source(wanted, name):
    if not wanted.sources:
        raise Fail(f"{wanted.name}: is not public by itself: {wanted.note} ---> `fintrain.py get {wanted.stand_in}` stands in, or --from PATH")
    if name and name not in wanted.sources:
        raise Fail(f"{wanted.name}: has no source {name!r}, found {', '.join(wanted.sources)}")
    name = name or next(iter(wanted.sources))
    return name, wanted.sources[name]


def get_set(wanted, args):
    """Fetches or reads one set and writes NAME.jsonl and NAME.meta.json."""
    out = Path(args.out) / f"{wanted.name}.jsonl"
    meta_path = out.with_name(f"{wanted.name}.meta.json")
    for path in (out, meta_path):
        if path.exists() and not args.force:
            raise Fail(f"{path}: exists already ---> --force replaces it")
    source, about = None, {}
    if args.source_path:
        root, files = local_files(args.source_path, wanted, len(args.names) == 1)
        rows = ((str(f), number, row) for f in files for number, row in read_file(f))
        about = {"local": True, "files": [{"file": str(f.relative_to(root)), "bytes": f.stat().st_size} for f in files],
                 "revision": args.revision, "public_at": [s.url for s in wanted.sources.values()]}
        known = {s.licence_line for s in wanted.sources.values()}
        licence = (known.pop() if len(known) == 1 else "unknown: see `list`") + " (of the published set; your copy's own counts)"
    else:
        kind, source = choose_source(wanted, args.source)
        rows = fetch(source, args.revision)
        about = {"local": False, "kind": kind, "name": source.short, "url": source.url, "split": source.split, "revision": args.revision}
        licence = source.licence_line
        if kind == "stand-in":
            print(f"{wanted.name}: stand-in, {wanted.note}")

    converter = Converter(wanted, args.max_bad)
    sample = Sample(wanted.sample) if wanted.sample and args.limit is None else None
    output = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        output = Output(out)
        for file, number, row in rows:
            for line in converter.convert(file, number, row):
                if sample:
                    sample.add(line)
                elif args.limit is None or output.rows < args.limit:
                    output.write(line)
            if args.limit is not None and output.rows >= args.limit:
                break
            if converter.read % 100_000 == 0 and sys.stderr.isatty():
                print(f"\r{wanted.name}: {converter.read:,} rows", end="", file=sys.stderr, flush=True)
        for line in sample.lines() if sample else ():
            output.write(line)
        if converter.read >= 100_000 and sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr)
        converter.check_bad()
        if output.rows == 0:
            raise Fail(f"{wanted.name}: no row is left of {converter.read:,} read ({counts_text(converter)}) ---> is it the right file?")
        problem = size_problem(wanted, source, converter.read, output.rows) if args.limit is None else None
        if problem and not args.allow_size_mismatch:
            raise Fail(f"{wanted.name}: {problem} ---> another version or split? --allow-size-mismatch writes it all the same")
        check = (f"mismatch: {problem}" if problem else "not checked: --limit" if args.limit is not None
                 else "not checked: no published size" if not wanted.size else "not checked: stand-in" if source and wanted.stand_in else "ok")
        meta = {
            "name": wanted.name, "kind": wanted.kind, "published_size": wanted.size, "size_check": check,
            "source": about, "licence": licence, "upstream_licence": wanted.upstream, "note": wanted.note,
            "forms": converter.names,
            "rows": {"read": converter.read, "written": output.rows, "dropped": dict(sorted(converter.dropped.items())),
                     "malformed": converter.malformed, "not_sampled": sample.seen - output.rows if sample else 0},
            "sample": {"rows": wanted.sample, "seed": SAMPLE_SEED} if sample else None,
            "output": {"file": out.name, "bytes": output.bytes, "sha256": output.hash.hexdigest()}}
        meta_path.unlink(missing_ok=True)     # never an old description beside new rows
        output.commit()
        sidecar = Output(meta_path)
        try:
            sidecar.write(json.dumps(meta, indent=1, ensure_ascii=False).encode() + b"\n")
            sidecar.commit()
        finally:
            sidecar.abandon()
    except OSError as e:
        raise Fail(f"{e.filename or out}: cannot be written: {e.strerror or e}") from None
    finally:
        if output:
            output.abandon()
    if problem:
        print(f"fintrain.py: warning: {wanted.name}: {problem}", file=sys.stderr)
    paper = f" (paper: {wanted.size:,})" if wanted.size else ""
    print(f"{out}: {output.rows:,} rows{paper} of {converter.read:,} read{counts_text(converter, ', ')}; size {check.split(':')[0]}")
    print(f"  licence: {licence}" + (f"; made from: {wanted.upstream}" if wanted.upstream else ""))


def counts_text(converter, before=""):
    parts = [f"{n:,} dropped: {reason}" for reason, n in sorted(converter.dropped.items())]
    parts += [f"{converter.malformed:,} malformed"] if converter.malformed else []
    return before + ", ".join(parts) if parts else "" if before else "nothing dropped"


# ------------------------------------------------------------------------------------------------------------------------------
# list

def group_text(s):
    return f"{s.group}" + (f" (code {s.code_group})" if s.code_group != s.group else "") + (", PA" if s.name == "Exercise" else "")


def list_sets(args):
    if args.names:
        for s in [find_set(n) for n in args.names]:
            print(f"{s.name}: {s.kind}, {s.domain}, group {group_text(s)}, {f'{s.size:,} rows' if s.size else 'size not published'}")
            for kind, source in s.sources.items():
                rows = f", {source.rows:,} rows exactly" if source.rows else ""
                print(f"  {kind}: {source.short} ({source.url}){rows}\n    licence: {source.licence_line}")
            if not s.sources:
                print("  not public by itself")
            facts = {"stands in": s.stand_in, "made from": s.upstream, "note": s.note, "holds": ", ".join(s.bundle),
                     "sampled": s.sample and f"{s.sample:,} rows, seed {SAMPLE_SEED}"}
            for label, value in facts.items():
                if value:
                    print(f"  {label}: {value}")
            for name in s.forms.split():
                print(f"  columns: {', '.join(FORMS[name][0])}")
        return
    table = [("name", "kind", "domain", "group", "rows", "source", "licence")]
    for s in SETS + BUNDLES:
        source = next(iter(s.sources.values()), None)
        where = f"not public, stand-in: {s.stand_in}" if s.stand_in else source.short
        licence = (source.licence if source else None) or (f"unknown: see URL; from: {s.upstream}" if s.upstream else "unknown: see URL")
        table.append((s.name, s.kind, s.domain, group_text(s), f"{s.size:,}" if s.size else "not published", where, licence))
    widths = [max(len(row[i]) for row in table) for i in range(6)]
    for i, row in enumerate(table):
        if i == len(SETS) + 1:
            print("\nin the release only together:")
        cells = [f"{c:>{w}}" if k == 4 else f"{c:<{w}}" for k, (c, w) in enumerate(zip(row, widths))]
        print("  ".join(cells + [row[6]]).rstrip())
    print(f"\n{len(SETS)} sets: cpt {sum(s.size for s in SETS if s.kind == 'cpt'):,} rows, it {sum(s.size for s in SETS if s.kind == 'it'):,} rows; "
          "`fintrain.py list NAME` tells more, URLs among it")


# ------------------------------------------------------------------------------------------------------------------------------
# recipe

GROUPS = {
    "group1": "Group 1 (Table G.1): half CPT, half IT; CPT half domain, half general; IT 20 % domain, 80 % general; 3.84 G tokens, warmup 10 %",
    "group2": "Group 2 (Table G.1): the data of group 1 + books (CPT) + exercises extracted from books (IT); 1.66 G tokens, warmup 50 %"}


def recipe(args):
    """Which sets make which shards of data/recipes/findap-*.json. Weights and order are in those files."""
    code, second = args.as_ == "code", args.group == "group2"
    in_release = {name for b in BUNDLES if b.kind == "cpt" for name in b.bundle}

    def those(kind, domain, group):
        return [s.name for s in SETS if (s.kind, s.domain, s.code_group if code else s.group) == (kind, domain, group)
                and s.name not in ("Book-Fin", "Exercise")]

    general = [b.name for b in BUNDLES if b.kind == "cpt"] + [n for n in those("cpt", "general", 1) if n not in in_release]
    streams = [("fineweb_fin", "cpt", those("cpt", "finance", 1)), ("general_text", "cpt", general),
               ("finance_it", "it", those("it", "finance", 1)), ("general_it", "it", those("it", "general", 1))]
    if second:
        streams = [("book_fin", "cpt", ["Book-Fin"]), ("book_exercises", "it", ["Exercise"])]
        streams += [("finance_it_group2", "it", those("it", "finance", 2))] if code else []
    print(f"# {GROUPS[args.group]}")
    if code:
        print("# As the released code does: half and half counts rows, not tokens; every piece of a long text has BOS and EOS;")
        print("# TradeTheEvent, ConvFinQA, FinQA, FiQA-QA and Sujet enter in group 2 only (shard finance_it_group2).")
    if second:
        print("# The shards of group 1 are used again: `fintrain.py recipe group1` makes them.")
        if code:
            print("# In the recipe, it_domain of group2 then reads \"shards\": [\"finance_it\", \"finance_it_group2\"].")
    quote = shlex.quote
    print(f"python3 data/fintrain.py get {' '.join(n for _, _, names in streams for n in names)} --out {quote(args.data)}")
    for shard, kind, names in streams:
        files = " ".join(quote(f"{args.data}/{n}.jsonl") for n in names)
        more = f" --template {quote(args.template)}" if kind == "it" else " --split-with-bos-eos" if code else ""
        print(f"build/prepare --tokenizer {quote(args.tokenizer)} --kind {kind}{more} --max-len 8000 --out {quote(f'{args.shards}/{shard}')} {files}")
    print(f"cp data/recipes/findap-{args.as_}.json {quote(args.shards)}/")


# ------------------------------------------------------------------------------------------------------------------------------
# the command line

def positive(word):
    value = int(word)
    if value < 1:
        raise ValueError
    return value


def percent(word):
    value = float(word)
    if not 0 <= value <= 100:
        raise ValueError
    return value


def parse_arguments(argv):
    parser = argparse.ArgumentParser(prog="fintrain.py", description="The training sets of Llama-Fin by name, as JSONL for prepare.",
                                     epilog="Exit status 0 only when every set was written whole and, where a size is published and nothing forbids the comparison (--limit, --allow-size-mismatch, stand-ins), is of that size.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="list | get | recipe")
    p = commands.add_parser("list", help="what there is", description="Names, kinds, published sizes, licences and sources.")
    p.add_argument("names", nargs="*", metavar="NAME", help="all that is known of these sets")
    p.set_defaults(run=list_sets)

    p = commands.add_parser("get", help="fetch or read sets and write them as JSONL",
                            description="Writes DIR/NAME.jsonl and DIR/NAME.meta.json, each whole or not at all.")
    p.add_argument("names", nargs="+", metavar="NAME", help="as `list` prints them")
    p.add_argument("--out", required=True, metavar="DIR", help="where the files go; made if missing")
    p.add_argument("--from", dest="source_path", metavar="PATH",
                   help="read a local copy instead: a file, a folder, or a folder with one folder or file a set (jsonl, json, csv, tsv, parquet, of texts also txt; .gz)")
    p.add_argument("--source", choices=("release", "original", "stand-in"), help="which source to fetch (default: the first that `list NAME` prints)")
    p.add_argument("--revision", metavar="REV", help="commit of the hub to fetch, or that your copy is of; recorded")
    p.add_argument("--limit", type=positive, metavar="N", help="only the first N rows; the size is not checked")
    p.add_argument("--max-bad", type=percent, default=0.1, metavar="PERCENT", help="malformed rows allowed, in percent (default %(default)s)")
    p.add_argument("--allow-size-mismatch", action="store_true", help="write a set whose size is not the published one, with a warning")
    p.add_argument("--force", action="store_true", help="replace what is there")
    p.set_defaults(run=get_sets)

    p = commands.add_parser("recipe", help="print the commands that make a group's shards",
                            description="Prints the fintrain.py and prepare commands that make the shards of data/recipes/findap-*.json.")
    p.add_argument("group", choices=("group1", "group2"))
    p.add_argument("--as", dest="as_", choices=("paper", "code"), default="paper",
                   help="the paper's groups or the released code's (default %(default)s)")
    p.add_argument("--data", default="build/fintrain", metavar="DIR", help="of the JSONL files (default %(default)s)")
    p.add_argument("--shards", default="build/shards", metavar="DIR", help="of the shards (default %(default)s)")
    p.add_argument("--tokenizer", default="MODEL_DIR", metavar="DIR", help="model directory (default %(default)s)")
    p.add_argument("--template", default="llama3", metavar="NAME", help="chat template (default %(default)s)")
    p.set_defaults(run=recipe)
    return parser.parse_args(argv)


def get_sets(args):
    """Every set is tried; a failed one is named and makes the whole call fail."""
    wanted = list({s.name: s for s in map(find_set, args.names)}.values())
    failed = 0
    for s in wanted:
        try:
            get_set(s, args)
        except (Fail, OSError) as e:
            print(f"fintrain.py: error: {e}", file=sys.stderr)
            failed += 1
    return 1 if failed else 0


def main(argv=None):
    args = parse_arguments(argv)
    def stop(number, _):     # so that temporary files are removed
        print(f"fintrain.py: error: {signal.strsignal(number)}; nothing was left half-written", file=sys.stderr)
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:     # nohup's stays ignored
            signal.signal(number, stop)
    try:
        return args.run(args) or 0
    except Fail as e:
        print(f"fintrain.py: error: {e}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("fintrain.py: error: interrupted; nothing was left half-written", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
