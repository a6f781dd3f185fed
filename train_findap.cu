// train_findap.cu: the same transformer as train_findap.c, on the GPU: the same functions under the same names in the same
// order, over the kernels of findap/kernels/. Read the C file first; what is said there is not said again.
//
// What is different here, and why:
// - Numbers. Weights, activations and their gradients are bf16 (`real`), everything that is summed - norms, softmax, loss,
//   parameter gradients, AdamW - is fp32 or double. The exact fp32 weight is kept: the bf16 weight the kernels read plus a
//   16-bit remainder that only AdamW reads (kernels/adamw.cuh). -DFINDAP_FP32 builds the same program in fp32 throughout,
//   to be compared with the C file number by number (`make compare`).
// - Memory. Four arenas of parameters (weights, remainders, gradients, moments) and one of activations, sized from the
//   tables before anything is allocated; nothing is allocated in a step. What the backward pass needs is kept or computed
//   again, piece by piece (--recompute); a gradient overwrites the activation it belongs to where nobody needs that any
//   more; one scratch region serves the logits, the feed-forward's gradients and attention's dS tiles in turn.
// - Time. The host only enqueues: no function between model_zero_grad and model_update waits for the GPU (but for uploads two
//   micro-batches back). Results are read when asked for, which the training loop does one step late.
// - Fusion. q, k, v are one GEMM, gate and up another; residuals are added, and biases too, by the GEMM that makes the branch; so is what
//   LoRA's adapters add (kernels/lora.cuh).
// - LoRA. The frozen weights are bf16 and nothing else: no remainder, gradient or moments, and no GEMM for their gradients. Adapters are kept as every
//   trained weight is, exact in fp32 as bf16 and remainder: the GEMMs read bf16 anyway, and one kind of trained weight is one kernel, one
//   arena, one kind of checkpoint. What is kept of a layer is what is kept without LoRA, and xa besides (some 1 % of it): the input of
//   a frozen projection without an adapter could go, but then what is kept would depend on the targets.
// - Generation. layer_generate and layers_generate are layer_forward and layers_forward of the C file's `call`: other kernels (kernels/decode.cuh), by which no row's bits
//   depend on how many others there are.
//
// Dimensions are those of train_findap.c: B T C L NH NKV HD V F W R, N = B*T. TP: T rounded up to 64, the stride of lse.

#ifdef FINDAP_FP32
#define FINDAP_DEVICE "CUDA, fp32"
#else
#define FINDAP_DEVICE "CUDA, bf16 with fp32 master weights"
#endif
#define FINDAP_RESULTS_LATE 1            // the training loop reads a step's results when the next one is on its way

#include "findap/common.h"               // defines: Error, fail, die, xmalloc, xcalloc, random_normal, CHECK
#include "findap/config.h"               // defines: Config, config_rope_inv_freq
#include "findap/model.h"                // defines: Model (declared), Batch, Tensor, AdamW, StepResult, ModelOptions, Lora, lora_*
#include "findap/kernels/adamw.cuh"      // defines: adamw_update, norm_and_clip, StepState, moments_get/put, params_get/put
#include "findap/kernels/attention.cuh"  // defines: attention_forward, attention_backward, AttentionPlan
#include "findap/kernels/cross_entropy.cuh"   // defines: cross_entropy, loss_sum
#include "findap/kernels/decode.cuh"     // defines: PagedCall, rope_store, decode_attention, matvec, matvec_swiglu, rows_swiglu
#include "findap/kernels/embedding.cuh"  // defines: embedding_*, gather_rows, scatter_rows, bias_backward
#include "findap/kernels/lora.cuh"       // defines: lora_a_*, lora_b_*
#include "findap/kernels/matmul.cuh"     // defines: Gemm, matmul_*
#include "findap/kernels/nccl.cuh"       // defines: Links, links_*
#include "findap/kernels/rmsnorm.cuh"    // defines: rmsnorm_*
#include "findap/kernels/rope.cuh"       // defines: rope_*
#include "findap/kernels/sample.cuh"     // defines: SampleSettings, sample_settings, sample_tokens
#include "findap/kernels/swiglu.cuh"     // defines: swiglu_*

enum { MAX_TENSORS = 32, MAX_EVENTS = 256 };   // MAX_EVENTS: layers, and two more
enum { RECOMPUTE_SWIGLU = 1, RECOMPUTE_NORM = 2, RECOMPUTE_FFN = 4, RECOMPUTE_QKV = 8, RECOMPUTE_BLOCK = 16 };

// one layer's activations: what the backward pass needs. A piece that is computed again lies in a buffer all layers share.
typedef struct {
    real *x;         // (N, C)      the residual stream that enters: always kept
    real *norm1;     // (N, C)      RECOMPUTE_NORM or _BLOCK: shared
    float *rstd1;    // (N)
    real *qkv;       // (N, W)      after bias and rotation; _QKV or _BLOCK: shared
    real *att;       // (N, NH*HD)  _BLOCK: shared
    float *lse;      // (B, NH, TP) base 2
    real *x2;        // (N, C)      _BLOCK: shared
    real *norm2;     // (N, C)      _NORM or _BLOCK: shared
    float *rstd2;    // (N)
    real *gate_up;   // (N, 2F)     becomes its own gradient in the backward pass; _FFN or _BLOCK: shared
    real *act;       // (N, F)      _SWIGLU, _FFN or _BLOCK: shared
    real *xa[LORA_SITES];   // (N, n*R)  LoRA: s x A^T of the n targets of each site: always kept
} Layer;

// A block of host memory that is on its way to the GPU: filled by the host, copied, and not touched again before the copy is done.
enum { UPLOADS = 3 };
typedef struct {
    int32_t *host[UPLOADS], *device;   // pinned; (count) each
    cudaEvent_t copied[UPLOADS];
    int64_t count;
    int next;
} Upload;

// Calls of a shape that comes again and again, of one token a sequence, are recorded once and then started as a whole
enum { MAX_GRAPHS = 128 };
typedef struct { int64_t N, width, splits, seen; bool plain, own; cudaGraphExec_t exec; } CallGraph;

struct Model {
    Config config;
    int64_t B, T;            // the largest micro-batch there is room for
    bool training;
    MomentType moment_type;
    GradType grad_type;
    int recompute;           // RECOMPUTE_* bits
    Tensor tensors[MAX_TENSORS];
    int num_tensors;
    int first_trained;       // tensors before this one are frozen
    int64_t num_parameters, num_trained;   // room in an arena of weights, of gradients: tensors begin at multiples of 256
    int64_t turns, turns_save, in_turn_offset[MAX_TENSORS];   // the same when layers take turns: their places, the room they save, where tensors lie
    int64_t owned_offset[MAX_TENSORS], owned_stride[MAX_TENSORS];   // what this rank owns: of every tensor a piece, in whole blocks of 256, trained ones first
    int64_t num_owned, num_owned_frozen;
    real *params;            // (num_parameters)  ZeRO-3: two layers' room, used in turn
    void *grads;             // (num_trained)  float or bf16; ZeRO-2: likewise
    int16_t *remainder;      // (num_owned)  fp32 build: NULL
    void *moment1, *moment2; // (num_owned)
    uint8_t *touched;        // (V)  rows of the embedding's gradient that are not zero here, until it is summed; NULL: not kept: one rank, frozen, or tied to the LM head
    float *shard_sums;       // (num_owned)  ZeRO-2: the gradient's sum over micro-batches and ranks
    real *shard_params;      // (num_owned + num_owned_frozen)  ZeRO-3: the weights
    Lora lora;
    int adapters[LORA_TARGETS][2];   // the tensors A and B of each target
    bool adapter_off, plain; // forward passes are to be without adapters; the last one was
    Comm *comm, alone;       // the ranks; `alone` when there is one
    Comm *shard, *replicas;  // those that share one copy of the state; those that own what this one owns
    Links links;             // between their GPUs
    int zero;                // ZeRO stage; 0 with one rank
    bool sums_fresh;         // ZeRO-2: the first micro-batch's gradient is written, not added
    int64_t place_layer[2];  // ZeRO-3: whose weights are in place, or on their way there; -1: nobody's
    cudaEvent_t ready, layers_reduced, arrived[MAX_EVENTS], taken[2], reduced[2];   // see "between the ranks"
    double *rank_totals;     // (ranks, 2) losses and squares
    uint64_t sums;           // stochastic additions to the gradient since model_zero_grad
    bool fresh, head_fresh;  // gradients of the layers / of the LM head are to be written, not added to: model_zero_grad costs nothing
    char *arena;             // all that follows lies in here
    float *rope_table;       // (T, HD/2, 2)
    Layer *layers;           // (L)
    real *x;                 // (N, C)   what leaves the last layer
    real *hidden;            // (N, C)   after the last norm: what the LM head sees
    float *rstd;             // (N)
    real *dhidden;           // (N, C)   gradients, shared by all layers
    real *dx, *dnorm;        // (N, C)
    real *dqkv;              // (N, W)
    real *datt;              // (N, NH*HD)
    real *dxa;               // (N, 3R)  LoRA: s dy B
    float *dsum;             // (B, NH, TP) rows of dO * O
    float *partial;          // column sums on their way: rmsnorm_partial_count or bias_partial_count
    real *head_hidden;       // (head_rows, C)  the places with a target, then their gradient
    float *row_logp;         // (head_rows)
    float *logp;             // (N)
    char *scratch;           // scratch_bytes: logits (head_rows, ldv) | act or its gradient (N, F), then gradients on their way to bf16 | dS tiles
    int64_t head_rows, ldv, scratch_bytes, delta_bytes;   // delta_bytes: of fp32 gradients on their way to a bf16 sum, at the end of scratch
    int32_t *counters;       // attention's scheduler
    float *staging, *copy_staging;   // (STAGING) numbers between host and arenas; the second for model_copy_owned
    cudaStream_t copy_stream;
    cudaEvent_t copied;      // recorded on m->stream when a copy may begin
    int device;
    StepState *state;        // loss, gradient norm, skip, on the GPU
    double *norm_partial;
    Upload batch_upload, head_upload;
    AttentionPlan plan;      // of the last batch; device addresses
    const int32_t *tokens, *positions, *token_order, *token_first;   // of the last batch, device
    int64_t num_unique;
    Gemm gemm;
    char notes[8192];        // what was chosen: who moves between GPUs, GEMM algorithms
    cudaStream_t stream;
    StepState *results;      // pinned, (MODEL_UPDATES_AHEAD)
    cudaEvent_t began[MODEL_UPDATES_AHEAD], updated[MODEL_UPDATES_AHEAD];
    int64_t updates_issued, results_read;
    // generation
    real *keys, *values;     // (L, num_pages, NKV, PAGE_TOKENS, HD)
    int64_t num_pages;
    float *decode_part;      // (decode_part_count)
    int64_t decode_part_count;
    Upload call_upload, sample_upload;
    PagedCall call;          // of the last model_generate_forward
    CallGraph graphs[MAX_GRAPHS];
    int num_graphs;
    int32_t *sampled, *sampled_host;   // (2 * head_rows) tokens, and behind the last one their log-probs; the same on the host
};
enum { STAGING = 16 << 20 };

// ---------------------------------------------------------------------------------------------------------------------
// the tables

static void define_tensor(Model *m, const char *name, const char *hf_name, int64_t rows, int64_t cols, bool per_layer, bool glued) {
    CHECK(m->num_tensors < MAX_TENSORS);
    Tensor *t = &m->tensors[m->num_tensors++];
    t->name = name; t->hf_name = hf_name; t->rows = rows; t->cols = cols; t->per_layer = per_layer;
    t->decayed = rows > 0;
    if (!glued) m->num_parameters = ceil_div(m->num_parameters, 256) * 256;   // glued: one matrix with the tensor before it
    t->offset = m->num_parameters;
    m->in_turn_offset[m->num_tensors - 1] = m->num_parameters - m->turns_save;
    m->num_parameters += (rows ? rows : 1) * cols;
}
// the tensors from `first` on, whose first layer was defined last, are there in every layer
static void repeat_in_layers(Model *m, int first) {
    m->num_parameters = ceil_div(m->num_parameters, 256) * 256;
    int64_t begin = m->tensors[first].offset, stride = m->num_parameters - begin;
    for (int i = first; i < m->num_tensors; i++) m->tensors[i].layer_stride = stride;
    m->num_parameters = begin + stride * m->config.num_layers;
    m->turns_save += stride * (m->config.num_layers - m->turns);
}
static int64_t tensor_count(const Tensor *t) { return (t->rows ? t->rows : 1) * t->cols; }
static int tensor_index(const Model *m, const char *name) {   // -1: the family has no such tensor
    for (int i = 0; i < m->num_tensors; i++) if (strcmp(m->tensors[i].name, name) == 0) return i;
    return -1;
}

// the adapters' tensors, A and B of every target: names are PEFT's
static void define_adapters(Model *m) {
    int first = m->num_tensors;
    for (int s = 0; s < LORA_SITES; s++)
        for (int side = 0; side < 2; side++) {   // all A of a site side by side, then their B
            bool glued = false;   // A, to the A before it: they are one matrix
            for (int k = lora_sites[s].first; k < lora_sites[s].first + lora_sites[s].n; k++) {
                const Tensor *w = &m->tensors[tensor_index(m, lora_targets[k])];
                if (!(m->lora.targets >> k & 1)) continue;
                m->adapters[k][side] = m->num_tensors;
                define_tensor(m, lora_names[k][side], lora_names[k][2 + side], side ? w->rows : m->lora.rank, side ? m->lora.rank : w->cols, true, glued);
                glued = side == 0;
            }
        }
    repeat_in_layers(m, first);
    for (int i = 0; i < m->num_tensors; i++) { m->tensors[i].frozen = i < first; m->tensors[i].adapter = i >= first; }
    m->first_trained = first;
}

static void define_tensors(Model *m) {
    const Config *c = &m->config;
    m->turns = c->num_layers < 2 ? c->num_layers : 2;
    int64_t C = c->hidden_size, F = c->intermediate_size, qw = c->num_heads * c->head_dim, kw = c->num_kv_heads * c->head_dim;
    define_tensor(m, "embed", "model.embed_tokens.weight", c->vocab_size, C, false, false);
    int first = m->num_tensors;
    define_tensor(m, "norm1", "model.layers.%d.input_layernorm.weight", 0, C, true, false);
    define_tensor(m, "q", "model.layers.%d.self_attn.q_proj.weight", qw, C, true, false);
    define_tensor(m, "k", "model.layers.%d.self_attn.k_proj.weight", kw, C, true, true);
    define_tensor(m, "v", "model.layers.%d.self_attn.v_proj.weight", kw, C, true, true);
    if (c->qkv_bias) {
        define_tensor(m, "q_bias", "model.layers.%d.self_attn.q_proj.bias", 0, qw, true, false);
        define_tensor(m, "k_bias", "model.layers.%d.self_attn.k_proj.bias", 0, kw, true, true);
        define_tensor(m, "v_bias", "model.layers.%d.self_attn.v_proj.bias", 0, kw, true, true);
    }
    define_tensor(m, "o", "model.layers.%d.self_attn.o_proj.weight", C, qw, true, false);
    define_tensor(m, "norm2", "model.layers.%d.post_attention_layernorm.weight", 0, C, true, false);
    define_tensor(m, "gate", "model.layers.%d.mlp.gate_proj.weight", F, C, true, false);
    define_tensor(m, "up", "model.layers.%d.mlp.up_proj.weight", F, C, true, true);
    define_tensor(m, "down", "model.layers.%d.mlp.down_proj.weight", C, F, true, false);
    repeat_in_layers(m, first);
    define_tensor(m, "norm", "model.norm.weight", 0, C, false, false);
    if (!c->tied_embeddings) define_tensor(m, "lm_head", "lm_head.weight", c->vocab_size, C, false, false);
    m->num_parameters = ceil_div(m->num_parameters, 256) * 256;
    if (m->lora.rank) define_adapters(m);
    m->num_trained = m->num_parameters - m->tensors[m->first_trained].offset;
    // what this rank owns: the same order, what is frozen last, but every tensor of every layer begins a block
    for (int n = 0; n < m->num_tensors; n++) {
        int i = (m->first_trained + n) % m->num_tensors;
        const Tensor *t = &m->tensors[i];
        int64_t begin, end, *total = t->frozen ? &m->num_owned_frozen : &m->num_owned;
        model_owned(m, i, &begin, &end);
        m->owned_offset[i] = m->num_owned + m->num_owned_frozen;
        m->owned_stride[i] = ceil_div(end - begin, 256) * 256;
        *total += m->owned_stride[i] * (t->per_layer ? c->num_layers : 1);
    }
}

// ZeRO-3's weights and ZeRO-2's gradients: layers take turns in `turns` places
static bool weights_in_turns(const Model *m) { return m->zero >= 3; }
static bool grads_in_turns(const Model *m) { return m->zero >= 2; }
// where tensor i of a layer lies in params or grads, which begin with the first trained tensor
static int64_t tensor_offset(const Model *m, int i, int64_t layer, bool grads) {
    const Tensor *t = &m->tensors[i];
    int first = grads ? m->first_trained : 0;
    if (grads ? grads_in_turns(m) : weights_in_turns(m)) return m->in_turn_offset[i] - m->in_turn_offset[first] + layer % m->turns * t->layer_stride;
    return t->offset - m->tensors[first].offset + layer * t->layer_stride;
}
static int64_t arena_numbers(const Model *m, bool grads) {   // in params, in grads
    int first = grads ? m->first_trained : 0;
    return (grads ? grads_in_turns(m) : weights_in_turns(m)) ? m->num_parameters - m->turns_save - m->in_turn_offset[first] : m->num_parameters - m->tensors[first].offset;
}
// tensor `name` of a layer; NULL when the family has no such tensor, and the gradient (fp32 sums only) of one that is frozen
static real *param_at(const Model *m, int i, int64_t layer) { return i < 0 ? NULL : m->params + tensor_offset(m, i, layer, false); }
static float *grad_at(const Model *m, int i, int64_t layer) { return i < 0 || m->tensors[i].frozen ? NULL : (float *)m->grads + tensor_offset(m, i, layer, true); }
static real *param(const Model *m, const char *name, int64_t layer) { return param_at(m, tensor_index(m, name), layer); }
static float *grad(const Model *m, const char *name, int64_t layer) { return grad_at(m, tensor_index(m, name), layer); }
static int64_t grad_offset(const Model *m, const char *name, int64_t layer) { return tensor_offset(m, tensor_index(m, name), layer, true); }
static const char *head_name(const Model *m) { return m->config.tied_embeddings ? "embed" : "lm_head"; }

// Activations. Called twice: with arena NULL it only counts bytes, then it hands out the pieces.
static int64_t place_activations(Model *m, char *arena) {
    const Config *c = &m->config;
    int64_t N = m->B * m->T, C = c->hidden_size, F = c->intermediate_size, V = c->vocab_size, A = c->num_heads * c->head_dim, L = c->num_layers;
    int64_t W = A + 2 * c->num_kv_heads * c->head_dim, stats = m->B * c->num_heads * ceil_div(m->T, QUERY_TILE) * QUERY_TILE, used = 0;
    int r = m->recompute;
    #define PLACE(pointer, count) do { (pointer) = arena ? (decltype(&*(pointer)))(arena + used) : NULL; used += ceil_div((count) * (int64_t)sizeof *(pointer), 1024) * 1024; } while (0)
    // A piece of a layer: kept for each one, or one buffer for all (which the first layer places)
    #define PLACE_PIECE(piece, count, kept) do { if (l == 0 || (kept)) PLACE(y->piece, count); else y->piece = m->layers[0].piece; } while (0)
    PLACE(m->rope_table, m->T * c->head_dim);
    m->ldv = ceil_div(V, 8) * 8;
    int64_t rows = (1ll << 30) / (m->ldv * (int64_t)sizeof(real)) / 256 * 256;   // a GiB of logits: enough for a GEMM at full speed
    m->head_rows = rows < 256 ? 256 : rows > ceil_div(N, 256) * 256 ? ceil_div(N, 256) * 256 : rows;
    for (int64_t l = 0; l < L; l++) {
        Layer *y = &m->layers[l];
        bool keep = m->training && !(r & RECOMPUTE_BLOCK), keep_norm = keep && !(r & RECOMPUTE_NORM), keep_ffn = keep && !(r & RECOMPUTE_FFN);
        if (m->training || l < 2) PLACE(y->x, N * C);
        else y->x = m->layers[l % 2].x;
        PLACE_PIECE(norm1, N * C, keep_norm); PLACE_PIECE(rstd1, N, m->training);
        PLACE_PIECE(qkv, N * W, keep && !(r & RECOMPUTE_QKV));
        PLACE_PIECE(att, N * A, keep); PLACE_PIECE(lse, stats, keep); PLACE_PIECE(x2, N * C, keep);
        if (keep_norm) PLACE(y->norm2, N * C);
        else y->norm2 = m->layers[0].norm1;   // never needed at the same time
        PLACE_PIECE(rstd2, N, m->training);
        PLACE_PIECE(gate_up, N * 2 * F, keep_ffn);
        if (keep_ffn && !(r & RECOMPUTE_SWIGLU)) PLACE(y->act, N * F);   // else in scratch, see below
        for (int k = 0; k < LORA_SITES; k++) PLACE_PIECE(xa[k], N * lora_site_rank(&m->lora, k), m->training);
    }
    PLACE(m->x, N * C); PLACE(m->hidden, N * C); PLACE(m->rstd, N);
    PLACE(m->head_hidden, m->head_rows * C); PLACE(m->row_logp, m->head_rows); PLACE(m->logp, N);
    if (m->training) {
        PLACE(m->dhidden, N * C); PLACE(m->dx, N * C); PLACE(m->dnorm, N * C); PLACE(m->dqkv, N * W); PLACE(m->datt, N * A);
        PLACE(m->dxa, N * 3 * m->lora.rank); PLACE(m->dsum, stats);
        PLACE(m->partial, rmsnorm_partial_count(C) > bias_partial_count(W) ? rmsnorm_partial_count(C) : bias_partial_count(W));
        PLACE(m->norm_partial, norm_partial_count());
    }
    PLACE(m->counters, 64); PLACE(m->staging, (int64_t)STAGING); PLACE(m->state, 1);
    if (m->training) PLACE(m->copy_staging, (int64_t)STAGING);
    PLACE(m->batch_upload.device, m->batch_upload.count); PLACE(m->head_upload.device, m->head_upload.count);
    // the scratch region: the largest of what it serves; attention may use all of it, and passes over fewer heads when that is less than it wants
    int64_t act = N * F * (int64_t)sizeof(real), logits = m->head_rows * m->ldv * (int64_t)sizeof(real);
    m->delta_bytes = m->training && m->grad_type == GRAD_BF16 ? 256ll << 20 : 0;
    int64_t want = (act > logits ? act : logits) + m->delta_bytes;
    for (int64_t heads = c->num_kv_heads; m->training && heads >= 1; heads--) {
        int64_t bytes = attention_scratch_bytes(m->B, m->T, c->num_heads, c->num_kv_heads, c->head_dim, heads);
        if (heads > 1 && bytes > (r & RECOMPUTE_BLOCK ? want : 9ll << 28)) continue;   // 2.25 GiB holds one causal row of 8,192 tokens and 32 heads
        want = bytes > want ? bytes : want;
        break;
    }
    m->scratch_bytes = want;
    PLACE(m->scratch, want);
    for (int64_t l = 0; l < L; l++)
        if (!m->training || r & (RECOMPUTE_BLOCK | RECOMPUTE_FFN | RECOMPUTE_SWIGLU)) m->layers[l].act = (real *)m->scratch;
    #undef PLACE_PIECE
    #undef PLACE
    return used;
}

// ---------------------------------------------------------------------------------------------------------------------
// options and memory

static bool parse_moments(const char *s, MomentType *type) {
    if (!s || strcmp(s, "fp32") == 0) *type = MOMENT_FP32;
    else if (strcmp(s, "bf16") == 0) *type = MOMENT_BF16;
    else if (strcmp(s, "8bit") == 0) *type = MOMENT_8BIT;
    else return false;
    return true;
}
// "auto": -1
static bool parse_recompute(const char *s, int *bits) {
    static const struct { const char *name; int bit; } names[] = {{"swiglu", RECOMPUTE_SWIGLU}, {"norm", RECOMPUTE_NORM}, {"ffn", RECOMPUTE_FFN | RECOMPUTE_SWIGLU}, {"qkv", RECOMPUTE_QKV}};
    *bits = !s || strcmp(s, "auto") == 0 ? -1 : strcmp(s, "block") == 0 ? RECOMPUTE_BLOCK : 0;
    if (*bits != 0 || strcmp(s, "none") == 0) return true;
    for (const char *p = s; *p;) {
        size_t length = strcspn(p, ",");
        int bit = 0;
        for (int i = 0; i < 4; i++) if (strlen(names[i].name) == length && strncmp(p, names[i].name, length) == 0) bit = names[i].bit;
        if (!bit) return false;
        *bits |= bit;
        p += length;
        if (*p == ',' && *++p == 0) return false;
    }
    return true;
}
static const char *recompute_text(int bits, char *text) {   // text: 32 characters
    if (bits == 0 || bits & RECOMPUTE_BLOCK) return bits ? "block" : "none";
    snprintf(text, 32, "%s%s%s%s", bits & RECOMPUTE_FFN ? ",ffn" : bits & RECOMPUTE_SWIGLU ? ",swiglu" : "", bits & RECOMPUTE_NORM ? ",norm" : "", bits & RECOMPUTE_QKV ? ",qkv" : "", "");
    return text + 1;
}

bool model_check(const Config *c, const ModelOptions *o, Error *e) {
    MomentType moments;
    int bits;
    if (!parse_moments(o->moments, &moments)) return fail(e, "--moments is \"%s\", expected fp32, bf16 or 8bit", o->moments);
    if (o->gradients && strcmp(o->gradients, "fp32") != 0 && strcmp(o->gradients, "bf16") != 0) return fail(e, "--gradients is \"%s\", expected fp32 or bf16", o->gradients);
    if (!parse_recompute(o->recompute, &bits)) return fail(e, "--recompute is \"%s\", expected none, auto, block, or some of swiglu,norm,ffn,qkv", o->recompute);
    if (o->links && strcmp(o->links, "auto") != 0 && strcmp(o->links, "nccl") != 0 && strcmp(o->links, "copies") != 0) return fail(e, "--links is \"%s\", expected auto, nccl or copies", o->links);
    if (o->comm && o->comm->size > 1 && o->zero >= 2 && o->gradients && strcmp(o->gradients, "bf16") == 0)
        return fail(e, "--gradients bf16 and --zero %d do not go together: from stage 2 on a rank sums only what it owns, in fp32 ---> leave --gradients out", (int)o->zero);
    if (o->lora.rank && (!o->lora.targets || o->lora.targets >> LORA_TARGETS || !(o->lora.alpha > 0))) return fail(e, "LoRA needs a target and an alpha above 0");
    if (o->lora.rank % 8) return fail(e, "LoRA's rank is %" PRId64 ", must be a multiple of 8 on the GPU ---> the CPU twin takes any", o->lora.rank);
    if (o->lora.rank && o->gradients && strcmp(o->gradients, "bf16") == 0) return fail(e, "--gradients bf16 and LoRA do not go together: an adapter's gradients are few, and summed in fp32 ---> leave --gradients out");
    if (c->num_layers + 2 > MAX_EVENTS) return fail(e, "config.json: num_hidden_layers is %" PRId64 ", at most %d are possible on the GPU", c->num_layers, MAX_EVENTS - 2);
    if (c->hidden_size % 8 || c->intermediate_size % 8 || c->head_dim % 8 || c->head_dim > 256)
        return fail(e, "config.json: hidden_size %" PRId64 ", intermediate_size %" PRId64 " and head_dim %" PRId64 " must be multiples of 8, and head_dim at most 256, on the GPU ---> the CPU twin takes any",
                    c->hidden_size, c->intermediate_size, c->head_dim);
    return true;
}

static void define_model(Model *m, const Config *config, int64_t B, int64_t T, bool training, const ModelOptions *o) {
    memset(m, 0, sizeof *m);
    m->config = *config;
    m->B = B; m->T = T; m->training = training;
    m->alone.size = m->alone.stride = 1;
    m->comm = o && o->comm && o->comm->size > 1 ? o->comm : &m->alone;
    m->shard = !training ? &m->alone : o && o->shard ? o->shard : m->comm;   // what is not trained is whole on every rank
    m->replicas = !training ? m->comm : o && o->replicas ? o->replicas : &m->alone;
    m->zero = !training || m->comm->size == 1 ? 0 : o->zero && m->shard->size > 1 ? (int)o->zero : 1;
    m->place_layer[0] = m->place_layer[1] = -1;
    if (o) CHECK(parse_moments(o->moments, &m->moment_type) && parse_recompute(o->recompute, &m->recompute));
    else m->recompute = -1;
    m->grad_type = o && o->gradients && strcmp(o->gradients, "bf16") == 0 ? GRAD_BF16 : GRAD_FP32;
    if (o) m->lora = o->lora;
    m->layers = (Layer *)xcalloc(config->num_layers, sizeof(Layer));
    m->batch_upload.count = 4 * B * T + 1 + attention_plan_ints(B, T);
    m->head_upload.count = 3 * (B * T + 256);
    define_tensors(m);
}

static int64_t parameter_bytes(const Model *m, int64_t *weights, int64_t *gradients, int64_t *moments) {
    *weights = arena_numbers(m, false) * (int64_t)sizeof(real) + (m->zero >= 3 ? (m->num_owned + m->num_owned_frozen) * (int64_t)sizeof(real) : 0) +
               (m->training && sizeof(real) == 2 ? m->num_owned * (int64_t)sizeof(int16_t) : 0);
    *gradients = m->training ? arena_numbers(m, true) * (m->grad_type == GRAD_BF16 ? 2 : 4) + (m->zero >= 2 ? m->num_owned * 4 : 0) : 0;
    *moments = m->training ? 2 * moment_bytes(m->moment_type, m->num_owned) : 0;
    return *weights + *gradients + *moments;
}

// Sets m->recompute when it is to be found: the cheapest set, in falling memory and rising time, that fits what is free.
// Per layer and token, in bytes of Llama-3-8B's 139 K: swiglu saves 29 K and costs a write of as much; norm 16 K, two reads and writes of 8 K;
// ffn another 57 K for a fifth of the forward pass; block all but 8 K for the whole of it.
static void choose_recompute(Model *m) {
    static const int sets[] = {0, RECOMPUTE_SWIGLU, RECOMPUTE_SWIGLU | RECOMPUTE_NORM, RECOMPUTE_SWIGLU | RECOMPUTE_NORM | RECOMPUTE_QKV,
                               RECOMPUTE_SWIGLU | RECOMPUTE_NORM | RECOMPUTE_FFN, RECOMPUTE_SWIGLU | RECOMPUTE_NORM | RECOMPUTE_FFN | RECOMPUTE_QKV, RECOMPUTE_BLOCK};
    if (m->recompute >= 0) return;
    size_t available = 0, total;
    int64_t w, g, mo;
    if (!m->training || cudaMemGetInfo(&available, &total) != cudaSuccess) { cudaGetLastError(); m->recompute = 0; return; }   // no GPU (a dry run): as if all fits
    int64_t reserve = 768ll << 20;   // the library's workspace, kernels, what other allocations round up to
    for (int i = 0; i < (int)(sizeof sets / sizeof *sets); i++) {
        m->recompute = sets[i];
        if (parameter_bytes(m, &w, &g, &mo) + place_activations(m, NULL) + reserve <= (int64_t)available) return;
    }
}

int64_t model_memory_bytes(const Config *config, int64_t B, int64_t T, bool training, const ModelOptions *options, char *plan) {
    static const char *const moment_names[] = {"fp32", "bf16", "8bit"};
    Model m;
    define_model(&m, config, B, T, training, options);
    choose_recompute(&m);
    int64_t w, g, mo, activations = place_activations(&m, NULL), all = parameter_bytes(&m, &w, &g, &mo) + activations + (64 << 20);
    double GiB = 1073741824.0;
    char text[32] = "", trained[64] = "";
    if (m.lora.rank) snprintf(trained, sizeof trained, " (trained %.1f MiB)", (double)(m.num_trained * (int64_t)sizeof(real)) / 1048576.0);
    if (plan)
        snprintf(plan, MODEL_PLAN_SIZE, "%s weights%s %.2f GiB%s, %s gradients %.2f GiB, %s moments %.2f GiB, activations of %" PRId64 " x %" PRId64 " tokens %.2f GiB (scratch %.2f GiB of it, "
                 "%" PRId64 " rows of logits at a time), recomputed: %s%s", REAL_NAME, training && sizeof(real) == 2 ? " with remainders" : "", (double)w / GiB, trained, m.grad_type == GRAD_BF16 ? "bf16" : "fp32",
                 (double)g / GiB, moment_names[m.moment_type], (double)mo / GiB, B, T, (double)activations / GiB, (double)m.scratch_bytes / GiB, m.head_rows, recompute_text(m.recompute, text),
                 m.zero == 0 ? "" : m.zero == 1 ? "; ZeRO-1" : m.zero == 2 ? "; ZeRO-2" : "; ZeRO-3");
    free(m.layers);
    return all;
}

static void upload_create(Upload *u) {
    for (int i = 0; i < UPLOADS; i++) {
        CUDA_CHECK(cudaMallocHost((void **)&u->host[i], (size_t)u->count * sizeof(int32_t)));
        CUDA_CHECK(cudaEventCreateWithFlags(&u->copied[i], cudaEventDisableTiming));
    }
}
static void upload_free(Upload *u) {
    for (int i = 0; i < UPLOADS; i++) {
        if (u->host[i]) cudaFreeHost(u->host[i]);
        if (u->copied[i]) cudaEventDestroy(u->copied[i]);
    }
}
static void upload_reserve(Upload *u, int64_t count, cudaStream_t stream) {   // an upload with a device buffer of its own
    if (count <= u->count) return;
    CUDA_CHECK(cudaStreamSynchronize(stream));
    upload_free(u);
    if (u->device) CUDA_CHECK(cudaFree(u->device));
    memset(u, 0, sizeof *u);
    u->count = count + count / 2;
    CUDA_CHECK(cudaMalloc((void **)&u->device, (size_t)u->count * sizeof(int32_t)));
    upload_create(u);
}
static int32_t *upload_begin(Upload *u) {   // memory to fill; waits only for a copy that is UPLOADS batches old
    CUDA_CHECK(cudaEventSynchronize(u->copied[u->next]));
    return u->host[u->next];
}
static void upload_end(Upload *u, int64_t used, cudaStream_t stream) {
    CHECK(used <= u->count);
    CUDA_CHECK(cudaMemcpyAsync(u->device, u->host[u->next], (size_t)used * sizeof(int32_t), cudaMemcpyHostToDevice, stream));
    CUDA_CHECK(cudaEventRecord(u->copied[u->next], stream));
    u->next = (u->next + 1) % UPLOADS;
}

// Finds the fastest GEMM algorithms for the shapes of a full micro-batch, before the arenas take the memory. Only where it
// matters and can be measured: in training, in bf16.
static void tune_matmuls(Model *m, bool quiet) {
    const Config *c = &m->config;
    int64_t N = m->B * m->T, C = c->hidden_size, F = c->intermediate_size, V = c->vocab_size, A = c->num_heads * c->head_dim, W = A + 2 * c->num_kv_heads * c->head_dim;
    if (!m->training || sizeof(real) == 4 || N * C < 1 << 20) return;
    if (!quiet && m->comm->rank == 0) fprintf(stderr, "timing the library's kernels for this model's matrix products: up to half a minute for a large one\n");
    place_activations(m, NULL);   // says how many rows of logits there are at a time
    const struct { const char *name; int64_t N, K, O, ldy; bool residual, bias; } layers[] = {   // first LoRA's sites, in their order
        {"qkv", N, C, W, W, false, c->qkv_bias}, {"attention out", N, A, C, C, true, false}, {"gate, up", N, C, 2 * F, 2 * F, false, false},
        {"down", N, F, C, C, true, false}, {"LM head", m->head_rows, C, V, m->ldv, false, false}};
    int64_t inputs = 0, outputs = 0;
    for (int i = 0; i < 5; i++) {
        int64_t big = layers[i].O * layers[i].K, x = layers[i].N * layers[i].K, y = layers[i].N * layers[i].ldy;
        inputs = big > inputs ? big : inputs; inputs = x > inputs ? x : inputs; inputs = y > inputs ? y : inputs;
        outputs = big * 4 > outputs ? big * 4 : outputs; outputs = y * 2 > outputs ? y * 2 : outputs; outputs = x * 2 > outputs ? x * 2 : outputs;
    }
    size_t available = 0, total;
    CUDA_CHECK(cudaMemGetInfo(&available, &total));
    if ((int64_t)available < 2 * outputs + 4 * inputs + (1 << 30)) return;
    real *a, *b;
    char *d, *d2;
    int *differs;
    CUDA_CHECK(cudaMalloc((void **)&a, (size_t)inputs * sizeof(real)));
    CUDA_CHECK(cudaMalloc((void **)&b, (size_t)inputs * sizeof(real)));
    CUDA_CHECK(cudaMalloc((void **)&d, (size_t)outputs));
    CUDA_CHECK(cudaMalloc((void **)&d2, (size_t)outputs));
    CUDA_CHECK(cudaMalloc((void **)&differs, sizeof(int)));
    gemm_fill_kernel<<<1024, 256, 0, m->stream>>>(a, inputs, 1);
    gemm_fill_kernel<<<1024, 256, 0, m->stream>>>(b, inputs, 2);
    for (int i = 0; i < 5; i++) {
        char name[64];
        bool adapted = i < LORA_SITES && lora_site_rank(&m->lora, i) > 0;   // then adapters have put their part where the product goes
        GemmShape s = shape_forward(layers[i].N, layers[i].K, layers[i].O, layers[i].ldy, layers[i].residual || adapted, layers[i].bias);
        snprintf(name, sizeof name, "%s forward", layers[i].name);
        gemm_tune(&m->gemm, &s, a, b, b, d, d2, differs, name, m->notes, sizeof m->notes, m->stream);
        s = shape_dinput(layers[i].N, layers[i].K, layers[i].O, layers[i].ldy, adapted);
        snprintf(name, sizeof name, "%s dinput", layers[i].name);
        gemm_tune(&m->gemm, &s, a, b, b, d, d2, differs, name, m->notes, sizeof m->notes, m->stream);
        for (int add = 0; add < 2 && m->grad_type == GRAD_FP32 && !m->lora.rank; add++) {
            s = shape_dweight(layers[i].N, layers[i].K, layers[i].O, layers[i].ldy, add);
            snprintf(name, sizeof name, "%s dweight%s", layers[i].name, add ? " +=" : "");
            gemm_tune(&m->gemm, &s, a, b, b, d, d2, differs, name, m->notes, sizeof m->notes, m->stream);
        }
        if (!adapted) continue;
        const int64_t R = m->lora.rank, nR = lora_site_rank(&m->lora, i), ldy = layers[i].ldy;
        const float scale = (float)lora_scale(&m->lora);
        auto tune_adapter = [&](const char *what, const GemmShape &shape) {
            snprintf(name, sizeof name, "%.10s %s", layers[i].name, what);
            gemm_tune(&m->gemm, &shape, a, b, b, d, d2, differs, name, m->notes, sizeof m->notes, m->stream);
        };
        if (!thin_possible(nR)) {
            tune_adapter("xa", lora_shape_xa(N, layers[i].K, nR, scale));
            tune_adapter("LoRA dx", lora_shape_dx(N, layers[i].K, nR));
            for (int add = 0; add < 2; add++) tune_adapter(add ? "dA +=" : "dA", lora_shape_da(N, layers[i].K, nR, add));
        }
        for (int k = lora_sites[i].first; k < lora_sites[i].first + lora_sites[i].n; k++) {
            const int64_t O = m->tensors[tensor_index(m, lora_targets[k])].rows;
            if (!(m->lora.targets >> k & 1) || thin_possible(R)) continue;
            tune_adapter("LoRA y", lora_shape_y(N, R, nR, O, ldy, layers[i].residual));
            tune_adapter("dxa", lora_shape_dxa(N, R, nR, O, ldy, scale));
            for (int add = 0; add < 2; add++) tune_adapter(add ? "dB +=" : "dB", lora_shape_db(N, R, nR, O, ldy, add));
        }
    }
    CUDA_CHECK(cudaFree(a)); CUDA_CHECK(cudaFree(b)); CUDA_CHECK(cudaFree(d)); CUDA_CHECK(cudaFree(d2)); CUDA_CHECK(cudaFree(differs));
}

// one rank, one GPU
void model_use_device(int local_rank) {
    int devices = 0;
    CUDA_CHECK(cudaGetDeviceCount(&devices));
    if (devices > 1 && local_rank >= devices) die("this process is number %d on its host, which has %d GPUs ---> start as many processes on a host as it has GPUs", local_rank, devices);
    CUDA_CHECK(cudaSetDevice(devices > 1 ? local_rank : 0));   // one: the launcher has given each process its own
}
Model *model_create(const Config *config, int64_t B, int64_t T, bool training, const ModelOptions *options) {
    Model *m = (Model *)xmalloc(sizeof(Model));
    if (options && options->comm && options->comm->size > 1) model_use_device(options->comm->local_rank);
    CUDA_CHECK(cudaFree(0));   // the first call into CUDA, which says so when there is no GPU
    define_model(m, config, B, T, training, options);
    links_create(&m->links, training ? m->comm : &m->alone, m->shard, m->replicas, options ? options->links : NULL, m->notes, sizeof m->notes);   // what is not trained exchanges nothing
    CUDA_CHECK(cudaGetDevice(&m->device));
    CUDA_CHECK(cudaStreamCreateWithFlags(&m->stream, cudaStreamNonBlocking));
    CUDA_CHECK(cudaStreamCreateWithFlags(&m->copy_stream, cudaStreamNonBlocking));
    CUDA_CHECK(cudaEventCreateWithFlags(&m->copied, cudaEventDisableTiming));
    gemm_create(&m->gemm);
    tune_matmuls(m, options && options->quiet);
    choose_recompute(m);
    int64_t weights, gradients, moments, activations = place_activations(m, NULL);
    parameter_bytes(m, &weights, &gradients, &moments);
    const size_t params_bytes = (size_t)arena_numbers(m, false) * sizeof(real), owned = (size_t)m->num_owned, owned_all = owned + (size_t)m->num_owned_frozen;
    if (m->zero >= 2) gradients -= m->num_owned * 4;
    CUDA_CHECK(cudaMalloc((void **)&m->params, params_bytes));
    CUDA_CHECK(cudaMemsetAsync(m->params, 0, params_bytes, m->stream));
    if (training && sizeof(real) == 2) {
        CUDA_CHECK(cudaMalloc((void **)&m->remainder, owned * sizeof(int16_t)));
        CUDA_CHECK(cudaMemsetAsync(m->remainder, 0, owned * sizeof(int16_t), m->stream));
    }
    if (m->zero >= 2) {
        CUDA_CHECK(cudaMalloc((void **)&m->shard_sums, owned * sizeof(float)));
        CUDA_CHECK(cudaMemsetAsync(m->shard_sums, 0, owned * sizeof(float), m->stream));   // the gaps between tensors stay zero
    }
    if (m->zero >= 3) {
        CUDA_CHECK(cudaMalloc((void **)&m->shard_params, owned_all * sizeof(real)));
        CUDA_CHECK(cudaMemsetAsync(m->shard_params, 0, owned_all * sizeof(real), m->stream));
    }
    if (m->zero >= 1) {
        CUDA_CHECK(cudaMalloc((void **)&m->rank_totals, (size_t)m->comm->size * 2 * sizeof(double)));
        CUDA_CHECK(cudaEventCreateWithFlags(&m->ready, cudaEventDisableTiming));
        CUDA_CHECK(cudaEventCreateWithFlags(&m->layers_reduced, cudaEventDisableTiming));
        for (int i = 0; i < 2; i++) {
            CUDA_CHECK(cudaEventCreateWithFlags(&m->taken[i], cudaEventDisableTiming));
            CUDA_CHECK(cudaEventCreateWithFlags(&m->reduced[i], cudaEventDisableTiming));
        }
        for (int i = 0; i < config->num_layers + 2; i++) CUDA_CHECK(cudaEventCreateWithFlags(&m->arrived[i], cudaEventDisableTiming));
    }
    if (training) {
        CUDA_CHECK(cudaMalloc(&m->grads, (size_t)gradients));
        CUDA_CHECK(cudaMalloc(&m->moment1, (size_t)moments / 2));
        CUDA_CHECK(cudaMalloc(&m->moment2, (size_t)moments / 2));
        CUDA_CHECK(cudaMemsetAsync(m->grads, 0, (size_t)gradients, m->stream));   // the gaps between tensors stay zero
    }
    if (m->zero >= 1) {
        const bool rows = !config->tied_embeddings && !m->tensors[0].frozen;
        if (rows) CUDA_CHECK(cudaMalloc((void **)&m->touched, (size_t)config->vocab_size));
        void *const arrays[] = {m->grads, m->params, m->touched};
        const int64_t bytes[] = {gradients, (int64_t)params_bytes, config->vocab_size};
        links_open(&m->links, arrays, bytes, rows ? 3 : 2, m->notes, sizeof m->notes);
    }
    CUDA_CHECK(cudaMalloc((void **)&m->arena, (size_t)activations));
    CUDA_CHECK(cudaMemsetAsync(m->arena, 0, (size_t)activations, m->stream));
    place_activations(m, m->arena);
    upload_create(&m->batch_upload);
    upload_create(&m->head_upload);
    CUDA_CHECK(cudaMallocHost((void **)&m->results, MODEL_UPDATES_AHEAD * sizeof(StepState)));
    for (int i = 0; i < MODEL_UPDATES_AHEAD; i++) { CUDA_CHECK(cudaEventCreate(&m->began[i])); CUDA_CHECK(cudaEventCreate(&m->updated[i])); }
    int64_t half = config->head_dim / 2;
    float *inv_freq = (float *)xcalloc(half, sizeof(float)), *table = (float *)xcalloc(T * half * 2, sizeof(float));
    config_rope_inv_freq(config, inv_freq);
    for (int64_t t = 0; t < T; t++) {
        for (int64_t j = 0; j < half; j++) {
            float angle = (float)t * inv_freq[j];
            table[(t * half + j) * 2] = cosf(angle);
            table[(t * half + j) * 2 + 1] = sinf(angle);
        }
    }
    CUDA_CHECK(cudaMemcpyAsync(m->rope_table, table, (size_t)(T * half * 2) * sizeof(float), cudaMemcpyHostToDevice, m->stream));
    CUDA_CHECK(cudaStreamSynchronize(m->stream));
    free(inv_freq); free(table);
    m->fresh = m->head_fresh = false;
    return m;
}

void model_free(Model *m) {
    if (!m) return;
    cudaStreamSynchronize(m->stream);
    links_free(&m->links);
    cudaFree(m->touched); cudaFree(m->shard_sums); cudaFree(m->shard_params); cudaFree(m->rank_totals);
    for (int i = 0; i < (m->zero ? m->config.num_layers + 2 : 0); i++) cudaEventDestroy(m->arrived[i]);
    for (int i = 0; i < (m->zero ? 2 : 0); i++) { cudaEventDestroy(m->taken[i]); cudaEventDestroy(m->reduced[i]); }
    if (m->zero) { cudaEventDestroy(m->ready); cudaEventDestroy(m->layers_reduced); }
    cudaFree(m->params); cudaFree(m->remainder); cudaFree(m->grads); cudaFree(m->moment1); cudaFree(m->moment2); cudaFree(m->arena);
    upload_free(&m->batch_upload); upload_free(&m->head_upload);
    cudaFreeHost(m->results);
    upload_free(&m->call_upload); upload_free(&m->sample_upload);
    cudaFree(m->call_upload.device); cudaFree(m->sample_upload.device); cudaFree(m->keys); cudaFree(m->values); cudaFree(m->decode_part); cudaFree(m->sampled);
    if (m->sampled_host) cudaFreeHost(m->sampled_host);
    for (int i = 0; i < m->num_graphs; i++) if (m->graphs[i].exec) cudaGraphExecDestroy(m->graphs[i].exec);
    for (int i = 0; i < MODEL_UPDATES_AHEAD; i++) { cudaEventDestroy(m->began[i]); cudaEventDestroy(m->updated[i]); }
    gemm_destroy(&m->gemm);
    cudaStreamDestroy(m->stream); cudaStreamDestroy(m->copy_stream); cudaEventDestroy(m->copied);
    free(m->layers);
    free(m);
}

const Config *model_config(const Model *m) { return &m->config; }
const Lora *model_lora(const Model *m) { return &m->lora; }
void model_adapter(Model *m, bool on) { m->adapter_off = !on && m->lora.rank; }
const char *model_notes(const Model *m) { return m->notes; }
int model_num_tensors(const Model *m) { return m->num_tensors; }
const Tensor *model_tensor(const Model *m, int i) { return &m->tensors[i]; }

static void links_finish(Model *m);
static void stream_waits(cudaStream_t waiting, cudaEvent_t event, cudaStream_t for_stream);
static size_t grad_size(const Model *m) { return m->grad_type == GRAD_BF16 ? 2 : 4; }
Comm *model_comm(const Model *m) { return m->comm; }
Comm *model_replicas(const Model *m) { return m->replicas; }
void model_owned(const Model *m, int i, int64_t *begin, int64_t *end) {
    *begin = shard_begin(m->shard, tensor_count(&m->tensors[i]));
    *end = shard_end(m->shard, tensor_count(&m->tensors[i]));
}
// What this rank owns of a tensor: the weights, the gradient, and where its remainders and moments lie in theirs
static int64_t owned_place(const Model *m, int i, int64_t layer) { return m->owned_offset[i] + layer * m->owned_stride[i]; }
static real *owned_params(const Model *m, int i, int64_t layer) {
    if (m->zero >= 3 && m->tensors[i].per_layer) return m->shard_params + owned_place(m, i, layer);
    return param_at(m, i, layer) + shard_begin(m->shard, tensor_count(&m->tensors[i]));
}
static char *owned_grads(const Model *m, int i, int64_t layer) {
    if (m->zero >= 2) return (char *)(m->shard_sums + owned_place(m, i, layer));
    return (char *)m->grads + (tensor_offset(m, i, layer, true) + shard_begin(m->shard, tensor_count(&m->tensors[i]))) * (int64_t)grad_size(m);
}

// What this rank owns of one tensor, between the host's fp32 and an arena, STAGING numbers at a time
static void owned_copy(Model *m, TensorKind kind, int i, int layer, float *out, const float *in) {
    CHECK(i >= 0 && i < m->num_tensors && layer >= 0 && layer < (m->tensors[i].per_layer ? m->config.num_layers : 1) && (kind == KIND_PARAM || (m->training && !m->tensors[i].frozen)));
    const Tensor *t = &m->tensors[i];
    int16_t *remainder = t->frozen ? NULL : m->remainder;
    int64_t begin, end, at = owned_place(m, i, layer);
    model_owned(m, i, &begin, &end);
    if (kind == KIND_GRAD && m->zero == 0 && (strcmp(t->name, head_name(m)) == 0 ? m->head_fresh : m->fresh && strcmp(t->name, "embed") != 0)) {   // zeroed, not yet written
        CHECK(out);
        memset(out, 0, (size_t)(end - begin) * sizeof(float));
        return;
    }
    links_finish(m);
    for (int64_t done = 0; done < end - begin; done += STAGING) {
        int64_t k = end - begin - done < STAGING ? end - begin - done : STAGING;
        if (in) CUDA_CHECK(cudaMemcpyAsync(m->staging, in + done, (size_t)k * sizeof(float), cudaMemcpyHostToDevice, m->stream));
        if (kind == KIND_PARAM && in) params_put(m->staging, owned_params(m, i, layer) - at, remainder, at + done, k, m->stream);
        else if (kind == KIND_PARAM) params_get(m->staging, owned_params(m, i, layer) - at, remainder, at + done, k, m->stream);
        else if (kind == KIND_GRAD) {
            CHECK(out);   // gradients are only ever read
            grads_get(m->staging, owned_grads(m, i, layer), m->grad_type, done, k, m->stream);
        } else if (in) moments_put(m->staging, kind == KIND_MOMENT1 ? m->moment1 : m->moment2, m->moment_type, kind == KIND_MOMENT2, m->num_owned, at + done, k, m->stream);
        else moments_get(m->staging, kind == KIND_MOMENT1 ? m->moment1 : m->moment2, m->moment_type, kind == KIND_MOMENT2, m->num_owned, at + done, k, m->stream);
        if (out) CUDA_CHECK(cudaMemcpyAsync(out + done, m->staging, (size_t)k * sizeof(float), cudaMemcpyDeviceToHost, m->stream));
        model_wait(m);   // the staging buffer is used again, and `in` may be pageable
    }
    if (in) m->place_layer[0] = m->place_layer[1] = -1;
}
void model_get_owned(const Model *m, TensorKind kind, int i, int layer, float *out) { owned_copy((Model *)m, kind, i, layer, out, NULL); }
void model_put_owned(Model *m, TensorKind kind, int i, int layer, const float *in) { owned_copy(m, kind, i, layer, NULL, in); }

// For a checkpoint, by another thread, while m->stream computes: a stream and a staging buffer of their own. What is in an arena as the file wants it goes
// straight to the host, the rest through `copy_staging`, made fp32 on the way.
bool model_copy_is_bf16(const Model *m, TensorKind kind) { return m->training && m->moment_type == MOMENT_BF16 && (kind == KIND_MOMENT1 || kind == KIND_MOMENT2); }
void model_copy_begin(Model *m) { stream_waits(m->copy_stream, m->copied, m->stream); }
void model_copy_owned(Model *m, TensorKind kind, int i, int layer, void *out) {
    CHECK(m->training && kind != KIND_GRAD && !m->tensors[i].frozen);
    int64_t begin, end, at = owned_place(m, i, layer);
    model_owned(m, i, &begin, &end);
    CUDA_CHECK(cudaSetDevice(m->device));   // of this thread
    void *moments = kind == KIND_MOMENT1 ? m->moment1 : m->moment2;
    const char *whole = kind == KIND_PARAM ? (m->remainder ? NULL : (const char *)owned_params(m, i, layer)) : m->moment_type == MOMENT_8BIT ? NULL : (const char *)moments + at * (m->moment_type == MOMENT_BF16 ? 2 : 4);
    if (whole) CUDA_CHECK(cudaMemcpyAsync(out, whole, (size_t)(end - begin) * (model_copy_is_bf16(m, kind) ? 2 : 4), cudaMemcpyDeviceToHost, m->copy_stream));
    for (int64_t done = 0; !whole && done < end - begin; done += STAGING) {
        int64_t k = end - begin - done < STAGING ? end - begin - done : STAGING;
        if (kind == KIND_PARAM) params_get(m->copy_staging, owned_params(m, i, layer) - at, m->remainder, at + done, k, m->copy_stream);
        else moments_get(m->copy_staging, moments, m->moment_type, kind == KIND_MOMENT2, m->num_owned, at + done, k, m->copy_stream);
        CUDA_CHECK(cudaMemcpyAsync((float *)out + done, m->copy_staging, (size_t)k * sizeof(float), cudaMemcpyDeviceToHost, m->copy_stream));
    }
    CUDA_CHECK(cudaStreamSynchronize(m->copy_stream));   // few pieces are in the queue at a time: a full one would hold up the thread that trains
}
void model_get(const Model *m, TensorKind kind, int i, int layer, float *out) {
    int64_t n = tensor_count(&m->tensors[i]);
    model_get_owned(m, kind, i, layer, out + shard_begin(m->shard, n));
    comm_gather_tensor_f32(m->shard, out, n);
}
void model_put(Model *m, TensorKind kind, int i, int layer, const float *in) {   // every rank is given all of it
    int64_t n = tensor_count(&m->tensors[i]);
    if (m->shard->size > 1 && kind == KIND_PARAM && !(m->zero >= 3 && m->tensors[i].per_layer))   // what others own: rounded
        for (int64_t done = 0; done < n; done += STAGING) {
            int64_t k = n - done < STAGING ? n - done : STAGING;
            CUDA_CHECK(cudaMemcpyAsync(m->staging, in + done, (size_t)k * sizeof(float), cudaMemcpyHostToDevice, m->stream));
            if (done == 0) links_finish(m);
            params_put(m->staging, param_at(m, i, layer), NULL, done, k, m->stream);
            CUDA_CHECK(cudaStreamSynchronize(m->stream));
        }
    model_put_owned(m, kind, i, layer, in + shard_begin(m->shard, n));
}

// ---------------------------------------------------------------------------------------------------------------------
// between the ranks. Two streams: m->stream computes, m->links.stream moves. Each waits for the other by events, never the host.
//
// Unit u: 0 the embedding, 1 ... L the layers, L + 1 the last norm and an LM head of its own. Gradients leave in falling order while the backward pass
// goes on, weights come in rising order while the next forward pass goes on; arrived[u] says that they are there, layers_reduced that all sums but those of the embedding and the first layer's rest are.
// Where layers take turns in two places (ZeRO-2's gradients, ZeRO-3's weights), a place is used again when reduced[place], taken[place] say so.

static int64_t layer_of(const Model *m, int64_t unit) { return unit >= 1 && unit <= m->config.num_layers ? unit - 1 : 0; }
static int64_t unit_of(const Model *m, int i, int64_t layer) { return m->tensors[i].per_layer ? layer + 1 : i == 0 ? 0 : m->config.num_layers + 1; }
static void stream_waits(cudaStream_t waiting, cudaEvent_t event, cudaStream_t for_stream) {
    CUDA_CHECK(cudaEventRecord(event, for_stream));
    CUDA_CHECK(cudaStreamWaitEvent(waiting, event, 0));
}
// what is on its way is waited for by everything that comes later on m->stream
static void links_finish(Model *m) { if (m->zero) stream_waits(m->stream, m->ready, m->links.stream); }

// Sums the gradients of a unit, which are complete on m->stream, over the ranks; a layer's in two parts, the feed-forward's while attention's are being made, so that
// little of the first layer's is left to wait for. Replicas sum what they own once a step, with the last micro-batch, under the rest of the backward pass.
enum { PART_FFN, PART_REST };
static bool in_part(const Model *m, int i, int64_t unit, int64_t layer, int part) {
    const char *name = m->tensors[i].name;
    const bool ffn = strcmp(name, "norm2") == 0 || strcmp(name, "gate") == 0 || strcmp(name, "up") == 0 || strcmp(name, "down") == 0;
    return unit_of(m, i, layer) == unit && ffn == (part == PART_FFN);
}
static void reduce_unit(Model *m, int64_t unit, int part, bool last) {
    if (m->zero == 0 || (m->zero == 1 && !last) || (part == PART_FFN && m->lora.rank)) return;
    const int64_t L = m->config.num_layers, layer = layer_of(m, unit);
    int64_t begin, end;
    stream_waits(m->links.stream, m->ready, m->stream);
    for (int i = m->first_trained; i < m->num_tensors; i++) {
        char *g = (char *)m->grads + tensor_offset(m, i, layer, true) * (int64_t)grad_size(m);
        if (in_part(m, i, unit, layer, part)) links_take(&m->links, g, g + shard_begin(m->shard, tensor_count(&m->tensors[i])) * (int64_t)grad_size(m), tensor_count(&m->tensors[i]));
    }
    links_reduce(&m->links, (int)grad_size(m), unit == 0 ? m->touched : NULL, m->config.hidden_size);
    for (int i = m->first_trained; i < m->num_tensors && m->zero >= 2; i++) {
        if (!in_part(m, i, unit, layer, part)) continue;
        model_owned(m, i, &begin, &end);
        accumulate_fp32((float *)owned_grads(m, i, layer), (const float *)m->grads + tensor_offset(m, i, layer, true) + begin, !m->sums_fresh, end - begin, m->links.stream);
    }
    if (m->zero >= 2 && unit >= 1 && unit <= L && part == PART_REST) CUDA_CHECK(cudaEventRecord(m->reduced[layer % m->turns], m->links.stream));   // the place is free; sums of replicas lie elsewhere
    if (!last) return;
    for (int i = m->first_trained; i < m->num_tensors; i++) {
        if (!in_part(m, i, unit, layer, part)) continue;
        model_owned(m, i, &begin, &end);
        links_take(&m->links, owned_grads(m, i, layer), NULL, end - begin);
    }
    links_sum(&m->links, (int)grad_size(m));
}
// before a layer's gradients are written: the layer that had the place has been summed
static void wait_for_place(Model *m, int64_t layer) { if (m->zero >= 2) CUDA_CHECK(cudaStreamWaitEvent(m->stream, m->reduced[layer % m->turns], 0)); }

// Sends a unit's weights, all of them or those from tensor `first` on, to all ranks of the shard group. The caller has made the moving stream wait for
// what they depend on.
static void gather_unit(Model *m, int64_t unit, int first) {
    const int64_t L = m->config.num_layers, layer = layer_of(m, unit);
    for (int i = first; i < m->num_tensors; i++)
        if (unit_of(m, i, layer) == unit)
            links_take(&m->links, param_at(m, i, layer), owned_params(m, i, layer), tensor_count(&m->tensors[i]));
    links_gather(&m->links, (int)sizeof(real));
    CUDA_CHECK(cudaEventRecord(m->arrived[unit], m->links.stream));
}
// ZeRO-3: a layer's weights on their way to its place, when they are not there
static void fetch_layer(Model *m, int64_t layer) {
    if (m->zero < 3 || layer < 0 || layer >= m->config.num_layers || m->place_layer[layer % m->turns] == layer) return;
    CUDA_CHECK(cudaStreamWaitEvent(m->links.stream, m->taken[layer % m->turns], 0));   // the layer before it there has been used
    gather_unit(m, layer + 1, 0);
    m->place_layer[layer % m->turns] = layer;
}
// m->stream may read the weights of a layer; `next` is the layer whose turn comes after it
static void need_layer(Model *m, int64_t layer, int64_t next) {
    if (m->zero == 0) return;
    fetch_layer(m, layer);
    CUDA_CHECK(cudaStreamWaitEvent(m->stream, m->arrived[layer + 1], 0));
    fetch_layer(m, next);
}
static void used_layer(Model *m, int64_t layer) { if (m->zero >= 3) CUDA_CHECK(cudaEventRecord(m->taken[layer % m->turns], m->stream)); }
static void need_ends(Model *m, int64_t unit) { if (m->zero) CUDA_CHECK(cudaStreamWaitEvent(m->stream, m->arrived[unit], 0)); }

// Every rank has new weights in what it owns of a unit, all of its tensors or those from `first` on: all get all of them. With ZeRO-3 those of layers only when their turn comes.
static void share_unit(Model *m, int64_t unit, int first) {
    if (m->zero == 0 || (m->zero >= 3 && unit > 0 && unit <= m->config.num_layers)) return;
    stream_waits(m->links.stream, m->ready, m->stream);
    gather_unit(m, unit, first);
}
void model_share(Model *m) {
    m->place_layer[0] = m->place_layer[1] = -1;
    for (int64_t unit = 0; unit <= m->config.num_layers + 1; unit++) share_unit(m, unit, 0);
}

// The numbers of train_findap.c's model_init_random, drawn on the host: the two twins start from the same weights
void model_init_random(Model *m, uint64_t seed) {
    int64_t most = 0;
    for (int i = 0; i < m->num_tensors; i++) most = tensor_count(&m->tensors[i]) > most ? tensor_count(&m->tensors[i]) : most;
    float *p = (float *)xmalloc(most * (int64_t)sizeof(float));
    for (int i = 0; i < m->num_tensors && !m->tensors[i].adapter; i++) {
        const Tensor *t = &m->tensors[i];
        bool norm = strncmp(t->name, "norm", 4) == 0;
        for (int64_t l = 0; l < (t->per_layer ? m->config.num_layers : 1); l++) {
            uint64_t stream = (uint64_t)(l * 16 + i);
            #pragma omp parallel for
            for (int64_t j = 0; j < tensor_count(t); j++)
                p[j] = norm ? 1.0f : t->rows == 0 ? 0.0f : (float)(m->config.initializer_range * random_normal(seed, stream, (uint64_t)j));
            model_put(m, KIND_PARAM, i, (int)l, p);
        }
    }
    free(p);
}

// ---------------------------------------------------------------------------------------------------------------------
// one step

static void clear_grad(Model *m, const char *name) {   // of a tensor outside the layers; a frozen one has none
    int i = tensor_index(m, name);
    if (m->tensors[i].frozen) return;
    if (i == 0 && m->touched) CUDA_CHECK(cudaMemsetAsync(m->touched, 0, (size_t)m->config.vocab_size, m->stream));
    CUDA_CHECK(cudaMemsetAsync((char *)m->grads + grad_offset(m, name, 0) * (int64_t)grad_size(m), 0, (size_t)tensor_count(&m->tensors[i]) * grad_size(m), m->stream));
}

void model_zero_grad(Model *m) {
    CUDA_CHECK(cudaEventRecord(m->began[m->updates_issued % MODEL_UPDATES_AHEAD], m->stream));
    m->fresh = m->head_fresh = m->sums_fresh = true;
    m->sums = (uint64_t)m->comm->rank << 54;   // every rank of the job, replicas too, rounds by its own noise, or the noise of the sum would grow with their number
    if (m->grad_type == GRAD_BF16) {   // what is summed stochastically is always added to
        CUDA_CHECK(cudaMemsetAsync(m->grads, 0, (size_t)m->num_trained * 2, m->stream));
        if (m->touched) CUDA_CHECK(cudaMemsetAsync(m->touched, 0, (size_t)m->config.vocab_size, m->stream));
        m->fresh = m->head_fresh = false;
    } else if (!m->config.tied_embeddings) clear_grad(m, "embed");   // only rows whose tokens occur are written
    CUDA_CHECK(cudaMemsetAsync(&m->state->loss, 0, sizeof m->state->loss, m->stream));
}
void model_zero_moments(Model *m) {
    CUDA_CHECK(cudaMemsetAsync(m->moment1, 0, (size_t)moment_bytes(m->moment_type, m->num_owned), m->stream));
    CUDA_CHECK(cudaMemsetAsync(m->moment2, 0, (size_t)moment_bytes(m->moment_type, m->num_owned), m->stream));
    CUDA_CHECK(cudaMemsetAsync(&m->state->t, 0, sizeof m->state->t, m->stream));
}

// the gradient of matrix `name` (O, K), unless it is frozen: fp32 sums by the GEMM itself; bf16 sums piece by piece through fp32 scratch, rounded stochastically
static void matmul_backward_weight_of(Model *m, const char *name, int64_t layer, const real *dy, const real *x, bool add, int64_t N, int64_t K, int64_t O, int64_t ldy) {
    if (m->tensors[tensor_index(m, name)].frozen) return;
    int64_t at = grad_offset(m, name, layer);
    if (m->grad_type == GRAD_FP32) { matmul_backward_weight(&m->gemm, (float *)m->grads + at, dy, x, add, N, K, O, ldy, m->stream); return; }
    float *delta = (float *)(m->scratch + m->scratch_bytes - m->delta_bytes);
    int64_t rows = m->delta_bytes / (K * 4) / 64 * 64;
    CHECK(rows > 0);
    for (int64_t o = 0; o < O; o += rows) {
        int64_t n = O - o < rows ? O - o : rows;
        matmul_backward_weight(&m->gemm, delta, dy + o, x, false, N, K, n, ldy, m->stream);
        accumulate_bf16((bf16 *)m->grads + at + o * K, delta, n * K, m->state, m->sums++, m->stream);
    }
}
// gradients of vectors (norms, biases), likewise; NULL: frozen
static float *vector_grad(Model *m, const char *name, int64_t layer) {
    return m->grad_type == GRAD_FP32 ? grad(m, name, layer) : (float *)(m->scratch + m->scratch_bytes - m->delta_bytes);
}
static void vector_grad_done(Model *m, const char *name, int64_t layer, int64_t n) {
    int64_t at = grad_offset(m, name, layer);
    if (m->grad_type == GRAD_BF16) accumulate_bf16((bf16 *)m->grads + at, vector_grad(m, name, layer), n, m->state, m->sums++, m->stream);
}

// The projections of site s of a layer that have an adapter: how many. a: the tensor of the first A, and with it of all of the site
static int adapters_at(const Model *m, int64_t l, int s, LoraSide *side, int *a) {
    if (m->lora.rank == 0) return 0;
    int n = 0;
    int64_t column = 0;   // the first projection begins at column 0 of y, the next behind it
    for (int k = lora_sites[s].first; k < lora_sites[s].first + lora_sites[s].n; k++) {
        const int64_t O = m->tensors[tensor_index(m, lora_targets[k])].rows;
        if (m->lora.targets >> k & 1) {
            const int b = m->adapters[k][1];
            side[n] = {param_at(m, b, l), m->training ? grad_at(m, b, l) : NULL, O, column};
            if (n++ == 0) *a = m->adapters[k][0];
        }
        column += O;
    }
    return n;
}
// zeros into the columns of y (N, ldy) that lie between the n targets of a site, and behind the last
static void clear_between(Model *m, real *y, int64_t ldy, const LoraSide *side, int n, int64_t N) {
    int64_t end = 0;
    for (int i = 0; i <= n; i++) {
        const int64_t begin = end, next = i < n ? side[i].column : ldy;
        if (next > begin) CUDA_CHECK(cudaMemset2DAsync(y + begin, (size_t)ldy * sizeof(real), 0, (size_t)(next - begin) * sizeof(real), (size_t)N, m->stream));
        if (i < n) end = side[i].column + side[i].O;
    }
}
// The adapters of site s of a layer, where x (N, K) is read and y (N, ldy) made: (s x A^T) B^T into the columns of each target, zeros into those of projections
// that have none, before the frozen matrices' product, which is to add what is returned: y then, and with no adapter here the residual. A residual, laid out
// like y, goes with the adapter's product; only sites of one projection have one.
static const real *adapters_forward(Model *m, int64_t l, int s, real *y, int64_t ldy, const real *x, const real *residual, int64_t N) {
    LoraSide side[3];
    int a = -1, n = adapters_at(m, l, s, side, &a);
    if (n == 0 || m->plain) return residual;
    clear_between(m, y, ldy, side, n, N);
    lora_a_forward(&m->gemm, m->layers[l].xa[s], x, param_at(m, a, l), (float)lora_scale(&m->lora), N, m->tensors[a].cols, n * m->lora.rank, m->stream);
    lora_b_forward(&m->gemm, y, ldy, m->layers[l].xa[s], side, n, residual, N, m->lora.rank, m->stream);
    return y;
}

// The same backwards, in two parts, since what an adapter at `down` has read may have to be made again in between. First dxa = s dy B and dB of each target and
// dx (N, K) = dxa A: true then, and the frozen matrices' product is to add to it. dx NULL: it is not asked for. add: gradients are +=.
static bool adapters_backward_input(Model *m, int64_t l, int s, real *dx, const real *dy, int64_t ldy, bool add, int64_t N) {
    LoraSide side[3];
    int a = -1, n = adapters_at(m, l, s, side, &a);
    if (n == 0) return false;
    lora_b_backward(&m->gemm, m->dxa, dy, ldy, m->layers[l].xa[s], side, n, (float)lora_scale(&m->lora), add, N, m->lora.rank, m->stream);
    if (dx) lora_a_backward_input(&m->gemm, dx, m->dxa, param_at(m, a, l), N, m->tensors[a].cols, n * m->lora.rank, m->stream);
    return true;
}
// then dA, from x and dxa
static void adapters_backward_weight(Model *m, int64_t l, int s, const real *x, bool add, int64_t N) {
    LoraSide side[3];
    int a = -1, n = adapters_at(m, l, s, side, &a);
    if (n) lora_a_backward_weight(&m->gemm, grad_at(m, a, l), m->dxa, x, add, N, m->tensors[a].cols, n * m->lora.rank, m->stream);
}
// Is nothing trained that lies below site s of layer l? Then its input needs no gradient.
static bool lowest(const Model *m, int64_t l, int s) {
    bool below = l > 0 || !m->lora.rank;
    for (int k = 0; k < s; k++) below = below || lora_site_rank(&m->lora, k) > 0;
    return !below;
}

// one layer: x (N, C) -> next (N, C). The first half ends with the residual stream after attention, the second is the feed-forward.
static void layer_forward_attention(Model *m, int64_t l, const Batch *b) {
    const Config *c = &m->config;
    int64_t N = b->B * b->T, C = c->hidden_size, NH = c->num_heads, NKV = c->num_kv_heads, HD = c->head_dim, A = NH * HD, W = A + 2 * NKV * HD;
    Layer *y = &m->layers[l];
    cudaStream_t s = m->stream;
    rmsnorm_forward(y->norm1, y->rstd1, y->x, param(m, "norm1", l), N, C, (float)c->rms_norm_eps, s);
    const real *added = adapters_forward(m, l, 0, y->qkv, W, y->norm1, NULL, N);
    matmul_forward(&m->gemm, y->qkv, y->norm1, param(m, "q", l), param(m, "q_bias", l), added, N, C, W, W, s);    // q, k, v in one
    rope_forward(y->qkv, m->rope_table, m->positions, N, NH, NKV, HD, s);
    attention_forward(y->att, y->lse, y->qkv, m->scratch, m->scratch_bytes, &m->plan, m->counters, NH, NKV, HD, s);
    added = adapters_forward(m, l, 1, y->x2, C, y->att, y->x, N);
    matmul_forward(&m->gemm, y->x2, y->att, param(m, "o", l), NULL, added, N, A, C, C, s);                         // x2 = x + ...
}
static void layer_forward(Model *m, int64_t l, real *next, const Batch *b) {
    const Config *c = &m->config;
    int64_t N = b->B * b->T, C = c->hidden_size, F = c->intermediate_size;
    Layer *y = &m->layers[l];
    cudaStream_t s = m->stream;
    need_layer(m, l, l + 1);
    layer_forward_attention(m, l, b);
    rmsnorm_forward(y->norm2, y->rstd2, y->x2, param(m, "norm2", l), N, C, (float)c->rms_norm_eps, s);
    const real *added = adapters_forward(m, l, 2, y->gate_up, 2 * F, y->norm2, NULL, N);
    matmul_forward(&m->gemm, y->gate_up, y->norm2, param(m, "gate", l), NULL, added, N, C, 2 * F, 2 * F, s);       // gate, up in one
    swiglu_forward(y->act, y->gate_up, N, F, s);
    added = adapters_forward(m, l, 3, next, C, y->act, y->x2, N);
    matmul_forward(&m->gemm, next, y->act, param(m, "down", l), NULL, added, N, F, C, C, s);                       // next = x2 + ...
    used_layer(m, l);
}

// the same backwards: m->dx (N, C) is the gradient of what leaves the layer, and becomes that of what enters it
static void layer_backward(Model *m, int64_t l, const Batch *b) {
    const Config *c = &m->config;
    int64_t N = b->B * b->T, C = c->hidden_size, F = c->intermediate_size, NH = c->num_heads, NKV = c->num_kv_heads, HD = c->head_dim;
    int64_t A = NH * HD, W = A + 2 * NKV * HD;
    Layer *y = &m->layers[l];
    cudaStream_t s = m->stream;
    Gemm *g = &m->gemm;
    int r = m->recompute;
    bool add = !m->fresh, add_vector = add && m->grad_type == GRAD_FP32, act_again = y->act == (real *)m->scratch, qkv_again = r & RECOMPUTE_QKV && !(r & RECOMPUTE_BLOCK);
    real *dact = (real *)m->scratch;
    need_layer(m, l, l - 1);
    wait_for_place(m, l);
    if (r & RECOMPUTE_BLOCK) layer_forward_attention(m, l, b);
    if (r & (RECOMPUTE_NORM | RECOMPUTE_BLOCK)) rmsnorm_forward(y->norm2, y->rstd2, y->x2, param(m, "norm2", l), N, C, (float)c->rms_norm_eps, s);
    if (r & (RECOMPUTE_FFN | RECOMPUTE_BLOCK)) matmul_forward(g, y->gate_up, y->norm2, param(m, "gate", l), NULL, adapters_forward(m, l, 2, y->gate_up, 2 * F, y->norm2, NULL, N), N, C, 2 * F, 2 * F, s);

    // the feed-forward. gate_up becomes its gradient; when act was not kept, it is made again in the place of its gradient
    matmul_backward_input(g, dact, m->dx, param(m, "down", l), adapters_backward_input(m, l, 3, dact, m->dx, C, add, N), N, F, C, C, s);
    swiglu_backward(y->gate_up, act_again ? dact : NULL, dact, y->gate_up, N, F, s);
    matmul_backward_weight_of(m, "down", l, m->dx, act_again ? dact : y->act, add, N, F, C, C);
    adapters_backward_weight(m, l, 3, act_again ? dact : y->act, add, N);
    if (lowest(m, l, 3)) goto done;
    matmul_backward_input(g, m->dnorm, y->gate_up, param(m, "gate", l), adapters_backward_input(m, l, 2, m->dnorm, y->gate_up, 2 * F, add, N), N, C, 2 * F, 2 * F, s);
    matmul_backward_weight_of(m, "gate", l, y->gate_up, y->norm2, add, N, C, 2 * F, 2 * F);
    adapters_backward_weight(m, l, 2, y->norm2, add, N);
    if (lowest(m, l, 2)) goto done;
    rmsnorm_backward(m->dx, vector_grad(m, "norm2", l), m->partial, m->dnorm, y->x2, y->rstd2, param(m, "norm2", l), add_vector, N, C, s);
    vector_grad_done(m, "norm2", l, C);
    reduce_unit(m, l + 1, PART_FFN, b->last);

    // attention
    if (r & (RECOMPUTE_NORM | RECOMPUTE_BLOCK)) rmsnorm_forward(y->norm1, y->rstd1, y->x, param(m, "norm1", l), N, C, (float)c->rms_norm_eps, s);
    if (qkv_again) {
        matmul_forward(g, y->qkv, y->norm1, param(m, "q", l), param(m, "q_bias", l), adapters_forward(m, l, 0, y->qkv, W, y->norm1, NULL, N), N, C, W, W, s);
        rope_forward(y->qkv, m->rope_table, m->positions, N, NH, NKV, HD, s);
    }
    matmul_backward_input(g, m->datt, m->dx, param(m, "o", l), adapters_backward_input(m, l, 1, m->datt, m->dx, C, add, N), N, A, C, C, s);
    matmul_backward_weight_of(m, "o", l, m->dx, y->att, add, N, A, C, C);
    adapters_backward_weight(m, l, 1, y->att, add, N);
    if (lowest(m, l, 1)) goto done;
    attention_backward(m->dqkv, m->dsum, m->datt, y->att, y->lse, y->qkv, m->scratch, m->scratch_bytes, &m->plan, NH, NKV, HD, s);
    rope_backward(m->dqkv, m->rope_table, m->positions, N, NH, NKV, HD, s);
    if (lowest(m, l, 0)) adapters_backward_input(m, l, 0, NULL, m->dqkv, W, add, N);
    else matmul_backward_input(g, m->dnorm, m->dqkv, param(m, "q", l), adapters_backward_input(m, l, 0, m->dnorm, m->dqkv, W, add, N), N, C, W, W, s);
    matmul_backward_weight_of(m, "q", l, m->dqkv, y->norm1, add, N, C, W, W);
    adapters_backward_weight(m, l, 0, y->norm1, add, N);
    if (lowest(m, l, 0)) goto done;
    if (c->qkv_bias && !m->lora.rank) {
        bias_backward(vector_grad(m, "q_bias", l), m->partial, m->dqkv, add_vector, N, W, s);
        vector_grad_done(m, "q_bias", l, W);
    }
    rmsnorm_backward(m->dx, vector_grad(m, "norm1", l), m->partial, m->dnorm, y->x, y->rstd1, param(m, "norm1", l), add_vector, N, C, s);
    vector_grad_done(m, "norm1", l, C);
done:
    used_layer(m, l);
    if (m->zero && l == 0) CUDA_CHECK(cudaEventRecord(m->layers_reduced, m->links.stream));
    reduce_unit(m, l + 1, PART_REST, b->last);
}

// the places of a batch sorted by token, and where each token's run begins: so that the embedding's gradient has one order
static int64_t sort_by_token(int32_t *order, int32_t *first, const int32_t *tokens, int64_t n) {
    uint64_t *keys = (uint64_t *)xmalloc(2 * n * (int64_t)sizeof(uint64_t)), *other = keys + n;
    for (int64_t i = 0; i < n; i++) keys[i] = (uint64_t)(uint32_t)tokens[i] << 32 | (uint32_t)i;
    for (int shift = 32; shift < 64; shift += 8) {   // a radix sort by the token's four bytes: stable, so places rise inside a run
        int64_t count[257] = {0};
        for (int64_t i = 0; i < n; i++) count[(keys[i] >> shift & 255) + 1]++;
        for (int k = 0; k < 256; k++) count[k + 1] += count[k];
        for (int64_t i = 0; i < n; i++) other[count[keys[i] >> shift & 255]++] = keys[i];
        uint64_t *swap = keys; keys = other; other = swap;
    }
    int64_t unique = 0;
    for (int64_t i = 0; i < n; i++) {
        order[i] = (int32_t)(uint32_t)keys[i];
        if (i == 0 || keys[i] >> 32 != keys[i - 1] >> 32) first[unique++] = (int32_t)i;
    }
    first[unique] = (int32_t)n;
    free(keys);   // four passes: back where they began
    return unique;
}

static void upload_batch(Model *m, const Batch *b) {
    int64_t N = b->B * b->T;
    int32_t *host = upload_begin(&m->batch_upload), *device = m->batch_upload.device;
    for (int64_t i = 0; i < N; i++) CHECK(b->tokens[i] >= 0 && b->tokens[i] < m->config.vocab_size && b->positions[i] >= 0 && b->positions[i] < m->T);
    memcpy(host, b->tokens, (size_t)N * sizeof(int32_t));
    memcpy(host + N, b->positions, (size_t)N * sizeof(int32_t));
    m->num_unique = m->training ? sort_by_token(host + 2 * N, host + 3 * N, b->tokens, N) : 0;
    m->plan = attention_plan_at(attention_plan(host + 4 * N + 1, b->positions, b->B, b->T), device + 4 * N + 1);
    m->tokens = device; m->positions = device + N; m->token_order = device + 2 * N; m->token_first = device + 3 * N;
    upload_end(&m->batch_upload, 4 * N + 1 + attention_plan_ints(b->B, b->T), m->stream);
}

void model_forward(Model *m, const Batch *b) {
    CHECK(b->B >= 1 && b->T >= 1 && b->T <= m->T && b->B * b->T <= m->B * m->T);
    const Config *c = &m->config;
    int64_t N = b->B * b->T, C = c->hidden_size, L = c->num_layers;
    comm_wait_begin(m->comm, "the forward pass", false);   // enqueuing takes milliseconds, unless the queue is full because a GPU waits for another rank's
    upload_batch(m, b);
    if (m->zero >= 2 && m->training) {   // every micro-batch's gradients begin anew: their sum is with their owners
        if (!m->sums_fresh) links_finish(m);   // of the step's first one the place is free since the update before
        m->fresh = m->head_fresh = true;
        if (!m->config.tied_embeddings) clear_grad(m, "embed");
    }
    m->plain = m->adapter_off;
    need_ends(m, 0);
    embedding_forward(m->layers[0].x, param(m, "embed", 0), m->tokens, N, C, m->stream);
    for (int64_t l = 0; l < L; l++) layer_forward(m, l, l + 1 < L ? m->layers[l + 1].x : m->x, b);
    need_ends(m, L + 1);
    rmsnorm_forward(m->hidden, m->rstd, m->x, param(m, "norm", 0), N, C, (float)c->rms_norm_eps, m->stream);
    if (m->training) CUDA_CHECK(cudaMemsetAsync(m->dhidden, 0, (size_t)(N * C) * sizeof(real), m->stream));
    comm_wait_end(m->comm);
}

// Rows that a product is computed of where N are wanted: few sizes, so that few algorithms have to be chosen
static int64_t generate_rows(int64_t N, int64_t room) {
    int64_t rows = N <= 64 ? 64 : N <= 128 ? 128 : ceil_div(N, 256) * 256;
    return rows < room ? rows : room;
}
// y (N, ldy) = scale x (N, ldx) w^T ...: any number of rows, the same bits for each: a few by matvec, more by the library's unsplit sums. room: rows that x and y have
static void generate_product(Model *m, real *y, int64_t ldy, const real *x, int64_t ldx, const real *w, const real *bias, const real *residual, float scale, int64_t N, int64_t room, int64_t K, int64_t O) {
    if (sizeof(real) == 4) matmul_plain(y, ldy, x, ldx, w, bias, residual, scale, N, K, O, m->stream);
    else if (matvec_possible(N)) {
        const Matvec v = {y, x, w, bias, residual, NULL, scale, 0, ldx, ldy, (int)N, (int)K, (int)O};
        matvec(&v, m->stream);
    }
    else gemm_run(&m->gemm, shape_generate(generate_rows(N, room), K, O, ldx, ldy, residual != NULL, bias != NULL, scale), w, x, residual, y, bias, m->stream);
}
static void generate_matmul(Model *m, real *y, const real *x, const real *w, const real *bias, const real *residual, int64_t N, int64_t room, int64_t K, int64_t O, int64_t ldy) {
    generate_product(m, y, ldy, x, K, w, bias, residual, 1.0f, N, room, K, O);
}
// Only places with a weighted target are looked at, head_rows at a time: gathered, multiplied with the LM head, turned into
// log-probabilities and, in place, gradients, multiplied back and scattered. The last piece is filled up to a multiple of 256
// with rows of coefficient 0, so that there are few GEMM shapes.
void model_head(Model *m, const Batch *b, const float *coef, float *logp) {
    CHECK(!coef || m->training);
    int64_t N = b->B * b->T, C = m->config.hidden_size, V = m->config.vocab_size, n = 0;
    cudaStream_t s = m->stream;
    const real *w = param(m, head_name(m), 0);
    real *logits = (real *)m->scratch;
    int64_t room = m->head_upload.count / 3;
    comm_wait_begin(m->comm, "the LM head", false);   // as in model_forward
    int32_t *place = upload_begin(&m->head_upload), *target = place + room, *device = m->head_upload.device;
    float *row_coef = (float *)(target + room);
    for (int64_t i = 0; i < N; i++) {
        if (b->weights[i] == 0.0f || b->targets[i] < 0) continue;
        CHECK(b->targets[i] < V);
        place[n] = (int32_t)i;
        target[n] = b->targets[i];
        row_coef[n++] = coef ? coef[i] : 0.0f;
    }
    int64_t padded = ceil_div(n, 256) * 256;
    for (int64_t i = n; i < padded; i++) { place[i] = 0; target[i] = 0; row_coef[i] = 0.0f; }
    upload_end(&m->head_upload, m->head_upload.count, s);
    CUDA_CHECK(cudaMemsetAsync(m->logp, 0, (size_t)N * sizeof(float), s));
    for (int64_t done = 0; done < padded; done += m->head_rows) {
        int64_t rows = padded - done < m->head_rows ? padded - done : m->head_rows, known = n - done < rows ? n - done : rows;
        const int32_t *row_place = device + done, *row_target = device + room + done;
        const float *c = (const float *)(device + 2 * room) + done;
        gather_rows(m->head_hidden, m->hidden, row_place, rows, C, s);
        if (m->training) matmul_forward(&m->gemm, logits, m->head_hidden, w, NULL, NULL, rows, C, V, m->ldv, s);
        else generate_matmul(m, logits, m->head_hidden, w, NULL, NULL, rows, m->head_rows, C, V, m->ldv);   // a score depends on no other row
        cross_entropy(m->row_logp, logits, m->ldv, row_target, coef ? c : NULL, rows, V, s);
        scatter_numbers(m->logp, m->row_logp, row_place, known, s);
        if (!coef) continue;
        loss_sum(&m->state->loss, c, m->row_logp, known, s);
        matmul_backward_weight_of(m, head_name(m), 0, logits, m->head_hidden, !m->head_fresh, rows, C, V, m->ldv);
        matmul_backward_input(&m->gemm, m->head_hidden, logits, w, false, rows, C, V, m->ldv, s);   // head_hidden is not needed any more
        m->head_fresh = false;
        scatter_rows(m->dhidden, m->head_hidden, row_place, known, C, s);
    }
    if (logp) CUDA_CHECK(cudaMemcpyAsync(logp, m->logp, (size_t)N * sizeof(float), cudaMemcpyDeviceToHost, s));
    comm_wait_end(m->comm);
}

void model_backward(Model *m, const Batch *b) {
    CHECK(m->training && !m->plain);
    int64_t N = b->B * b->T, C = m->config.hidden_size;
    comm_wait_begin(m->comm, "the backward pass", false);
    CUDA_CHECK(cudaMemsetAsync(m->dx, 0, (size_t)(N * C) * sizeof(real), m->stream));
    rmsnorm_backward(m->dx, vector_grad(m, "norm", 0), m->partial, m->dhidden, m->x, m->rstd, param(m, "norm", 0), !m->fresh && m->grad_type == GRAD_FP32, N, C, m->stream);
    vector_grad_done(m, "norm", 0, C);
    if (m->zero && !m->config.tied_embeddings && m->head_fresh) { clear_grad(m, head_name(m)); m->head_fresh = false; }   // no target here, perhaps elsewhere
    reduce_unit(m, m->config.num_layers + 1, PART_REST, b->last);
    for (int64_t l = m->config.num_layers - 1; l >= 0; l--) layer_backward(m, l, b);
    if (m->config.tied_embeddings && m->head_fresh) { clear_grad(m, "embed"); m->head_fresh = false; }   // no target anywhere: the head wrote nothing
    if (m->tensors[0].frozen) {}
    else if (m->grad_type == GRAD_FP32) embedding_backward(grad(m, "embed", 0), m->touched, m->dx, m->token_order, m->token_first, m->tokens, m->num_unique, C, m->stream);
    else embedding_backward_bf16((bf16 *)m->grads + grad_offset(m, "embed", 0), m->touched, m->dx, m->token_order, m->token_first, m->tokens, m->num_unique, m->state, m->sums++, C, m->stream);
    reduce_unit(m, 0, PART_REST, b->last);
    m->fresh = m->sums_fresh = false;
    comm_wait_end(m->comm);
}

void model_logits(Model *m, const int64_t *index, int64_t n, float *logits) {
    int64_t C = m->config.hidden_size, V = m->config.vocab_size, room = m->head_rows;
    real *host = (real *)xmalloc((n < room ? n : room) * m->ldv * (int64_t)sizeof(real));
    for (int64_t done = 0; done < n; done += room) {
        int64_t rows = n - done < room ? n - done : room;
        int32_t *place = upload_begin(&m->head_upload);
        CHECK(rows <= m->head_upload.count);
        for (int64_t i = 0; i < rows; i++) place[i] = (int32_t)index[done + i];
        upload_end(&m->head_upload, rows, m->stream);
        gather_rows(m->head_hidden, m->hidden, m->head_upload.device, rows, C, m->stream);
        matmul_forward(&m->gemm, (real *)m->scratch, m->head_hidden, param(m, head_name(m), 0), NULL, NULL, rows, C, V, m->ldv, m->stream);
        CUDA_CHECK(cudaMemcpyAsync(host, m->scratch, (size_t)(rows * m->ldv) * sizeof(real), cudaMemcpyDeviceToHost, m->stream));
        CUDA_CHECK(cudaStreamSynchronize(m->stream));
        for (int64_t i = 0; i < rows; i++)
            for (int64_t v = 0; v < V; v++) logits[(done + i) * V + v] = to_float(host[i * m->ldv + v]);
    }
    free(host);
}

// ---------------------------------------------------------------------------------------------------------------------
// generation

static int64_t pages_numbers(const Config *c, int64_t pages) { return pages * c->num_kv_heads * PAGE_TOKENS * c->head_dim; }   // keys of a layer
int64_t model_pages_bytes(const Config *c, int64_t pages) { return 2 * c->num_layers * pages_numbers(c, pages) * (int64_t)sizeof(real); }

// adapters_forward by such products
static const real *adapters_generate(Model *m, int64_t l, int s, real *y, int64_t ldy, const real *x, const real *residual, int64_t N) {
    LoraSide side[3];
    int a = -1, n = adapters_at(m, l, s, side, &a);
    if (n == 0 || m->plain) return residual;
    const int64_t R = m->lora.rank, room = m->B * m->T;
    clear_between(m, y, ldy, side, n, N);
    generate_product(m, m->layers[l].xa[s], n * R, x, m->tensors[a].cols, param_at(m, a, l), NULL, NULL, (float)lora_scale(&m->lora), N, room, m->tensors[a].cols, n * R);
    for (int i = 0; i < n; i++) generate_product(m, y + side[i].column, ldy, m->layers[l].xa[s] + i * R, n * R, side[i].b, NULL, residual, 1.0f, N, room, R, side[i].O);
    return y;
}

// The library's algorithms for the sizes that decoding has and for full calls; what lies between takes its first choice. Before pages take the memory.
static void tune_generation(Model *m) {
    const Config *c = &m->config;
    const int64_t room = m->B * m->T, C = c->hidden_size, F = c->intermediate_size, A = c->num_heads * c->head_dim, W = A + 2 * c->num_kv_heads * c->head_dim;
    if (sizeof(real) == 4 || C * F < 1 << 20) return;
    const struct { const char *name; int64_t K, O, ldy; bool residual, bias; } products[] = {
        {"qkv", C, W, W, false, c->qkv_bias}, {"attention out", A, C, C, true, false}, {"gate, up", C, 2 * F, 2 * F, false, false}, {"down", F, C, C, true, false}, {"LM head", C, c->vocab_size, m->ldv, false, false}};
    real *a, *b;
    char *d, *d2;
    int *differs;
    int64_t inputs = 0, outputs = 0;
    for (const auto &p : products) {
        const int64_t rows = p.O == c->vocab_size ? 256 : room;
        for (int64_t x : {p.K * p.O, rows * p.K, rows * p.ldy}) inputs = x > inputs ? x : inputs;   // w, x, and what is added
        outputs = rows * p.ldy > outputs ? rows * p.ldy : outputs;
    }
    size_t available = 0, total;
    CUDA_CHECK(cudaMemGetInfo(&available, &total));
    if ((int64_t)available < 2 * (2 * inputs + 2 * outputs)) return;
    CUDA_CHECK(cudaMalloc((void **)&a, (size_t)inputs * sizeof(real)));
    CUDA_CHECK(cudaMalloc((void **)&b, (size_t)inputs * sizeof(real)));
    CUDA_CHECK(cudaMalloc((void **)&d, (size_t)outputs * sizeof(real)));
    CUDA_CHECK(cudaMalloc((void **)&d2, (size_t)outputs * sizeof(real)));
    CUDA_CHECK(cudaMalloc((void **)&differs, sizeof(int)));
    gemm_fill_kernel<<<1024, 256, 0, m->stream>>>(a, inputs, 1);
    gemm_fill_kernel<<<1024, 256, 0, m->stream>>>(b, inputs, 2);
    m->gemm.tune_weights = inputs;
    for (int64_t rows : {(int64_t)64, (int64_t)128, (int64_t)256, room - room % 256})   // and a call that is full of prompts
        for (const auto &p : products) {
            if (rows == 0 || generate_rows(rows, p.O == c->vocab_size ? m->head_rows : room) != rows || (rows > 256 && p.O == c->vocab_size)) continue;
            char name[64];
            snprintf(name, sizeof name, "%s, %d rows", p.name, (int)rows);
            GemmShape s = shape_generate(rows, p.K, p.O, p.K, p.ldy, p.residual, p.bias, 1.0f);
            gemm_tune(&m->gemm, &s, a, b, b, d, d2, differs, name, m->notes, sizeof m->notes, m->stream);
        }
    m->gemm.tune_weights = 0;
    CUDA_CHECK(cudaFree(a)); CUDA_CHECK(cudaFree(b)); CUDA_CHECK(cudaFree(d)); CUDA_CHECK(cudaFree(d2)); CUDA_CHECK(cudaFree(differs));
}

void model_pages(Model *m, int64_t pages) {
    CHECK(!m->training && !m->keys);
    const Config *c = &m->config;
    const int64_t bytes = model_pages_bytes(c, pages) / 2, room = m->B * m->T, most = 64 << 20;   // most: 256 MiB of parts of attention at a time
    tune_generation(m);
    m->num_pages = pages;
    m->decode_part_count = decode_scratch(room, c->num_heads, c->head_dim, m->T);
    const int64_t tile = decode_scratch(decode_tile_tokens(c->num_heads, c->num_kv_heads), c->num_heads, c->head_dim, m->T);
    if (m->decode_part_count > most) m->decode_part_count = most > tile ? most : tile;
    if (!decode_possible(c->num_heads, c->num_kv_heads, c->head_dim) && m->T * 4 > attention_pages_plain_bytes())
        die("generation of %lld tokens: with head_dim %lld and %lld query heads to a key/value head at most %d are possible on this GPU ---> shorten prompts or answers, or use the CPU twin", (long long)m->T,
            (long long)c->head_dim, (long long)(c->num_heads / c->num_kv_heads), attention_pages_plain_bytes() / 4);
    CUDA_CHECK(cudaMalloc((void **)&m->keys, (size_t)bytes));
    CUDA_CHECK(cudaMalloc((void **)&m->values, (size_t)bytes));
    CUDA_CHECK(cudaMemsetAsync(m->keys, 0, (size_t)bytes, m->stream));
    CUDA_CHECK(cudaMemsetAsync(m->values, 0, (size_t)bytes, m->stream));
    if (m->decode_part_count) CUDA_CHECK(cudaMalloc((void **)&m->decode_part, (size_t)m->decode_part_count * sizeof(float)));
    CUDA_CHECK(cudaMalloc((void **)&m->sampled, (size_t)m->head_rows * 2 * sizeof(int32_t)));
    CUDA_CHECK(cudaMallocHost((void **)&m->sampled_host, (size_t)m->head_rows * 2 * sizeof(int32_t)));
}
void model_page_copy(Model *m, int32_t from, int32_t to) {
    page_copy(m->keys, m->values, from, to, pages_numbers(&m->config, 1), pages_numbers(&m->config, m->num_pages), m->config.num_layers, m->stream);
}

// A Call to the device, its rows in tiles
static void upload_call(Model *m, const Call *c) {
    int64_t N = c->N, sequences = 0, longest = 0, tile_tokens = decode_tile_tokens(m->config.num_heads, m->config.num_kv_heads), tiles = 0;
    for (int64_t n = 0; n < N; n++) {
        CHECK(c->tokens[n] >= 0 && c->tokens[n] < m->config.vocab_size && c->positions[n] >= 0 && c->positions[n] < m->T && c->positions[n] / PAGE_TOKENS < c->width);
        int32_t page = c->pages[c->sequence[n] * c->width + c->positions[n] / PAGE_TOKENS];
        CHECK(page >= 0 && page < m->num_pages);
        sequences = c->sequence[n] >= sequences ? c->sequence[n] + 1 : sequences;
        longest = c->positions[n] >= longest ? c->positions[n] + 1 : longest;
    }
    if (4 * N + 1 + sequences * c->width > m->call_upload.count)   // graphs have the old place in them
        while (m->num_graphs > 0) if (m->graphs[--m->num_graphs].exec) CUDA_CHECK(cudaGraphExecDestroy(m->graphs[m->num_graphs].exec));
    upload_reserve(&m->call_upload, 4 * N + 1 + sequences * c->width, m->stream);
    int32_t *host = upload_begin(&m->call_upload), *device = m->call_upload.device, *pages = host + 3 * N, *tile = pages + sequences * c->width;
    memcpy(host, c->tokens, (size_t)N * sizeof(int32_t));
    memcpy(host + N, c->positions, (size_t)N * sizeof(int32_t));
    memcpy(host + 2 * N, c->sequence, (size_t)N * sizeof(int32_t));
    memcpy(pages, c->pages, (size_t)(sequences * c->width) * sizeof(int32_t));
    for (int64_t n = 0; n < N; n++)
        if (n == 0 || c->sequence[n] != c->sequence[n - 1] || c->positions[n] != c->positions[n - 1] + 1 || n - tile[tiles - 1] == tile_tokens) tile[tiles++] = (int32_t)n;
    tile[tiles] = (int32_t)N;
    int64_t alone = 0;
    while (alone < tiles && tile[alone + 1] - tile[alone] == 1) alone++;
    const int32_t *at = device + 3 * N + sequences * c->width;
    m->call = {N, c->width, tiles, alone, longest, device, device + N, device + 2 * N, device + 3 * N, tiles == N ? NULL : at, tile, tiles == N && c->own};
    upload_end(&m->call_upload, 4 * N + 1 + sequences * c->width, m->stream);
}

// layer_forward for a Call: keys and values go to pages, attention reads them there, and no row's bits depend on the others
static void layer_generate(Model *m, int64_t l, real *next) {
    const Config *c = &m->config;
    const int64_t N = m->call.N, room = m->B * m->T, C = c->hidden_size, F = c->intermediate_size, NH = c->num_heads, NKV = c->num_kv_heads, HD = c->head_dim, A = NH * HD, W = A + 2 * NKV * HD;
    real *k = m->keys + l * pages_numbers(c, m->num_pages), *v = m->values + l * pages_numbers(c, m->num_pages);
    Layer *y = &m->layers[l];
    cudaStream_t s = m->stream;
    const bool fused = matvec_norm_possible(N, C) && (m->plain || !m->lora.rank);   // of a token or two, norms and SwiGLU are part of the products: every kernel between two others costs time
    const real *added = NULL;
    if (fused) {
        const Matvec v = {y->qkv, y->x, param(m, "q", l), param(m, "q_bias", l), NULL, param(m, "norm1", l), 1.0f, (float)c->rms_norm_eps, C, W, (int)N, (int)C, (int)W};
        matvec(&v, s);
    } else {
        rmsnorm_forward(y->norm1, y->rstd1, y->x, param(m, "norm1", l), N, C, (float)c->rms_norm_eps, s);
        added = adapters_generate(m, l, 0, y->qkv, W, y->norm1, NULL, N);
        generate_matmul(m, y->qkv, y->norm1, param(m, "q", l), param(m, "q_bias", l), added, N, room, C, W, W);   // q, k, v in one
    }
    const bool turns = m->call.own && decode_possible(NH, NKV, HD);   // attention itself turns q and k
    if (!turns) rope_store(y->qkv, k, v, m->rope_table, &m->call, NH, NKV, HD, s);
    if (decode_possible(NH, NKV, HD)) decode_attention(y->att, y->qkv, k, v, turns ? m->rope_table : NULL, &m->call, m->decode_part, m->decode_part_count, NH, NKV, HD, s);
    else attention_pages_plain(y->att, y->qkv, k, v, &m->call, NH, NKV, HD, s);
    added = adapters_generate(m, l, 1, y->x2, C, y->att, y->x, N);
    generate_matmul(m, y->x2, y->att, param(m, "o", l), NULL, added, N, room, A, C, C);                            // x2 = x + ...
    if (!fused) {
        rmsnorm_forward(y->norm2, y->rstd2, y->x2, param(m, "norm2", l), N, C, (float)c->rms_norm_eps, s);
        added = adapters_generate(m, l, 2, y->gate_up, 2 * F, y->norm2, NULL, N);
    }
    if (fused || (!added && matvec_possible(N))) {
        const Matvec v = {y->act, fused ? y->x2 : y->norm2, param(m, "gate", l), NULL, NULL, fused ? param(m, "norm2", l) : NULL, 1.0f, (float)c->rms_norm_eps, C, F, (int)N, (int)C, (int)F};
        matvec_swiglu(&v, s);
    } else if (!added && rows_swiglu_pays(N, C, F)) rows_swiglu(y->act, y->norm2, param(m, "gate", l), N, C, F, s);
    else {
        generate_matmul(m, y->gate_up, y->norm2, param(m, "gate", l), NULL, added, N, room, C, 2 * F, 2 * F);      // gate, up in one
        swiglu_forward(y->act, y->gate_up, N, F, s);
    }
    added = adapters_generate(m, l, 3, next, C, y->act, y->x2, N);
    generate_matmul(m, next, y->act, param(m, "down", l), NULL, added, N, room, F, C, C);                          // next = x2 + ...
}
static void layers_generate(Model *m) {
    const int64_t N = m->call.N, C = m->config.hidden_size, L = m->config.num_layers;
    embedding_forward(m->layers[0].x, param(m, "embed", 0), m->call.tokens, N, C, m->stream);
    for (int64_t l = 0; l < L; l++) layer_generate(m, l, l + 1 < L ? m->layers[l + 1].x : m->x);
    rmsnorm_forward(m->hidden, m->rstd, m->x, param(m, "norm", 0), N, C, (float)m->config.rms_norm_eps, m->stream);
}

// Of a small model, starting a few hundred kernels takes the host longer than their work takes the GPU; a graph of them is started at once. But the GPU does not begin before
// all of a graph is handed over (0.3 to 1.3 ms for 290 kernels on an H200's host), so a large model's kernels are started one by one: the host is ahead from the first
// layer on. A call is recorded when its shape comes the second time: many never come again.
static bool graphs_pay(const Model *m) {
    const double weights = (double)m->num_parameters * sizeof(real), starts = 9.0 * (double)m->config.num_layers;
    return weights / 4e12 < starts * 5e-6;   // seconds that the weights take to be read at some H200's speed; seconds of the host
}
void model_generate_forward(Model *m, const Call *c) {
    CHECK(m->keys && c->N >= 1 && c->N <= m->B * m->T);
    upload_call(m, c);
    m->plain = m->adapter_off;
    if (m->call.tiles || !graphs_pay(m) || !decode_possible(m->config.num_heads, m->config.num_kv_heads, m->config.head_dim)) { layers_generate(m); return; }
    int i = 0;
    const int64_t splits = decode_splits(m->call.longest);
    while (i < m->num_graphs && !(m->graphs[i].N == c->N && m->graphs[i].width == c->width && m->graphs[i].splits == splits && m->graphs[i].plain == m->plain && m->graphs[i].own == m->call.own)) i++;
    if (i == m->num_graphs) {
        if (m->num_graphs == MAX_GRAPHS) { layers_generate(m); return; }
        m->graphs[m->num_graphs++] = {c->N, c->width, splits, 0, m->plain, m->call.own, NULL};
    }
    CallGraph *g = &m->graphs[i];
    if (g->seen++ == 0) { layers_generate(m); return; }
    if (!g->exec) {
        cudaGraph_t graph;
        CUDA_CHECK(cudaStreamBeginCapture(m->stream, cudaStreamCaptureModeThreadLocal));
        layers_generate(m);
        CUDA_CHECK(cudaStreamEndCapture(m->stream, &graph));
        CUDA_CHECK(cudaGraphInstantiate(&g->exec, graph, 0));
        CUDA_CHECK(cudaGraphDestroy(graph));
    }
    CUDA_CHECK(cudaGraphLaunch(g->exec, m->stream));
}

void model_sample(Model *m, const int64_t *index, int64_t n, const SampleRow *rows, int32_t *tokens, float *logp) {
    const int64_t C = m->config.hidden_size, V = m->config.vocab_size, each = (int64_t)(sizeof(SampleSettings) / sizeof(int32_t));
    for (int64_t done = 0; done < n; done += m->head_rows) {
        const int64_t some = n - done < m->head_rows ? n - done : m->head_rows;
        int64_t seen = 0;
        for (int64_t i = 0; i < some; i++) seen += sample_num_seen(&rows[done + i]);
        upload_reserve(&m->sample_upload, some * (each + 1) + seen, m->stream);
        int32_t *host = upload_begin(&m->sample_upload), *place = host + some * each, *all_seen = place + some, *device = m->sample_upload.device, begin = 0;
        for (int64_t i = 0; i < some; i++) {
            const SampleRow *r = &rows[done + i];
            const SampleSettings settings = sample_settings(r, V, begin);
            memcpy(host + i * each, &settings, sizeof settings);
            place[i] = (int32_t)index[done + i];
            memcpy(all_seen + begin, r->seen, (size_t)sample_num_seen(r) * sizeof(int32_t));
            begin += (int32_t)sample_num_seen(r);
        }
        upload_end(&m->sample_upload, some * (each + 1) + seen, m->stream);
        real *logits = (real *)m->scratch;
        bool all = some == m->call.N && matvec_possible(some);   // every place in its order, as when every request brings one token: hidden is what gathering it would give
        for (int64_t i = 0; i < some && all; i++) all = index[done + i] == i;
        if (!all) gather_rows(m->head_hidden, m->hidden, device + some * each, some, C, m->stream);
        generate_matmul(m, logits, all ? m->hidden : m->head_hidden, param(m, head_name(m), 0), NULL, NULL, some, m->head_rows, C, V, m->ldv);
        sample_tokens(m->sampled, logits, m->ldv, (const SampleSettings *)device, device + some * (each + 1), seen > 0, some, V, m->stream);
        cross_entropy((float *)m->sampled + some, logits, m->ldv, m->sampled, NULL, some, V, m->stream);   // right behind the tokens: one copy takes both
        CUDA_CHECK(cudaMemcpyAsync(m->sampled_host, m->sampled, (size_t)some * 2 * sizeof(int32_t), cudaMemcpyDeviceToHost, m->stream));
        model_wait(m);
        memcpy(tokens + done, m->sampled_host, (size_t)some * sizeof(int32_t));
        memcpy(logp + done, m->sampled_host + some, (size_t)some * sizeof(float));
    }
}

// ---------------------------------------------------------------------------------------------------------------------

// One optimizer step over everything that is trained, decided on the GPU: norm, clipping and, when loss or norm is not finite, nothing. With several ranks each
// updates what it owns; the new weights are on their way when this returns.
void model_update(Model *m, const AdamW *opt) {
    CHECK(m->updates_issued - m->results_read < MODEL_UPDATES_AHEAD);
    const int64_t L = m->config.num_layers;
    comm_wait_begin(m->comm, "the update", false);
    if (m->zero) CUDA_CHECK(cudaStreamWaitEvent(m->stream, m->layers_reduced, 0));   // all ranks ran at least one micro-batch
    else if (m->fresh) {   // no model_backward since model_zero_grad: the gradient is zero
        CUDA_CHECK(cudaMemsetAsync(m->grads, 0, (size_t)m->num_trained * grad_size(m), m->stream));
        m->fresh = m->head_fresh = false;
    } else if (m->head_fresh) { clear_grad(m, head_name(m)); m->head_fresh = false; }
    if (m->zero == 0) norm_part(m->norm_partial, m->grads, m->grad_type, m->num_trained, false, m->stream);
    else {   // the embedding's sum, and some of the first layer's, are still on their way: last
        CUDA_CHECK(cudaMemsetAsync(m->norm_partial, 0, (size_t)norm_partial_count() * sizeof(double), m->stream));
        for (int64_t unit = L + 1; unit >= 0; unit--) {
            if (unit == 1) links_finish(m);
            const int64_t l = layer_of(m, unit);
            for (int i = m->first_trained; i < m->num_tensors; i++) {
                int64_t begin, end;
                model_owned(m, i, &begin, &end);
                if (unit_of(m, i, l) == unit && end > begin) norm_part(m->norm_partial, owned_grads(m, i, l), m->grad_type, end - begin, true, m->stream);
            }
        }
    }
    norm_sum(m->state, m->norm_partial, m->stream);
    if (m->zero) {
        stream_waits(m->links.stream, m->ready, m->stream);
        links_gather_two(&m->links, m->rank_totals, &m->state->loss);
        links_finish(m);
        norm_of_ranks(m->state, m->rank_totals, m->comm->size, m->shard->size, m->stream);
    }
    norm_clip(m->state, opt, m->stream);
    m->place_layer[0] = m->place_layer[1] = -1;
    for (int64_t unit = 0; unit <= L + 1; unit++) {   // in the order in which the forward pass needs them: a unit's weights are on their way while the next one's are made
        const int64_t l = layer_of(m, unit);
        for (int i = m->first_trained; i < m->num_tensors; i++) {
            int64_t begin, end, at = owned_place(m, i, l);   // weights and gradients are given as if they lay there, as remainders and moments do
            model_owned(m, i, &begin, &end);
            if (unit_of(m, i, l) == unit && end > begin)
                adamw_update(owned_params(m, i, l) - at, m->remainder, m->moment1, m->moment2, m->moment_type, m->num_owned,
                             owned_grads(m, i, l) - at * (int64_t)grad_size(m), m->grad_type, at, end - begin, opt, m->tensors[i].decayed, m->state, m->stream);
        }
        share_unit(m, unit, m->first_trained);
    }
    int slot = (int)(m->updates_issued++ % MODEL_UPDATES_AHEAD);
    CUDA_CHECK(cudaMemcpyAsync(&m->results[slot], m->state, sizeof(StepState), cudaMemcpyDeviceToHost, m->stream));
    CUDA_CHECK(cudaEventRecord(m->updated[slot], m->stream));
    comm_wait_end(m->comm);
}

StepResult model_result(Model *m) {
    StepState state;
    StepResult r;
    memset(&r, 0, sizeof r);
    if (m->results_read < m->updates_issued) {
        int slot = (int)(m->results_read++ % MODEL_UPDATES_AHEAD);
        float ms;
        CUDA_CHECK(cudaEventSynchronize(m->updated[slot]));
        state = m->results[slot];
        CUDA_CHECK(cudaEventElapsedTime(&ms, m->began[slot], m->updated[slot]));
        r.seconds = 1e-3 * (double)ms;
    } else {
        CUDA_CHECK(cudaMemcpyAsync(&state, m->state, sizeof state, cudaMemcpyDeviceToHost, m->stream));
        CUDA_CHECK(cudaStreamSynchronize(m->stream));
    }
    r.loss = state.loss;
    r.grad_norm = sqrt(state.sum_squares);
    r.skipped = state.skip != 0;
    return r;
}

void model_wait(Model *m) {
    comm_wait_begin(m->comm, "the GPU", false);
    CUDA_CHECK(cudaStreamSynchronize(m->stream));
    comm_wait_end(m->comm);
}
void *model_host_alloc(int64_t bytes) {
    void *p;
    CUDA_CHECK(cudaMallocHost(&p, (size_t)bytes));
    return p;
}
void model_host_free(void *p) { if (p) CUDA_CHECK(cudaFreeHost(p)); }

// =====================================================================================================================
#ifndef FINDAP_LIBRARY
#include "findap/train.h"      // defines: train_main (recipe, data order, schedule, log, checkpoints), the same on every device
int main(int argc, char **argv) { return train_main(argc, argv); }
#endif
