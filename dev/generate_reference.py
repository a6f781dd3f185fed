"""Writes test/data/generate.safetensors and test/data/trained/: what transformers generates, for test/test_generate.c.

    python3 dev/generate_reference.py test/data          (needs torch, transformers, peft)

trained/         a small Llama trained here to count on in letters, in the ids of test/tiny_tokenizer.h and Llama-3's template: "count from d" -> "efghi...z", each letter one
                 further than the last or, one time in five, two. Its answers end by themselves, and its distributions are neither flat nor certain.
<case>.*         of the models in test/data, of PEFT's adapter on one of them, and of trained: for prompts 0, 1, ... each ALONE through transformers' generate in fp32
    prompt.<i>   ids;   greedy.<i>, greedy_logp.<i>   tokens of greedy generation (with the end, if there is one) and their log-probs by the raw logits
    penalty.<i>, penalty_logp.<i>                     the same with a repetition penalty of 1.3
    next.<i>     (V) softmax behind the prompt;   given.<i> (n - 1) log-probs of the prompt's own tokens, the first excepted
processors.*     logits (R,V), seen (R,n), settings (R,5: penalty, temperature, top-k, top-p, min-p), scores (R,V) of transformers' own processors, in the order of its generate
A greedy step whose two best logits lie closer than 1e-3 says nothing about a program that rounds differently, so prompts with such steps are not used.
"""
from usage import usage
usage(__doc__, 0, 1)
import copy, os, sys
import torch, transformers
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.generation import logits_process as lp

CASES = [("llama3", "llama3", None), ("llama31", "llama31", None), ("qwen25", "qwen25", None), ("qwen25_untied", "qwen25_untied", None), ("lora", "llama3", "lora/llama3_all"), ("trained", "trained", None)]
LENGTHS = [1, 5, 15, 16, 17, 33]     # of prompts: around a page of 16 tokens
NEW, PENALTY, MARGIN = 24, 1.3, 1e-3
BOS, START, END, EOT, NEWLINES = 260, 262, 263, 264, 256


def turn(role, text):
    return [START, *role.encode(), END, NEWLINES, *text.encode()]


def conversation(letter):
    return [BOS, *turn("user", "count from " + chr(97 + letter)), EOT, *turn("assistant", "")]


def train(folder):
    torch.manual_seed(7)
    generator = torch.Generator().manual_seed(8)
    config = LlamaConfig(vocab_size=272, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-5, rope_theta=10000.0,
                         tie_word_embeddings=True, max_position_embeddings=128, bos_token_id=BOS, eos_token_id=EOT, initializer_range=0.1, attn_implementation="eager")
    model = LlamaForCausalLM(config).float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(300):
        rows, prompt = [], len(conversation(0))
        for _ in range(32):
            letter = int(torch.randint(0, 20, (1,), generator=generator))
            ids = conversation(letter)
            while True:
                letter += 1 + int(torch.rand(1, generator=generator) < 0.2)
                if letter > 25:
                    break
                ids.append(97 + letter)
            rows.append(ids + [EOT])
        width = max(map(len, rows))
        ids = torch.tensor([r + [EOT] * (width - len(r)) for r in rows])
        labels = torch.tensor([[-100] * prompt + r[prompt:] + [-100] * (width - len(r)) for r in rows])
        for g in optimizer.param_groups:
            g["lr"] = 1e-2 * (1 - step / 300)
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0 or step == 299:
            print(f"trained: step {step}, loss {loss.item():.3f}")
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
    extra = os.path.join(folder, "generation_config.json")
    os.path.exists(extra) and os.remove(extra)


def generate(model, prompt, eos, penalty):
    """tokens, their log-probs, and the smallest distance between the two best (processed) logits"""
    out = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), do_sample=False, max_new_tokens=NEW, eos_token_id=eos, pad_token_id=0, repetition_penalty=penalty,
                         return_dict_in_generate=True, output_logits=True, output_scores=True)
    tokens = out.sequences[0, len(prompt):]
    logp = torch.stack([torch.log_softmax(step[0].double(), -1)[t] for step, t in zip(out.logits, tokens)])
    margin = min(float(torch.diff(torch.topk(step[0], 2).values).abs()) for step in out.scores)
    return tokens, logp, margin


def case(out, data, name, base, adapter, generator):
    model = AutoModelForCausalLM.from_pretrained(os.path.join(data, base), dtype=torch.float32, attn_implementation="eager").eval()
    if adapter:
        model = PeftModel.from_pretrained(model, os.path.join(data, adapter)).eval()
    eos = EOT if name == "trained" else None
    vocab, worst = model.config.vocab_size, 1e9
    for i, length in enumerate(LENGTHS):
        for attempt in range(100):
            prompt = conversation(3 * i + attempt) if name == "trained" else torch.randint(0, vocab, (length,), generator=generator).tolist()
            found = [generate(model, prompt, eos, penalty) for penalty in (1.0, PENALTY)]
            margin = min(f[2] for f in found)
            if margin > MARGIN:
                break
        assert margin > MARGIN, (name, i)
        worst = min(worst, margin)
        logits = model(input_ids=torch.tensor([prompt])).logits[0].double()
        given = [torch.log_softmax(logits[k], -1)[prompt[k + 1]] for k in range(len(prompt) - 1)]
        out[f"{name}.prompt.{i}"] = torch.tensor(prompt, dtype=torch.int32)
        for label, (tokens, logp, _) in zip(("greedy", "penalty"), found):
            out[f"{name}.{label}.{i}"], out[f"{name}.{label}_logp.{i}"] = tokens.int(), logp.float()
        out[f"{name}.next.{i}"] = torch.softmax(logits[-1], -1).float()
        out[f"{name}.given.{i}"] = torch.stack(given).float() if given else torch.zeros(0)
    print(f"{name}: {len(LENGTHS)} prompts, two best logits at least {worst:.1e} apart, answers of {[len(out[f'{name}.greedy.{i}']) for i in range(len(LENGTHS))]} tokens")


def processors(out, generator):
    settings = [(1, 1, 0, 1, 0), (1.3, 1, 0, 1, 0), (0.7, 1, 0, 1, 0), (1, 0.6, 0, 1, 0), (1, 1.7, 0, 1, 0), (1, 1, 5, 1, 0), (1, 1, 1, 1, 0), (1, 1, 500, 1, 0), (1, 1, 0, 0.9, 0), (1, 1, 0, 0.3, 0),
                (1, 1, 0, 1e-6, 0), (1, 1, 0, 1, 0.1), (1, 1, 0, 1, 1), (1.2, 0.7, 20, 0.8, 0.05), (1.5, 1.4, 7, 0.95, 0), (0.9, 0.5, 0, 0.7, 0.2)]
    rows, vocab = len(settings), 60
    logits, seen = 3 * torch.randn(rows, vocab, generator=generator), torch.randint(0, vocab, (rows, 12), generator=generator)
    seen[:, 6] = seen[:, 2]     # a token that was there twice is penalised once
    scores = []
    for row, (penalty, temperature, top_k, top_p, min_p) in enumerate(settings):
        chain = lp.LogitsProcessorList([lp.RepetitionPenaltyLogitsProcessor(float(penalty))] if penalty != 1 else [])
        chain += [lp.TemperatureLogitsWarper(float(temperature))] if temperature != 1 else []
        chain += [lp.TopKLogitsWarper(top_k)] if top_k else []
        chain += [lp.TopPLogitsWarper(float(top_p))] if top_p != 1 else []
        chain += [lp.MinPLogitsWarper(float(min_p))] if min_p else []
        scores.append(chain(seen[row:row + 1], logits[row:row + 1].clone())[0])
    out["processors.logits"], out["processors.seen"] = logits, seen.int()
    out["processors.settings"], out["processors.scores"] = torch.tensor(settings, dtype=torch.float64), torch.stack(scores)


def main(data):
    out = {}
    train(os.path.join(data, "trained"))
    generator = torch.Generator().manual_seed(99)
    with torch.no_grad():
        for name, base, adapter in CASES:
            case(out, data, name, base, adapter, generator)
        processors(out, generator)
    save_file({k: v.contiguous() for k, v in out.items()}, os.path.join(data, "generate.safetensors"), metadata=dict(torch=torch.__version__, transformers=transformers.__version__))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1] if len(sys.argv) > 1 else "test/data")
