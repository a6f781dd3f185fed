// pairs.h: preference pairs, from the shards of `prepare --kind pref` to packed rows in which both answers share one copy of their prompt.
//
// A pair of prompt p (n tokens), chosen c and rejected r lies in a row as
//
//     tokens      p[0] ... p[n-1]   c[0] ... c[a-1]     p[n-1]   r[0] ... r[b-1]
//     positions     0  ...   n-1      n  ... n+a-1        n-1      n  ... n+b-1
//
// The second p[n-1] begins a branch (findap/model.h): it sees p[0..n-2] and itself, so it is what the first one is, and predicts r[0] where the
// first one predicts c[0]. One token is repeated instead of a whole prompt, and neither answer sees the other. With n = 1 the position is 0 and
// the branch is a document of its own, which comes to the same.
#ifndef FINDAP_PAIRS_H
#define FINDAP_PAIRS_H
#include "preference.h"   // defines: CHOSEN, REJECTED
#include "stream.h"       // defines: Step, step_end_row, pack_best_fit, permutation_new, shard_open, shard_list

typedef struct {
    const int32_t *prompt, *answer[2];   // tokens, in the mapped shard
    const uint8_t *weights[2];           // beside the answers' tokens: 1 is trained
    int64_t length, answer_length[2];    // of the prompt, of the answers
    int64_t trained[2];                  // tokens of an answer whose weight is 1
} Pair;

typedef struct {
    Shard *shards;
    int num_shards;
    Pair *pairs;                         // those that fit into a row, in the order of the shards
    int64_t num_pairs, num_tokens;       // tokens: as they lie in rows
    int64_t dropped, dropped_tokens, untrained;   // too long for a row; with an answer that has no trained token
    int64_t *train, num_train, *dev, num_dev;     // numbers of pairs, rising
    Hash hash;                           // of the pairs' tokens, weights and bounds
} Pairs;

FN void pairs_free(Pairs *p) {
    for (int i = 0; i < p->num_shards; i++) shard_close(&p->shards[i]);
    free(p->shards); free(p->pairs); free(p->train); free(p->dev);
    memset(p, 0, sizeof *p);
}

FN int64_t pair_places(const Pair *x) { return x->length + x->answer_length[CHOSEN] + 1 + x->answer_length[REJECTED]; }

FN Pair pair_of(const Shard *s, int64_t i) {
    Pair x;
    int64_t begin[2] = {s->chosen[i], s->rejected[i]}, end[2] = {s->rejected[i], s->documents[i + 1]};
    x.prompt = s->tokens + s->documents[i];
    x.length = s->chosen[i] - s->documents[i];
    for (int k = CHOSEN; k <= REJECTED; k++) {
        x.answer[k] = s->tokens + begin[k];
        x.weights[k] = s->weights + begin[k];
        x.answer_length[k] = end[k] - begin[k];
        x.trained[k] = 0;
        for (int64_t t = 0; t < x.answer_length[k]; t++) x.trained[k] += x.weights[k][t];
    }
    return x;
}

typedef struct { uint64_t key; int64_t pair; } PairKey;
FN int pair_key_compare(const void *a, const void *b) {
    const PairKey *x = (const PairKey *)a, *y = (const PairKey *)b;
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    return x->pair < y->pair ? -1 : x->pair > y->pair;
}
// At least `amount` pairs are held out, by prompt: several pairs of one prompt stay together, or the evaluation would ask what was trained.
FN bool pairs_hold_out(Pairs *p, int64_t amount, uint64_t seed, Error *e) {
    PairKey *keys = (PairKey *)xcalloc(p->num_pairs, sizeof(PairKey));
    uint8_t *held = (uint8_t *)xcalloc(p->num_pairs, 1);
    for (int64_t i = 0; i < p->num_pairs; i++) {
        keys[i].key = mix64(mix64(seed) ^ XXH3_64bits(p->pairs[i].prompt, (size_t)p->pairs[i].length * sizeof(int32_t)));
        keys[i].pair = i;
    }
    qsort(keys, (size_t)p->num_pairs, sizeof *keys, pair_key_compare);
    for (int64_t i = 0; i < p->num_pairs && amount > 0 && (i < amount || keys[i].key == keys[i - 1].key); i++) { held[keys[i].pair] = 1; p->num_dev++; }
    p->num_train = p->num_pairs - p->num_dev;
    p->dev = (int64_t *)xcalloc(p->num_dev, sizeof(int64_t));
    p->train = (int64_t *)xcalloc(p->num_train, sizeof(int64_t));
    for (int64_t i = 0, d = 0, t = 0; i < p->num_pairs; i++) if (held[i]) p->dev[d++] = i; else p->train[t++] = i;
    free(keys); free(held);
    return p->num_train > 0 || fail(e, "--dev-pairs %" PRId64 " of %" PRId64 " pairs leaves none to train on ---> hold out fewer", amount, p->num_pairs);
}

// Opens the shards that `words` name and keeps the pairs that fit into rows of T. False with one line in e; pairs_free either way.
FN bool pairs_open(Pairs *p, const StringList *words, int64_t vocab_size, int64_t T, int64_t dev, uint64_t seed, Error *e) {
    StringList paths;
    memset(p, 0, sizeof *p);
    bool ok = shard_list(words, &paths, e);
    p->shards = (Shard *)xcalloc(paths.n, sizeof(Shard));
    XXH3_state_t *state = XXH3_createState();
    CHECK(state && XXH3_128bits_reset(state) == XXH_OK);
    for (int f = 0; ok && f < paths.n; f++) {
        Shard *s = &p->shards[f];
        ok = shard_open(paths.items[f], s, e);
        if (!ok) break;
        p->num_shards++;
        if (s->kind != SHARD_PREF) ok = fail(e, "%s: is a shard of kind %s, expected pref ---> make pairs with `prepare --kind pref`; other data are for train_findap", paths.items[f], shard_kind_names[s->kind]);
        else if (s->vocab_size > vocab_size) ok = fail(e, "%s: was made for a vocabulary of %" PRId64 ", the model has %" PRId64 " ---> prepare the pairs with the model's own tokenizer", paths.items[f], s->vocab_size, vocab_size);
        else if (strcmp(s->tokenizer, p->shards[0].tokenizer) != 0) ok = fail(e, "%s: was made with another tokenizer (%.8s) than %s (%.8s) ---> prepare both with the same one", paths.items[f], s->tokenizer, paths.items[0], p->shards[0].tokenizer);
        if (!ok) break;
        p->pairs = (Pair *)xrealloc(p->pairs, p->num_pairs + s->num_documents, sizeof(Pair));
        for (int64_t i = 0; i < s->num_documents; i++) {
            Pair x = pair_of(s, i);
            if (x.trained[CHOSEN] == 0 || x.trained[REJECTED] == 0) { p->untrained++; continue; }
            if (pair_places(&x) > T) { p->dropped++; p->dropped_tokens += pair_places(&x); continue; }
            p->pairs[p->num_pairs++] = x;
            p->num_tokens += pair_places(&x);
            int64_t n = s->documents[i + 1] - s->documents[i], bounds[2] = {x.length, x.answer_length[CHOSEN]};
            XXH3_128bits_update(state, &n, sizeof n);
            XXH3_128bits_update(state, bounds, sizeof bounds);
            XXH3_128bits_update(state, x.prompt, (size_t)n * sizeof(int32_t));
            XXH3_128bits_update(state, s->weights + s->documents[i], (size_t)n);
        }
    }
    p->hash = hash_digest(XXH3_128bits_digest(state));
    XXH3_freeState(state);
    if (ok && p->num_pairs == 0)
        ok = fail(e, "%s: no pair is left: %" PRId64 " do not fit into a row of %" PRId64 " tokens, %" PRId64 " have an answer without a trained token ---> longer rows (--seq-len), or look at the data", words->items[0],
                  p->dropped, T, p->untrained);
    shard_list_free(&paths);
    return ok && pairs_hold_out(p, dev, seed, e);
}

// Lays the pairs which[0..n) into the rows of s, best-fit, in rows as short as the same number of them can be: T is set for this step. So a step holds its
// pairs and next to nothing else, whatever their lengths. stream: 2 k + side at the places with a trained target of pair which[k], else -1.
FN void pairs_lay(Step *s, const Pairs *p, const int64_t *which, int64_t n, int64_t T) {
    int32_t *lengths = (int32_t *)xmalloc(n * (int64_t)sizeof(int32_t));
    int64_t low = 1;   // the shortest row length that may do
    for (int64_t k = 0; k < n; k++) { lengths[k] = (int32_t)pair_places(&p->pairs[which[k]]); if (lengths[k] > low) low = lengths[k]; }
    Packing packing = pack_best_fit(lengths, n, T, 0, 0);
    while (low < packing.T) {
        int64_t middle = (low + packing.T) / 2;
        Packing shorter = pack_best_fit(lengths, n, middle, 0, 0);
        if (shorter.num_rows > packing.num_rows) { low = middle + 1; packing_free(&shorter); continue; }
        packing_free(&packing);
        packing = shorter;
    }
    step_clear(s);
    s->T = packing.T;
    for (int64_t r = 0; r < packing.num_rows; r++) {
        CHECK(s->rows < s->capacity);
        int64_t at = s->rows * s->T;
        for (int64_t i = packing.row_start[r]; i < packing.row_start[r + 1]; i++) {
            int64_t k = packing.items[i];
            const Pair *x = &p->pairs[which[k]];
            for (int side = CHOSEN; side <= REJECTED; side++) {
                for (int64_t position = side == REJECTED ? x->length - 1 : 0; position < x->length + x->answer_length[side]; position++, at++) {
                    int64_t next = position + 1 - x->length;   // in the answer: what this place predicts
                    bool target = next >= 0 && next < x->answer_length[side], trained = target && x->weights[side][next];
                    s->tokens[at] = position < x->length ? x->prompt[position] : x->answer[side][position - x->length];
                    s->positions[at] = (int32_t)position;
                    s->targets[at] = target ? x->answer[side][next] : -1;
                    s->weights[at] = trained ? 1.0f : 0.0f;
                    s->stream[at] = trained ? (int32_t)(2 * k + side) : -1;
                    s->trained += trained;
                }
            }
            s->filled += lengths[k];
            s->documents++;
        }
        step_end_row(s, at);
    }
    packing_free(&packing);
    free(lengths);
}

#endif
