"""Writes test/data/lora/<case>/: adapters as PEFT saves them, for the tiny models of dev/make_reference.py, and what PEFT computes with them.

    python3 dev/lora_reference.py test/data

Each directory is PEFT's own (adapter_config.json, adapter_model.safetensors), with A and B far from zero; reference.safetensors beside it holds, in
fp64 on PEFT's side and for the batch of the base model's reference.safetensors,
    logits (13,V) of the first places, loss (1), grad.<name in adapter_model.safetensors>      every document run alone
    adamw_losses (5)                                                                       the loss before each of five torch.optim.AdamW steps
"""
from usage import usage
usage(__doc__, 0, 1)
import copy, os, sys
import torch, peft, transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from make_reference import ADAMW, B, DOCUMENTS, GRAD_CLIP, loss_of

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES = {
    "llama3_all": ("llama3", dict(r=4, lora_alpha=8, target_modules=ALL)),
    "llama3_rslora": ("llama3", dict(r=5, lora_alpha=7, use_rslora=True, target_modules=["q_proj", "v_proj", "down_proj"])),
    "qwen25_some": ("qwen25", dict(r=2, lora_alpha=4, target_modules=["k_proj", "o_proj", "up_proj"])),      # biases, tied embeddings
    "qwen25_untied_all": ("qwen25_untied", dict(r=3, lora_alpha=3, use_rslora=True, target_modules=ALL)),
}


def forward(model, tokens):
    logits = torch.zeros(*tokens.shape, model.config.vocab_size, dtype=torch.float64)
    for b, lengths in enumerate(DOCUMENTS):
        at = 0
        for n in lengths:
            logits[b, at:at + n] = model(input_ids=tokens[b:b + 1, at:at + n], use_cache=False).logits[0]
            at += n
    return logits


def main(out):
    for index, (name, (base, arguments)) in enumerate(CASES.items()):
        generator = torch.Generator().manual_seed(99 + index)
        data = load_file(os.path.join(out, base, "reference.safetensors"))
        tokens, targets, weights = data["tokens"].long(), data["targets"].long(), data["weights"].double()
        assert tokens.shape[0] == B
        model = AutoModelForCausalLM.from_pretrained(os.path.join(out, base), dtype=torch.float32, attn_implementation="eager")
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **arguments)).eval()
        with torch.no_grad():
            for key, p in model.named_parameters():
                if "lora_" in key:
                    p.copy_(0.15 * torch.randn(p.shape, generator=generator))
        folder = os.path.join(out, "lora", name)
        os.makedirs(folder, exist_ok=True)
        model.save_pretrained(folder)
        os.remove(os.path.join(folder, "README.md"))
        model = copy.deepcopy(model).double()
        logits = forward(model, tokens)
        loss = loss_of(logits, targets, weights)
        loss.backward()
        result = dict(logits=logits[0, :13].detach().float(), loss=loss.detach().float().reshape(1))
        trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
        assert all("lora_" in key for key in trained)
        for key, p in trained.items():
            result["grad." + key.replace(".default.", ".")] = p.grad.float()
        optimizer = torch.optim.AdamW(trained.values(), lr=ADAMW["lr"], betas=ADAMW["betas"], eps=ADAMW["eps"], weight_decay=ADAMW["weight_decay"])
        losses = []
        for _ in range(5):
            optimizer.zero_grad()
            loss = loss_of(forward(model, tokens), targets, weights)
            losses.append(loss.item())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained.values(), GRAD_CLIP)
            optimizer.step()
        result["adamw_losses"] = torch.tensor(losses, dtype=torch.float64)
        save_file({k: v.contiguous() for k, v in result.items()}, os.path.join(folder, "reference.safetensors"),
                  metadata=dict(torch=torch.__version__, transformers=transformers.__version__, peft=peft.__version__))
        print(f"{name}: {sum(p.numel() for p in trained.values())} trained, loss {losses[0]:.6f} -> {losses[-1]:.6f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1] if len(sys.argv) > 1 else "test/data")
