// model.h: the one interface of a model. train_findap.c (CPU, fp32, the reference) and train_findap.cu (GPU) both
// define every function below; training, preference alignment, generation and evaluation are written once against it:
//
//     #define FINDAP_LIBRARY              // the model, without its main()
//     #ifdef __CUDACC__
//     #include "train_findap.cu"
//     #else
//     #include "train_findap.c"
//     #endif
//
// One step of training, with the loss's definition outside the model:
//
//     model_zero_grad(m)
//     for each micro-batch:   model_forward(m, batch)             tokens -> last hidden states
//                             model_head(m, batch, coef, logp)    hidden -> log-probs of the targets, and, with
//                                                                 coef[i] = dL/dlogp[i], the gradient of the LM head
//                             model_backward(m, batch)            the rest of the gradient, added to what is there
//     model_update(m, ...)    gradient norm, clipping, AdamW; skipped whole when anything is not finite
//
// For cross-entropy coef is known beforehand (-weight / number of trained targets of the whole step). A preference loss
// calls model_head twice: first with coef = NULL for the log-probs, then with the derivative of its own loss.
#ifndef FINDAP_MODEL_H
#define FINDAP_MODEL_H
#include "comm.h"     // defines: Comm
#include "config.h"   // defines: Config
#include "sample.h"   // defines: SampleRow

// One packed micro-batch: B rows of T tokens, row-major. A document starts where position is 0; attention never leaves it. Positions alone carry
// the mask: one that is neither 0 nor one more than that before begins a branch, which continues the document's first `position` tokens - it sees
// those and itself, nothing else of the row, and nothing sees it. (The GPU twin wants a document's branches by falling position; equal ones will do.)
typedef struct {
    int64_t B, T;
    int32_t *tokens;     // (B,T)
    int32_t *positions;  // (B,T) restart at 0 with every document
    int32_t *targets;    // (B,T) the token to be predicted at this place: tokens[t+1], or -1 where no target is in the document
    float *weights;      // (B,T) loss weight of that target; 0: not trained
    bool last;           // of this rank's micro-batches of a step: its gradients may go to the other ranks while the rest is still computed
} Batch;

// One row of the table of tensors; it drives initialisation, loading, saving, AdamW, checkpoints, the gradient norm, tests.
typedef struct {
    const char *name;    // ours: "q", "gate", ...
    const char *hf_name; // "model.layers.%d.self_attn.q_proj.weight"; %d when per_layer
    int64_t rows, cols;  // rows = 0: a vector of length cols
    bool per_layer;
    bool decayed;        // AdamW's weight decay applies (matrices yes, norms and biases no)
    int64_t offset;      // in numbers, of layer 0 in the arena; layer l lies l * layer_stride further
    int64_t layer_stride;
    bool frozen;         // not trained: no gradient, no moments, not in checkpoints. With LoRA, all that comes from --model
    bool adapter;        // LoRA's own: "q_A" (rank, in) and "q_B" (out, rank) of "q"; not in a model directory but in PEFT's (lora.h)
} Tensor;

typedef enum { KIND_PARAM, KIND_GRAD, KIND_MOMENT1, KIND_MOMENT2 } TensorKind;

typedef struct {
    double lr, beta1, beta2, eps, weight_decay;
    double grad_clip;    // the gradient is scaled so that its norm is at most this; 0: no clipping
    int64_t t;           // 1 for the first update since the moments were zero (bias correction); 0: one more than at the last
                         // update that was not skipped, which the model counts itself (the host need not know yet)
} AdamW;

// LoRA (Hu et al. 2021): the model is frozen, and of each target only a product of two thin matrices is learned, B A of rank `rank`:
// y = x W^T + s (x A^T) B^T
typedef struct {
    int64_t rank;        // 0: no LoRA
    double alpha;
    bool rslora;         // s = alpha / sqrt(rank) (Kalajdzievski 2023) instead of alpha / rank
    uint32_t targets;    // bit i: lora_targets[i] has an adapter
} Lora;
enum { LORA_TARGETS = 7 };
FN const char *const lora_targets[LORA_TARGETS] = {"q", "k", "v", "o", "gate", "up", "down"};   // names in the table of tensors
FN double lora_scale(const Lora *l) { return l->alpha / (l->rslora ? sqrt((double)l->rank) : (double)l->rank); }
// of each target: the tensors A and B in the table, and PEFT's names of them
FN const char *const lora_names[LORA_TARGETS][4] = {
    #define NAMES(name, module) {name "_A", name "_B", "base_model.model.model.layers.%d." module ".lora_A.weight", "base_model.model.model.layers.%d." module ".lora_B.weight"}
    NAMES("q", "self_attn.q_proj"), NAMES("k", "self_attn.k_proj"), NAMES("v", "self_attn.v_proj"), NAMES("o", "self_attn.o_proj"),
    NAMES("gate", "mlp.gate_proj"), NAMES("up", "mlp.up_proj"), NAMES("down", "mlp.down_proj"),
    #undef NAMES
};
// LoRA's sites: the four places where a layer reads something, and the projections (lora_targets) that read it
enum { LORA_SITES = 4 };
typedef struct { int first, n; } LoraSite;
FN const LoraSite lora_sites[LORA_SITES] = {{0, 3}, {3, 1}, {4, 2}, {6, 1}};   // norm1: q k v; att: o; norm2: gate up; act: down
FN int64_t lora_site_rank(const Lora *l, int s) {   // n*R of the n targets of a site, 0: no target there
    int64_t rank = 0;
    for (int k = lora_sites[s].first; k < lora_sites[s].first + lora_sites[s].n; k++) rank += l->targets >> k & 1 ? l->rank : 0;
    return rank;
}

// Ways to save memory, for twins that have them; NULL: the twin's default. The CPU twin has none but LoRA.
typedef struct {
    const char *moments;     // of AdamW: "fp32", "bf16" (rounded stochastically) or "8bit" (blockwise)
    const char *gradients;   // what micro-batches are summed in: "fp32", or "bf16" (rounded stochastically)
    const char *recompute;   // activations computed again in the backward pass instead of being kept: "none", "block" (a layer's all),
                             // any of "swiglu,norm,ffn,qkv" joined by commas, or "auto": the cheapest that fits
    const char *links;       // what moves between the GPUs of a host: "auto", over NVLink copy engines what is large, NCCL the rest; "nccl"; "copies", small things too
    Comm *comm;              // the ranks among which a step's rows are spread; NULL: one
    Comm *shard, *replicas;  // hybrid sharding: the group of them that shares one copy of the state; those that own what this one owns. NULL: all; none
    int64_t zero;            // ZeRO stage, with several ranks: 1 shards the optimizer's state, 2 the sums of gradients too, 3 the weights too
    Lora lora;
    bool quiet;              // nothing is said of what takes time
} ModelOptions;

typedef struct {
    double loss;         // sum of -coef-weighted log-probs since model_zero_grad: the loss when coef = -w/N
    double grad_norm;    // before clipping
    bool skipped;        // loss or gradient was not finite: parameters and moments are unchanged
    double seconds;      // that a GPU took for the step, from model_zero_grad to the end of model_update; 0: not known
} StepResult;

typedef struct Model Model;

// Which of its host's GPUs this process is to use, where several processes work apart; models with a comm find theirs themselves. The CPU twin has nothing to choose.
void model_use_device(int local_rank);
// Room for micro-batches of up to B rows of T tokens. `training` false: no gradients, no moments. options: NULL, or checked.
Model *model_create(const Config *config, int64_t B, int64_t T, bool training, const ModelOptions *options);
void model_free(Model *m);
bool model_check(const Config *config, const ModelOptions *options, Error *e);   // can this twin do that?
const Config *model_config(const Model *m);
const Lora *model_lora(const Model *m);   // rank 0: none
void model_adapter(Model *m, bool on);    // off: forward passes are those of the frozen model, DPO's reference; there is no backward pass then
// bytes that model_create would take; plan: NULL, or MODEL_PLAN_SIZE characters for what they are for, on one line
enum { MODEL_PLAN_SIZE = 1024 };
int64_t model_memory_bytes(const Config *config, int64_t B, int64_t T, bool training, const ModelOptions *options, char *plan);

const char *model_notes(const Model *m);   // what the twin chose when it was made, for the log; lines, or ""
int model_num_tensors(const Model *m);
const Tensor *model_tensor(const Model *m, int i);
FN int model_find_tensor(const Model *m, const char *name) {   // index in the table, -1: no such tensor
    for (int i = 0; i < model_num_tensors(m); i++) if (strcmp(model_tensor(m, i)->name, name) == 0) return i;
    return -1;
}
// copies one tensor (of layer `layer` when per-layer, else 0) from or to the model as fp32, row-major, all of it; a frozen one has KIND_PARAM only
void model_get(const Model *m, TensorKind kind, int i, int layer, float *out);
void model_put(Model *m, TensorKind kind, int i, int layer, const float *in);

// With several ranks model_get is collective: the tensor is put together from all of a shard group. What one rank owns of tensor i, of any layer:
// numbers [begin, end) (see shard_part in comm.h); the optimizer's state and the exact weights are only there. model_put_owned of
// KIND_PARAM must be followed by model_share, collective, before the next forward pass.
void model_owned(const Model *m, int i, int64_t *begin, int64_t *end);
void model_get_owned(const Model *m, TensorKind kind, int i, int layer, float *out);
void model_put_owned(Model *m, TensorKind kind, int i, int layer, const float *in);
void model_share(Model *m);
// The same for a checkpoint, by another thread while this one runs forward and backward passes (not model_update): the state as it is when
// model_copy_begin returns. out: fp32, or bf16 where model_copy_is_bf16 says that the kind is kept so.
bool model_copy_is_bf16(const Model *m, TensorKind kind);
void model_copy_begin(Model *m);
void model_copy_owned(Model *m, TensorKind kind, int i, int layer, void *out);
Comm *model_comm(const Model *m);       // never NULL
Comm *model_replicas(const Model *m);   // the ranks that own the same numbers as this one, itself among them; never NULL

void model_init_random(Model *m, uint64_t seed);   // Hugging Face's initialisation: N(0, initializer_range), norms 1, biases 0; leaves adapters alone
void model_zero_grad(Model *m);
void model_zero_moments(Model *m);

void model_forward(Model *m, const Batch *b);
// logp (B,T): log p(target) where weight != 0 and target >= 0, else 0. coef (B,T) or NULL (no gradient).
// A GPU works behind the host's back: logp is complete once model_wait or a later update's model_result has returned.
// Memory of model_host_alloc keeps the host from waiting here; any other does too, but waits.
void model_head(Model *m, const Batch *b, const float *coef, float *logp);
void model_wait(Model *m);
void *model_host_alloc(int64_t bytes);
void model_host_free(void *p);
void model_backward(Model *m, const Batch *b);
// logits (n,V) of the places `index` (n values of b*T+t, or of a Call) of the last model_forward or model_generate_forward
void model_logits(Model *m, const int64_t *index, int64_t n, float *logits);

// Generation (generate.h has the engine). Keys and values of tokens that were seen are kept in pages of PAGE_TOKENS tokens. Which sequence has which pages is the engine's
// affair: the model writes and reads where it is told. One call takes any mixture of sequences that bring a prompt, a piece of one, or one token. All keys and
// values of a layer are written before one is read, so in the same call a sequence may read pages that another one writes.
enum { PAGE_TOKENS = 16 };
typedef struct {
    int64_t N, width;     // tokens of all sequences, at most B*T; pages of the longest sequence
    int32_t *tokens;      // (N) sequence by sequence
    int32_t *positions;   // (N) below T, rising by one in a sequence; what comes before the first must be in its pages
    int32_t *sequence;    // (N) whose token: its row of pages
    int32_t *pages;       // (sequences, width) the page with positions [i*PAGE_TOKENS, (i+1)*PAGE_TOKENS) of each
    bool own;             // no page that a token's key and value go to is another sequence's too: they may be written while others read theirs. False is always right
} Call;
int64_t model_pages_bytes(const Config *config, int64_t pages);
void model_pages(Model *m, int64_t pages);                      // makes room for so many; a model has none at first
void model_page_copy(Model *m, int32_t from, int32_t to);
void model_generate_forward(Model *m, const Call *c);           // then model_logits, model_head (of one row of N places) or model_sample
// a token drawn at each of the n places `index`, and its log-prob in the model's own distribution: before penalty, temperature and cuts
void model_sample(Model *m, const int64_t *index, int64_t n, const SampleRow *rows, int32_t *tokens, float *logp);

void model_update(Model *m, const AdamW *opt);
// of the earliest model_update whose result was not asked for yet, waiting for that one only; without one, of the heads so far.
// At most MODEL_UPDATES_AHEAD updates may wait for their results to be asked for.
enum { MODEL_UPDATES_AHEAD = 4 };
StepResult model_result(Model *m);

#endif
