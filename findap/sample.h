// sample.h: from one row of logits to the next token. The order is transformers': repetition penalty, temperature, top-k, top-p, min-p.
//
// It is written so that a GPU can do the same. What is dropped is what lies below one cut, a number: no order of tokens is needed, only where the cut falls, and equal
// logits are kept or dropped together (transformers' top-p keeps some of them, by the order of its sort). What is left is drawn by the largest logit plus Gumbel noise
// (Gumbel 1954), which is a draw from the softmax: no sum over the vocabulary, so nothing hangs on the order of sums. The noise is a pure function of seed, position and
// token: a draw depends neither on the batch nor on what was drawn before.
#ifndef FINDAP_SAMPLE_H
#define FINDAP_SAMPLE_H
#include "common.h"   // defines: random_uniform

typedef struct {
    double temperature;          // 0: greedy, the largest logit; of equal ones the first
    int64_t top_k;               // only as many of the largest, 0: all
    double top_p;                // only the largest whose probabilities together reach this, 1: all
    double min_p;                // only those at least this times as probable as the most probable, 0: all
    double repetition_penalty;   // logits of tokens that were there are divided by it when positive, else multiplied (Keskar et al. 2019); 1: not
} Sampling;

typedef struct {
    Sampling sampling;
    uint64_t seed;
    int64_t position;     // of the token that is drawn
    const int32_t *seen;  // (num_seen) prompt and answer so far, for the penalty; a token may be there many times
    int64_t num_seen;
} SampleRow;

FN int64_t sample_num_seen(const SampleRow *r) { return r->sampling.repetition_penalty != 1 ? r->num_seen : 0; }   // tokens that matter

FN int compare_falling(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

// z (V) from logits (V): penalty and temperature; what is dropped becomes -infinity. sorted (V) is scratch.
FN void sample_filter(float *z, float *sorted, const float *logits, int64_t V, const SampleRow *row) {
    const Sampling *s = &row->sampling;
    float penalty = (float)s->repetition_penalty, temperature = (float)s->temperature, maximum = -INFINITY;
    memcpy(z, logits, (size_t)V * sizeof(float));
    for (int64_t i = 0; i < sample_num_seen(row); i++) {   // from the logit, not from z: a second time changes nothing
        float x = logits[row->seen[i]];
        z[row->seen[i]] = x < 0 ? x * penalty : x / penalty;
    }
    if (s->temperature == 0) return;
    for (int64_t v = 0; v < V; v++) { z[v] /= temperature; maximum = z[v] > maximum ? z[v] : maximum; }
    double cut = -INFINITY;
    if ((s->top_k > 0 && s->top_k < V) || s->top_p < 1) {
        memcpy(sorted, z, (size_t)V * sizeof(float));
        qsort(sorted, (size_t)V, sizeof(float), compare_falling);
        int64_t n = s->top_k > 0 && s->top_k < V ? s->top_k : V;
        while (n < V && sorted[n] == sorted[n - 1]) n++;
        cut = sorted[n - 1];
        double sum = 0, before = 0;
        for (int64_t i = 0; i < n; i++) sum += exp((double)sorted[i] - maximum);
        for (int64_t i = 0; i < n && s->top_p < 1 && (i == 0 || before < s->top_p * sum); i++) { before += exp((double)sorted[i] - maximum); cut = sorted[i]; }
    }
    if (s->min_p > 0 && maximum + log(s->min_p) > cut) cut = maximum + log(s->min_p);
    for (int64_t v = 0; v < V; v++) if (z[v] < cut) z[v] = -INFINITY;
}

FN int32_t sample_draw(const float *z, int64_t V, const SampleRow *row) {
    int32_t best = 0;
    double highest = -INFINITY;
    for (int64_t v = 0; v < V; v++) {
        if (z[v] == -INFINITY) continue;
        double x = row->sampling.temperature == 0 ? z[v] : z[v] - log(-log(random_uniform(row->seed, (uint64_t)row->position, (uint64_t)v)));
        if (x > highest) { highest = x; best = (int32_t)v; }
    }
    return best;
}

#endif
