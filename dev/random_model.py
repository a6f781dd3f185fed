#!/usr/bin/env python3
"""A Hugging Face directory of random weights, N(0, 0.02), to time loading and training on: python3 dev/random_model.py llama3-8b DIR

Drawn on the GPU where there is one. Shards of about 4 GB, bf16."""
from usage import usage
usage(__doc__, 2, 2)
import json, os, sys
import torch
from safetensors.torch import save_file

SHAPES = {"llama3-8b": (128256, 4096, 32, 32, 8, 128, 14336, 5e5, False), "llama3.2-1b": (128256, 2048, 16, 32, 8, 64, 8192, 5e5, True)}


def main():
    name, out = sys.argv[1], sys.argv[2]
    if name not in SHAPES:
        sys.exit(f"random_model.py: error: there is no shape {name}; expected one of {', '.join(SHAPES)}")
    V, C, L, NH, NKV, HD, F, theta, tied = SHAPES[name]
    os.makedirs(out, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(1)
    tensors = {"model.embed_tokens.weight": (V, C)}
    for l in range(L):
        p = f"model.layers.{l}."
        tensors |= {p + "input_layernorm.weight": (C,), p + "self_attn.q_proj.weight": (NH * HD, C), p + "self_attn.k_proj.weight": (NKV * HD, C), p + "self_attn.v_proj.weight": (NKV * HD, C),
                    p + "self_attn.o_proj.weight": (C, NH * HD), p + "post_attention_layernorm.weight": (C,), p + "mlp.gate_proj.weight": (F, C), p + "mlp.up_proj.weight": (F, C), p + "mlp.down_proj.weight": (C, F)}
    tensors["model.norm.weight"] = (C,)
    if not tied:
        tensors["lm_head.weight"] = (V, C)
    shards, size = [[]], 0
    for key, shape in tensors.items():
        n = 2 * torch.Size(shape).numel()
        if size and size + n > 4e9:
            shards.append([])
            size = 0
        shards[-1].append(key)
        size += n
    where, total = {}, 0
    for k, keys in enumerate(shards):
        file = f"model-{k + 1:05d}-of-{len(shards):05d}.safetensors"
        data = {key: (torch.ones(tensors[key], dtype=torch.bfloat16) if len(tensors[key]) == 1 else
                      (torch.randn(tensors[key], generator=generator, device=device, dtype=torch.bfloat16) * 0.02).cpu()) for key in keys}
        save_file(data, os.path.join(out, file), metadata={"format": "pt"})
        where |= {key: file for key in keys}
        total += sum(t.numel() * 2 for t in data.values())
    json.dump({"metadata": {"total_size": total}, "weight_map": where}, open(os.path.join(out, "model.safetensors.index.json"), "w"))
    json.dump({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": V, "hidden_size": C, "intermediate_size": F, "num_hidden_layers": L, "num_attention_heads": NH,
               "num_key_value_heads": NKV, "head_dim": HD, "hidden_act": "silu", "rms_norm_eps": 1e-5, "initializer_range": 0.02, "rope_theta": theta, "max_position_embeddings": 8192,
               "tie_word_embeddings": tied, "bos_token_id": 128000, "eos_token_id": 128009, "torch_dtype": "bfloat16"}, open(os.path.join(out, "config.json"), "w"), indent=1)
    print(f"{out}: {total / 1e9:.2f} GB in {len(shards)} files")


main()
