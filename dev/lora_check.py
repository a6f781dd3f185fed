"""Do PEFT and findap mean the same by an adapter? Trains one here, loads it there, and the other way round; prints the worst differences.

    make && python3 dev/lora_check.py [FOLDER]

In FOLDER (default /tmp/findap_lora_check): the demo's model trained for a moment, `ours`, an adapter trained on it by train_findap_cpu with --merge, and
`theirs`, one that PEFT made with numbers far from zero. Of both: logits, loss and every gradient of PEFT against train_findap_cpu --adapter ... --dump.
Of `ours` also: transformers on the merged model, and PEFT's own merge against ours.
"""
from usage import usage
usage(__doc__, 0, 1)
import os, subprocess, sys
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "build")
DATA = ["--data", "reports", "questions", "--seq-len", "128", "--step-tokens", "512", "--micro-rows", "4"]


def program(name, *words):
    subprocess.run([os.path.join(HERE, name), *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def base():
    return AutoModelForCausalLM.from_pretrained("base", dtype=torch.float32, attn_implementation="eager")


def apart(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def forward(model, d):                     # every document alone
    tokens, starts = d["tokens"].long(), d["positions"] == 0
    logits = torch.zeros(*tokens.shape, model.config.vocab_size)
    for b in range(tokens.shape[0]):
        at = [i for i in range(tokens.shape[1]) if starts[b, i]] + [tokens.shape[1]]
        for begin, end in zip(at, at[1:]):
            logits[b, begin:end] = model(input_ids=tokens[b:b + 1, begin:end], use_cache=False).logits[0]
    return logits


def compare(folder):
    program("train_findap_cpu", "--model", "base", *DATA, "--adapter", folder, "--dump", folder + ".st")
    d = load_file(folder + ".st")
    model = PeftModel.from_pretrained(base(), folder, is_trainable=True)
    logits = forward(model, d)
    chosen = (d["weights"] > 0) & (d["targets"] >= 0)
    loss = torch.nn.functional.cross_entropy(logits[chosen], d["targets"][chosen].long())
    loss.backward()
    grads = {"grad." + k.replace(".default.", "."): p.grad for k, p in model.named_parameters() if p.requires_grad}
    assert set(grads) == {k for k in d if k.startswith("grad.")}
    worst = max(apart(d[k], grads[k]) for k in grads)
    print(f"{folder}: logits {apart(d['logits'], logits):.1e}, loss {d['loss'].item():.6f} and {loss.item():.6f}, worst of {len(grads)} gradients {worst:.1e}; "
          f"the adapter changes the logits by {apart(logits, forward(base(), d)):.1e}")
    return model, d, logits


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else "/tmp/findap_lora_check"
    os.makedirs(folder, exist_ok=True)
    os.chdir(folder)
    torch.set_num_threads(1)
    torch.manual_seed(1)
    program("make_demo", "demo")
    program("prepare", "--tokenizer", "demo/model", "--kind", "cpt", "--max-len", "120", "--out", "reports", "demo/reports.jsonl")
    program("prepare", "--tokenizer", "demo/model", "--kind", "it", "--template", "llama3", "--max-len", "120", "--out", "questions", "demo/questions.jsonl")
    program("train_findap_cpu", "--model", "demo/model", "--init", "random", *DATA, "--steps", "20", "--lr", "1e-3", "--save-dtype", "float32", "--out", "base", "--overwrite")
    program("train_findap_cpu", "--model", "base", *DATA, "--steps", "20", "--lr", "3e-3", "--lora-rank", "8", "--merge", "--save-dtype", "float32", "--out", "ours", "--overwrite")
    model, d, logits = compare("ours")
    merged = AutoModelForCausalLM.from_pretrained("ours/merged", dtype=torch.float32, attn_implementation="eager")
    print(f"ours/merged in transformers: logits {apart(forward(merged, d), logits):.1e}")
    theirs = dict(model.merge_and_unload().named_parameters())
    print(f"PEFT's merge and ours: worst weight {max(apart(p, theirs[k]) for k, p in merged.named_parameters()):.1e}")
    model = get_peft_model(base(), LoraConfig(task_type="CAUSAL_LM", r=6, lora_alpha=9, use_rslora=True, target_modules=["q_proj", "o_proj", "gate_proj", "down_proj"]))
    with torch.no_grad():
        for k, p in model.named_parameters():
            if "lora_" in k:
                p.copy_(0.05 * torch.randn(p.shape))
    model.save_pretrained("theirs")
    compare("theirs")


main()
