#!/usr/bin/env python3
"""The same rows through eval and through lm-evaluation-harness with transformers: log-likelihoods of choices, acc and acc_norm, and generated answers.

    python3 dev/lm_eval_check.py [build/eval_cpu [DIR]]        (needs torch, transformers, datasets, lm_eval; DIR keeps what is made, default: a temporary directory)

Two small models of random weights are made here, large enough that their greedy answers differ from row to row: a Llama whose tokenizer puts a BOS before every text, with Llama 3's
template, and a Qwen2 without BOS, with ChatML. Their tokenizers are trained here too, on the very texts that are asked, so that words, blanks and line breaks merge as they do in real ones. Every fourth question ends in a blank,
every fourth in a line break: the harness scores those with the choice, and puts its own blank behind them.
Every row is asked in each setting: plain and with the template, without and with examples, as text and as turns; the choices are scored, letters are, answers are generated up to a stop
string (one that no special token's name contains: the harness looks there too). Both sides run in fp32, a row at a time in the harness. Exit status 1 when a log-likelihood differs by more than 1e-4, or a decision or an answer at all."""
from usage import usage
usage(__doc__, 0, 2)
import json, os, random, subprocess, sys, tempfile
import datasets, torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
import lm_eval
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM

ROWS, SHOTS, NEW = int(os.environ.get("ROWS", 60)), 3, 24
WORDS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}%s| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
LLAMA = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
QWEN = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LLAMA_TEMPLATE = ("{% for m in messages %}{% set c = '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set c = bos_token + c %}{% endif %}{{ c }}{% endfor %}"
                  "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}")
QWEN_TEMPLATE = ("{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n' }}{% endif %}"
                 "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
SUBJECTS = ["The bank", "Nokia's net profit", "Operating loss of the group", "Sales in the third quarter", "A dividend of EUR 0.45", "The company's share price", "Analysts", "The Fed's chair", "Demand for steel"]
VERBS = ["rose by 12.5 %", "fell sharply", "was unchanged", "will be paid\nin May", "exceeded $1.2 billion", "missed expectations", "doubled -- as expected --", "didn't move", "(a record) tripled"]
ENDS = [".", ", the report says.", " compared with a year earlier.", " in 2009;\n\nno reason was given.", "; caf\u00e9s & stores closed.", "!"]
LABELS = ["positive", "neutral", "negative"]


def rows(rng, n, start):
    out = []
    for i in range(n):
        text = " ".join(rng.choice(SUBJECTS) + " " + rng.choice(VERBS) + rng.choice(ENDS) for _ in range(rng.randint(1, 3)))
        options = rng.sample([v + e for v in VERBS for e in ENDS[:3]] + LABELS + SUBJECTS, 4)
        out.append(dict(id=str(start + i), query=f"What is the sentiment of this statement?\nText: {text}\nAnswer:" + ["", "", " ", "\n"][i % 4], letters=f"{text}\n" + "\n".join(f"{'ABCD'[k]}. {o}" for k, o in enumerate(options)) + "\nAnswer:",
                        choices=options, gold=rng.randrange(4), label=rng.choice(LABELS)))
    return out


def tokenizer(family, texts, folder):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(WORDS % ("{1,3}" if family == "llama" else "")), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    specials = LLAMA if family == "llama" else QWEN
    t.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=600, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    if family == "llama":
        t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(single=f"{LLAMA[0]} $A", special_tokens=[(LLAMA[0], t.token_to_id(LLAMA[0]))])])
    else:
        from tokenizers import normalizers
        t.normalizer = normalizers.NFC()
        t.post_processor = processors.ByteLevel(trim_offsets=False)
    fast = PreTrainedTokenizerFast(tokenizer_object=t, bos_token=LLAMA[0] if family == "llama" else None, eos_token=LLAMA[4] if family == "llama" else QWEN[2], clean_up_tokenization_spaces=False)
    fast.chat_template = LLAMA_TEMPLATE if family == "llama" else QWEN_TEMPLATE
    fast.save_pretrained(folder)
    return fast


def model(family, fast, folder):
    torch.manual_seed(5)
    sizes = dict(vocab_size=len(fast), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048, initializer_range=0.12, tie_word_embeddings=False,
                 eos_token_id=[fast.convert_tokens_to_ids(s) for s in ((LLAMA[4], LLAMA[1]) if family == "llama" else (QWEN[2], QWEN[0]))], bos_token_id=fast.bos_token_id, attn_implementation="eager")
    m = (LlamaForCausalLM(LlamaConfig(**sizes)) if family == "llama" else Qwen2ForCausalLM(Qwen2Config(**sizes))).float().eval()
    m.generation_config.eos_token_id = m.config.eos_token_id   # the harness ends where eval does: at every end that the tokenizer knows
    m.save_pretrained(folder)
    os.path.exists(f"{folder}/generation_config.json") and os.remove(f"{folder}/generation_config.json")
    return m


TASKS = {   # name: (what eval is told, what the harness is told)
    "sentiment": (dict(request="choices", choices=LABELS, fields={"gold": "label", "choices": "none"}, extract="label"), dict(output_type="multiple_choice", doc_to_text="{{query}}", doc_to_choice=LABELS, doc_to_target=lambda d: LABELS.index(d["label"]))),
    "options": (dict(request="choices", fields={}, extract="label"), dict(output_type="multiple_choice", doc_to_text="{{query}}", doc_to_choice="choices", doc_to_target="gold")),
    "letters": (dict(request="choices", labels_are="letters", prompt="{letters}", extract="letter"), dict(output_type="multiple_choice", doc_to_text="{{letters}}", doc_to_choice=["A", "B", "C", "D"], doc_to_target="gold")),
    "words": (dict(request="generate", extract="text", metric="em", fields={"answer": "label"}, max_new=NEW, stop=["l", "\n\n"]), dict(output_type="generate_until", doc_to_text="{{query}}", doc_to_target="{{label}}",
              generation_kwargs=dict(until=["l", "\n\n"], max_gen_toks=NEW, do_sample=False))),
}
SETTINGS = [(template, shots, how) for template in (False, True) for shots in (0, SHOTS) for how in (["text", "turns"] if template and shots else ["text"])]


def run_eval(program, folder, out, name, template, shots, how):
    command = [program, "--model", folder, "--tasks", f"{os.path.dirname(folder)}/tasks/{name}.json", "--data", f"{os.path.dirname(folder)}/data", "--out", out, "--quiet", "--shots", str(shots)]
    command += ([] if template else ["--no-template"]) + (["--shots-as", how] if shots else [])
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    got = [json.loads(line) for line in open(f"{out}/samples_{name}.jsonl")]
    return sorted(got, key=lambda r: r["row"]), json.load(open(f"{out}/results.json"))["tasks"][name]


def run_harness(lm, name, config, data, train, template, shots, how):
    config = dict(config)
    sets = datasets.DatasetDict(test=datasets.Dataset.from_list(data), train=datasets.Dataset.from_list(train))
    metrics = [dict(metric="acc"), dict(metric="acc_norm"), dict(metric="acc_bytes")] if config["output_type"] == "multiple_choice" else [dict(metric="exact_match")]
    task = ConfigurableTask(config=dict(task=name, custom_dataset=lambda **_: sets, test_split="test", fewshot_split="train", num_fewshot=shots, fewshot_config=dict(sampler="first_n"), metric_list=metrics, **config))
    found = lm_eval.simple_evaluate(model=lm, tasks=[task], num_fewshot=shots, apply_chat_template=template, fewshot_as_multiturn=template and how == "turns", log_samples=True, bootstrap_iters=0, random_seed=0)
    return sorted(found["samples"][name], key=lambda r: r["doc_id"]), found["results"][name]


def main():
    program = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else "build/eval_cpu")
    keep = sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp(prefix="lm_eval_check_")
    rng = random.Random(11)
    data, train = rows(rng, ROWS, 0), rows(rng, SHOTS, 1000)
    for d in ("data", "tasks"):
        os.makedirs(f"{keep}/{d}", exist_ok=True)
    for name, (task, _) in TASKS.items():
        task = dict(dict(name=name, title=name, describes=name, version=1, capability="task", novelty="novel", domain="general", metric="acc", file="rows.jsonl", shots_file="rows_train.jsonl", max_new=NEW), **task)
        json.dump(task, open(f"{keep}/tasks/{name}.json", "w"))
    for name, part in (("rows", data), ("rows_train", train)):
        open(f"{keep}/data/{name}.jsonl", "w").write("".join(json.dumps(r) + "\n" for r in part))
    worst, decisions, answers, compared, bad = 0.0, 0, 0, 0, 0
    for family in ("llama", "qwen"):
        folder = f"{keep}/{family}"
        fast = tokenizer(family, [r[k] for r in data + train for k in ("query", "letters")] + ["system user assistant"] * 3, folder)
        m = model(family, fast, folder)
        lm = HFLM(pretrained=m, tokenizer=fast, batch_size=1, max_length=2048)
        for name, (_, config) in TASKS.items():
            for number, (template, shots, how) in enumerate(SETTINGS):
                mine, scores = run_eval(program, folder, f"{keep}/out_{family}_{name}_{number}", name, template, shots, how)
                theirs, theirs_scores = run_harness(lm, name, config, data, train, template, shots, how)
                assert len(mine) == len(theirs) == ROWS
                largest = 0.0
                for a, b in zip(mine, theirs):
                    if name == "words":
                        answers += 1
                        same = a["output"] == b["resps"][0][0]
                        bad += not same
                        if not same: print(f"  row {a['row']}: {a['output']!r} here, {b['resps'][0][0]!r} there")
                        continue
                    reference = [float(r[0][0]) for r in b["resps"]]
                    for x, y in zip(a["logps"], reference):
                        largest = max(largest, abs(x - y))
                        compared += 1
                if name != "words":
                    for key in ("acc", "acc_norm", "acc_bytes"):
                        decisions += 1
                        here, there = scores["metrics"][key]["value"], theirs_scores[f"{key},none"]
                        if abs(here - there) > 1e-12:
                            bad += 1
                            print(f"  {key} is {here} here, {there} there")
                worst = max(worst, largest)
                distinct = len({a["output"] for a in mine})
                print(f"{family} {name:9} {'template' if template else 'plain   '} {shots} shots {how if shots else '':5} {ROWS} rows, {distinct} different answers" + ("" if name == "words" else f", log-likelihoods differ by {largest:.1e} at most"), flush=True)
    print(f"{compared} log-likelihoods, largest difference {worst:.2e}; {decisions} accuracies; {answers} generated answers; {bad} differ")
    sys.exit(0 if bad == 0 and worst < 1e-4 else 1)


main()
