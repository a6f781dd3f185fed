// stats.h: how sure a score is, and whether two differ. Closed forms where there are any; else the bootstrap (Efron 1979): the same score of as many rows, drawn again with
// replacement, many times over.
//
// Scores of classes are functions of the confusion matrix, and rows drawn with replacement are one multinomial draw of its cells: a replicate costs as many steps as
// there are cells with something in them, whatever the number of rows, so 100,000 replicates are cheap. Two runs over the same rows: the cells are (gold, answer of a, answer of b).
// Other scores are functions of sums over rows (tp, predicted, gold; squared errors), and there the rows are drawn.
//
// Random numbers are functions of (seed, replicate, number of the draw): the same estimates on any number of threads.
#ifndef FINDAP_STATS_H
#define FINDAP_STATS_H
#include "metrics.h"   // defines: Confusion, Counts, classes_scores, NUM_CELL

typedef struct { double value, error, low, high; } Estimate;                   // standard error; 95 % interval; NAN where it cannot be known
typedef struct { double a, b, difference, error, low, high, p; } Difference;   // b - a, with its own; p: two-sided, of no difference

// ---------------------------------------------------------------------------------------------------------------
// distributions

FN double normal_cdf(double z) { return 0.5 * erfc(-z * 0.70710678118654752440); }

FN double beta_fraction(double x, double a, double b) {   // the continued fraction of the incomplete beta function (Lentz' method), for x below (a + 1) / (a + b + 2)
    const double tiny = 1e-300;
    double c = 1, d = 1 - (a + b) * x / (a + 1);
    d = 1 / (fabs(d) < tiny ? tiny : d);
    double f = d;
    for (int i = 1; i < 100000; i++) {
        for (int odd = 0; odd < 2; odd++) {
            double m = i, t = odd ? -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)) : m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
            d = 1 + t * d; c = 1 + t / c;
            d = 1 / (fabs(d) < tiny ? tiny : d);
            if (fabs(c) < tiny) c = tiny;
            f *= d * c;
        }
        if (fabs(d * c - 1) < 1e-16) break;
    }
    return f;
}
FN double t_cdf(double t, double df) {
    // both tails are I_x(df / 2, 1 / 2) with x = df / (df + t^2); Gamma(a + 1/2) / Gamma(a) is a series where the difference of two large logarithms would be noise
    double a = 0.5 * df, y = t * t / (df + t * t), x = df / (df + t * t), gammas = a < 100 ? lgamma(a + 0.5) - lgamma(a) : 0.5 * log(a) - 1 / (8 * a) + 1 / (192 * a * a * a) - 1 / (640 * pow(a, 5));
    if (t == 0) return 0.5;
    double front = exp(gammas - 0.57236494292470008707 - a * log1p(t * t / df)) * sqrt(y);   // x^a y^(1/2) / B(a, 1/2)
    double tails = x < (a + 1) / (a + 2.5) ? front * beta_fraction(x, a, 0.5) / a : 1 - front * beta_fraction(y, 0.5, a) * 2;
    return t < 0 ? 0.5 * tails : 1 - 0.5 * tails;
}
FN double quantile_of(double p, double df) {   // of t; df 0: of the normal distribution. By halving, in the lower tail, where the distribution functions are exact to the last digits
    if (!(p > 0 && p < 1)) return p == 0 ? -INFINITY : p == 1 ? INFINITY : NAN;
    if (p >= 0.5) return p > 0.5 ? -quantile_of(1 - p, df) : 0;
    double low = -1, high = 0;
    while ((df > 0 ? t_cdf(low, df) : normal_cdf(low)) > p && low > -1e150) { high = low; low *= 2; }
    for (int i = 0; i < 200 && low < high; i++) {
        double middle = 0.5 * (low + high);
        if (middle == low || middle == high) break;
        if ((df > 0 ? t_cdf(middle, df) : normal_cdf(middle)) > p) high = middle; else low = middle;
    }
    return 0.5 * (low + high);
}
FN double normal_quantile(double p) { return quantile_of(p, 0); }
FN double t_quantile(double p, double df) { return df > 0 ? quantile_of(p, df) : NAN; }

// ---------------------------------------------------------------------------------------------------------------
// closed forms

FN double standard_error(const double *x, int64_t n) {   // s / sqrt(n), with n - 1 in s; NAN below two
    double mean = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) mean += x[i];
    mean /= (double)n;
    for (int64_t i = 0; i < n; i++) squares += (x[i] - mean) * (x[i] - mean);
    return n > 1 ? sqrt(squares / (double)(n - 1) / (double)n) : NAN;
}
FN Estimate mean_estimate(const double *x, int64_t n) {   // rows that are NAN don't count; the interval is Student's
    double *kept = (double *)xcalloc(n, sizeof(double)), sum = 0;
    int64_t m = 0;
    for (int64_t i = 0; i < n; i++) if (!isnan(x[i])) { kept[m++] = x[i]; sum += x[i]; }
    Estimate e = {m ? sum / (double)m : NAN, standard_error(kept, m), 0, 0};
    double wide = e.error * t_quantile(0.975, (double)(m - 1));
    e.low = e.value - wide;
    e.high = e.value + wide;
    free(kept);
    return e;
}
FN void wilson(double right, double n, double z, double *low, double *high) {   // Wilson (1927): stays within 0 and 1, and is not empty at 0 of 3
    double p = right / n, centre = p + z * z / (2 * n), wide = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n)), scale = 1 + z * z / n;
    *low = n > 0 ? fmax(0, (centre - wide) / scale) : NAN;
    *high = n > 0 ? fmin(1, (centre + wide) / scale) : NAN;
}
FN Estimate proportion_estimate(int64_t right, int64_t n) {
    double p = (double)right / (double)n;
    Estimate e = {n > 0 ? p : NAN, n > 1 ? sqrt(p * (1 - p) / (double)(n - 1)) : NAN, 0, 0};
    wilson((double)right, (double)n, 1.9599639845400542, &e.low, &e.high);
    return e;
}
FN double mcnemar(int64_t only_a, int64_t only_b) {   // exact: of the rows where just one of two runs is right, is it as often the one as the other?
    int64_t n = only_a + only_b, k = only_a < only_b ? only_a : only_b;
    if (2 * k >= n) return 1;
    double term = exp(lgamma((double)n + 1) - lgamma((double)k + 1) - lgamma((double)(n - k) + 1) - (double)n * 0.69314718055994530942), sum = 0;
    for (int64_t i = k; i >= 0 && term > 0; i--) { sum += term; term *= (double)i / (double)(n - i + 1); }
    return 2 * sum < 1 ? 2 * sum : 1;
}
FN Difference paired_means(const double *a, const double *b, int64_t n) {   // paired t test; rows that are NAN in either don't count
    double *d = (double *)xcalloc(n, sizeof(double)), sum_a = 0, sum_b = 0;
    int64_t m = 0;
    for (int64_t i = 0; i < n; i++) if (!isnan(a[i]) && !isnan(b[i])) { d[m++] = b[i] - a[i]; sum_a += a[i]; sum_b += b[i]; }
    Estimate e = mean_estimate(d, m);
    Difference r = {m ? sum_a / (double)m : NAN, m ? sum_b / (double)m : NAN, e.value, e.error, e.low, e.high, NAN};
    if (m > 1) r.p = e.error > 0 ? 2 * t_cdf(-fabs(e.value / e.error), (double)(m - 1)) : e.value == 0;
    free(d);
    return r;
}

// ---------------------------------------------------------------------------------------------------------------
// draws

typedef struct { uint64_t seed, stream, next; } Draws;
FN double draw_uniform(Draws *d) { return random_uniform(d->seed, d->stream, d->next++); }

FN double stirling_rest(double k) {   // ln k! less Stirling's formula of it, for the k that come out of a large n
    static const double small[] = {0.08106146679532726, 0.04134069595540929, 0.02767792568499834, 0.02079067210376509, 0.01664469118982119, 0.01387612882307075, 0.01189670994589177, 0.01041126526197209,
        0.009255462182712733, 0.008330563433362871};
    double s = 1 / ((k + 1) * (k + 1));
    return k < 10 ? small[(int)k] : (1.0 / 12 - (1.0 / 360 - s / 1260) * s) / (k + 1);
}
// How many of n tries of probability p succeed: by walking up the distribution where few do, else by Hoermann's transformed rejection (BTRS, 1993), which costs the same for any n
FN int64_t draw_binomial(Draws *d, int64_t n, double p) {
    if (p > 0.5) return n - draw_binomial(d, n, 1 - p);
    if (n <= 0 || p <= 0) return 0;
    const double N = (double)n, odds = p / (1 - p);
    if (N * p < 10) {
        double mass = exp(N * log1p(-p)), u = draw_uniform(d);
        int64_t k = 0;
        while (u > mass && k < n) { u -= mass; mass *= odds * (double)(n - k) / (double)(k + 1); k++; }
        return k;
    }
    const double spread = sqrt(N * p * (1 - p)), b = 1.15 + 2.53 * spread, a = -0.0873 + 0.0248 * b + 0.01 * p, c = N * p + 0.5, inner = 0.92 - 4.2 / b, alpha = (2.83 + 5.1 / b) * spread;
    const double m = floor((N + 1) * p);
    for (;;) {
        double u = draw_uniform(d) - 0.5, v = draw_uniform(d), edge = 0.5 - fabs(u), k = floor((2 * a / edge + b) * u + c);
        if (edge >= 0.07 && v <= inner) return (int64_t)k;
        if (k < 0 || k > N) continue;
        double bound = (m + 0.5) * log((m + 1) / (odds * (N - m + 1))) + (N + 1) * log((N - m + 1) / (N - k + 1)) + (k + 0.5) * log(odds * (N - k + 1) / (k + 1)) +
                       stirling_rest(m) + stirling_rest(N - m) - stirling_rest(k) - stirling_rest(N - k);
        if (log(v * alpha / (a / (edge * edge) + b)) <= bound) return (int64_t)k;
    }
}

// ---------------------------------------------------------------------------------------------------------------
// what replicates say

FN int64_t bootstrap_replicates(int64_t work) {   // as many, of `work` steps each, as take a fraction of a second
    int64_t n = 100000000 / (work > 0 ? work : 1);
    return n < 1000 ? 1000 : n > 100000 ? 100000 : n;
}
FN int compare_double(const void *a, const void *b) { double x = *(const double *)a, y = *(const double *)b; return (x > y) - (x < y); }
FN double percentile(const double *sorted, int64_t n, double share) {   // between two, on the line from one to the other
    double at = share * (double)(n - 1);
    int64_t i = (int64_t)at;
    return i + 1 < n ? sorted[i] + (at - (double)i) * (sorted[i + 1] - sorted[i]) : sorted[n - 1];
}
FN Estimate replicates_estimate(double value, double *x, int64_t n) {   // sorts x; replicates without a value (NAN) don't count
    double mean = 0, squares = 0;
    int64_t m = 0;
    for (int64_t i = 0; i < n; i++) if (!isnan(x[i])) x[m++] = x[i];
    Estimate e = {value, NAN, NAN, NAN};
    if (m < 2 || isnan(value)) return e;
    for (int64_t i = 0; i < m; i++) mean += x[i];
    mean /= (double)m;   // of equal numbers this is that number, and their error 0
    for (int64_t i = 0; i < m; i++) squares += (x[i] - mean) * (x[i] - mean);
    qsort(x, (size_t)m, sizeof(double), compare_double);
    e.error = sqrt(squares / (double)(m - 1));
    e.low = percentile(x, m, 0.025);
    e.high = percentile(x, m, 0.975);
    return e;
}
FN Difference replicates_difference(double a, double b, double *x, int64_t n) {   // x: replicates of b - a. p: twice the share on the far side of 0, each side with one more, so it is never 0
    int64_t below = 1, above = 1, valid = 1;
    for (int64_t i = 0; i < n; i++) { below += x[i] <= 0; above += x[i] >= 0; valid += !isnan(x[i]); }
    Estimate e = replicates_estimate(b - a, x, n);
    Difference d = {a, b, b - a, e.error, e.low, e.high, fmin(1, 2 * (double)(below < above ? below : above) / (double)valid)};
    if (isnan(e.error)) d.p = NAN;
    return d;
}

// ---------------------------------------------------------------------------------------------------------------
// the bootstrap over cells

typedef struct { int subset, gold, a, b; int64_t count; } Cell;   // rows of one subset with this gold label and these predictions (K: no answer) of one run or two
typedef struct { Cell *cells; int64_t num_cells, *left; int num_labels, num_subsets, runs; } CellTable;   // left (num_cells): rows of this cell's subset from this cell on

FN int compare_cells(const void *a, const void *b) {   // the largest first, so that a draw is done early
    const Cell *x = (const Cell *)a, *y = (const Cell *)b;
    if (x->subset != y->subset) return x->subset < y->subset ? -1 : 1;
    if (x->count != y->count) return x->count > y->count ? -1 : 1;
    if (x->gold != y->gold) return x->gold < y->gold ? -1 : 1;
    if (x->a != y->a) return x->a < y->a ? -1 : 1;
    return (x->b > y->b) - (x->b < y->b);
}
FN void cells_order(CellTable *t) {
    qsort(t->cells, (size_t)t->num_cells, sizeof(Cell), compare_cells);
    t->left = (int64_t *)xcalloc(t->num_cells, sizeof(int64_t));
    for (int64_t i = t->num_cells - 1; i >= 0; i--) t->left[i] = t->cells[i].count + (i + 1 < t->num_cells && t->cells[i + 1].subset == t->cells[i].subset ? t->left[i + 1] : 0);
}
// The scores of one replicate, or of the rows themselves (draws NULL): out (runs, NUM_CELL), means over subsets. classes (runs, K + 1) is scratch.
FN void cells_scores(const CellTable *t, Draws *draws, Counts *classes, double *out) {
    const int K = t->num_labels;
    int subsets = 0;
    for (int m = 0; m < t->runs * NUM_CELL; m++) out[m] = 0;
    for (int64_t i = 0; i < t->num_cells; subsets++) {
        const int subset = t->cells[i].subset;
        int64_t rows = t->left[i];
        memset(classes, 0, (size_t)(t->runs * (K + 1)) * sizeof(Counts));
        for (; i < t->num_cells && t->cells[i].subset == subset; i++) {
            const Cell *c = &t->cells[i];
            int64_t k = !draws ? c->count : c->count == t->left[i] ? rows : draw_binomial(draws, rows, (double)c->count / (double)t->left[i]);
            rows -= k;
            for (int r = 0; r < t->runs; r++) {
                Counts *of = classes + r * (K + 1);
                int pred = r ? c->b : c->a;
                of[c->gold].gold += k;
                of[pred].predicted += k;
                if (pred == c->gold) of[pred].right += k;
            }
        }
        for (int r = 0; r < t->runs; r++) {
            double one[NUM_CELL];
            classes_scores(classes + r * (K + 1), K, one);
            for (int m = 0; m < NUM_CELL; m++) out[r * NUM_CELL + m] += one[m];
        }
    }
    for (int m = 0; m < t->runs * NUM_CELL; m++) out[m] = subsets ? out[m] / subsets : NAN;
}
// values (runs, NUM_CELL); x (NUM_CELL, replicates): scores, or their differences where there are two runs. The caller frees it.
FN double *cells_bootstrap(const CellTable *t, int64_t *replicates, uint64_t seed, double *values) {
    if (*replicates <= 0) *replicates = bootstrap_replicates(10 * t->num_cells + 6 * (int64_t)t->num_subsets * t->runs * (t->num_labels + 1));
    const int64_t R = *replicates, block = 256;
    double *x = (double *)xcalloc(R * NUM_CELL, sizeof(double));
    Counts *classes = (Counts *)xcalloc(t->runs * (t->num_labels + 1), sizeof(Counts));
    cells_scores(t, NULL, classes, values);
    free(classes);
    #pragma omp parallel for schedule(dynamic)
    for (int64_t first = 0; first < R; first += block) {
        Counts *scratch = (Counts *)xcalloc(t->runs * (t->num_labels + 1), sizeof(Counts));
        for (int64_t r = first; r < R && r < first + block; r++) {
            Draws draws = {seed, (uint64_t)r, 0};
            double out[2 * NUM_CELL];
            cells_scores(t, &draws, scratch, out);
            for (int m = 0; m < NUM_CELL; m++) x[m * R + r] = t->runs == 2 ? out[NUM_CELL + m] - out[m] : out[m];
        }
        free(scratch);
    }
    return x;
}

// All scores of classes with their errors; the mean over subsets, each of which keeps its number of rows. replicates 0: as many as are cheap.
FN void bootstrap_cells(const Confusion *subsets, int num, int64_t replicates, uint64_t seed, Estimate out[NUM_CELL]) {
    CellTable t = {NULL, 0, NULL, num ? subsets[0].num_labels : 1, num, 1};
    int64_t cap = 0;
    for (int s = 0; s < num; s++) { CHECK(subsets[s].num_labels == t.num_labels); for (int64_t i = 0; i < (int64_t)t.num_labels * (t.num_labels + 1); i++) cap += subsets[s].cells[i] > 0; }
    t.cells = (Cell *)xcalloc(cap, sizeof(Cell));
    for (int s = 0; s < num; s++) for (int g = 0; g < t.num_labels; g++) for (int p = 0; p <= t.num_labels; p++) {
        Cell c = {s, g, p, p, subsets[s].cells[(int64_t)g * (t.num_labels + 1) + p]};
        if (c.count > 0) t.cells[t.num_cells++] = c;
    }
    cells_order(&t);
    double values[2 * NUM_CELL], *x = cells_bootstrap(&t, &replicates, seed, values);
    for (int m = 0; m < NUM_CELL; m++) out[m] = replicates_estimate(values[m], x + m * replicates, replicates);
    free(t.cells); free(t.left); free(x);
}
// Two runs over the same rows: the difference in all scores of classes. subset NULL: all rows are one.
FN void paired_cells(const int *gold, const int *pred_a, const int *pred_b, const int *subset, int64_t n, int num_labels, int num_subsets, int64_t replicates, uint64_t seed, Difference out[NUM_CELL]) {
    CellTable t = {(Cell *)xcalloc(n, sizeof(Cell)), 0, NULL, num_labels, num_subsets, 2};
    for (int64_t i = 0; i < n; i++) {
        Cell c = {subset ? subset[i] : 0, gold[i], pred_a[i] < 0 ? num_labels : pred_a[i], pred_b[i] < 0 ? num_labels : pred_b[i], 1};
        CHECK(c.gold >= 0 && c.gold < num_labels && c.a <= num_labels && c.b <= num_labels);
        t.cells[i] = c;
    }
    qsort(t.cells, (size_t)n, sizeof(Cell), compare_cells);   // all count 1: equal ones come together
    for (int64_t i = 0; i < n; i++) {
        Cell *last = t.num_cells ? &t.cells[t.num_cells - 1] : NULL, c = t.cells[i];
        if (last && last->subset == c.subset && last->gold == c.gold && last->a == c.a && last->b == c.b) last->count++;
        else t.cells[t.num_cells++] = c;
    }
    cells_order(&t);
    double values[2 * NUM_CELL], *x = cells_bootstrap(&t, &replicates, seed, values);
    for (int m = 0; m < NUM_CELL; m++) out[m] = replicates_difference(values[m], values[NUM_CELL + m], x + m * replicates, replicates);
    free(t.cells); free(t.left); free(x);
}

// ---------------------------------------------------------------------------------------------------------------
// the bootstrap over rows, for scores that are functions of sums over rows

typedef double (*SumsMetric)(const double *sums, int64_t num, const void *context);

FN double sums_mean(const double *s, int64_t num, const void *context) { (void)num; (void)context; return s[1] > 0 ? s[0] / s[1] : NAN; }                   // columns: value, 1 (or 0 and 0: none)
FN double sums_rmse(const double *s, int64_t num, const void *context) { (void)num; (void)context; return s[1] > 0 ? sqrt(s[0] / s[1]) : NAN; }            // squared error, 1
FN double sums_f1(const double *s, int64_t num, const void *context) { (void)num; (void)context; return prf_of(s[0], s[1], s[2]).f1; }                     // right, predicted, gold
FN double sums_token_f1(const double *s, int64_t num, const void *context) {   // right, predicted, gold a label: weighted F1 over tokens
    double sum = 0, n = 0;
    (void)context;
    for (int64_t k = 0; k + 2 < num; k += 3) { sum += s[k + 2] * prf_of(s[k], s[k + 1], s[k + 2]).f1; n += s[k + 2]; }
    return n > 0 ? sum / n : 0;
}

// rows (n, num) of one run, or of two (b NULL: one); x (replicates): the score or the difference. The caller frees it.
FN double *rows_bootstrap(const double *a, const double *b, int64_t n, int64_t num, SumsMetric f, const void *context, int64_t *replicates, uint64_t seed, double values[2]) {
    if (*replicates <= 0) *replicates = bootstrap_replicates(n * (1 + num * (b ? 2 : 1)));
    double *x = (double *)xcalloc(*replicates, sizeof(double));
    #pragma omp parallel for schedule(dynamic, 64)
    for (int64_t r = -1; r < *replicates; r++) {   // -1: the rows themselves
        double *sums = (double *)xcalloc(2 * num, sizeof(double));
        for (int64_t i = 0; i < n; i++) {
            int64_t row = r < 0 ? i : (int64_t)random_below(seed, (uint64_t)r, (uint64_t)i, (uint64_t)n);
            for (int64_t k = 0; k < num; k++) sums[k] += a[row * num + k];
            for (int64_t k = 0; k < num && b; k++) sums[num + k] += b[row * num + k];
        }
        double first = f(sums, num, context), second = b ? f(sums + num, num, context) : 0;
        if (r < 0) { values[0] = first; values[1] = second; }
        else x[r] = b ? second - first : first;
        free(sums);
    }
    return x;
}
FN Estimate bootstrap_sums(const double *rows, int64_t n, int64_t num, SumsMetric f, const void *context, int64_t replicates, uint64_t seed) {
    double values[2], *x = rows_bootstrap(rows, NULL, n, num, f, context, &replicates, seed, values);
    Estimate e = replicates_estimate(n > 0 ? values[0] : NAN, x, replicates);
    if (n < 2) e.error = e.low = e.high = NAN;   // one row says nothing about others
    free(x);
    return e;
}
FN Difference paired_sums(const double *a, const double *b, int64_t n, int64_t num, SumsMetric f, const void *context, int64_t replicates, uint64_t seed) {
    double values[2], *x = rows_bootstrap(a, b, n, num, f, context, &replicates, seed, values);
    Difference d = replicates_difference(n > 0 ? values[0] : NAN, values[1], x, replicates);
    free(x);
    return d;
}

// ---------------------------------------------------------------------------------------------------------------
// how errors fall with the amount of data: ln(1 - F1) = intercept + slope ln(size), by least squares

typedef struct { int64_t n; double slope, intercept, r2, exponent, error, low, high, boot_low, boot_high; } PowerFit;   // 1 - F1 ~ size^-exponent; its interval by t with n - 2 degrees of freedom, and by the bootstrap

FN void line_fit(const double *x, const double *y, int64_t n, double *slope, double *intercept) {
    double mx = 0, my = 0, xx = 0, xy = 0;
    for (int64_t i = 0; i < n; i++) { mx += x[i] / (double)n; my += y[i] / (double)n; }
    for (int64_t i = 0; i < n; i++) { xx += (x[i] - mx) * (x[i] - mx); xy += (x[i] - mx) * (y[i] - my); }
    *slope = xy / xx;
    *intercept = my - *slope * mx;
}
// f1_error: standard error of each F1, from which the bootstrap draws anew (NULL: it draws from the residuals, made as wide as the errors they estimate)
FN bool power_fit(const double *size, const double *f1, const double *f1_error, int64_t n, uint64_t seed, PowerFit *out, Error *e) {
    enum { REPLICATES = 20000 };
    double smallest = INFINITY, largest = 0;
    memset(out, 0, sizeof *out);
    for (int64_t i = 0; i < n; i++) {
        if (!(size[i] > 0) || !isfinite(size[i])) return fail(e, "point %" PRId64 ": data size is %g, expected a positive number", i + 1, size[i]);
        if (!(f1[i] < 1) || !isfinite(f1[i])) return fail(e, "point %" PRId64 ": F1 is %g, expected less than 1 ---> 1 - F1 must have a logarithm: leave this point out", i + 1, f1[i]);
        if (f1_error && !(f1_error[i] >= 0)) return fail(e, "point %" PRId64 ": the standard error of F1 is %g, expected 0 or more", i + 1, f1_error[i]);
        smallest = fmin(smallest, size[i]); largest = fmax(largest, size[i]);
    }
    if (!(largest > smallest)) return fail(e, "%" PRId64 " points of %s, expected two data sizes or more", n, n < 2 ? "one data size" : "the same data size");
    double *x = (double *)xcalloc(4 * n, sizeof(double)), *y = x + n, *drawn = x + 2 * n, *residual = x + 3 * n, *replicate = (double *)xcalloc(REPLICATES, sizeof(double));
    double my = 0, mx = 0, xx = 0, yy = 0, rest = 0;
    for (int64_t i = 0; i < n; i++) { x[i] = log(size[i]); y[i] = log(1 - f1[i]); mx += x[i] / (double)n; my += y[i] / (double)n; }
    line_fit(x, y, n, &out->slope, &out->intercept);
    for (int64_t i = 0; i < n; i++) {
        residual[i] = y[i] - out->intercept - out->slope * x[i];
        rest += residual[i] * residual[i]; xx += (x[i] - mx) * (x[i] - mx); yy += (y[i] - my) * (y[i] - my);
    }
    out->n = n;
    out->r2 = yy > 0 ? 1 - rest / yy : 1;
    out->exponent = -out->slope;
    out->error = n > 2 ? sqrt(rest / (double)(n - 2) / xx) : NAN;
    double wide = out->error * t_quantile(0.975, (double)(n - 2)), intercept;
    out->low = out->exponent - wide;
    out->high = out->exponent + wide;
    for (int64_t r = 0; r < REPLICATES; r++) {
        for (int64_t i = 0; i < n; i++) {
            double noise = f1_error ? f1_error[i] / (1 - f1[i]) * random_normal(seed, (uint64_t)r, (uint64_t)i)   // the error of a logarithm: it cannot reach F1 = 1
                         : residual[random_below(seed, (uint64_t)r, (uint64_t)i, (uint64_t)n)] * sqrt((double)n / (double)(n - 2));
            drawn[i] = (f1_error ? y[i] : out->intercept + out->slope * x[i]) + noise;
        }
        line_fit(x, drawn, n, &replicate[r], &intercept);
        replicate[r] = -replicate[r];
    }
    Estimate boot = replicates_estimate(out->exponent, replicate, f1_error || n > 2 ? REPLICATES : 0);
    out->boot_low = boot.low;
    out->boot_high = boot.high;
    free(x); free(replicate);
    return true;
}
FN double power_fit_at(const PowerFit *f, double size) { return exp(f->intercept + f->slope * log(size)); }   // 1 - F1 on the line

#endif
