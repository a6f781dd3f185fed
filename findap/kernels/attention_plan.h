// attention_plan.h: what attention has to know of a batch's documents, worked out on the host once per batch and uploaded
// with its tokens: for every token which keys it sees and which queries see it, and for every tile of the backward kernels how
// much there is to do, heaviest first. Plain C; the kernels see only arrays of int32.
//
// The mask. Token t of a row sees the keys document_start[t] ... t of its row without the hole [hole_begin[t], hole_end[t]). Only a branch (findap/model.h)
// has a hole: it sees the first tokens of its document, the prompt, and itself, and what lies between is hidden from it. The same mask seen from a key s:
// the queries s ... seen_end[s]-1, without any hole, see it. That is so because no branch of a document sees more of it than the branch before: a
// key that one branch does not see, no later one sees. (Another order is refused; pairs.h, with one branch a document, cannot make it.)
//
// document_start and hole_end never decrease along a row; of the others no order is known, hence their extremes for every 64 tokens. From this follows
// what the kernels do with tiles:
//     a tile of queries starting at q0 visits the keys from document_start[q0] on; of a hole no more can be left out than that of q0, and all of its
//     queries have at least that one, so that the keys [hole_begin[q0], hole_end[q0]) are hidden from the whole tile
//     a tile of keys starting at k0 visits the queries from k0 to the largest seen_end of its keys, and each of these tiles has a visible pair
#ifndef FINDAP_ATTENTION_PLAN_H
#define FINDAP_ATTENTION_PLAN_H
#include "findap/common.h"   // defines: CHECK, xmalloc, int32_t

enum { KEY_TILE = 128, QUERY_TILE = 64 };   // tiles of the backward kernels; the forward one has 128 x 128
enum { NO_HOLE = INT32_MAX };               // beyond every key

// All arrays lie in one block of attention_plan_ints(B, T) int32, in this order. K = ceil(T/KEY_TILE), Q = ceil(T/QUERY_TILE).
typedef struct {
    int64_t B, T;
    int64_t visited_tiles;           // (QUERY_TILE x KEY_TILE) tiles that have a visible pair, of one query head, all rows
    double visible_pairs;            // visible (query, key) pairs of one query head: the useful work
    const int32_t *document_start;   // (B,T)  first visible key of a query, counted inside the row
    const int32_t *hole_begin;       // (B,T)  first key behind the prompt that a query of a branch sees; NO_HOLE: no branch
    const int32_t *hole_end;         // (B,T)  first key of that branch; document_start where there is none
    const int32_t *seen_end;         // (B,T)  one past the last query that sees this key
    const int32_t *key_order;        // (B*K)  b*K + key tile, most query tiles first
    const int32_t *query_order;      // (B*Q)  b*Q + query tile of QUERY_TILE, most key tiles first
    const int32_t *tile_offset;      // (B*K+1) visited tiles before key tile b*K + k: where its dS tiles begin
    const int32_t *forward_order;    // (B*K)  b*K + query tile of 128, most key tiles first; those in a hole count, the forward kernels visit them
    const int32_t *forward_first;    // (B*K)  the first key tile that the same query tile sees
    const int32_t *hole_first;       // (B*Q)  smallest hole_begin of 64 queries
    const int32_t *seen_least;       // (B*Q)  smallest seen_end of 64 keys: query tiles up to there need no comparing
    const int32_t *seen_most;        // (B*Q)  largest seen_end of 64 keys: query tiles from there on are not visited
} AttentionPlan;

static inline int64_t attention_plan_ints(int64_t B, int64_t T) {
    int64_t K = (T + KEY_TILE - 1) / KEY_TILE, Q = (T + QUERY_TILE - 1) / QUERY_TILE;
    return 4 * B * T + 4 * B * K + 1 + 4 * B * Q;
}

// the same plan with its arrays at another address (the device's copy of the block)
static inline AttentionPlan attention_plan_at(AttentionPlan plan, const int32_t *block) {
    int64_t n = plan.B * plan.T, K = plan.B * ((plan.T + KEY_TILE - 1) / KEY_TILE), Q = plan.B * ((plan.T + QUERY_TILE - 1) / QUERY_TILE);
    plan.document_start = block;
    plan.hole_begin = plan.document_start + n;
    plan.hole_end = plan.hole_begin + n;
    plan.seen_end = plan.hole_end + n;
    plan.key_order = plan.seen_end + n;
    plan.query_order = plan.key_order + K;
    plan.tile_offset = plan.query_order + Q;
    plan.forward_order = plan.tile_offset + K + 1;
    plan.forward_first = plan.forward_order + K;
    plan.hole_first = plan.forward_first + K;
    plan.seen_least = plan.hole_first + Q;
    plan.seen_most = plan.seen_least + Q;
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
// the position is 0, a branch wherever it is not one more than that before
static inline AttentionPlan attention_plan(int32_t *block, const int32_t *positions, int64_t B, int64_t T) {
    int64_t K = (T + KEY_TILE - 1) / KEY_TILE, Q = (T + QUERY_TILE - 1) / QUERY_TILE;
    AttentionPlan plan;
    memset(&plan, 0, sizeof plan);
    plan.B = B; plan.T = T;
    plan = attention_plan_at(plan, block);
    int32_t *start = block, *hole_begin = start + B * T, *hole_end = hole_begin + B * T, *end = hole_end + B * T, *offset = (int32_t *)plan.tile_offset;
    int32_t *hole_first = (int32_t *)plan.hole_first, *least = (int32_t *)plan.seen_least, *most = (int32_t *)plan.seen_most;
    int32_t *work = (int32_t *)xcalloc(B * Q, sizeof(int32_t));
    for (int64_t b = 0; b < B; b++) {
        const int32_t *at = positions + b * T;
        int32_t begin = 0, own = 0, hole = NO_HOLE;   // of the present document; of the present branch, else the document; behind its prompt
        for (int32_t t = 0; t < T; t++) {
            if (t == 0 || at[t] == 0) { begin = own = t; hole = NO_HOLE; }
            else if (at[t] != at[t - 1] + 1) {
                CHECK(at[begin] == 0 && at[t] > 0 && at[t] <= t - begin);
                if (at[t] > hole - begin)   // then the queries that see a key would have a gap
                    die("attention: row %" PRId64 ", place %d: a branch at position %d, behind one of the same document at position %d ---> lay a document's branches by falling position, or use the CPU twin", b, t, at[t],
                        hole - begin);
                own = t;
                hole = begin + at[t];
            }
            start[b * T + t] = begin;
            hole_begin[b * T + t] = hole;
            hole_end[b * T + t] = own;
            plan.visible_pairs += (double)(t - own + 1 + (hole == NO_HOLE ? 0 : hole - begin));
            if (t + 1 < T && at[t + 1] == at[t] + 1) continue;
            for (int32_t s = own; s <= t; s++) end[b * T + s] = t + 1;   // the document, or a branch of it, is over
            for (int32_t s = begin; hole != NO_HOLE && s < hole; s++) end[b * T + s] = t + 1;
        }
    }
    for (int64_t i = 0; i < B * Q; i++) {
        int64_t n0 = i / Q * T + i % Q * QUERY_TILE, n1 = n0 + QUERY_TILE < (i / Q + 1) * T ? n0 + QUERY_TILE : (i / Q + 1) * T;
        hole_first[i] = NO_HOLE; least[i] = INT32_MAX; most[i] = 0;
        for (int64_t n = n0; n < n1; n++) {
            if (hole_begin[n] < hole_first[i]) hole_first[i] = hole_begin[n];
            if (end[n] < least[i]) least[i] = end[n];
            if (end[n] > most[i]) most[i] = end[n];
        }
    }
    offset[0] = 0;
    for (int64_t i = 0; i < B * K; i++) {
        int64_t first = i / K * Q + i % K * (KEY_TILE / QUERY_TILE), second = first + (i % K * KEY_TILE + QUERY_TILE < T);   // its halves of 64 keys
        int32_t last = most[first] > most[second] ? most[first] : most[second];
        work[i] = (int32_t)((last + QUERY_TILE - 1) / QUERY_TILE - i % K * KEY_TILE / QUERY_TILE);
        CHECK((int64_t)offset[i] + work[i] < INT32_MAX);
        offset[i + 1] = offset[i] + work[i];
    }
    plan.visited_tiles = offset[B * K];
    order_by_work((int32_t *)plan.key_order, work, B * K, Q + 1);
    for (int64_t i = 0; i < B * Q; i++) {
        int64_t q0 = i % Q * QUERY_TILE;
        int32_t from = hole_begin[i / Q * T + q0], to = hole_end[i / Q * T + q0];
        int32_t hidden = from == NO_HOLE ? 0 : to / KEY_TILE - (from + KEY_TILE - 1) / KEY_TILE;   // key tiles that lie in the hole
        work[i] = (int32_t)(q0 / KEY_TILE + 1 - start[i / Q * T + q0] / KEY_TILE - (hidden > 0 ? hidden : 0));
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
