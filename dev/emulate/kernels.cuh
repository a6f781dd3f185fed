// kernels.cuh of dev/emulate.sh: the functions of findap/kernels/ that are no GEMMs, over train_findap.c's operations (operations.c). Moments and gradients are
// fp32 only; links between ranks go over MPI.
#ifndef FINDAP_EMULATED_KERNELS
#define FINDAP_EMULATED_KERNELS
#include "cuda.cuh"
#include "findap/model.h"
#include "attention_plan.h"
#include "findap/comm.h"
extern "C" {
void cpu_rmsnorm_forward(float *y, float *rstd, const float *x, const float *w, int64_t N, int64_t C, float eps);
void cpu_rmsnorm_backward(float *dx, float *dw, const float *dy, const float *x, const float *rstd, const float *w, int64_t N, int64_t C);
void cpu_rope(float *qkv, const float *t, const int32_t *p, float sign, int64_t N, int64_t NH, int64_t NKV, int64_t HD);
void cpu_attention_forward(float *out, float *lse, const float *qkv, const int32_t *start, const int32_t *hole_begin, const int32_t *hole_end, int64_t B, int64_t T, int64_t NH, int64_t NKV, int64_t HD);
void cpu_attention_backward(float *dqkv, const float *dout, const float *out, const float *lse, const float *qkv, const int32_t *start, const int32_t *hole_begin, const int32_t *hole_end, int64_t B, int64_t T, int64_t NH, int64_t NKV, int64_t HD);
void cpu_swiglu_forward(float *y, const float *g, int64_t N, int64_t F);
void cpu_swiglu_backward(float *d, const float *dy, const float *g, int64_t N, int64_t F);
void cpu_cross_entropy(float *logp, float *logits, const int32_t *t, const float *coef, int64_t n, int64_t V);
}
typedef enum { MOMENT_FP32, MOMENT_BF16, MOMENT_8BIT } MomentType;
typedef enum { GRAD_FP32, GRAD_BF16 } GradType;
typedef struct { double loss, sum_squares; int64_t t; float grad_scale, step, correction; int skip; } StepState;
static int64_t moment_bytes(MomentType type, int64_t n) {
    if (type != MOMENT_FP32) die("--moments bf16 and 8bit are not emulated");
    return n * 4;
}
static int64_t norm_partial_count(void) { return 2048; }
static void norm_part(double *p, const void *g, GradType type, int64_t n, bool add, cudaStream_t) {
    CHECK(type == GRAD_FP32 && n % 8 == 0);
    if (!add) memset(p, 0, 2048 * 8);
    for (int64_t i = 0; i < n; i++) { double x = (double)((const float *)g)[i]; p[i / 65536 % 2048] += x * x; }
}
static void norm_sum(StepState *s, const double *p, cudaStream_t) { s->sum_squares = 0; for (int i = 0; i < 2048; i++) s->sum_squares += p[i]; }
static void norm_of_ranks(StepState *s, const double *all, int ranks, int shard, cudaStream_t) {
    s->loss = s->sum_squares = 0;
    for (int r = 0; r < ranks; r++) { s->loss += all[2 * r]; s->sum_squares += r < shard ? all[2 * r + 1] : 0; }
}
static void norm_clip(StepState *s, const AdamW *o, cudaStream_t) {
    double norm = sqrt(s->sum_squares);
    s->skip = !isfinite(norm) || !isfinite(s->loss);
    s->grad_scale = o->grad_clip > 0 && norm + 1e-6 > o->grad_clip ? (float)(o->grad_clip / (norm + 1e-6)) : 1.0f;
    if (o->t > 0) s->t = o->t - 1;
    if (s->skip) return;
    s->t++;
    s->step = (float)(o->lr / (1.0 - pow(o->beta1, (double)s->t)));
    s->correction = (float)sqrt(1.0 - pow(o->beta2, (double)s->t));
}
static float weight_get(const float *p, const int16_t *, int64_t i) { return p[i]; }
static float weight_get(const bf16 *p, const int16_t *r, int64_t i) {
    uint16_t h; memcpy(&h, &p[i], 2); uint32_t u = ((uint32_t)h << 16) + (r ? (uint32_t)(int32_t)r[i] : 0u); float f; memcpy(&f, &u, 4); return f;
}
static void weight_put(float *p, int16_t *, int64_t i, float x) { p[i] = x; }
static void weight_put(bf16 *p, int16_t *r, int64_t i, float x) { uint32_t u; memcpy(&u, &x, 4); uint16_t h = (uint16_t)((u + 0x8000u) >> 16); memcpy(&p[i], &h, 2); if (r) r[i] = (int16_t)(uint16_t)u; }
static void adamw_update(real *p, int16_t *rem, void *m1, void *m2, MomentType type, int64_t total, const void *grads, GradType gt, int64_t at, int64_t n, const AdamW *o, bool decayed, const StepState *s, cudaStream_t) {
    CHECK(at % 256 == 0 && n > 0 && n % 8 == 0 && at + n <= total && type == MOMENT_FP32 && gt == GRAD_FP32 && (rem != NULL) == (sizeof(real) == 2));
    if (s->skip) return;
    float *m = (float *)m1, *v = (float *)m2, b1 = (float)o->beta1, b2 = (float)o->beta2, eps = (float)o->eps, keep = decayed ? (float)(1.0 - o->lr * o->weight_decay) : 1.0f;
    for (int64_t i = at; i < at + n; i++) {
        float g = ((const float *)grads)[i] * s->grad_scale;
        m[i] = b1 * m[i] + (1.0f - b1) * g;
        v[i] = b2 * v[i] + (1.0f - b2) * g * g;
        weight_put(p, rem, i, weight_get(p, rem, i) * keep - s->step * m[i] / (sqrtf(v[i]) / s->correction + eps));
    }
}
static void accumulate_bf16(bf16 *, const float *, int64_t, const StepState *, uint64_t, cudaStream_t) { die("--gradients bf16 is not emulated"); }
static void accumulate_fp32(float *sum, const float *x, bool add, int64_t n, cudaStream_t) { CHECK(n % 4 == 0); for (int64_t i = 0; i < n; i++) sum[i] = (add ? sum[i] : 0) + x[i]; }
static void params_get(float *x, const real *p, const int16_t *r, int64_t at, int64_t n, cudaStream_t) { CHECK(n > 0 && n % 8 == 0); for (int64_t i = 0; i < n; i++) x[i] = weight_get(p, r, at + i); }
static void params_put(const float *x, real *p, int16_t *r, int64_t at, int64_t n, cudaStream_t) { CHECK(n > 0 && n % 8 == 0); for (int64_t i = 0; i < n; i++) weight_put(p, r, at + i, x[i]); }
static void grads_get(float *x, const void *g, GradType t, int64_t at, int64_t n, cudaStream_t) { CHECK(t == GRAD_FP32); memcpy(x, (const float *)g + at, (size_t)n * 4); }
static void moments_get(float *x, const void *a, MomentType, bool, int64_t total, int64_t at, int64_t n, cudaStream_t) { CHECK(at + n <= total); memcpy(x, (const float *)a + at, (size_t)n * 4); }
static void moments_put(const float *x, void *a, MomentType, bool, int64_t total, int64_t at, int64_t n, cudaStream_t) { CHECK(at + n <= total); memcpy((float *)a + at, x, (size_t)n * 4); }

static int64_t attention_scratch_bytes(int64_t, int64_t, int64_t, int64_t, int64_t, int64_t) { return 0; }
static void attention_forward(real *out, float *lse, const real *qkv, void *, int64_t, const AttentionPlan *p, int32_t *, int64_t NH, int64_t NKV, int64_t HD, cudaStream_t) {
    int64_t N = p->B * p->T, W = (NH + 2 * NKV) * HD;
    cpu_attention_forward(Floats(out, N * NH * HD, true), lse, Floats(qkv, N * W), p->document_start, p->hole_begin, p->hole_end, p->B, p->T, NH, NKV, HD);
}
static void attention_backward(real *dqkv, float *, const real *dout, const real *out, const float *lse, const real *qkv, void *, int64_t, const AttentionPlan *p, int64_t NH, int64_t NKV, int64_t HD, cudaStream_t) {
    int64_t N = p->B * p->T, W = (NH + 2 * NKV) * HD, A = NH * HD;
    cpu_attention_backward(Floats(dqkv, N * W, true), Floats(dout, N * A), Floats(out, N * A), lse, Floats(qkv, N * W), p->document_start, p->hole_begin, p->hole_end, p->B, p->T, NH, NKV, HD);
}
static void cross_entropy(float *logp, real *logits, int64_t ld, const int32_t *t, const float *coef, int64_t n, int64_t V, cudaStream_t) {
    for (int64_t i = 0; i < n; i++) { cpu_cross_entropy(logp + i, Floats(logits + i * ld, V, coef != NULL), t + i, coef ? coef + i : NULL, 1, V); for (int64_t v = V; coef && v < ld; v++) logits[i * ld + v] = from_float<real>(0); }
}
static void loss_sum(double *loss, const float *coef, const float *logp, int64_t n, cudaStream_t) { for (int64_t i = 0; i < n; i++) *loss += (double)coef[i] * (double)logp[i]; }
static void gather_rows(real *out, const real *x, const int32_t *index, int64_t n, int64_t C, cudaStream_t) { for (int64_t i = 0; i < n; i++) memcpy((void *)(out + i * C), x + (int64_t)index[i] * C, (size_t)C * sizeof(real)); }
static void scatter_rows(real *out, const real *x, const int32_t *index, int64_t n, int64_t C, cudaStream_t) { for (int64_t i = 0; i < n; i++) memcpy((void *)(out + (int64_t)index[i] * C), x + i * C, (size_t)C * sizeof(real)); }
static void embedding_forward(real *x, const real *table, const int32_t *tokens, int64_t N, int64_t C, cudaStream_t s) { gather_rows(x, table, tokens, N, C, s); }
static void scatter_numbers(float *out, const float *x, const int32_t *index, int64_t n, cudaStream_t) { for (int64_t i = 0; i < n; i++) out[index[i]] = x[i]; }
static void embedding_backward(float *d, uint8_t *touched, const real *dx, const int32_t *order, const int32_t *first, const int32_t *tokens, int64_t unique, int64_t C, cudaStream_t) {
    CHECK(d);
    for (int64_t u = 0; u < unique && touched; u++) touched[tokens[order[first[u]]]] = 1;
    for (int64_t u = 0; u < unique; u++) for (int32_t i = first[u]; i < first[u + 1]; i++) for (int64_t c = 0; c < C; c++) d[(int64_t)tokens[order[i]] * C + c] += to_float(dx[(int64_t)order[i] * C + c]);
}
static void embedding_backward_bf16(bf16 *, uint8_t *, const real *, const int32_t *, const int32_t *, const int32_t *, int64_t, const StepState *, uint64_t, int64_t, cudaStream_t) { die("--gradients bf16 is not emulated"); }
static int64_t bias_partial_count(int64_t O) { return 128 * O; }
static void bias_backward(float *db, float *, const real *dy, bool add, int64_t N, int64_t O, cudaStream_t) { CHECK(db); for (int64_t o = 0; o < O; o++) { float s = 0; for (int64_t n = 0; n < N; n++) s += to_float(dy[n * O + o]); db[o] = (add ? db[o] : 0) + s; } }
static void rmsnorm_forward(real *y, float *rstd, const real *x, const real *w, int64_t N, int64_t C, float eps, cudaStream_t) { cpu_rmsnorm_forward(Floats(y, N * C, true), rstd, Floats(x, N * C), Floats(w, C), N, C, eps); }
static int64_t rmsnorm_partial_count(int64_t C) { return 1056 * C; }
static void rmsnorm_backward(real *dx, float *dw, float *, const real *dy, const real *x, const float *rstd, const real *w, bool add, int64_t N, int64_t C, cudaStream_t) {
    if (dw && !add) memset(dw, 0, (size_t)C * 4);
    cpu_rmsnorm_backward(Floats(dx, N * C, true), dw, Floats(dy, N * C), Floats(x, N * C), rstd, Floats(w, C), N, C);
}
static void rope_forward(real *q, const float *t, const int32_t *p, int64_t N, int64_t NH, int64_t NKV, int64_t HD, cudaStream_t) { cpu_rope(Floats(q, N * (NH + 2 * NKV) * HD, true), t, p, 1, N, NH, NKV, HD); }
static void rope_backward(real *q, const float *t, const int32_t *p, int64_t N, int64_t NH, int64_t NKV, int64_t HD, cudaStream_t) { cpu_rope(Floats(q, N * (NH + 2 * NKV) * HD, true), t, p, -1, N, NH, NKV, HD); }
static void swiglu_forward(real *y, const real *g, int64_t N, int64_t F, cudaStream_t) { cpu_swiglu_forward(Floats(y, N * F, true), Floats(g, N * 2 * F), N, F); }
static void swiglu_backward(real *d, real *act, const real *dy, const real *g, int64_t N, int64_t F, cudaStream_t) {
    Floats fg(g, N * 2 * F), fdy(dy, N * F);
    { Floats out(d, N * 2 * F, true); cpu_swiglu_backward(out, fdy, fg, N, F); }
    if (act) { Floats out(act, N * F, true); cpu_swiglu_forward(out, fg, N, F); }
}
// generation: the plain ways only, no graphs
typedef struct { int64_t N, width, num_tiles, alone, longest; const int32_t *tokens, *positions, *sequence, *pages, *tiles, *host_tiles; bool own; } PagedCall;
static int64_t decode_splits(int64_t) { return 1; }
static int64_t decode_scratch(int64_t, int64_t, int64_t, int64_t) { return 0; }
static int64_t decode_tile_tokens(int64_t NH, int64_t NKV) { return 16 / (NH / NKV) > 1 ? 16 / (NH / NKV) : 1; }
static bool decode_possible(int64_t, int64_t, int64_t) { return false; }
static bool matvec_possible(int64_t) { return false; }
static void decode_attention(real *, const real *, real *, real *, const float *, const PagedCall *, float *, int64_t, int64_t, int64_t, int64_t, cudaStream_t) {}
static bool matvec_norm_possible(int64_t, int64_t) { return false; }
typedef struct { real *y; const real *x, *w, *bias, *residual, *norm; float scale, eps; int64_t ldx, ldy; int N, K, O; } Matvec;
static void matvec(const Matvec *, cudaStream_t) {}
static void matvec_swiglu(const Matvec *, cudaStream_t) {}
static bool rows_swiglu_pays(int64_t, int64_t, int64_t) { return false; }
static void rows_swiglu(real *, const real *, const real *, int64_t, int64_t, int64_t, cudaStream_t) {}
static real *page_at(const real *pages, const PagedCall *c, int64_t n, int64_t t, int64_t g, int64_t NKV, int64_t HD) {
    return (real *)pages + (((int64_t)c->pages[c->sequence[n] * c->width + t / PAGE_TOKENS] * NKV + g) * PAGE_TOKENS + t % PAGE_TOKENS) * HD;
}
static void rope_store(real *qkv, real *k, real *v, const float *table, const PagedCall *c, int64_t NH, int64_t NKV, int64_t HD, cudaStream_t s) {
    int64_t W = (NH + 2 * NKV) * HD;
    rope_forward(qkv, table, c->positions, c->N, NH, NKV, HD, s);
    for (int64_t n = 0; n < c->N; n++) for (int64_t g = 0; g < NKV; g++) {
        memcpy((void *)page_at(k, c, n, c->positions[n], g, NKV, HD), qkv + n * W + (NH + g) * HD, (size_t)HD * sizeof(real));
        memcpy((void *)page_at(v, c, n, c->positions[n], g, NKV, HD), qkv + n * W + (NH + NKV + g) * HD, (size_t)HD * sizeof(real));
    }
}
static void page_copy(real *k, real *v, int32_t from, int32_t to, int64_t page, int64_t layer, int64_t layers, cudaStream_t) {
    for (int64_t l = 0; l < layers; l++) for (real *x : {k, v}) memcpy((void *)(x + l * layer + to * page), x + l * layer + from * page, (size_t)page * sizeof(real));
}
static int attention_pages_plain_bytes(void) { return 1 << 30; }
static void attention_pages_plain(real *out, const real *qkv, const real *k, const real *v, const PagedCall *c, int64_t NH, int64_t NKV, int64_t HD, cudaStream_t) {
    for (int64_t n = 0; n < c->N; n++) for (int64_t h = 0; h < NH; h++) {
        int64_t seen = c->positions[n] + 1, g = h / (NH / NKV);
        std::vector<float> p((size_t)seen), o((size_t)HD, 0.0f);
        float most = -INFINITY, sum = 0;
        for (int64_t t = 0; t < seen; t++) {
            const real *at = page_at(k, c, n, t, g, NKV, HD), *q = qkv + n * (NH + 2 * NKV) * HD + h * HD;
            for (int64_t d = 0; d < HD; d++) p[(size_t)t] += to_float(q[d]) * to_float(at[d]);
            p[(size_t)t] /= sqrtf((float)HD);
            most = std::max(most, p[(size_t)t]);
        }
        for (float &x : p) sum += x = expf(x - most);
        for (int64_t t = 0; t < seen; t++) for (int64_t d = 0; d < HD; d++) o[(size_t)d] += p[(size_t)t] / sum * to_float(page_at(v, c, n, t, g, NKV, HD)[d]);
        for (int64_t d = 0; d < HD; d++) out[n * NH * HD + h * HD + d] = from_float<real>(o[(size_t)d]);
    }
}
static void matmul_plain(real *y, int64_t ldy, const real *x, int64_t ldx, const real *w, const real *bias, const real *residual, float scale, int64_t N, int64_t K, int64_t O, cudaStream_t) {
    for (int64_t n = 0; n < N; n++) for (int64_t o = 0; o < O; o++) {
        float s = 0;
        for (int64_t k = 0; k < K; k++) s = fmaf(to_float(x[n * ldx + k]), to_float(w[o * K + k]), s);
        y[n * ldy + o] = from_float<real>(s * scale + (residual ? to_float(residual[n * ldy + o]) : 0) + (bias ? to_float(bias[o]) : 0));
    }
}
typedef struct { SampleRow row; } SampleSettings;   // `seen` is the engine's own memory here
static SampleSettings sample_settings(const SampleRow *r, int64_t, int32_t) { SampleSettings s = {*r}; return s; }
static void sample_tokens(int32_t *tokens, const real *logits, int64_t ld, const SampleSettings *settings, const int32_t *, bool, int64_t n, int64_t V, cudaStream_t) {
    std::vector<float> z((size_t)(2 * V));
    for (int64_t i = 0; i < n; i++) { sample_filter(z.data(), z.data() + V, Floats(logits + i * ld, V), V, &settings[i].row); tokens[i] = sample_draw(z.data(), V, &settings[i].row); }
}
// links, by MPI
#include "peers.cuh"   // the real one, over memory that the ranks share
typedef struct { void *x; const void *owned; int64_t n; } LinkTensor;
typedef struct { Comm *comm, *shard, *replicas; cudaStream_t stream; bool copies; Peers peers; std::vector<LinkTensor> taken; } Links;
static void links_create(Links *k, Comm *a, Comm *b, Comm *c, const char *how, char *, size_t) {
    Error e;
    new (k) Links(); k->comm = a; k->shard = b; k->replicas = c;
    k->copies = how && strcmp(how, "copies") == 0 && b->size > 1;
    if (k->copies && !peers_begin(&k->peers, b, true, NULL, &e)) die("%s", e.text);
}
static void links_free(Links *k) { if (k->copies) peers_end(&k->peers, k->shard); }
static void links_open(Links *k, void *const *x, const int64_t *bytes, int n, char *, size_t) { Error e; for (int i = 0; i < n && k->copies; i++) if (!peers_open(&k->peers, k->shard, x[i], bytes[i], &e)) die("%s", e.text); }
static void links_take(Links *k, void *x, const void *owned, int64_t n) { k->taken.push_back({x, owned, n}); }
static bool links_by_copies(Links *k, std::vector<PeerTensor> *t, int bytes) {
    for (const LinkTensor &l : k->taken) {
        const int64_t begin = shard_begin(k->shard, l.n);
        t->push_back({l.x, l.n, begin, shard_end(k->shard, l.n) - begin});
        if (!k->copies || (const char *)l.owned != (const char *)l.x + begin * bytes) return false;
    }
    return k->copies;
}
static void links_reduce(Links *k, int bytes, const uint8_t *touched, int64_t C) {
    std::vector<PeerTensor> all;
    CHECK(bytes == 4);
    if (k->shard->size > 1 && links_by_copies(k, &all, bytes)) { if (touched) peers_reduce_rows(&k->peers, all.data(), C, touched, bytes, NULL); else peers_reduce(&k->peers, all.data(), (int)all.size(), bytes, NULL); }
    for (const LinkTensor &t : k->taken) {
        const int64_t n = t.n, part = shard_part(k->shard, n), whole = part * k->shard->size; float *g = (float *)t.x;
        if (k->shard->size == 1) break;
        if (!k->copies) { comm_reduce_scatter_f32(k->shard, g, part, "g"); comm_reduce_f32(k->shard, g + whole, n - whole, k->shard->size - 1, "g"); }
        for (int64_t i = 0; i < n; i++) if (i < shard_begin(k->shard, n) || i >= shard_end(k->shard, n)) g[i] = NAN;   // not to be used any more
    }
    k->taken.clear();
}
static void links_sum(Links *k, int bytes) {
    CHECK(bytes == 4);
    for (const LinkTensor &t : k->taken) if (k->replicas->size > 1 && t.n > 0) comm_sum_f32(k->replicas, (float *)t.x, t.n, "g");
    k->taken.clear();
}
static void links_gather(Links *k, int bytes) {
    std::vector<PeerTensor> all;
    CHECK(bytes == (int)sizeof(real));
    if (k->shard->size > 1 && links_by_copies(k, &all, bytes)) { peers_gather(&k->peers, all.data(), (int)all.size(), bytes, k->shard, NULL); k->taken.clear(); return; }
    for (const LinkTensor &t : k->taken) {
        if (k->shard->size == 1) break;
        const int64_t b = shard_begin(k->shard, t.n), e = shard_end(k->shard, t.n); std::vector<float> f((size_t)t.n); real *to = (real *)t.x;
        for (int64_t i = b; i < e; i++) f[(size_t)i] = to_float(((const real *)t.owned)[i - b]);
        comm_gather_tensor_f32(k->shard, f.data(), t.n);
        for (int64_t i = 0; i < t.n; i++) to[i] = from_float<real>(f[(size_t)i]);
    }
    k->taken.clear();
}
static void links_gather_two(Links *k, double *all, const double *x) { comm_gather_bytes(k->comm, x, all, 16, "two", false); }
#endif
