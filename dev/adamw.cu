// adamw.cu: the ladder of findap/kernels/adamw.cuh: the update with every type of moments and gradients, and what stands beside it: gradient
// norm, stochastic bf16 sums, copies out of the arenas and back. Times need 10 GB. How to call it: dev/ladder.cuh.
// Bytes that must move for a parameter: bf16 weight and remainder in and out 8, gradient in 4 or 2, both moments in and out 16, 8 or 4.
//
// Of the checks, those of one update in double begin at each step from the very bits the GPU holds, so no error adds up and the tolerances
// are those of single roundings. Those of stochastic rounding repeat one update with other t, where the numbers before rounding are the same
// each time: errors are counted in gaps between neighbouring codes, so their variance p (1 - p) is known, not estimated.
#include "ladder.cuh"                      // defines: Array, ladder_*, expect*
#include "../findap/kernels/adamw.cuh"     // defines: adamw_update, norm_and_clip, accumulate_bf16, moments_get/put, params_get/put

static const char *const moment_names[] = {"fp32", "bf16", "8bit"}, *const grad_names[] = {"fp32", "bf16"};

template <typename To, typename From> static To bits_as(From x) { static_assert(sizeof(To) == sizeof(From)); To r; memcpy(&r, &x, sizeof r); return r; }
static AdamWNumbers numbers_of(const AdamW *o, bool decayed) { return {(float)o->beta1, (float)o->beta2, (float)o->eps, decayed ? (float)(1.0 - o->lr * o->weight_decay) : 1.0f}; }

// ---------------------------------------------------------------------------------------------------------------------
// the reference: one number, in double, with the rounded constants of train_findap.c's adamw()

// m, v, w after the update; about each, what its roundings may add up to
typedef struct { double m, v, w, m_error, v_error, w_error; } Updated;
static Updated reference(double w, double m, double v, double g, const AdamWNumbers *o, const StepState *s) {
    const double gk = g * (double)s->grad_scale, old = (double)o->beta1 * m, fresh = (double)(1.0f - o->beta1) * gk;
    Updated r;
    r.m = old + fresh;
    r.v = (double)o->beta2 * v + (double)(1.0f - o->beta2) * gk * gk;
    const double root = sqrt(r.v) / (double)s->correction + (double)o->eps, terms = fabs(old) + fabs(fresh);   // old and fresh may cancel: the error does not
    r.w = w * (double)o->keep - (double)s->step * r.m / root;
    r.m_error = 3 * 0x1p-24 * terms + 3e-45;
    r.v_error = 6 * 0x1p-24 * r.v + 6e-45;
    // 15 roundings of the step, two of those by hardware approximations of a whole unit; two of the sum, which is in fp32
    r.w_error = 2 * 0x1p-24 * fabs(w) + 1.1e-6 * (double)s->step * terms / root + 3e-45;
    return r;
}

// ---------------------------------------------------------------------------------------------------------------------
// the rungs below adamw.cuh's kernel. Weights are bf16, moments and gradients fp32

__global__ static void update1_kernel(bf16 *p, float *master, float *m, float *v, const float *grads, int64_t n, AdamWNumbers o, const StepState *state) {
    const int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    if (i >= n || state->skip) return;
    const float g = grads[i] * state->grad_scale;
    const float first = o.beta1 * m[i] + (1.0f - o.beta1) * g, second = o.beta2 * v[i] + (1.0f - o.beta2) * g * g;
    const float w = master[i] * o.keep - state->step * first / (sqrtf(second) / state->correction + o.eps);
    m[i] = first;
    v[i] = second;
    master[i] = w;
    p[i] = __float2bfloat16_rn(w);
}
__global__ static void update2_kernel(bf16 *p, int16_t *remainder, float *m, float *v, const float *grads, int64_t n, AdamWNumbers o, const StepState *state) {
    const int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    if (i >= n || state->skip) return;
    const float g = grads[i] * state->grad_scale;
    const float first = o.beta1 * m[i] + (1.0f - o.beta1) * g, second = o.beta2 * v[i] + (1.0f - o.beta2) * g * g;
    const float w = __uint_as_float(weight_join(__bfloat16_as_ushort(p[i]), remainder[i])) * o.keep - state->step * first / (sqrtf(second) / state->correction + o.eps);
    uint16_t high;
    m[i] = first;
    v[i] = second;
    weight_split(__float_as_uint(w), &high, remainder + i);
    p[i] = __ushort_as_bfloat16(high);
}
// n: a multiple of 8
__global__ static void update3_kernel(bf16 *p, int16_t *remainder, float *m, float *v, const float *grads, int64_t n, AdamWNumbers o, const StepState *state) {
    const int64_t i = (blockIdx.x * (int64_t)blockDim.x + threadIdx.x) * 8;
    if (i >= n || state->skip) return;
    Pack<bf16> high = load_pack_once(p + i);
    Pack<int16_t> low = load_pack_once(remainder + i);
    const float scale = state->grad_scale, step = state->step, correction = state->correction;
    #pragma unroll
    for (int h = 0; h < 8; h += 4) {
        const Pack<float> g4 = load_pack_once(grads + i + h);
        Pack<float> m4 = load_pack_once(m + i + h), v4 = load_pack_once(v + i + h);
        #pragma unroll
        for (int k = 0; k < 4; k++) {
            const float g = g4.at[k] * scale;
            m4.at[k] = o.beta1 * m4.at[k] + (1.0f - o.beta1) * g;
            v4.at[k] = o.beta2 * v4.at[k] + (1.0f - o.beta2) * g * g;
            const float w = __uint_as_float(weight_join(__bfloat16_as_ushort(high.at[h + k]), low.at[h + k])) * o.keep - step * m4.at[k] / (sqrtf(v4.at[k]) / correction + o.eps);
            uint16_t upper;
            weight_split(__float_as_uint(w), &upper, &low.at[h + k]);
            high.at[h + k] = __ushort_as_bfloat16(upper);
        }
        store_pack_once(m + i + h, m4);
        store_pack_once(v + i + h, v4);
    }
    store_pack_once(p + i, high);
    store_pack_once(remainder + i, low);
}

// rungs 4 to 9: adamw.cuh, by type of gradients and of moments
static MomentType moment_of(int rung) { return rung <= 3 ? MOMENT_FP32 : (MomentType)((rung - 4) % 3); }
static GradType grad_of(int rung) { return rung <= 6 ? GRAD_FP32 : GRAD_BF16; }
static double bytes_of(int rung) {   // a parameter; the same for the first four, though the first moves 30
    const MomentType type = moment_of(rung);
    return 8 + (grad_of(rung) == GRAD_FP32 ? 4 : 2) + 4.0 * (double)moment_bytes(type, MOMENT_BLOCK) / MOMENT_BLOCK;
}
static const char *const ideas[] = {"a thread a number; an fp32 copy of the weight beside the bf16 one (moves 30)", "the copy gives way to 16 more bits a weight", "8 numbers a thread, 16 bytes a load and a store, past the caches",
                                    "adamw.cuh: each load of a warp one piece of memory, approximate divisions", "bf16 moments, rounded stochastically", "8-bit moments, a scale for 256",
                                    "fp32 moments, bf16 gradient", "bf16 moments, bf16 gradient", "8-bit moments, bf16 gradient"};

// ---------------------------------------------------------------------------------------------------------------------
// what the checks share

// one line a check: what was found must be at most what is allowed; NaN is not
static void at_most(double found, double allowed, const char *what, const char *shape) {
    const bool ok = found <= allowed;
    checks++;
    if (!ok) failures++;
    printf("%-7s %-66s %-64s %.3g (at most %.3g)\n", ok ? "ok" : "FAILED:", shape, what, found, allowed);
    fflush(stdout);
}
static void is_true(bool ok, const char *what, const char *shape) { at_most(ok ? 0 : 1, 0, what, shape); }

static double uniform(uint64_t seed, int64_t i) { return ((double)random_bits(seed, (uint64_t)i) + 0.5) / 4294967296.0; }
// signs and sizes over `range` decades below `largest`; every zero_every-th number, if that is above 0, is zero
static std::vector<float> decades(int64_t n, uint64_t seed, double largest, double range, int64_t zero_every) {
    std::vector<float> x((size_t)n);
    for (int64_t i = 0; i < n; i++)
        x[(size_t)i] = zero_every > 0 && i % zero_every == zero_every - 1 ? 0.0f : (float)((uniform(seed, 2 * i) < 0.5 ? -largest : largest) * pow(10, -range * uniform(seed, 2 * i + 1)));
    return x;
}
static std::vector<float> squares(std::vector<float> x) { for (float &v : x) v *= v; return x; }
static std::vector<bf16> to_bf16(const std::vector<float> &x) { std::vector<bf16> y; for (float v : x) y.push_back(__float2bfloat16_rn(v)); return y; }
static std::vector<float> to_floats(const std::vector<bf16> &x) { std::vector<float> y; for (bf16 v : x) y.push_back(__bfloat162float(v)); return y; }

// The arenas of a model, between fences, and their bits on the host. The update is of [at, at + n); the rest must stay as it is.
typedef struct { std::vector<real> p; std::vector<int16_t> remainder; std::vector<uint8_t> m, v; } Bits;
static bool same(const Bits &a, const Bits &b) { return same_bits(a.p, b.p) && same_bits(a.remainder, b.remainder) && same_bits(a.m, b.m) && same_bits(a.v, b.v); }
struct Arenas {
    const MomentType type;
    const int64_t total, at, n;
    Array<real> p;
    Array<int16_t> remainder;
    Array<uint8_t> m, v;
    Arenas(MomentType moment_type, int64_t first, int64_t count) : type(moment_type), total(ceil_div(first + count, MOMENT_BLOCK) * MOMENT_BLOCK + 2 * MOMENT_BLOCK), at(first), n(count),
                                                                  p(total), remainder(total), m(moment_bytes(type, total)), v(moment_bytes(type, total)) {}
    int16_t *rest() { return sizeof(real) == 2 ? remainder.at : NULL; }
    void put(const std::vector<float> &weights, const std::vector<float> &first, const std::vector<float> &second) {
        Array<float> w(weights), x(first), y(second);
        params_put(w.at, p.at, rest(), 0, total, 0);
        moments_put(x.at, m.at, type, false, total, 0, total, 0);
        moments_put(y.at, v.at, type, true, total, 0, total, 0);
        CUDA_CHECK(cudaDeviceSynchronize());
    }
    void put(const Bits &b) { p.put(b.p); remainder.put(b.remainder); m.put(b.m); v.put(b.v); }
    Bits get() const { return {p.get(), remainder.get(), m.get(), v.get()}; }
    std::vector<double> weights() {
        Array<float> x(total);
        params_get(x.at, p.at, rest(), 0, total, 0);
        return x.numbers();
    }
    std::vector<double> moments(bool second) {
        Array<float> x(total);
        moments_get(x.at, second ? v.at : m.at, type, second, total, 0, total, 0);
        return x.numbers();
    }
    bool fences_stand() const { return p.fences_stand() && remainder.fences_stand() && m.fences_stand() && v.fences_stand(); }
    // bytes outside [at, at + n), its scales counted in, that differ
    int64_t touched(const Bits &a, const Bits &b) const {
        const int64_t size = type == MOMENT_FP32 ? 4 : type == MOMENT_BF16 ? 2 : 1, first = total + at / MOMENT_BLOCK * 4, last = total + ceil_div(at + n, MOMENT_BLOCK) * 4;
        int64_t count = 0;
        for (int64_t i = 0; i < total; i++) if (i < at || i >= at + n) count += (memcmp(&a.p[(size_t)i], &b.p[(size_t)i], sizeof(real)) != 0) + (a.remainder[(size_t)i] != b.remainder[(size_t)i]);
        for (int64_t i = 0; i < m.n; i++)
            if (i < at * size || (i >= (at + n) * size && !(type == MOMENT_8BIT && i >= first && i < last))) count += (a.m[(size_t)i] != b.m[(size_t)i]) + (a.v[(size_t)i] != b.v[(size_t)i]);
        return count;
    }
};
// weights, moments and gradients a model might have, with what it hardly ever has: zeros, denormal numbers, many decades within a block
static std::vector<float> some_weights(int64_t n, uint64_t seed) {
    std::vector<float> x = decades(n, seed, 1.0, 6, 97);
    for (int64_t i = 50; i < n; i += 101) x[(size_t)i] = bits_as<float>(random_bits(seed + 1, (uint64_t)i) & 0x807fffffu);
    return x;
}
static void fill(Arenas &a, uint64_t seed) { a.put(some_weights(a.total, seed), decades(a.total, seed + 2, 0.1, 5, 31), squares(decades(a.total, seed + 3, 0.1, 5, 37))); }

struct Gradients {
    const GradType type;
    Array<float> full;
    Array<bf16> half;
    std::vector<float> host;   // what the GPU sees
    Gradients(GradType grad_type, int64_t n) : type(grad_type), full(n), half(n) {}
    void put(const std::vector<float> &x) {
        const std::vector<bf16> y = to_bf16(x);
        full.put(x);
        half.put(y);
        host = type == GRAD_FP32 ? x : to_floats(y);
    }
    const void *at() const { return type == GRAD_FP32 ? (const void *)full.at : (const void *)half.at; }
};
static void update(Arenas &a, const Gradients &g, const AdamW *o, bool decayed, const Array<StepState> &state) {
    adamw_update(a.p.at, a.rest(), a.m.at, a.v.at, a.type, a.total, g.at(), g.type, a.at, a.n, o, decayed, state.at, 0);
    CUDA_CHECK(cudaDeviceSynchronize());
}
static StepState state_of(const AdamW *o, int64_t t, float grad_scale) {
    StepState s;
    memset(&s, 0, sizeof s);
    s.t = t; s.grad_scale = grad_scale;
    s.step = (float)(o->lr / (1 - pow(o->beta1, (double)t)));
    s.correction = (float)sqrt(1 - pow(o->beta2, (double)t));
    return s;
}
static double relative(double a, double b) { return fabs(a - b) / (fabs(b) + 1e-300); }

// ---------------------------------------------------------------------------------------------------------------------
// the split weight

// bit patterns: halfway cases and their neighbours of every bf16 number, NaN and infinities too, and random ones
static std::vector<uint32_t> patterns(int64_t random) {
    std::vector<uint32_t> x;
    const uint32_t step = random > 100000 ? 1 : 97;
    for (uint32_t high = 0; high < 65536; high += step) for (uint32_t low : {0x0000u, 0x0001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) x.push_back(high << 16 | low);
    for (uint32_t b : {0x7f7fffffu, 0xff7fffffu, 0x7f7f8000u, 0x7f7f7fffu, 0x00000001u, 0x80000001u, 0x007fffffu, 0x00008000u, 0x807f8000u, 0x7fffffffu}) x.push_back(b);
    for (int64_t i = 0; i < random; i++) x.push_back(random_bits(11, (uint64_t)i));
    while (x.size() % 8) x.push_back((uint32_t)x.size());
    return x;
}
static double magnitude(uint32_t bits) {   // of the number; the one above the largest finite is 2^128, not infinity
    const int exponent = (int)(bits >> 23 & 255);
    return ldexp((double)((bits & 0x7fffff) + (exponent ? 0x800000 : 0)), std::max(exponent, 1) - 150);
}
static void check_split(int64_t random) {
    const std::vector<uint32_t> x = patterns(random);
    char shape[64];
    snprintf(shape, sizeof shape, "weight_split of %lld numbers", (long long)x.size());
    int64_t lost = 0, misrounded = 0, far = 0;
    for (uint32_t bits : x) {
        uint16_t high;
        int16_t rest;
        weight_split(bits, &high, &rest);
        lost += weight_join(high, rest) != bits;
        if ((bits & 0x7f800000u) == 0x7f800000u) continue;
        const uint32_t below = bits & 0xffff0000u, above = below + 0x10000u;   // towards zero, away from it
        const bool away = magnitude(above) - magnitude(bits) <= magnitude(bits) - magnitude(below);
        misrounded += high != (away ? above : below) >> 16;
        far += (uint32_t)(bits + 0x8000u) - ((uint32_t)high << 16) > 0xffffu;
    }
    at_most((double)lost, 0, "numbers that joining does not give back", shape);
    at_most((double)misrounded, 0, "bf16 weights that are not the nearest, ties away from zero", shape);
    at_most((double)far, 0, "remainders that do not fit", shape);
}
static void check_params(int64_t random, int64_t at) {
    const std::vector<uint32_t> x = patterns(random);
    const int64_t n = (int64_t)x.size(), total = at + n + 264;
    char shape[64];
    snprintf(shape, sizeof shape, "params_put, params_get of %lld at %lld", (long long)n, (long long)at);
    std::vector<float> numbers((size_t)n);
    memcpy(numbers.data(), x.data(), x.size() * 4);   // not by assignment, which may quiet a NaN
    Array<float> in(numbers), out(n);
    Array<real> p(total);
    Array<int16_t> remainder(total);
    int16_t *rest = sizeof(real) == 2 ? remainder.at : NULL;
    const std::vector<real> p_before = p.get();
    const std::vector<int16_t> r_before = remainder.get();
    params_put(in.at, p.at, rest, at, n, 0);
    params_get(out.at, p.at, rest, at, n, 0);
    at_most(same_bits(in.get(), out.get()) && out.fences_stand() && same_bits(in.get(), numbers) ? 0 : 1, 0, "what was put is not what is got", shape);
    const std::vector<real> p_after = p.get();
    const std::vector<int16_t> r_after = remainder.get();
    int64_t touched = 0, other = 0;
    for (int64_t i = 0; i < total; i++) {
        const size_t k = (size_t)i;
        if (i < at || i >= at + n) { touched += memcmp(&p_after[k], &p_before[k], sizeof(real)) != 0 || r_after[k] != r_before[k]; continue; }
        if constexpr (sizeof(real) == 2) {
            uint16_t high;
            int16_t low;
            weight_split(x[(size_t)(i - at)], &high, &low);
            other += bits_as<uint16_t>(p_after[k]) != high || r_after[k] != low;
        }
    }
    at_most((double)touched + !p.fences_stand() + !remainder.fences_stand(), 0, "numbers outside that were touched", shape);
    at_most((double)other, 0, "numbers that weight_split splits otherwise", shape);
    if constexpr (sizeof(real) == 2) {   // weights alone, no remainder: those of a model that is not trained
        const std::vector<real> weights = p_after;
        params_get(out.at, p.at, NULL, at, n, 0);
        const std::vector<float> whole = out.get();
        int64_t differ = 0;
        for (int64_t i = 0; i < n; i++) differ += bits_as<uint32_t>(whole[(size_t)i]) != (uint32_t)bits_as<uint16_t>(weights[(size_t)(at + i)]) << 16;
        params_put(out.at, p.at, NULL, at, n, 0);
        at_most((double)differ + !same_bits(p.get(), weights), 0, "without remainder: numbers that differ", shape);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// the update in double, with norm_and_clip's numbers

// long double: after one large number, millions of small ones added in double in turn lose more than the GPU's tree does
static double sum_of_squares(const std::vector<float> &x) { long double sum = 0; for (float v : x) sum += (long double)v * (long double)v; return (double)sum; }
// of what norm_and_clip found: the worst relative error
static double state_error(const StepState *s, const AdamW *o, int64_t t, double sum) {
    const double norm = sqrt(sum), scale = o->grad_clip > 0 && norm + 1e-6 > o->grad_clip ? o->grad_clip / (norm + 1e-6) : 1;
    if (s->skip != 0 || s->t != t) return INFINITY;
    return std::max(std::max(relative((double)s->step, o->lr / (1 - pow(o->beta1, (double)t))), relative((double)s->correction, sqrt(1 - pow(o->beta2, (double)t)))), relative((double)s->grad_scale, scale));
}
static void check_update(MomentType type, GradType grad_type, int64_t n, int64_t at, bool decayed, double clip) {
    char shape[128];
    snprintf(shape, sizeof shape, "%s moments, %s gradient, n %lld at %lld, clip %g%s", moment_names[type], grad_names[grad_type], (long long)n, (long long)at, clip, decayed ? ", decayed" : "");
    const AdamW o = {1e-3, 0.9, 0.95, 1e-8, 0.1, clip, 0}, first = {1e-3, 0.9, 0.95, 1e-8, 0.1, clip, 1};
    const AdamWNumbers k = numbers_of(&o, decayed);
    Arenas a(type, at, n);
    Gradients g(grad_type, a.total);
    Array<StepState> state(std::vector<StepState>(1));
    Array<double> partial(norm_partial_count());
    fill(a, 20);
    double worst_m = 0, worst_v = 0, worst_w = 0, worst_state = 0, touched = 0, other = 0;
    for (int64_t t = 1; t <= 5; t++) {
        g.put(decades(a.total, 40 + (uint64_t)t, 1.0, 8, 13));
        const Bits before = a.get();
        const std::vector<double> w0 = a.weights(), m0 = a.moments(false), v0 = a.moments(true);
        norm_and_clip(state.at, partial.at, g.at(), grad_type, a.total, t == 1 ? &first : &o, 0);   // t given once, then counted
        const StepState s = state.get()[0];
        worst_state = std::max(worst_state, state_error(&s, &o, t, sum_of_squares(g.host)));
        update(a, g, &o, decayed, state);
        const Bits after = a.get();
        const std::vector<double> w1 = a.weights(), m1 = a.moments(false), v1 = a.moments(true);
        for (size_t i = (size_t)at; i < (size_t)(at + n); i++) {
            const Updated r = reference(w0[i], m0[i], v0[i], (double)g.host[i], &k, &s);
            const double em = fabs(m1[i] - r.m) / r.m_error, ev = fabs(v1[i] - r.v) / r.v_error, ew = fabs(w1[i] - r.w) / r.w_error;
            if (!(em <= worst_m)) worst_m = em;
            if (!(ev <= worst_v)) worst_v = ev;
            if (!(ew <= worst_w)) worst_w = ew;
        }
        touched += (double)a.touched(before, after) + !a.fences_stand() + !g.full.fences_stand() + !g.half.fences_stand();
        a.put(before);
        update(a, g, &o, decayed, state);
        other += !same(a.get(), after);
    }
    at_most(worst_state, 1.3e-7, "step, correction, clipping: relative error, t 1 to 5", shape);
    at_most(worst_w, 1, "weights: error over tolerance, 1 unit of w + 1.1e-6 of the step", shape);
    if (type == MOMENT_FP32) {   // the others are rounded: check_rounding
        at_most(worst_m, 1, "m: error over 1.5 units of its terms", shape);
        at_most(worst_v, 1, "v: error over 3 units in the last place", shape);
    }
    at_most(touched, 0, "bytes outside that were touched", shape);
    at_most(other, 0, "steps with other bits in a second run", shape);
}
// the rungs below adamw.cuh's kernel, and that: one update's fp32 weights against the reference, as the error of the change
static double change_error(const std::vector<double> &found, const std::vector<double> &before, const std::vector<double> &after) {
    double d = 0, n = 0;
    for (size_t i = 0; i < found.size(); i++) {
        d += (found[i] - after[i]) * (found[i] - after[i]);
        n += (after[i] - before[i]) * (after[i] - before[i]);
    }
    return sqrt(d) / (sqrt(n) + 1e-300);
}

// ---------------------------------------------------------------------------------------------------------------------
// steps that must not be taken, and blocks of zeros

static void check_skip(MomentType type, GradType grad_type) {
    char shape[96];
    snprintf(shape, sizeof shape, "skipped step, %s moments, %s gradient", moment_names[type], grad_names[grad_type]);
    const AdamW o = {1e-3, 0.9, 0.95, 1e-8, 0.1, 1.0, 0};
    Arenas a(type, 256, 2056);
    Gradients g(grad_type, a.total);
    Array<double> partial(norm_partial_count());
    Array<StepState> state(std::vector<StepState>(1, state_of(&o, 7, 1.0f)));
    fill(a, 20);
    const Bits before = a.get();
    const std::vector<float> finite = decades(a.total, 40, 1.0, 8, 13);
    int64_t missed = 0, counted = 0, changed = 0;
    for (int64_t place : {(int64_t)0, (int64_t)1001, a.total - 1})
        for (float bad : {NAN, INFINITY, -INFINITY}) {
            std::vector<float> x = finite;
            x[(size_t)place] = bad;
            g.put(x);
            norm_and_clip(state.at, partial.at, g.at(), grad_type, a.total, &o, 0);
            const StepState s = state.get()[0];
            missed += s.skip == 0;
            counted += s.t != 7;
            update(a, g, &o, true, state);
            changed += !same(a.get(), before) || !a.fences_stand();
        }
    g.put(finite);
    for (double loss : {(double)NAN, (double)INFINITY}) {
        std::vector<StepState> s(1, state_of(&o, 7, 1.0f));
        s[0].loss = loss;
        state.put(s);
        norm_and_clip(state.at, partial.at, g.at(), grad_type, a.total, &o, 0);
        missed += state.get()[0].skip == 0;
        update(a, g, &o, true, state);
        changed += !same(a.get(), before);
    }
    at_most((double)missed, 0, "losses and gradients not finite that were not seen", shape);
    at_most((double)counted, 0, "skipped steps that were counted", shape);
    at_most((double)changed, 0, "skipped steps that changed a bit", shape);
    std::vector<StepState> s = state.get();
    s[0].loss = 1;
    state.put(s);
    norm_and_clip(state.at, partial.at, g.at(), grad_type, a.total, &o, 0);
    s = state.get();
    update(a, g, &o, true, state);
    is_true(s[0].skip == 0 && s[0].t == 8 && !same(a.get(), before), "the step after is not taken", shape);
}
// a block of zeros stays one; its weights do not change; and it does not depend on the blocks beside it
static void check_zeros(MomentType type) {
    char shape[64];
    snprintf(shape, sizeof shape, "a block of zeros, %s moments", moment_names[type]);
    const AdamW o = {1e-3, 0.9, 0.95, 1e-8, 0.1, 0, 0};
    Arenas a(type, 256, 768);
    Gradients g(GRAD_FP32, a.total);
    const std::vector<float> none((size_t)a.total, 0.0f);
    a.put(some_weights(a.total, 3), none, none);
    std::vector<float> x = decades(a.total, 40, 1.0, 3, 0);
    for (size_t i = 512; i < 768; i++) x[i] = i % 2 ? -0.0f : 0.0f;
    g.put(x);
    const Bits before = a.get();
    for (int64_t t = 1; t <= 3; t++) {
        Array<StepState> state(std::vector<StepState>(1, state_of(&o, t, 1.0f)));
        update(a, g, &o, false, state);
    }
    const Bits after = a.get();
    const std::vector<double> m = a.moments(false), v = a.moments(true);
    int64_t changed = 0, nonzero = 0, still = 0;
    for (size_t i = 512; i < 768; i++) {
        changed += memcmp(&after.p[i], &before.p[i], sizeof(real)) != 0 || after.remainder[i] != before.remainder[i];
        nonzero += m[i] != 0 || v[i] != 0;
        if (type == MOMENT_8BIT) nonzero += after.m[i] != 0 || after.v[i] != 0;
    }
    for (size_t i = 256; i < 512; i++) still += v[i] == 0;
    if (type == MOMENT_8BIT) for (size_t i = 0; i < 4; i++) nonzero += after.m[(size_t)a.total + 2 * 4 + i] != 0 || after.v[(size_t)a.total + 2 * 4 + i] != 0;
    at_most((double)changed, 0, "weights that a gradient of zero changed", shape);
    at_most((double)nonzero, 0, "moments, codes and scale that are not zero", shape);
    at_most((double)still, 0, "v of the block beside it that are zero", shape);
}

// ---------------------------------------------------------------------------------------------------------------------
// stochastic rounding

// Where x lies: between two neighbours `gap` apart, so that it must be rounded to the upper one (in magnitude) with probability p. group: numbers
// whose errors are summed together: by code in 8 bits, by p in bf16. floored: v so small that code 2 stands for it
typedef struct { double gap, p; int group; bool floored; } Between;
enum { GROUPS = 9 };
static Between between_bf16(double x) {
    const uint32_t bits = bits_as<uint32_t>((float)fabs(x)), low = bits & 0xffff0000u;
    const double gap = magnitude(low + 0x10000u) - magnitude(low), p = std::min(std::max((fabs(x) - magnitude(low)) / gap, 0.0), 1.0);
    return {gap, p, (int)(p * 7.999), false};
}
static Between between_codes(double x, double scale, bool second) {
    if (!(scale > 0)) return {1e-300, 0, 0, true};
    // in units of the smallest code's value: codes stand at q^2, of v at q^4
    const double unit = second ? (scale / 65025) * (scale / 65025) : scale / 16129, s = fabs(x) / unit, power = second ? 4 : 2;
    const double q = floor(pow(s, 1 / power) * (1 + 1e-12)), low = pow(q, power), step = pow(q + 1, power) - low;
    return {step * unit, std::min(std::max((s - low) / step, 0.0), 1.0), (int)log2(q + 1), second && s < 16};
}
static double decoded(const std::vector<uint8_t> &arena, MomentType type, bool second, int64_t total, int64_t i) {
    if (type == MOMENT_BF16) { uint16_t h; memcpy(&h, &arena[(size_t)i * 2], 2); return (double)bits_as<float>((uint32_t)h << 16); }
    float scale;
    memcpy(&scale, &arena[(size_t)(total + i / MOMENT_BLOCK * 4)], 4);
    const int q = second ? (int)arena[(size_t)i] : (int)(int8_t)arena[(size_t)i];
    const double r = q / (second ? 255.0 : 127.0), root = (double)scale * r * fabs(r);
    return second ? root * root : root;
}
// The sums of errors against known variances: in groups, and each number apart
typedef struct {
    double sum[GROUPS], variance[GROUPS], slack[GROUPS];
    std::vector<double> own, own_variance;
    int64_t far;   // numbers that are neither neighbour
} Errors;
static void add_error(Errors *e, size_t i, double stored, double x, const Between *b, double slack) {   // slack: what other roundings may add, in gaps
    const double d = (fabs(stored) - fabs(x)) / b->gap;
    if (!(fabs(d) <= 1.05 + slack) || (stored != 0 && (stored < 0) != (x < 0))) e->far++;
    e->sum[b->group] += d; e->variance[b->group] += b->p * (1 - b->p); e->slack[b->group] += slack;
    e->own[i] += d; e->own_variance[i] += b->p * (1 - b->p);
}
static void expect_unbiased(const Errors *e, const char *what, const char *shape) {
    char name[128];
    double worst = 0, squares_sum = 0, count = 0;
    int groups = 0;
    for (int b = 0; b < GROUPS; b++) {
        if (e->variance[b] < 25) continue;   // too few to be normal
        groups++;
        const double z = (fabs(e->sum[b]) - e->slack[b]) / sqrt(e->variance[b]);
        if (!(z <= worst)) worst = z;
    }
    for (size_t i = 0; i < e->own.size(); i++) {
        if (e->own_variance[i] < 1.5) continue;
        squares_sum += e->own[i] * e->own[i] / e->own_variance[i];
        count++;
    }
    snprintf(name, sizeof name, "%s: numbers rounded to neither neighbour", what);
    at_most((double)e->far, 0, name, shape);
    snprintf(name, sizeof name, "%s: mean error in standard errors, worst of %d groups", what, groups);
    at_most(groups >= 4 ? worst : INFINITY, 4, name, shape);
    snprintf(name, sizeof name, "%s: squared errors over variance, %.0f numbers apart", what, count);
    at_most(count > 100 ? squares_sum / count : INFINITY, 1 + 5 * sqrt(2.7 / std::max(count, 1.0)), name, shape);
}
static Errors no_errors(int64_t n) { Errors e = {}; e.own.resize((size_t)n); e.own_variance.resize((size_t)n); return e; }

static void check_rounding(MomentType type, int64_t n, int rounds) {
    char shape[96];
    snprintf(shape, sizeof shape, "rounding of %s moments, n %lld, %d times", moment_names[type], (long long)n, rounds);
    const AdamW o = {1e-3, 0.9, 0.95, 1e-8, 0.1, 0, 0};
    const AdamWNumbers k = numbers_of(&o, true);
    Arenas a(type, 768, n);
    Gradients g(GRAD_FP32, a.total);
    a.put(some_weights(a.total, 3), decades(a.total, 5, 1.0, 5, 0), squares(decades(a.total, 6, 1.0, 5, 0)));
    g.put(decades(a.total, 7, 1.0, 6, 0));
    const Bits start = a.get();
    const std::vector<double> w0 = a.weights(), m0 = a.moments(false), v0 = a.moments(true);
    Errors first = no_errors(n), second = no_errors(n);
    int64_t not_floor = 0, lost = 0, same_rounds = 0;
    double scale_error = 0, decode_error = 0;
    Bits last = start;
    for (int r = 0; r < rounds; r++) {
        StepState s = state_of(&o, 100, 0.5f);
        s.t = 1 + r;   // nothing but the noise depends on it
        Array<StepState> state(std::vector<StepState>(1, s));
        a.put(start);
        update(a, g, &o, true, state);
        const Bits after = a.get();
        same_rounds += same_bits(after.m, last.m) || same_bits(after.v, last.v);
        last = after;
        const std::vector<double> m1 = a.moments(false), v1 = a.moments(true);
        double largest_m = 0, largest_v = 0, scale_m = 0, scale_v = 0;
        for (int64_t i = a.at; i < a.at + n; i++) {
            const size_t j = (size_t)i, own = (size_t)(i - a.at);
            const Updated x = reference(w0[j], m0[j], v0[j], (double)g.host[j], &k, &s);
            if (type == MOMENT_8BIT) {
                float two[2];
                memcpy(&two[0], &after.m[(size_t)(a.total + i / MOMENT_BLOCK * 4)], 4);
                memcpy(&two[1], &after.v[(size_t)(a.total + i / MOMENT_BLOCK * 4)], 4);
                scale_m = (double)two[0]; scale_v = (double)two[1];
                if (i % MOMENT_BLOCK == 0) largest_m = largest_v = 0;
                largest_m = std::max(largest_m, fabs(x.m)); largest_v = std::max(largest_v, sqrt(x.v));
                if (i % MOMENT_BLOCK == MOMENT_BLOCK - 1 || i == a.at + n - 1) scale_error = std::max(scale_error, std::max(relative(scale_m, largest_m), relative(scale_v, largest_v)));
                lost += after.v[j] < 2;
            }
            const double m = decoded(after.m, type, false, a.total, i), v = decoded(after.v, type, true, a.total, i);
            decode_error = std::max(decode_error, std::max(relative(m1[j], m), relative(v1[j], v)));
            lost += v == 0;
            const Between b = type == MOMENT_BF16 ? between_bf16(x.m) : between_codes(x.m, scale_m, false), c = type == MOMENT_BF16 ? between_bf16(x.v) : between_codes(x.v, scale_v, true);
            const double hair = type == MOMENT_8BIT ? 3e-6 : 0;   // the codes' scale is that much above 1; of a root, twice
            add_error(&first, own, m, x.m, &b, (x.m_error + hair * fabs(x.m)) / b.gap);
            if (c.floored) not_floor += after.v[j] != 2;
            else add_error(&second, own, v, x.v, &c, (x.v_error + 2.2 * hair * x.v) / c.gap);
        }
    }
    expect_unbiased(&first, "m", shape);
    expect_unbiased(&second, "v", shape);
    at_most((double)lost, 0, "v above zero that became zero", shape);
    at_most((double)same_rounds, 0, "two t with the same bits", shape);
    at_most(decode_error, 1e-6, "moments_get against decoding on the host", shape);
    if (type != MOMENT_8BIT) return;
    at_most(scale_error, 1e-6, "scale against the block's largest", shape);
    at_most((double)not_floor, 0, "v below code 2 that did not get it", shape);
}
// size: of the gradients, which the scales' bounds are far from or near to
static void check_moments_copy(MomentType type, int64_t n, int64_t at, double size) {
    char shape[96];
    snprintf(shape, sizeof shape, "moments_get, moments_put, %s, n %lld at %lld, size %g", moment_names[type], (long long)n, (long long)at, size);
    const AdamW o = {1e-3, 0.9, 0.95, 1e-8, 0.1, 0, 0};
    Arenas a(type, at, n), b(type, at, n);
    Gradients g(GRAD_FP32, a.total);
    const std::vector<float> none((size_t)a.total, 0.0f);
    a.put(none, none, none);
    for (int64_t t = 1; t <= 3; t++) {
        Array<StepState> state(std::vector<StepState>(1, state_of(&o, t, 1.0f)));
        g.put(decades(a.total, 40 + (uint64_t)t, size, 3, 0));
        update(a, g, &o, true, state);
    }
    Array<float> m(n), v(n);
    moments_get(m.at, a.m.at, type, false, a.total, at, n, 0);
    moments_get(v.at, a.v.at, type, true, a.total, at, n, 0);
    const Bits before = b.get();
    moments_put(m.at, b.m.at, type, false, b.total, at, n, 0);
    moments_put(v.at, b.v.at, type, true, b.total, at, n, 0);
    const Bits from = a.get(), to = b.get();
    at_most((double)b.touched(before, to) + !b.fences_stand() + !m.fences_stand() + !v.fences_stand(), 0, "bytes outside that were touched", shape);
    const std::vector<double> x = m.numbers();
    int64_t zeros = 0;
    for (double d : x) zeros += d == 0;
    at_most((double)zeros, 0.9 * (double)n, "zeros: the check itself must see numbers", shape);
    // everything but [at, at + n) equal by construction: there b takes a's bytes
    Bits merged = from;
    const int64_t bytes = type == MOMENT_FP32 ? 4 : type == MOMENT_BF16 ? 2 : 1, first = a.total + at / MOMENT_BLOCK * 4, last = a.total + ceil_div(at + n, MOMENT_BLOCK) * 4;
    for (int64_t i = 0; i < a.m.n; i++)
        if ((i >= at * bytes && i < (at + n) * bytes) || (type == MOMENT_8BIT && i >= first && i < last)) { merged.m[(size_t)i] = to.m[(size_t)i]; merged.v[(size_t)i] = to.v[(size_t)i]; }
    int64_t differ = 0;
    for (size_t i = 0; i < merged.m.size(); i++) differ += (merged.m[i] != from.m[i]) + (merged.v[i] != from.v[i]);
    at_most((double)differ, 0, "bytes that a copy out and in changed", shape);
}
// One update from the same moments, held in fp32 and in fewer bits: the difference of the weights' changes over the change, root mean squares
static void check_small_moments(MomentType type, double range, double allowed) {
    char shape[96];
    snprintf(shape, sizeof shape, "one update, %s against fp32 moments, %g decades", moment_names[type], range);
    const AdamW o = {1e-3, 0.9, 0.95, 1e-8, 0.1, 0, 0};
    const int64_t n = 20000;
    Arenas a(type, 256, n), b(MOMENT_FP32, 256, n);
    Gradients g(GRAD_FP32, a.total);
    // each number has a size of its own, which its gradients, and so m and sqrt(v), follow
    Array<float> normal_m(a.total, 1, 0.3f), normal_v(a.total, 2, 0.2f), normal_g(a.total, 3, 1.0f);
    std::vector<float> size = decades(a.total, 4, 1e-3, range, 0), m = normal_m.get(), v = normal_v.get(), x = normal_g.get();
    for (size_t i = 0; i < size.size(); i++) { m[i] *= size[i]; x[i] *= size[i]; v[i] = size[i] * size[i] * (1.0f + v[i]) * (1.0f + v[i]) + 1e-20f; }
    g.put(x);
    const std::vector<float> weights((size_t)a.total, 0.0f);   // so that the weight is the change
    a.put(weights, m, v);
    b.put(weights, m, v);
    Array<StepState> state(std::vector<StepState>(1, state_of(&o, 100, 1.0f)));
    update(a, g, &o, true, state);
    update(b, g, &o, true, state);
    std::vector<double> found = a.weights(), wanted = b.weights(), zero(found.size(), 0.0);
    at_most(change_error(found, zero, wanted), allowed, "difference of the change of the weights, of that change", shape);
}

// ---------------------------------------------------------------------------------------------------------------------
// bf16 sums, gradient norm

static void check_accumulate(int64_t n, int rounds) {
    char shape[96];
    snprintf(shape, sizeof shape, "accumulate_bf16, n %lld, %d times", (long long)n, rounds);
    const AdamW o = {1e-3, 0.9, 0.95, 1e-8, 0.1, 0, 0};
    const std::vector<bf16> start = to_bf16(decades(n, 1, 1.0, 4, 17));
    const std::vector<float> g = to_floats(start), d = decades(n, 2, 1.0, 5, 19);
    Array<bf16> sum(start);
    Array<float> delta(d);
    Array<StepState> state(std::vector<StepState>(1, state_of(&o, 3, 1.0f))), later(std::vector<StepState>(1, state_of(&o, 4, 1.0f)));
    auto added = [&](const StepState *s, uint64_t call) {
        sum.put(start);
        accumulate_bf16(sum.at, delta.at, n, s, call, 0);
        return sum.get();
    };
    Errors e = no_errors(n);
    int64_t wrong = 0;
    for (int r = 0; r < rounds; r++) {
        const std::vector<bf16> x = added(state.at, (uint64_t)r);
        for (size_t i = 0; i < x.size(); i++) {
            const float exact = g[i] + d[i];   // one rounding, as on the GPU
            const Between b = between_bf16((double)exact);
            if (b.p == 0) wrong += __bfloat162float(x[i]) != exact;
            else add_error(&e, i, (double)__bfloat162float(x[i]), (double)exact, &b, 0);
        }
    }
    expect_unbiased(&e, "sum", shape);
    at_most((double)wrong, 0, "sums that need no rounding and were rounded", shape);
    const std::vector<bf16> once = added(state.at, 5);
    is_true(same_bits(once, added(state.at, 5)), "other bits in a second run", shape);
    is_true(!same_bits(once, added(state.at, 6)), "the same bits in another call", shape);
    is_true(!same_bits(once, added(later.at, 5)), "the same bits in another step", shape);
    is_true(sum.fences_stand() && delta.fences_stand() && same_bits(delta.get(), d), "written outside its shape", shape);
    std::vector<float> bad = d;
    bad[0] = NAN; bad[1] = INFINITY; bad[2] = -INFINITY;
    delta.put(bad);
    const std::vector<bf16> x = added(state.at, 5);
    is_true(isnan(__bfloat162float(x[0])) && __bfloat162float(x[1]) == INFINITY && __bfloat162float(x[2]) == -INFINITY && isfinite(__bfloat162float(x[3])), "NaN and infinities do not stay what they are", shape);
}
static void check_norm(GradType grad_type, int64_t n, double largest) {
    char shape[96];
    snprintf(shape, sizeof shape, "norm of a %s gradient, n %lld, size %g", grad_names[grad_type], (long long)n, largest);
    Gradients g(grad_type, n);
    g.put(decades(n, 1, largest, 3, 0));
    const double sum = sum_of_squares(g.host);
    Array<double> partial(norm_partial_count());
    double worst = 0, worst_state = 0, t_given = 0;
    bool same_sums = true;
    for (double clip : {0.0, sqrt(sum) / 3, sqrt(sum) * 3 + 1}) {
        const AdamW o = {3e-4, 0.9, 0.95, 1e-8, 0.1, clip, 0}, given = {3e-4, 0.9, 0.999, 1e-8, 0.1, clip, 1000};
        Array<StepState> state(std::vector<StepState>(1, state_of(&o, 41, 0.0f)));
        norm_and_clip(state.at, partial.at, g.at(), grad_type, n, &o, 0);
        const StepState s = state.get()[0];
        worst = std::max(worst, relative(s.sum_squares, sum));
        worst_state = std::max(worst_state, state_error(&s, &o, 42, sum));
        norm_and_clip(state.at, partial.at, g.at(), grad_type, n, &given, 0);
        const StepState again = state.get()[0];
        t_given = std::max(t_given, state_error(&again, &given, 1000, sum));
        same_sums = same_sums && again.sum_squares == s.sum_squares;
    }
    at_most(worst, 1e-12, "sum of squares against the host's, relative", shape);
    at_most(worst_state, 1.3e-7, "step, correction, clipping: relative error, t counted", shape);
    at_most(t_given, 1.3e-7, "step, correction, clipping: relative error, t given", shape);
    is_true(same_sums && partial.fences_stand() && g.full.fences_stand() && g.half.fences_stand(), "other bits in a second run, or written outside its shape", shape);
    Array<float> out(n);
    grads_get(out.at, g.at(), grad_type, 0, n, 0);
    is_true(same_bits(out.get(), g.host) && out.fences_stand(), "grads_get gives other numbers", shape);
    // one number at each end and in the middle must count
    double missed = 0;
    std::vector<float> x = g.host;
    for (int64_t place : {(int64_t)0, n / 2, n - 1}) {
        std::vector<float> y = x;
        y[(size_t)place] = (float)largest * 64;
        g.put(y);
        const AdamW o = {3e-4, 0.9, 0.95, 1e-8, 0.1, 0, 0};
        Array<StepState> state(std::vector<StepState>(1, state_of(&o, 41, 0.0f)));
        norm_and_clip(state.at, partial.at, g.at(), grad_type, n, &o, 0);
        missed = std::max(missed, relative(state.get()[0].sum_squares, sum_of_squares(g.host)));
    }
    at_most(missed, 1e-12, "the same with a large number at either end", shape);
}

static void checks_of(bool tiny) {
    check_split(tiny ? 1000 : 1 << 22);
    check_params(tiny ? 1000 : 1 << 18, 0);
    check_params(tiny ? 1000 : 1 << 18, 264);
    const struct { int64_t n, at; } shapes[] = {{8, 0}, {264, 256}, {2056, 2304}, {5000, 512}, {100008, 768}};
    const double clips[] = {0, 0.5, 1e9};
    int turn = 0;
    for (const auto &s : shapes) {
        if (tiny && s.n > 2056) break;
        for (int type = MOMENT_FP32; type <= MOMENT_8BIT; type++)
            for (int grad = GRAD_FP32; grad <= GRAD_BF16; grad++) {
                check_update((MomentType)type, (GradType)grad, s.n, s.at, turn % 2 == 0, clips[turn % 3]);
                turn++;
            }
        turn++;   // the next shape takes the other clip and decay with each type
    }
    for (int type = MOMENT_FP32; type <= MOMENT_8BIT; type++) {
        for (int grad = GRAD_FP32; grad <= GRAD_BF16; grad++) check_skip((MomentType)type, (GradType)grad);
        check_zeros((MomentType)type);
        check_moments_copy((MomentType)type, 2056, 256, 1.0);
        check_moments_copy((MomentType)type, 264, 512, 1e-13);   // below the smallest scale
        check_moments_copy((MomentType)type, tiny ? 1000 : 50000, 0, 1e-3);
    }
    if (!tiny) check_moments_copy(MOMENT_8BIT, 1 << 23, 0, 1.0);   // so many blocks that one in ten thousand whose largest number missed the last code would show
    for (MomentType type : {MOMENT_BF16, MOMENT_8BIT}) check_rounding(type, tiny ? 1032 : 4104, tiny ? 16 : 64);
    check_small_moments(MOMENT_BF16, 0, 0.01); check_small_moments(MOMENT_BF16, 1, 0.01);
    check_small_moments(MOMENT_8BIT, 0, 0.03); check_small_moments(MOMENT_8BIT, 1, 0.06);
    check_accumulate(tiny ? 1032 : 4104, tiny ? 16 : 64);
    for (GradType grad : {GRAD_FP32, GRAD_BF16}) {
        check_norm(grad, 8, 1.0); check_norm(grad, 5000, 1e-3); check_norm(grad, 5000, 1e30);
        if (!tiny) check_norm(grad, 3 * NORM_PARTS * 256 * 8 / 2 + 1008, 1e-2);   // every part's loop, the last time not all of them
    }
}

// ---------------------------------------------------------------------------------------------------------------------

__global__ static void square_kernel(float *x, int64_t n) { for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) x[i] *= x[i]; }

int main(int argc, char **argv) {
    program_name = "adamw";
    const char *what = argc > 1 ? argv[1] : "";
    if (strcmp(what, "tiny") == 0 || strcmp(what, "check") == 0) {
        checks_of(strcmp(what, "tiny") == 0);
        return check_result();
    }
    const Ladder l = ladder_begin(argc, argv);
    const int64_t n = 1ll << 28, few = 1 << 16;
    const AdamW o = {1e-5, 0.9, 0.95, 1e-8, 0.1, 1.0, 0};
    const AdamWNumbers k = numbers_of(&o, true);
    const StepState s = state_of(&o, 100, 0.7f);
    // what every rung starts from; normal numbers, so none is zero
    Array<float> weights(n, 1, 0.02f), first(n, 2, 3e-4f), second(n, 3, 1e-3f), g32(n, 4, 1e-3f), master(sizeof(real) == 2 ? n : 8), few_weights(few);
    Array<bf16> g16(n, 4, 1e-3f);
    Array<real> p(n);
    Array<int16_t> remainder(sizeof(real) == 2 ? n : 8);
    Array<uint8_t> m(moment_bytes(MOMENT_FP32, n)), v(moment_bytes(MOMENT_FP32, n));
    Array<StepState> state(std::vector<StepState>(1, s));
    Array<double> partial(norm_partial_count());
    int16_t *rest = sizeof(real) == 2 ? remainder.at : NULL;
    square_kernel<<<1024, 256>>>(second.at, n);
    CUDA_CHECK(cudaGetLastError());
    auto beginning = [&](const auto &x) {   // the first few, as numbers
        std::vector<std::remove_reference_t<decltype(*x.at)>> y((size_t)few);
        CUDA_CHECK(cudaMemcpy(y.data(), x.at, y.size() * sizeof y[0], cudaMemcpyDeviceToHost));
        std::vector<double> z;
        for (auto e : y) z.push_back((double)to_float(e));
        return z;
    };
    const std::vector<double> w0 = beginning(weights), m0 = beginning(first), v0 = beginning(second), full = beginning(g32), half = beginning(g16);
    auto run = [&](int rung, int64_t count) {
        if (rung >= 4) {
            adamw_update(p.at, rest, m.at, v.at, moment_of(rung), n, grad_of(rung) == GRAD_FP32 ? (const void *)g32.at : (const void *)g16.at, grad_of(rung), 0, count, &o, true, state.at, 0);
            return;
        }
        const unsigned blocks = (unsigned)ceil_div(count, rung == 3 ? 2048 : 256);
        bf16 *const weight = (bf16 *)p.at;
        if (rung == 1) update1_kernel<<<blocks, 256>>>(weight, master.at, (float *)m.at, (float *)v.at, g32.at, count, k, state.at);
        else if (rung == 2) update2_kernel<<<blocks, 256>>>(weight, remainder.at, (float *)m.at, (float *)v.at, g32.at, count, k, state.at);
        else update3_kernel<<<blocks, 256>>>(weight, remainder.at, (float *)m.at, (float *)v.at, g32.at, count, k, state.at);
        CUDA_CHECK(cudaGetLastError());
    };
    ladder_title("AdamW, 2^28 parameters (error: the change of 65536 weights against that from unrounded moments)");
    for (int rung = 1; rung <= 9; rung++) {
        if (!ladder_wants(&l, rung) || (sizeof(real) == 4 && rung <= 3)) continue;   // the fp32 build has no split weight
        params_put(weights.at, p.at, rest, 0, n, 0);
        moments_put(first.at, m.at, moment_of(rung), false, n, 0, n, 0);
        moments_put(second.at, v.at, moment_of(rung), true, n, 0, n, 0);
        if (rung == 1) master.copy(weights);
        run(rung, few);
        if (rung > 1) params_get(few_weights.at, p.at, rest, 0, few, 0);
        const std::vector<double> found = rung == 1 ? beginning(master) : few_weights.numbers();
        std::vector<double> wanted(found.size());
        for (size_t i = 0; i < wanted.size(); i++) wanted[i] = reference(w0[i], m0[i], v0[i], grad_of(rung) == GRAD_FP32 ? full[i] : half[i], &k, &s).w;
        char idea[160];
        // the fp32 build: the weight is one number of 4 bytes, in and out: 8 again
        snprintf(idea, sizeof idea, "%-5.4g B: %s", bytes_of(rung), ideas[rung - 1]);
        ladder_rung(&l, rung, idea, bytes_of(rung) * (double)n, change_error(found, w0, wanted), [&](int) { run(rung, n); });
    }
    ladder_title("beside it, 2^28 numbers (errors: adamw check)");
    // the update's state stays as it is: norm_and_clip has one of its own
    Array<StepState> own(std::vector<StepState>(1, s));
    ladder_rung(&l, 10, "4     B: norm and clipping, fp32 gradient", 4.0 * (double)n, 0, [&](int) { norm_and_clip(own.at, partial.at, g32.at, GRAD_FP32, n, &o, 0); });
    ladder_rung(&l, 11, "2     B: norm and clipping, bf16 gradient", 2.0 * (double)n, 0, [&](int) { norm_and_clip(own.at, partial.at, g16.at, GRAD_BF16, n, &o, 0); });
    ladder_rung(&l, 12, "8     B: accumulate_bf16: an fp32 gradient in, a bf16 one in and out", 8.0 * (double)n, 0, [&](int call) { accumulate_bf16(g16.at, g32.at, n, state.at, (uint64_t)call, 0); });
    return 0;
}
