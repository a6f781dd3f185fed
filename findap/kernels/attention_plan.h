// attention_plan.h: what attention has to know of a batch's documents, worked out on the host once per batch and uploaded
// with its tokens: for every token where its document begins and ends, and for every tile of the backward kernels how much
// there is to do, heaviest first. Plain C; the kernels see only arrays of int32.
//
// The mask. Token t of a row sees the keys document_start[t] ... t of its row; key s is seen by the queries s ...
// document_end[s]-1. Both arrays never decrease along a row, so a tile of queries sees one interval of keys, and tiles
// outside are never visited. A second visible range (the prompt that two answers of a preference pair share) needs one
// more pair of arrays here, and one more interval in each kernel's loop over tiles.
#ifndef FINDAP_ATTENTION_PLAN_H
#define FINDAP_ATTENTION_PLAN_H
#include "findap/common.h"   // defines: CHECK, xmalloc, int32_t

enum { KEY_TILE = 128, QUERY_TILE = 64 };   // tiles of the backward kernels; the forward one has 128 x 128

// All arrays lie in one block of attention_plan_ints(B, T) int32, in this order. K = ceil(T/KEY_TILE), Q = ceil(T/QUERY_TILE).
typedef struct {
    int64_t B, T;
    int64_t visited_tiles;           // (QUERY_TILE x KEY_TILE) tiles that have a visible pair, of one query head, all rows
    double visible_pairs;            // visible (query, key) pairs of one query head: the useful work
    const int32_t *document_start;   // (B,T)  first visible key of a query, counted inside the row
    const int32_t *document_end;     // (B,T)  one past the last query that sees this key
    const int32_t *key_order;        // (B*K)  b*K + key tile, most query tiles first
    const int32_t *query_order;      // (B*Q)  b*Q + query tile of QUERY_TILE, most key tiles first
    const int32_t *tile_offset;      // (B*K+1) visited tiles before key tile b*K + k: where its dS tiles begin
    const int32_t *forward_order;    // (B*K)  b*K + query tile of 128, most key tiles first
    const int32_t *forward_first;    // (B*K)  the first key tile that the same query tile sees
} AttentionPlan;

static inline int64_t attention_plan_ints(int64_t B, int64_t T) {
    int64_t K = (T + KEY_TILE - 1) / KEY_TILE, Q = (T + QUERY_TILE - 1) / QUERY_TILE;
    return 2 * B * T + 4 * B * K + 1 + B * Q;
}

// the same plan with its arrays at another address (the device's copy of the block)
static inline AttentionPlan attention_plan_at(AttentionPlan plan, const int32_t *block) {
    int64_t n = plan.B * plan.T, K = plan.B * ((plan.T + KEY_TILE - 1) / KEY_TILE), Q = plan.B * ((plan.T + QUERY_TILE - 1) / QUERY_TILE);
    plan.document_start = block;
    plan.document_end = plan.document_start + n;
    plan.key_order = plan.document_end + n;
    plan.query_order = plan.key_order + K;
    plan.tile_offset = plan.query_order + Q;
    plan.forward_order = plan.tile_offset + K + 1;
    plan.forward_first = plan.forward_order + K;
    return plan;
}

// order (n) = 0..n-1 by falling work, equal work in rising order (a counting sort; work < limit)
static inline void order_by_work(int32_t *order, const int32_t *work, int64_t n, int64_t limit) {
    int32_t *first = (int32_t *)xcalloc(limit + 1, sizeof(int32_t));
    for (int64_t i = 0; i < n; i++) {
        CHECK(work[i] >= 0 && work[i] < limit);
        first[limit - 1 - work[i] + 1]++;
    }
    for (int64_t w = 1; w <= limit; w++) first[w] += first[w - 1];
    for (int64_t i = 0; i < n; i++) order[first[limit - 1 - work[i]]++] = (int32_t)i;
    free(first);
}

// fills `block` (attention_plan_ints(B, T) int32, host) from positions (B,T): a document begins with every row and wherever
// the position is 0
static inline AttentionPlan attention_plan(int32_t *block, const int32_t *positions, int64_t B, int64_t T) {
    int64_t K = (T + KEY_TILE - 1) / KEY_TILE, Q = (T + QUERY_TILE - 1) / QUERY_TILE;
    AttentionPlan plan;
    memset(&plan, 0, sizeof plan);
    plan.B = B; plan.T = T;
    plan = attention_plan_at(plan, block);
    int32_t *start = block, *end = block + B * T, *offset = (int32_t *)plan.tile_offset;
    int32_t *work = (int32_t *)xcalloc(B * Q, sizeof(int32_t));
    for (int64_t b = 0; b < B; b++) {
        int64_t begin = 0;
        for (int64_t t = 0; t < T; t++) {
            const int32_t *at = positions + b * T + t;
            if (*at == 0) begin = t;
            else if (t > 0 && *at != at[-1] + 1)   // a branch (findap/model.h): a second visible range, which no kernel has yet
                die("attention: position %d stands behind position %d: a prompt shared by two answers is not in the GPU's kernels yet ---> use the CPU twin: dpo_cpu", *at, at[-1]);
            start[b * T + t] = (int32_t)begin;
            plan.visible_pairs += (double)(t - begin + 1);
        }
        int64_t stop = T;
        for (int64_t t = T - 1; t >= 0; t--) {
            end[b * T + t] = (int32_t)stop;
            if (start[b * T + t] == t) stop = t;
        }
    }
    offset[0] = 0;
    for (int64_t i = 0; i < B * K; i++) {
        int64_t k0 = i % K * KEY_TILE, last = (k0 + KEY_TILE < T ? k0 + KEY_TILE : T) - 1;
        work[i] = (int32_t)((end[i / K * T + last] + QUERY_TILE - 1) / QUERY_TILE - k0 / QUERY_TILE);
        CHECK((int64_t)offset[i] + work[i] < INT32_MAX);
        offset[i + 1] = offset[i] + work[i];
    }
    plan.visited_tiles = offset[B * K];
    order_by_work((int32_t *)plan.key_order, work, B * K, Q + 1);
    for (int64_t i = 0; i < B * Q; i++) {
        int64_t q0 = i % Q * QUERY_TILE;
        work[i] = (int32_t)(q0 / KEY_TILE + 1 - start[i / Q * T + q0] / KEY_TILE);
    }
    order_by_work((int32_t *)plan.query_order, work, B * Q, K + 1);
    for (int64_t i = 0; i < B * K; i++) {
        int64_t q0 = i % K * 128;
        work[i] = (int32_t)(q0 / KEY_TILE + 1 - start[i / K * T + q0] / KEY_TILE);
    }
    order_by_work((int32_t *)plan.forward_order, work, B * K, K + 1);
    for (int64_t i = 0; i < B * K; i++) {
        int64_t tile = plan.forward_order[i];
        ((int32_t *)plan.forward_first)[i] = start[tile / K * T + tile % K * 128] / KEY_TILE;
    }
    free(work);
    return plan;
}
#endif
