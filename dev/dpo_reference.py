"""Writes test/data/dpo.safetensors: what TRL's own code and transformers make of preference pairs, for test/test_dpo.c.

    python3 dev/dpo_reference.py test/data          (needs torch, transformers, and TRL 0.12.0 installed)

losses    pair.* (N) float64: log-prob sums and token counts; for every loss l: loss.l, dchosen.l, drejected.l (N), by autograd in float64 through
          TRL 0.12.0's DPOTrainer.dpo_loss and CPOTrainer.cpo_loss. These are taken out of the installed files, since importing them asks for versions of
          transformers of that time. TRL 0.12 has no dpo-norm: its sigmoid over mean log-probs is what later versions call sigmoid_norm.
          TRL 0.29.0 and later ignore label_smoothing in sigmoid: cdpo is 0.12's.
model     test/data/llama3 in float64: pairs of random lengths (a prompt of one token, answers of one token, untrained tokens inside answers).
          The reference is the model as it is, the policy the model with all matrices times 1.125. FOUR sequences a pair, each run alone: logp.policy,
          logp.reference (P,2); total.<case>, norm.<case> (gradient of model.norm.weight), first.<case> (of the first layer's first norm) for every
          loss and NLL; grad.<HF name> of every parameter for the case "full"; adamw (8): the loss before each of eight steps of torch.optim.AdamW.
"""
from usage import usage
usage(__doc__, 0, 1)
import ast, importlib.util, os, sys, types
import torch, transformers
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

BETA, SMOOTHING, GAMMA, ALPHA = 0.5, 0.2, 0.3, 0.7


def trl_method(file, name):
    """the source of one method of TRL's trainers, compiled by itself"""
    root = os.path.dirname(importlib.util.find_spec("trl").origin)
    with open(os.path.join(root, "trainer", file)) as f:
        tree = ast.parse(f.read())
    node = next(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == name)
    node.decorator_list, node.returns = [], None
    for a in node.args.args:
        a.annotation = None
    kind = types.SimpleNamespace(ALPHA_DIVERGENCE=types.SimpleNamespace(value="alpha"), JS_DIVERGENCE=types.SimpleNamespace(value="js"))
    scope = dict(torch=torch, F=F, FDivergenceType=kind)
    exec(compile(ast.fix_missing_locations(ast.Module([node], [])), file, "exec"), scope)
    return scope[name]


def trl_version():
    root = os.path.dirname(importlib.util.find_spec("trl").origin)
    with open(os.path.join(root, "__init__.py")) as f:
        version = next(line for line in f if line.startswith("__version__")).split('"')[1]
    assert version == "0.12.0", version
    return version


DPO_LOSS, CPO_LOSS = trl_method("dpo_trainer.py", "dpo_loss"), trl_method("cpo_trainer.py", "cpo_loss")
LOSSES = ["dpo", "cdpo", "robust", "ipo", "hinge", "dpo-norm", "simpo"]


def preference(kind, policy, reference, tokens):
    """loss of every pair; policy, reference, tokens (P,2)"""
    if kind in ("ipo", "dpo-norm", "simpo"):
        policy, reference = policy / tokens, reference / tokens
    me = types.SimpleNamespace(accelerator=types.SimpleNamespace(device="cpu"), reference_free=False, f_divergence_type="reverse_kl", beta=BETA, label_smoothing=SMOOTHING if kind in ("cdpo", "robust") else 0.0,
                               loss_type={"robust": "robust", "ipo": "ipo", "hinge": "hinge", "simpo": "simpo"}.get(kind, "sigmoid"), simpo_gamma=GAMMA * BETA)
    if kind == "simpo":
        return CPO_LOSS(me, policy[:, 0], policy[:, 1])[0]
    return DPO_LOSS(me, policy[:, 0], policy[:, 1], reference[:, 0], reference[:, 1])[0]


def losses(generator, out):
    n = 40
    tokens = torch.randint(1, 300, (n, 2), generator=generator).double()
    reference = -tokens * (0.2 + 2 * torch.rand(n, 2, generator=generator, dtype=torch.float64))
    scale = torch.tensor([0.01, 1.0, 30.0, 400.0], dtype=torch.float64).repeat(n // 4)[:, None]    # margins from nothing to saturation
    policy = (reference + scale * torch.randn(n, 2, generator=generator, dtype=torch.float64))
    out.update({"pair.policy": policy.clone(), "pair.reference": reference, "pair.tokens": tokens})
    for kind in LOSSES:
        x = policy.clone().requires_grad_(True)
        loss = preference(kind, x, reference, tokens)
        loss.sum().backward()
        out["loss." + kind], out["dlogp." + kind] = loss.detach(), x.grad


def model_part(folder, generator, out):
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").double().eval()
    policy = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").double().eval()
    with torch.no_grad():
        for p in policy.parameters():
            if p.dim() > 1:
                p.mul_(1.125)
    lengths = [(1, 3, 7), (9, 1, 4), (5, 6, 1), (1, 1, 1), (12, 8, 10), (3, 11, 2), (7, 5, 5)]
    vocab, tokens, weights = policy.config.vocab_size, [], []
    # never token 0: TRL 0.12's NLL does not learn it (ignore_index=0 after masked labels were set to 0), which is not copied
    for p, c, r in lengths:
        tokens.append(torch.randint(1, vocab, (p + c + r,), generator=generator))
        w = torch.cat([torch.zeros(p), torch.ones(c + r)])
        if c > 4:
            w[p + 2] = 0      # a token that is context only, inside the chosen answer
        if r > 4:
            w[p + c] = 0      # the rejected answer's first token
        weights.append(w)

    def answers(model):
        """(P,2) sums, the chosen answers' logits and labels with masked labels 0"""
        sums, chosen = [], []
        for (p, c, r), t, w in zip(lengths, tokens, weights):
            row = []
            for begin, n in ((p, c), (p + c, r)):
                ids = torch.cat([t[:p], t[begin:begin + n]])[None]
                mask = torch.cat([torch.zeros(p), w[begin:begin + n]]).bool()[1:]
                logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
                labels = torch.where(mask, ids[0, 1:], 0)
                row.append((logits.log_softmax(-1).gather(1, labels[:, None])[:, 0] * mask).sum())
                if begin == p:
                    chosen.append((logits, labels))
            sums.append(torch.stack(row))
        return torch.stack(sums), chosen

    counts = torch.tensor([[w[p:p + c].sum(), w[p + c:].sum()] for (p, c, r), w in zip(lengths, weights)], dtype=torch.float64)
    with torch.no_grad():
        ref = answers(reference)[0]

    def nll(name, chosen):
        groups = {"none": [], "sequence": [[k] for k in range(len(chosen))], "token": [list(range(len(chosen)))], "batch": [list(range(i, min(i + 3, len(chosen)))) for i in range(0, len(chosen), 3)]}[name]
        each = [F.cross_entropy(torch.cat([chosen[k][0] for k in g]), torch.cat([chosen[k][1] for k in g]), ignore_index=0) for g in groups]    # as TRL 0.12, a group its micro-batch
        return torch.stack(each).mean() if each else torch.zeros((), dtype=torch.float64)

    cases = [(kind, kind, "none") for kind in LOSSES] + [("nll-" + n, "dpo", n) for n in ("sequence", "token", "batch")] + [("full", "dpo", "batch")]
    for case, kind, norm in cases:
        policy.zero_grad()
        sums, chosen = answers(policy)
        total = preference(kind, sums, ref, counts).mean() + ALPHA * nll(norm, chosen)
        total.backward()
        named = dict(policy.named_parameters())
        out["total." + case] = total.detach().reshape(1)
        out["norm." + case] = named["model.norm.weight"].grad.clone()
        out["first." + case] = named["model.layers.0.input_layernorm.weight"].grad.clone()
        if case == "full":
            out.update({"grad." + k: p.grad.float() for k, p in named.items()})
    out["logp.policy"], out["logp.reference"] = sums.detach(), ref
    groups = [dict(params=[p for p in policy.parameters() if p.dim() > 1], weight_decay=0.1), dict(params=[p for p in policy.parameters() if p.dim() == 1], weight_decay=0.0)]
    optimizer, steps = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), eps=1e-8), []
    for _ in range(8):
        optimizer.zero_grad()
        sums, chosen = answers(policy)
        total = preference("dpo", sums, ref, counts).mean() + ALPHA * nll("token", chosen)
        steps.append(total.item())
        total.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
    out["adamw"] = torch.tensor(steps, dtype=torch.float64)
    out["lengths"] = torch.tensor(lengths, dtype=torch.int32)
    out["tokens"], out["weights"] = torch.cat(tokens).int(), torch.cat(weights).to(torch.uint8)


def main(folder):
    out, generator = {}, torch.Generator().manual_seed(77)
    losses(generator, out)
    model_part(os.path.join(folder, "llama3"), generator, out)
    save_file({k: v.contiguous() for k, v in out.items()}, os.path.join(folder, "dpo.safetensors"),
              metadata=dict(torch=torch.__version__, transformers=transformers.__version__, trl=trl_version(), beta=str(BETA), smoothing=str(SMOOTHING), gamma=str(GAMMA), alpha=str(ALPHA)))
    print({k: v.item() for k, v in out.items() if k.startswith("total.")})


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1] if len(sys.argv) > 1 else "test/data")
