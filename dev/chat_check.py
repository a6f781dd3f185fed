"""Compares the ids and the mask that `prepare --kind it` writes with Hugging Face's apply_chat_template on random conversations.

    FINDAP_DATA=<directory of unpacked data sets> python dev/chat_check.py [path of prepare]

The templates are those of FINDAP_DATA/tokenizers/*_tokenizer_config.json. R1's is written out below (its tokenizer is Qwen's with
other names for the special tokens), and so is Llama 3.1's. The one difference that is intended is counted by itself: an answer
that begins with white space, which chat.h cuts where generation begins.
"""
from usage import usage
usage(__doc__, 0, 1)
import json, os, random, subprocess, sys, tempfile
from safetensors import safe_open
from transformers import PreTrainedTokenizerFast

data = os.environ.get("FINDAP_DATA")
if not data:
    sys.exit("chat_check: skipped: FINDAP_DATA is not set")
prepare = sys.argv[1] if len(sys.argv) > 1 else "build/prepare"
folder = os.path.join(data, "tokenizers")
BAR, LOW = "\uff5c", "\u2581"
R1 = {"<|endoftext|>": f"<{BAR}end{LOW}of{LOW}sentence{BAR}>", "<|im_start|>": f"<{BAR}User{BAR}>", "<|im_end|>": f"<{BAR}Assistant{BAR}>",
      "<|object_ref_start|>": f"<{BAR}begin{LOW}of{LOW}sentence{BAR}>", "<|box_start|>": "<think>", "<|box_end|>": "</think>"}
R1_TEMPLATE = ("{{ bos_token }}{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}{% for m in messages %}"
               "{% if m.role == 'user' %}{{ '" + R1["<|im_start|>"] + "' + m.content }}{% elif m.role == 'assistant' %}"
               "{{ '" + R1["<|im_end|>"] + "' + (m.content if loop.last else m.content.split('</think>')[-1]) + '" + R1["<|endoftext|>"] + "' }}{% endif %}{% endfor %}"
               "{% if add_generation_prompt %}{{ '" + R1["<|im_end|>"] + "' }}{% endif %}")
LLAMA31_TEMPLATE = ("{{ bos_token }}{% if messages[0].role == 'system' %}{% set s = messages[0].content | trim %}{% set messages = messages[1:] %}{% else %}{% set s = '' %}{% endif %}"
                    "{{ '<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n' + s + '<|eot_id|>' }}"
                    "{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
                    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}")
PIECES = ["hello", " the bank", "\n", "\n\n", "  ", " ", "\t", "1234567", "3.14", "it's", "\u00e9", "e\u0301", "\u4e2d\u6587", "\U0001f600", "{}", "\r\n", "user", "assistant",
          " <b>", "...", "\u00a0", "I'LL", "$5", "```\ncode\n```", "</s>", "\u3000"]


def text(rng):
    while True:
        t = "".join(rng.choice(PIECES) for _ in range(rng.randint(1, 12)))
        if t.strip():
            return t


def conversation(rng, think):
    messages = [{"role": "system", "content": text(rng)}] if rng.random() < 0.5 else []
    for _ in range(rng.randint(1, 4)):
        messages.append({"role": "user", "content": text(rng)})
        answer = text(rng)
        messages.append({"role": "assistant", "content": "<think>" + text(rng) + "</think>" + answer if think and rng.random() < 0.5 else answer})
    return messages


def expected(tokenizer, messages):
    """ids and mask by Hugging Face: the mask is where a token lies inside an answer or the token that ends it"""
    render = lambda m, g: tokenizer.apply_chat_template(m, tokenize=False, add_generation_prompt=g)
    whole, tail = render(messages, False), render(messages, True)
    if whole == tail:  # a template that always adds the generation prompt: take the answer's header off again
        marker = "<|start_header_id|>"
        whole = whole[: whole.rindex(marker)]
    encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    spans = []
    for i, m in enumerate(messages):
        if m["role"] != "assistant":
            continue
        begin = len(render(messages[:i], True))
        end = begin + min(p for p in (whole.find(e, begin) for e in ENDS) if p >= 0) - begin
        end += next(len(e) for e in ENDS if whole.startswith(e, end))
        spans.append((begin, end))
    mask = [int(any(b <= s and e <= t for b, t in spans)) for s, e in encoded["offset_mapping"]]
    return encoded["input_ids"], mask


ENDS = ["<|eot_id|>", "<|im_end|>", R1["<|endoftext|>"]]


def check(name, template, tokenizer_file, tokenizer, count=1500):
    rng = random.Random(1)
    conversations = [conversation(rng, template == "deepseek-r1") for _ in range(count)]
    with tempfile.TemporaryDirectory() as out:
        rows = os.path.join(out, "in.jsonl")
        with open(rows, "w") as f:
            f.writelines(json.dumps({"messages": m}) + "\n" for m in conversations)
        subprocess.run([prepare, "--tokenizer", tokenizer_file, "--kind", "it", "--template", template, "--out", f"{out}/x", rows], check=True, stderr=subprocess.DEVNULL)
        with safe_open(f"{out}/x-00001-of-00001.safetensors", "np") as f:
            tokens, weights, bounds = f.get_tensor("tokens"), f.get_tensor("weights"), f.get_tensor("documents")
    same = cut = different = 0
    for i, messages in enumerate(conversations):
        ids, mask = expected(tokenizer, messages)
        got = tokens[bounds[i]:bounds[i + 1]].tolist(), weights[bounds[i]:bounds[i + 1]].tolist()
        if got == (ids, mask):
            same += 1
        elif template == "qwen2" and tokenizer.decode(got[0]) == tokenizer.decode(ids) and any(m["role"] == "assistant" and m["content"][0].isspace() for m in messages):
            cut += 1
        else:
            different += 1
            if different <= 3:
                print("DIFFERENT", template, json.dumps(messages), "\n  theirs", ids, "\n  ours  ", got[0], "\n  mask  ", mask, "\n  ours  ", got[1])
    print(f"{name}: {count} conversations, {same} equal in ids and mask, {cut} differ where an answer begins with white space, {different} differ otherwise")
    return different


def load(path, config, **more):
    return PreTrainedTokenizerFast(tokenizer_file=path, chat_template=config["chat_template"], bos_token=config["bos_token"], eos_token=config["eos_token"], **more)


llama_file, qwen_file = (os.path.join(folder, f) for f in ("llama3_tokenizer.json", "qwen2_5_tokenizer.json"))
llama_config, qwen_config = (json.load(open(f.replace("tokenizer.json", "tokenizer_config.json"))) for f in (llama_file, qwen_file))
bad = check("llama3", "llama3", llama_file, load(llama_file, llama_config))
bad += check("llama3.1", "llama3.1", llama_file, load(llama_file, dict(llama_config, chat_template=LLAMA31_TEMPLATE)))
bad += check("qwen2.5", "qwen2", qwen_file, load(qwen_file, qwen_config))
with tempfile.TemporaryDirectory() as out:
    r1 = json.load(open(qwen_file))
    for token in r1["added_tokens"]:
        token["content"] = R1.get(token["content"], token["content"])
        token["special"] = "think" not in token["content"]
    r1_file = os.path.join(out, "tokenizer.json")
    json.dump(r1, open(r1_file, "w"))
    config = {"chat_template": R1_TEMPLATE, "bos_token": R1["<|object_ref_start|>"], "eos_token": R1["<|endoftext|>"]}
    bad += check("deepseek-r1", "deepseek-r1", r1_file, load(r1_file, config))
sys.exit(1 if bad else 0)
