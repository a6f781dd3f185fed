// test_attention_plan.c: what the GPU's attention kernels are told of a batch's documents, against the definition of the mask:
// query t sees key s when both lie in one document and s <= t. Every visible pair must lie in a tile that is visited, and no
// tile without one may be.
#include "findap/kernels/attention_plan.h"   // defines: attention_plan, AttentionPlan
#include "check.h"                           // defines: cmocka

static void check_order(const int32_t *order, const int32_t *work, int64_t n) {   // a permutation, heaviest first, equal ones in rising order
    char *seen = (char *)xcalloc(n, 1);
    for (int64_t i = 0; i < n; i++) {
        assert_in_range(order[i], 0, n - 1);
        assert_false(seen[order[i]]);
        seen[order[i]] = 1;
        if (i > 0) assert_true(work[order[i - 1]] > work[order[i]] || (work[order[i - 1]] == work[order[i]] && order[i - 1] < order[i]));
    }
    free(seen);
}

static void check_plan(int64_t B, int64_t T, int longest, uint64_t seed) {
    int64_t N = B * T, K = (T + KEY_TILE - 1) / KEY_TILE, Q = (T + QUERY_TILE - 1) / QUERY_TILE;
    int32_t *positions = (int32_t *)xcalloc(N, sizeof(int32_t)), *document = (int32_t *)xcalloc(N, sizeof(int32_t));
    int32_t *key_work = (int32_t *)xcalloc(B * K, sizeof(int32_t)), *query_work = (int32_t *)xcalloc(B * Q, sizeof(int32_t)), *forward_work = (int32_t *)xcalloc(B * K, sizeof(int32_t));
    uint64_t draw = 0;
    int32_t documents = 0;
    for (int64_t b = 0; b < B; b++)
        for (int64_t t = 0; t < T; documents++) {
            int64_t length = longest == 0 ? T : 1 + (int64_t)(random_u64(seed, 0, draw++) % (uint64_t)longest);
            for (int64_t i = 0; i < length && t < T; i++, t++) { positions[b * T + t] = (int32_t)i; document[b * T + t] = documents; }
        }
    int64_t ints = attention_plan_ints(B, T), visited = 0;
    int32_t *block = (int32_t *)xcalloc(ints + 1, sizeof(int32_t));
    block[ints] = 12345;
    AttentionPlan p = attention_plan(block, positions, B, T);
    assert_int_equal(block[ints], 12345);
    assert_true(p.forward_first + B * K == block + ints);
    char *visible = (char *)xcalloc(B * K * Q, 1);   // (b, key tile, query tile): has a visible pair
    double pairs = 0;
    for (int64_t b = 0; b < B; b++)
        for (int64_t t = 0; t < T; t++) {
            int64_t n = b * T + t;
            for (int64_t s = 0; s < T; s++) {
                bool sees = s <= t && document[b * T + s] == document[n];
                assert_true(sees == (s >= p.document_start[n] && s <= t));
                assert_true(sees == (t >= s && t < p.document_end[b * T + s]));
                if (sees) { pairs++; visible[(b * K + s / KEY_TILE) * Q + t / QUERY_TILE] = 1; }
            }
        }
    assert_true(pairs == p.visible_pairs);
    for (int64_t i = 0; i < B * K; i++) {
        int64_t b = i / K, k = i % K, count = 0;
        assert_int_equal(p.tile_offset[i], visited);
        for (int64_t q = 0; q < Q; q++) {
            // visited: those from the diagonal to the end of the last key's document. Documents being runs, all of them have a visible pair
            count += visible[i * Q + q];
            if (visible[i * Q + q]) {
                assert_true(q >= k * KEY_TILE / QUERY_TILE);
                query_work[b * Q + q]++;
            }
        }
        key_work[i] = (int32_t)count;
        visited += count;
    }
    assert_int_equal(p.tile_offset[B * K], visited);
    assert_int_equal(p.visited_tiles, visited);
    for (int64_t i = 0; i < B * K; i++) {
        int64_t b = i / K, first = K;
        for (int64_t k = 0; k < K; k++)
            if (visible[(b * K + k) * Q + i % K * 2]) { first = first < k ? first : k; forward_work[i]++; }   // its first 64 queries see the earliest keys
        int64_t j = 0;
        while (p.forward_order[j] != i) j++;
        assert_int_equal(p.forward_first[j], first);
    }
    check_order(p.key_order, key_work, B * K);
    check_order(p.query_order, query_work, B * Q);
    check_order(p.forward_order, forward_work, B * K);
    free(positions); free(document); free(key_work); free(query_work); free(forward_work); free(block); free(visible);
}

static void test_plans(void **state) {
    (void)state;
    check_plan(1, 1, 0, 1);
    check_plan(2, 63, 0, 2);
    check_plan(1, 64, 1, 3);
    check_plan(2, 129, 2, 4);
    check_plan(3, 500, 0, 5);
    for (uint64_t seed = 10; seed < 40; seed++) check_plan(2, 100 + (int64_t)(seed * 37 % 600), 1 + (int)(seed * 53 % 400), seed);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_plans)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
