// compare.c: two files of `train_findap --dump`, tensor by tensor: relative error ||a - b|| / ||b|| and cosine. What `make compare`
// calls to hold the GPU twin against the CPU reference. Two checkpoints (state.safetensors of one rank) do as well: m.*, AdamW's first moments, are gradients too.
//
//     compare REFERENCE OTHER [--most ERROR] [--cosine LEAST] [--norm RELATIVE] [--loss RELATIVE]      exit status 1 when a bound is broken
//
// A gradient that is zero in truth (the key bias's: softmax does not see a constant added to all scores) is rounding noise in
// both files. It is held against the largest gradient of the same layer kind instead: NOISE of the norm of all gradients.
#include "findap/flags.h"         // defines: flags_parse
#include "findap/safetensors.h"   // defines: safetensors_open, safetensor_to_f32

static const double NOISE = 1e-6;
enum { NUM_FLAGS = 4 };

int main(int argc, char **argv) {
    program_name = "compare";
    double most = 0, cosine = 0, norm = 0, loss_bound = 0;
    bool help = false;
    Error e;
    StringList files = {0};
    Flag flags[] = {
        {"--most", FLAG_DOUBLE, &most, "X", "largest relative error of a gradient (and of the logits)", 0, 1e9, false},
        {"--cosine", FLAG_DOUBLE, &cosine, "X", "smallest cosine of a gradient", 0, 1, false},
        {"--norm", FLAG_DOUBLE, &norm, "X", "largest relative difference of a gradient's norm: noise hardly changes it, a wrong factor does", 0, 1e9, false},
        {"--loss", FLAG_DOUBLE, &loss_bound, "X", "largest relative difference of the loss", 0, 1e9, false},
    };
    if (!flags_parse(argc, argv, 1, flags, NUM_FLAGS, &files, &help, &e)) die("%s", e.text);
    if (help || files.n != 2) { flags_help("compare REFERENCE OTHER [flags]", "Relative errors and cosines of two dumps, tensor by tensor.", flags, NUM_FLAGS); return help ? 0 : 1; }
    Safetensors *s[2];
    for (int i = 0; i < 2; i++) if (!(s[i] = safetensors_open(files.items[i], &e))) die("%s", e.text);
    double all = 0, worst = 0, least = 1, widest = 0, loss_error = 0;
    const char *worst_name = "", *least_name = "", *widest_name = "";
    float *x[2] = {NULL, NULL};
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t i = 0; i < safetensors_count(s[0]); i++) {
            const SafeTensor *a = safetensors_at(s[0], i), *b = safetensors_find(s[1], a->name);
            bool gradient = strncmp(a->name, "grad.", 5) == 0 || strncmp(a->name, "m.", 2) == 0, number = a->dtype == DTYPE_F32;
            if (!b || a->count != b->count || a->dtype != b->dtype) die("%s: \"%s\" is missing or has another shape than in %s", files.items[1], a->name, files.items[0]);
            if (!number) {
                if (memcmp(a->data, b->data, (size_t)a->bytes) != 0) die("\"%s\" differs: the two dumps are of different batches", a->name);
                continue;
            }
            for (int k = 0; k < 2; k++) {
                x[k] = (float *)xrealloc(x[k], a->count, sizeof(float));
                if (!safetensor_to_f32(k ? b : a, 0, a->count, x[k])) die("%s: \"%s\" is not a tensor of numbers", files.items[k], a->name);
            }
            double aa = 0, bb = 0, ab = 0, dd = 0;
            for (int64_t j = 0; j < a->count; j++) {
                double p = (double)x[0][j], q = (double)x[1][j];
                aa += p * p; bb += q * q; ab += p * q; dd += (p - q) * (p - q);
            }
            if (pass == 0) { if (gradient) all += aa; continue; }
            bool noise = gradient && sqrt(aa) < NOISE * sqrt(all);
            double error = noise ? sqrt(dd) / (NOISE * sqrt(all)) * most : sqrt(dd) / sqrt(aa), c = noise ? 1 : ab / sqrt(aa * bb);
            if (!(error == error) || !(c == c)) die("\"%s\" is not finite in one of the files", a->name);
            if (strcmp(a->name, "loss") == 0) { loss_error = error; printf("%-58s %12.6f %12.6f  relative %.2e\n", "loss", (double)x[0][0], (double)x[1][0], error); continue; }
            if (strcmp(a->name, "weights") == 0) continue;
            printf("%-58s norm %10.3e  error %9.2e  1-cosine %9.2e%s\n", a->name, sqrt(aa), sqrt(dd) / (aa > 0 ? sqrt(aa) : 1), 1 - c, noise ? "  (zero in truth)" : "");
            if (error > worst) { worst = error; worst_name = a->name; }
            if (gradient && c < least) { least = c; least_name = a->name; }
            if (gradient && !noise && fabs(sqrt(bb / aa) - 1) > widest) { widest = fabs(sqrt(bb / aa) - 1); widest_name = a->name; }
        }
    }
    bool ok = (!flag_given(flags, NUM_FLAGS, "--most") || worst <= most) && (!flag_given(flags, NUM_FLAGS, "--cosine") || least >= cosine) && (!flag_given(flags, NUM_FLAGS, "--norm") || widest <= norm) && (!flag_given(flags, NUM_FLAGS, "--loss") || loss_error <= loss_bound);
    printf("%s: loss differs by %.2e, largest error %.2e (%s), smallest cosine %.6f (%s), norms differ by %.2e (%s)\n", ok ? "ok" : "FAILED", loss_error, worst, worst_name, least, least_name, widest, widest_name);
    return ok ? 0 : 1;
}
