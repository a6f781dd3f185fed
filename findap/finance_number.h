// finance_number.h: numbers as reports, tables and models write them: read from a text, and compared.
//
// 1,234.5 and 1 234.5 (no-break spaces) and 1'234.5 are one number, 1,23 and 1.234,5 are none; $ and % and bp, (12) and U+2212 for negatives, 1e6,
// 1.5 x 10^3, million, bn, 1.5x (a multiple). Digits that hang on letters (Q3, 10-K, 3rd) are none. 12 % is 0.12 where both sides have a unit; where only one has, 12
// and 0.12 both match it, because gold answers are written either way.
//
// "The same number" is three questions to an evaluation (number_matches), and a fourth to a reward (number_equal), which must not pay for guessing.
#ifndef FINDAP_FINANCE_NUMBER_H
#define FINDAP_FINANCE_NUMBER_H
#include "text.h"   // defines: Text

typedef enum { RESULT_NONE, RESULT_ONE, RESULT_AMBIGUOUS } Found;

typedef struct { double value, unit; bool percent; } Number;   // unit: what one in the last digit is worth

FN int64_t currency_before(Text t, int64_t i) {   // where the currency sign that ends at i begins, else i
    static const char *const signs[] = {"$", "\xE2\x82\xAC", "\xC2\xA3", "\xC2\xA5", "\xE2\x82\xB9"};
    for (int k = 0; k < 5; k++) { int64_t n = (int64_t)strlen(signs[k]); if (i >= n && memcmp(t.data + i - n, signs[k], (size_t)n) == 0) return i - n; }
    return i;
}
FN int64_t sign_before(Text t, int64_t i, int *sign) {   // likewise for - + U+2212 U+2013; behind a word it is a hyphen or an operation
    static const char *const signs[] = {"+", "-", "\xE2\x88\x92", "\xE2\x80\x93"};
    for (int k = 0; k < 4; k++) {
        int64_t n = (int64_t)strlen(signs[k]);
        if (i < n || memcmp(t.data + i - n, signs[k], (size_t)n) != 0 || is_word(text_at(t, i - n - 1)) || text_at(t, i - n - 1) == ')') continue;
        *sign = k ? -1 : 1;
        return i - n;
    }
    return i;
}
FN int64_t group_separator(Text t, int64_t i) {   // bytes of the thousands separator at i, 0: none
    static const char *const separators[] = {",", "'", "\xC2\xA0", "\xE2\x80\xAF", "\xE2\x80\x89"};
    for (int k = 0; k < 5; k++) if (i < t.length && text_begins(text_from(t, i), separators[k])) return (int64_t)strlen(separators[k]);
    return 0;
}
FN int64_t power_of_ten(Text t, int64_t i, Buffer *exponent) {   // "e-3", " x 10^-3", " \times 10^{-3}" at i: where it ends, digits into `exponent`; else i
    int64_t k = i;
    bool braces = false;
    if ((text_at(t, i) | 32) == 'e') k++;
    else {
        static const char *const times[] = {"x", "*", "\xC3\x97", "\\times", "\\cdot"};
        while (text_at(t, k) == ' ') k++;
        int which = 0;
        while (which < 5 && (k >= t.length || !text_begins(text_from(t, k), times[which]))) which++;
        if (which == 5) return i;
        k += (int64_t)strlen(times[which]);
        while (text_at(t, k) == ' ') k++;
        if (k >= t.length || !text_begins(text_from(t, k), "10^")) return i;
        k += 3;
        braces = text_at(t, k) == '{';
        k += braces;
    }
    int64_t begin = k;
    if (text_at(t, k) == '-' || text_at(t, k) == '+') k++;
    int64_t digits = k;
    while (is_digit(text_at(t, k))) k++;
    if (k == digits || (braces && text_at(t, k) != '}') || (!braces && is_letter(text_at(t, k)))) return i;
    buffer_add(exponent, "e", 1);
    buffer_add(exponent, t.data + begin, k - begin);
    return k + braces;
}
FN int64_t number_unit(Text t, int64_t i, double *factor, bool *percent) {   // "%", " million", "bn" at i: where it ends; else i
    static const struct { const char *word; double factor; bool percent, attached; } units[] = {
        {"%", 0.01, true, false}, {"percentage points", 0.01, true, false}, {"pp", 0.01, true, false}, {"percent", 0.01, true, false}, {"per cent", 0.01, true, false}, {"pct", 0.01, true, false},
        {"basis points", 1e-4, true, false}, {"bps", 1e-4, true, false}, {"bp", 1e-4, true, false}, {"thousand", 1e3, false, false}, {"million", 1e6, false, false},
        {"billion", 1e9, false, false}, {"trillion", 1e12, false, false}, {"mn", 1e6, false, false}, {"mm", 1e6, false, true}, {"bn", 1e9, false, false}, {"tn", 1e12, false, false},
        {"k", 1e3, false, true}, {"m", 1e6, false, true}, {"b", 1e9, false, true}};   // attached: "5m" may be money, "5 m" is a length
    int64_t k = i;
    while (text_at(t, k) == ' ' || text_at(t, k) == '\\') k++;   // "12\%" in LaTeX
    for (size_t u = 0; k < t.length && u < sizeof units / sizeof *units; u++) {
        int64_t end = k + (int64_t)strlen(units[u].word);
        if (!text_begins(text_from(t, k), units[u].word) || (units[u].attached && k > i) || (is_letter(units[u].word[0]) && is_word(text_at(t, end)))) continue;
        *factor = units[u].factor;
        *percent = units[u].percent;
        return end;
    }
    return i;
}

// The next number of t at or behind *at, which moves behind it. NONE: there is no more. AMBIGUOUS: digits that are no number we could be sure of.
FN Found number_next(Text t, int64_t *at, Number *out) {
    for (int64_t i = *at; i < t.length; i++) {
        if (!is_digit(t.data[i]) && !(t.data[i] == '.' && is_digit(text_at(t, i + 1)) && !is_word(text_at(t, i - 1)))) continue;
        Buffer digits = {NULL, 0, 0};
        int64_t k = i, group = 0, decimals = 0;
        bool bad = false, grouped = false;
        while (is_digit(text_at(t, k))) { buffer_add(&digits, &t.data[k], 1); k++; group++; }
        for (int64_t n = group_separator(t, k); n && is_digit(text_at(t, k + n)) && !bad; n = group_separator(t, k)) {
            int64_t more = 0;
            while (is_digit(text_at(t, k + n + more))) more++;
            bad = more != 3 || group > 3 || (group == 0 && !grouped);
            grouped = true;
            buffer_add(&digits, t.data + k + n, more);
            k += n + more;
        }
        if (!bad && text_at(t, k) == '.' && is_digit(text_at(t, k + 1))) {
            buffer_add(&digits, ".", 1);
            for (k++; is_digit(text_at(t, k)); k++) { buffer_add(&digits, &t.data[k], 1); decimals++; }
            bad = (text_at(t, k) == '.' || text_at(t, k) == ',') && is_digit(text_at(t, k + 1));   // 1.234,5 and 31.12.2020
        }
        while (bad && (is_digit(text_at(t, k)) || ((text_at(t, k) == '.' || text_at(t, k) == ',') && is_digit(text_at(t, k + 1))))) k++;
        double factor = 1;
        int64_t mantissa = digits.len, end = bad ? k : power_of_ten(t, k, &digits);
        out->percent = false;
        *at = end = number_unit(t, end, &factor, &out->percent);
        if (decimals && end == k && (text_at(t, k) | 32) == 'x' && !is_word(text_at(t, k + 1))) *at = end = k + 1;   // 1.5x: a multiple; 5x may be five times an unknown
        bad = bad || (text_at(t, end) == '-' && !is_word(text_at(t, end + 1)) && text_at(t, end + 1) != ' ');          // 5-: an accountant's minus, or a dash
        // letters that hang on it: a name, not a number; three of a currency may
        static const char *const codes[] = {"USD", "EUR", "GBP", "JPY", "CHF", "CNY", "INR"};
        bool named = is_letter(text_at(t, i - 1)) || text_at(t, i - 1) == '_';
        for (int c = 0; c < 7; c++) if (i >= 3 && !is_word(text_at(t, i - 4)) && text_begins(text_slice(t, i - 3, i), codes[c])) named = false;
        for (int c = 0; c < 7; c++) if (end < t.length && text_begins(text_from(t, end), codes[c]) && !is_word(text_at(t, end + 3))) *at = end = end + 3;   // 100USD
        named = named || is_word(text_at(t, end)) || text_at(t, end) == '_' || (text_at(t, end) == '-' && is_letter(text_at(t, end + 1)));
        if (named) { while (is_word(text_at(t, *at))) ++*at; i = *at - 1; buffer_free(&digits); continue; }
        int sign = 0;
        int64_t begin = currency_before(t, i);
        begin = sign_before(t, begin, &sign);
        begin = currency_before(t, begin);
        if (!sign && text_at(t, begin - 1) == '(' && text_at(t, end) == ')' && !is_word(text_at(t, begin - 2)) && text_at(t, begin - 2) != '\\') sign = -1;   // (134), but not f(3)
        const bool powered = digits.len > mantissa;
        buffer_add(&digits, "", 1);
        out->unit = factor * pow(10, (powered ? strtod(digits.data + mantissa + 1, NULL) : 0) - (double)decimals);
        if (!powered && factor != 1) {   // 0.65 bp is 0.65e-4 to the last bit, which 0.65 times 1e-4 is not
            char power[16];
            digits.len--;
            buffer_add(&digits, power, snprintf(power, sizeof power, "e%d", (int)lround(log10(factor))));
            buffer_add(&digits, "", 1);
            factor = 1;
        }
        out->value = (sign < 0 ? -1 : 1) * strtod(digits.data, NULL) * factor;
        buffer_free(&digits);
        return bad || !isfinite(out->value) || !isfinite(out->unit) ? RESULT_AMBIGUOUS : RESULT_ONE;
    }
    *at = t.length;
    return RESULT_NONE;
}

// Within `tolerance` of the gold number (a share of it), or, where the answer has more digits than the gold one, equal when rounded to those: unless the
// gold one has so few that its rounding is more than 1 % of it, or 3 would be as good as 2.6.
FN bool number_equal(Number p, Number g, double tolerance) {
    for (int as_written = 0; as_written < 2; as_written++) {
        if (as_written) {
            if (p.percent == g.percent) return false;
            Number *x = p.percent ? &p : &g;   // the one with a unit: 12 % as 12
            x->value *= 100; x->unit *= 100;
        }
        double size = fabs(g.value), bound = (tolerance > 1e-9 ? tolerance : 1e-9) * size, half = 0.5 * g.unit * (1 + 1e-9);
        if (p.unit < 0.99 * g.unit && half <= 0.01 * size && half > bound) bound = half;
        if (fabs(p.value - g.value) <= bound) return true;
    }
    return false;
}

FN Found number_of(Text t, bool anchored, Number *out) {   // the one number of t
    Found found = RESULT_NONE;
    int64_t at = 0, first_end = 0;
    if (anchored) {   // "3 + 2 = 5", "5 million in 2022. The ..."
        for (int64_t i = text_find(t, text_of("="), 0); i >= 0; i = text_find(t, text_of("="), 0)) t = text_from(t, i + 1);
        int64_t stop = text_find(t, text_of(". "), 0);
        if (stop > 0) t = text_slice(t, 0, stop);
    }
    for (Number n;;) {
        Found next = number_next(t, &at, &n);
        if (next == RESULT_NONE) return found;
        if (next == RESULT_AMBIGUOUS) return next;
        if (found == RESULT_NONE) {
            *out = n;
            found = next;
            first_end = at;
            if (!anchored) continue;
            // what begins with its number is that number, if only words follow: "5 million in fiscal 2022", but not "3 to 4" nor "3 or 4"
            static const char *const going_on[] = {"to ", "or ", "and ", "plus ", "minus ", "times ", "x ", "through ", "of "};
            int64_t begin = 0, word = first_end;
            while (begin < t.length && !is_word(t.data[begin])) begin++;
            while (text_at(t, word) == ' ') word++;
            bool alone = is_digit(text_at(t, begin)) && word > first_end && is_letter(text_at(t, word));
            for (int k = 0; k < 9; k++) alone = alone && !text_begins(text_from(t, word), going_on[k]);
            if (alone) return found;
        } else if (n.value != out->value || n.percent != out->percent) return RESULT_AMBIGUOUS;
    }
}

// ---------------------------------------------------------------------------------------------------------------
// for evaluation: each of these accepts what the one before it accepts
//
// strict    equal when both are rounded to 5 decimals, which is how FinQA compares; 12 % is 0.12 and nothing else
// rounded   or equal to the gold number when rounded to as many digits as that is written with; of two that are equally near, either
// relaxed   or within 1 %, and a percentage written either way: where one has a % sign, 12 % is 12 as well; where neither has, 0.12 and 12 are the same if the smaller is
//           below 10, that is, up to 1,000 %: 12 and 1,200 are no percentage and its share

typedef enum { COMPARE_STRICT, COMPARE_ROUNDED, COMPARE_RELAXED, NUM_COMPARE } NumberCompare;

FN double round_decimals(double x, int decimals) {   // as Python's round(): of the exact binary value
    char digits[400];
    snprintf(digits, sizeof digits, "%.*f", decimals, x);
    return strtod(digits, NULL);
}
FN bool number_near(double p, Number g, double share) {
    double bound = 0.5 * g.unit * (1 + 1e-9), relative = share * fabs(g.value) * (1 + 1e-12);
    return fabs(p - g.value) <= (bound > relative ? bound : relative);
}
FN bool number_matches(NumberCompare how, Number p, Number g) {
    if (!isfinite(p.value) || !isfinite(g.value)) return false;
    if (round_decimals(p.value, 5) == round_decimals(g.value, 5)) return true;
    if (how == COMPARE_STRICT) return false;
    if (number_near(p.value, g, how == COMPARE_RELAXED ? 0.01 : 0)) return true;
    if (how == COMPARE_ROUNDED || (p.percent && g.percent)) return false;
    double smaller = fabs(p.value) < fabs(g.value) ? fabs(p.value) : fabs(g.value);
    bool up = p.percent || (!g.percent && smaller < 10), down = g.percent || (!p.percent && smaller < 10);
    return (up && number_near(100 * p.value, g, 0.01)) || (down && number_near(p.value / 100, g, 0.01));
}

#endif
