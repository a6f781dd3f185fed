// test_pack.c: packing (findap/pack.h) - nothing lost, nothing over-full, the promised fill, the same result twice.
#include "findap/pack.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static int32_t *lognormal(int64_t n, double mean, double sigma, int64_t T, uint64_t seed) {   // lengths 1..T with about this mean
    int32_t *a = (int32_t *)xmalloc(n * 4);
    for (int64_t i = 0; i < n; i++) {
        double x = exp(log(mean) - 0.5 * sigma * sigma + sigma * random_normal(seed, 1, (uint64_t)i));
        a[i] = x < 1 ? 1 : x > (double)T ? (int32_t)T : (int32_t)x;
    }
    return a;
}

static void check_packing(const Packing *p, const int32_t *lengths, int64_t n, int64_t T) {
    uint8_t *seen = (uint8_t *)xcalloc(n, 1);
    int64_t total = 0;
    assert_int_equal(p->row_start[0], 0);
    assert_int_equal(p->row_start[p->num_rows], n);
    for (int64_t r = 0; r < p->num_rows; r++) {
        int64_t used = 0;
        assert_true(p->row_start[r + 1] > p->row_start[r]);
        for (int64_t k = p->row_start[r]; k < p->row_start[r + 1]; k++) {
            assert_int_equal(seen[p->items[k]]++, 0);
            used += lengths[p->items[k]];
        }
        assert_true(used <= T);
        total += used;
    }
    assert_int_equal(total, p->filled);
    for (int64_t i = 0; i < n; i++) assert_int_equal(seen[i], 1);
    free(seen);
}

static void test_fill(void **state) {
    (void)state;
    const struct { double mean, sigma; int64_t T; } cases[] = {{501, 0.9, 2048}, {1811, 1.2, 8000}, {300, 0.6, 4096}};
    for (int c = 0; c < 3; c++) {
        int64_t n = 30000, T = cases[c].T;
        int32_t *lengths = lognormal(n, cases[c].mean, cases[c].sigma, T, (uint64_t)c + 7);
        Packing best = pack_best_fit(lengths, n, T, 42, 1), next = pack_next_fit(lengths, n, T);
        check_packing(&best, lengths, n, T);
        check_packing(&next, lengths, n, T);
        print_message("T %5d: best-fit %.3f %%, next-fit %.3f %%\n", (int)T, 100 * packing_fill(&best), 100 * packing_fill(&next));
        assert_true(packing_fill(&best) > 0.995);
        assert_true(packing_fill(&next) < packing_fill(&best));
        packing_free(&best); packing_free(&next); free(lengths);
    }
}

// best-fit-decreasing in the obvious way: every document looks at every row
static int64_t naive_rows(const int32_t *lengths, int64_t n, int64_t T) {
    int64_t rows = 0, *space = (int64_t *)xmalloc(n * 8);
    for (int64_t length = T; length >= 1; length--)
        for (int64_t i = 0; i < n; i++) {
            if (lengths[i] != length) continue;
            int64_t best = -1;
            for (int64_t r = 0; r < rows; r++) if (space[r] >= length && (best < 0 || space[r] < space[best])) best = r;
            if (best < 0) { best = rows++; space[best] = T; }
            space[best] -= length;
        }
    free(space);
    return rows;
}

static void test_equals_the_obvious_algorithm(void **state) {
    (void)state;
    for (uint64_t c = 0; c < 60; c++) {
        int64_t T = c % 3 == 0 ? 20 : c % 3 == 1 ? 700 : 9001, n = (int64_t)random_below(1, 2, c, 150);   // 9001: more than one summary word
        int32_t lengths[160];
        for (int64_t i = 0; i < n; i++) lengths[i] = 1 + (int32_t)random_below(3, c, (uint64_t)i, (uint64_t)T);
        Packing p = pack_best_fit(lengths, n, T, c, 0);
        check_packing(&p, lengths, n, T);
        assert_int_equal(p.num_rows, naive_rows(lengths, n, T));
        packing_free(&p);
    }
}

static void test_deterministic(void **state) {
    (void)state;
    int64_t n = 5000, T = 2048;
    int32_t *lengths = lognormal(n, 400, 0.8, T, 5);
    Packing a = pack_best_fit(lengths, n, T, 42, 9), b = pack_best_fit(lengths, n, T, 42, 9), c = pack_best_fit(lengths, n, T, 43, 9);
    assert_int_equal(a.num_rows, b.num_rows);
    assert_memory_equal(a.items, b.items, (size_t)n * 8);
    assert_memory_equal(a.row_start, b.row_start, (size_t)(a.num_rows + 1) * 8);
    assert_int_equal(a.num_rows, c.num_rows);
    assert_memory_not_equal(a.items, c.items, (size_t)n * 8);   // another seed: other order of rows
    packing_free(&a); packing_free(&b); packing_free(&c); free(lengths);
}

static void test_next_fit_keeps_order(void **state) {
    (void)state;
    const int32_t lengths[] = {5, 5, 3, 8, 2, 10, 1};
    const int64_t starts[] = {0, 2, 3, 5, 6, 7};
    Packing p = pack_next_fit(lengths, 7, 10);
    assert_int_equal(p.num_rows, 5);
    for (int i = 0; i < 6; i++) assert_int_equal(p.row_start[i], starts[i]);
    for (int i = 0; i < 7; i++) assert_int_equal(p.items[i], i);
    packing_free(&p);
    Packing none = pack_best_fit(lengths, 0, 10, 1, 1), none_next = pack_next_fit(lengths, 0, 10);
    assert_int_equal(none.num_rows + none_next.num_rows, 0);
    packing_free(&none); packing_free(&none_next);
}

static void test_many_documents(void **state) {
    (void)state;
    int64_t n = 1000000, T = 8000;
    int32_t *lengths = lognormal(n, 714, 1.0, T, 11);
    double begin = seconds_now();
    Packing p = pack_best_fit(lengths, n, T, 42, 1);
    double seconds = seconds_now() - begin;
    print_message("1,000,000 documents in %.2f s, fill %.4f %%\n", seconds, 100 * packing_fill(&p));
    assert_true(packing_fill(&p) > 0.999);
    assert_true(seconds < 30);   // a quadratic algorithm would take hours
    packing_free(&p); free(lengths);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fill), cmocka_unit_test(test_equals_the_obvious_algorithm), cmocka_unit_test(test_deterministic),
        cmocka_unit_test(test_next_fit_keeps_order), cmocka_unit_test(test_many_documents),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
