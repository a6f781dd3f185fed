"""Writes test/data/<name>/: tiny random models as Hugging Face directories and what transformers computes with them in fp32.

    python3 dev/make_reference.py test/data

reference.safetensors of each holds
    tokens, positions, targets (B,T) int32, weights (B,T) fp32   one packed batch: several documents to a row
    logits (B,T,V), loss (1), grad.<HF name>                     every document run ALONE through transformers
    adamw_losses (10)                                            the loss before each of ten torch.optim.AdamW steps
so that agreement with it proves the mathematics and the packing at once. Weights are representable in bf16 and stored as
bf16, which halves the files and exercises the conversion. Versions are written into the metadata.
"""
from usage import usage
if __name__ == "__main__":       # lora_reference.py imports it
    usage(__doc__, 0, 1)
import copy, json, os, sys
import torch, transformers
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

LLAMA3_SCALING = dict(rope_type="llama3", low_freq_factor=1.0, high_freq_factor=4.0)
MODELS = {
    # grouped queries, untied head, vocabulary not divisible by 8
    "llama3": (LlamaForCausalLM, LlamaConfig, dict(vocab_size=101, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
               num_key_value_heads=2, rms_norm_eps=1e-5, rope_theta=500000.0, tie_word_embeddings=False, max_position_embeddings=64)),
    # frequency scaling, with an original length so short that kept, blended and scaled frequencies all matter at T = 24
    "llama31": (LlamaForCausalLM, LlamaConfig, dict(vocab_size=67, hidden_size=32, intermediate_size=56, num_hidden_layers=2, num_attention_heads=2,
                num_key_value_heads=1, head_dim=32, rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=False, max_position_embeddings=256,
                rope_scaling=dict(factor=8.0, original_max_position_embeddings=32, **LLAMA3_SCALING))),
    # tied embeddings, head_dim * heads larger than the hidden size, head_dim 64
    "llama32": (LlamaForCausalLM, LlamaConfig, dict(vocab_size=99, hidden_size=48, intermediate_size=48, num_hidden_layers=2, num_attention_heads=3,
                num_key_value_heads=1, head_dim=64, rms_norm_eps=1e-5, rope_theta=500000.0, tie_word_embeddings=True, max_position_embeddings=256,
                rope_scaling=dict(factor=32.0, original_max_position_embeddings=64, **LLAMA3_SCALING))),
    # biases on q, k, v; tied; head_dim 128
    "qwen25": (Qwen2ForCausalLM, Qwen2Config, dict(vocab_size=89, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2,
               num_key_value_heads=1, head_dim=128, rms_norm_eps=1e-6, rope_theta=1000000.0, tie_word_embeddings=True, max_position_embeddings=64)),
    # biases, untied, as many key/value heads as query heads (DeepSeek-R1-Distill's shape in small)
    "qwen25_untied": (Qwen2ForCausalLM, Qwen2Config, dict(vocab_size=83, hidden_size=48, intermediate_size=40, num_hidden_layers=1, num_attention_heads=3,
               num_key_value_heads=3, rms_norm_eps=1e-6, rope_theta=10000.0, tie_word_embeddings=False, max_position_embeddings=64)),
}
B, T = 2, 24
DOCUMENTS = [[7, 1, 11, 5], [24]]          # lengths, row by row; a document of one token has no target
ADAMW = dict(lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
GRAD_CLIP = 1.0


def batch(vocab, generator):
    tokens = torch.randint(0, vocab, (B, T), generator=generator)
    positions, targets, weights = torch.zeros(B, T, dtype=torch.long), torch.full((B, T), -1), torch.zeros(B, T)
    spans = []
    for b, lengths in enumerate(DOCUMENTS):
        at = 0
        for n in lengths:
            spans.append((b, at, n))
            positions[b, at:at + n] = torch.arange(n)
            targets[b, at:at + n - 1] = tokens[b, at + 1:at + n]
            at += n
        assert at == T
    weights[targets >= 0] = (torch.rand(int((targets >= 0).sum()), generator=generator) < 0.6).float()
    return tokens, positions, targets, weights, spans


def forward(model, tokens, spans, vocab):
    logits = torch.zeros(B, T, vocab)
    for b, at, n in spans:                  # each document alone: no packing on this side
        logits[b, at:at + n] = model(input_ids=tokens[b:b + 1, at:at + n], use_cache=False).logits[0]
    return logits


def loss_of(logits, targets, weights):
    chosen = weights > 0
    nll = torch.nn.functional.cross_entropy(logits[chosen], targets[chosen], reduction="none")
    return (nll * weights[chosen]).sum() / weights[chosen].sum()


def main(out):
    for index, (name, (model_class, config_class, arguments)) in enumerate(MODELS.items()):
        generator = torch.Generator().manual_seed(1234 + index)
        config = config_class(**arguments, bos_token_id=1, eos_token_id=2, attn_implementation="eager")
        model = model_class(config).float().eval()
        with torch.no_grad():
            for key, p in model.named_parameters():
                p.copy_(((1.0 if "norm" in key else 0.0) + 0.15 * torch.randn(p.shape, generator=generator)).bfloat16().float())
        folder = os.path.join(out, name)
        os.makedirs(folder, exist_ok=True)
        copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)   # a copy: .to() would round the rotary frequencies too

        os.path.exists(os.path.join(folder, "generation_config.json")) and os.remove(os.path.join(folder, "generation_config.json"))
        if name in ("llama3", "llama32"):       # transformers 4's spelling of the same config
            path = os.path.join(folder, "config.json")
            with open(path) as f:
                c = json.load(f)
            rope = c.pop("rope_parameters")
            c["rope_theta"], c["torch_dtype"] = rope.pop("rope_theta"), c.pop("dtype")
            c["rope_scaling"] = None if rope["rope_type"] == "default" else rope
            with open(path, "w") as f:
                json.dump(c, f, indent=2)
        tokens, positions, targets, weights, spans = batch(config.vocab_size, generator)
        logits = forward(model, tokens, spans, config.vocab_size)
        loss = loss_of(logits, targets, weights)
        loss.backward()
        result = dict(tokens=tokens.int(), positions=positions.int(), targets=targets.int(), weights=weights, logits=logits.detach(), loss=loss.detach().reshape(1))
        for key, p in model.named_parameters():
            result["grad." + key] = p.grad.clone()
        groups = [dict(params=[p for p in model.parameters() if p.dim() > 1], weight_decay=ADAMW["weight_decay"]),
                  dict(params=[p for p in model.parameters() if p.dim() == 1], weight_decay=0.0)]
        optimizer = torch.optim.AdamW(groups, lr=ADAMW["lr"], betas=ADAMW["betas"], eps=ADAMW["eps"])
        losses = []
        for _ in range(10):
            optimizer.zero_grad()
            loss = loss_of(forward(model, tokens, spans, config.vocab_size), targets, weights)
            losses.append(loss.item())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), GRAD_CLIP)
            optimizer.step()
        result["adamw_losses"] = torch.tensor(losses, dtype=torch.float64)
        save_file({k: v.contiguous() for k, v in result.items()}, os.path.join(folder, "reference.safetensors"),
                  metadata=dict(torch=torch.__version__, transformers=transformers.__version__, adamw=json.dumps({**ADAMW, "grad_clip": GRAD_CLIP})))
        print(f"{name}: {sum(p.numel() for p in model.parameters())} parameters, loss {losses[0]:.6f} -> {losses[-1]:.6f}")

if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1] if len(sys.argv) > 1 else "test/data")
