// preference.h: what a pair of answers - one chosen, one rejected - costs: the losses of preference alignment and their derivatives, from
// the log-probs of whole answers. Plain double arithmetic over a handful of numbers a pair; the model gets dL/dlogp back through model_head.
//
// Every loss is a function of one margin h = x_chosen - x_rejected, where x is what the policy says about an answer beside the reference:
//
//     x = log p - log p_ref               sums over the answer's trained tokens: dpo, cdpo, robust, hinge
//     x = (log p - log p_ref) / tokens    ipo (its authors' reading; a raw sum is another loss) and dpo-norm
//     x = log p / tokens                  simpo, which has no reference
//
//     dpo, dpo-norm   -log s(beta h)                                                      Rafailov et al. 2023; s is the sigmoid
//     cdpo            -(1-e) log s(beta h) - e log s(-beta h)                             labels wrong with probability e
//     robust          (-(1-e) log s(beta h) + e log s(-beta h)) / (1-2e)                  the same, unbiased (Chowdhury et al. 2024)
//     ipo             (h - 1/(2 beta))^2                                                  Azar et al. 2023
//     hinge           max(0, 1 - beta h)                                                  Zhao et al. 2023 (SLiC)
//     simpo           -log s(beta (h - gamma))    gamma: --gamma-ratio, the papers' gamma/beta   Meng et al. 2024
//
// TRL: 0.12's sigmoid with label_smoothing is cdpo, 0.29's and later sigmoid ignores label_smoothing; its ipo is this one in all of these.
//
// To each may be added alpha times the chosen answer's negative log-likelihood (Pang et al. 2024), normalised in one of three ways that
// differ in the field (nll_weights).
#ifndef FINDAP_PREFERENCE_H
#define FINDAP_PREFERENCE_H
#include "common.h"   // defines: CHECK

enum { CHOSEN, REJECTED };

typedef enum { LOSS_DPO, LOSS_CDPO, LOSS_ROBUST, LOSS_IPO, LOSS_HINGE, LOSS_DPO_NORM, LOSS_SIMPO, NUM_LOSSES } LossKind;
FN const char *const loss_names[NUM_LOSSES] = {"dpo", "cdpo", "robust", "ipo", "hinge", "dpo-norm", "simpo"};
typedef enum { NLL_BATCH, NLL_TOKEN, NLL_SEQUENCE, NUM_NLLS } NllKind;
FN const char *const nll_names[NUM_NLLS] = {"batch", "token", "sequence"};

typedef struct {
    LossKind kind;
    double beta, smoothing, gamma;   // smoothing: e of cdpo and robust; gamma: simpo's margin
    double alpha;                    // weight of the chosen answer's NLL, 0: none
    NllKind nll;
    int64_t nll_batch;               // pairs of a group for NLL_BATCH
} Preference;

typedef struct { double logp[2], ref[2]; int64_t tokens[2]; } PairLogp;   // [CHOSEN], [REJECTED]: sums over `tokens` trained tokens
typedef struct { double loss, dlogp[2], reward[2]; } PairLoss;            // reward: beta x, what the loss compares

FN bool loss_uses_lengths(LossKind k) { return k == LOSS_IPO || k == LOSS_DPO_NORM || k == LOSS_SIMPO; }
FN bool loss_uses_smoothing(LossKind k) { return k == LOSS_CDPO || k == LOSS_ROBUST; }

FN double sigmoid(double z) { return z >= 0 ? 1 / (1 + exp(-z)) : exp(z) / (1 + exp(z)); }
FN double log_sigmoid(double z) { return (z < 0 ? z : 0) - log1p(exp(-fabs(z))); }   // exp of what is never positive: finite for any z

// the loss of margin h, and in *slope its derivative
FN double preference_of_margin(const Preference *p, double h, double *slope) {
    double b = p->beta, e = loss_uses_smoothing(p->kind) ? p->smoothing : 0, z = b * (p->kind == LOSS_SIMPO ? h - p->gamma : h);
    if (p->kind == LOSS_IPO) { double d = h - 1 / (2 * b); *slope = 2 * d; return d * d; }
    if (p->kind == LOSS_HINGE) { *slope = z < 1 ? -b : 0; return z < 1 ? 1 - z : 0; }
    double sign = p->kind == LOSS_ROBUST ? -1 : 1, scale = p->kind == LOSS_ROBUST ? 1 / (1 - 2 * e) : 1;
    *slope = b * scale * (sign * e * sigmoid(z) - (1 - e) * sigmoid(-z));
    return -scale * ((1 - e) * log_sigmoid(z) + sign * e * log_sigmoid(-z));
}

FN PairLoss preference_loss(const Preference *p, const PairLogp *y) {   // without the NLL
    double x[2], by[2], slope;
    PairLoss l;
    for (int s = CHOSEN; s <= REJECTED; s++) {
        by[s] = loss_uses_lengths(p->kind) ? 1 / (double)y->tokens[s] : 1;
        x[s] = (y->logp[s] - (p->kind == LOSS_SIMPO ? 0 : y->ref[s])) * by[s];
        l.reward[s] = p->beta * x[s];
    }
    l.loss = preference_of_margin(p, x[CHOSEN] - x[REJECTED], &slope);
    l.dlogp[CHOSEN] = slope * by[CHOSEN];
    l.dlogp[REJECTED] = -slope * by[REJECTED];
    return l;
}

// How far an answer's log-prob may lie from that of another pass over the same weights, in nats: six standard deviations, when a token's lies `rounding`
// (root mean square) from what it was. The tokens' errors are independent, hence the root of their number.
FN double logp_rounding(double rounding, int64_t tokens) { return 6 * rounding * sqrt((double)tokens); }

// How far rounding may move a pair's loss away from that of margin 0 when policy and reference are the same weights. most: what six standard deviations of the
// margin do, in the worse direction. mean: what is expected on average, where the loss is curved: half of what one deviation to each side adds.
typedef struct { double most, mean; } PreferenceRounding;
FN PreferenceRounding preference_rounding(const Preference *p, const PairLogp *y, double rounding) {
    double h = 0, slope, at_zero = preference_of_margin(p, 0, &slope);
    for (int s = CHOSEN; s <= REJECTED; s++) {
        double by = loss_uses_lengths(p->kind) ? 1 / (double)y->tokens[s] : 1, one = by * logp_rounding(rounding, y->tokens[s]);
        h += one * one;
    }
    h = sqrt(h);
    double up = fabs(preference_of_margin(p, h, &slope) - at_zero), down = fabs(preference_of_margin(p, -h, &slope) - at_zero);
    PreferenceRounding r = {up > down ? up : down, 0.5 * (preference_of_margin(p, h / 6, &slope) + preference_of_margin(p, -h / 6, &slope)) - at_zero};
    return r;
}

// weight (n): pair k's share of a step's NLL term is -weight[k] * log p(chosen), so that the term is the mean ...
//     sequence   over the step's pairs of each pair's mean over its chosen tokens
//     token      over all chosen tokens of the step
//     batch      over groups of `nll_batch` pairs, in the step's order, of the mean over the chosen tokens of a group. This is TRL 0.12's rpo_alpha,
//                whose mean runs over a device's micro-batch: nll_batch is its per_device_train_batch_size (FinDAP's is 1: equal to `sequence`), and has
//                nothing to do with our micro-batches or ranks, which change no result. Unlike there, a token whose id is 0 is learned like any other.
FN void nll_weights(const Preference *p, const PairLogp *y, int64_t n, double *weight) {
    int64_t group = p->nll == NLL_TOKEN ? n : p->nll == NLL_SEQUENCE ? 1 : p->nll_batch, groups = (n + group - 1) / group;
    for (int64_t first = 0; first < n; first += group) {
        int64_t end = first + group < n ? first + group : n, tokens = 0;
        for (int64_t k = first; k < end; k++) tokens += y[k].tokens[CHOSEN];
        for (int64_t k = first; k < end; k++) weight[k] = 1 / ((double)tokens * (double)groups);
    }
}

// Means over n pairs; rounding: how far the preference loss may lie from margin 0's. loss = preference + alpha nll. kl: of log p - log p_ref over both answers, in nats an answer; it estimates KL(policy | reference)
// as long as the answers are samples of the policy, later it only says how far these answers have moved.
typedef struct { double loss, preference, nll, reward[2], logp[2], accuracy, kl, rounding; int64_t pairs; } PreferenceStats;

FN PreferenceStats preference_stats(const Preference *p, const PairLogp *y, const double *weight, int64_t n, double rounding) {
    PreferenceStats s;
    memset(&s, 0, sizeof s);
    s.pairs = n;
    double each = 1 / (double)n, squares = 0;
    for (int64_t k = 0; k < n; k++) {
        PreferenceRounding r = preference_rounding(p, &y[k], rounding);
        PairLoss l = preference_loss(p, &y[k]);
        s.preference += each * l.loss;
        s.nll -= weight[k] * y[k].logp[CHOSEN];
        s.accuracy += each * (l.reward[CHOSEN] > l.reward[REJECTED]);   // equal is not better
        s.rounding += each * fabs(r.mean);
        squares += r.most * r.most;
        for (int i = CHOSEN; i <= REJECTED; i++) {
            s.reward[i] += each * l.reward[i];
            s.logp[i] += each * y[k].logp[i];
            s.kl += each / 2 * (y[k].logp[i] - y[k].ref[i]);
        }
    }
    s.rounding += each * sqrt(squares);   // pairs are independent too
    s.loss = s.preference + p->alpha * s.nll;
    return s;
}

#endif
