// schedule.h: the learning rate as a function of the step - linear, cosine, constant, and WSD (warmup, stable, decay).
//
// A schedule is drawn over its horizon, which may lie beyond the step at which the stage stops: the released FinDAP runs
// stopped inside the warmup of a three-epoch schedule, and a recipe has to be able to say exactly that.
#ifndef FINDAP_SCHEDULE_H
#define FINDAP_SCHEDULE_H
#include "common.h"   // defines: Error, fail

typedef enum { SCHEDULE_LINEAR, SCHEDULE_COSINE, SCHEDULE_CONSTANT, SCHEDULE_WSD } ScheduleKind;

typedef struct {
    ScheduleKind kind;
    double lr;       // the peak
    double warmup;   // share of the horizon over which the rate climbs from 0
    double floor;    // share of the peak at which the decay ends
    double decay;    // WSD: share of the horizon that the final linear decay takes
    int64_t horizon; // steps
} Schedule;

FN const char *schedule_name(ScheduleKind k) {
    return k == SCHEDULE_LINEAR ? "linear" : k == SCHEDULE_COSINE ? "cosine" : k == SCHEDULE_CONSTANT ? "constant" : "wsd";
}

FN bool schedule_find(const char *name, const char *where, ScheduleKind *out, Error *e) {
    for (int k = SCHEDULE_LINEAR; k <= SCHEDULE_WSD; k++)
        if (strcmp(name, schedule_name((ScheduleKind)k)) == 0) { *out = (ScheduleKind)k; return true; }
    return fail(e, "%s: the schedule is \"%s\", expected linear, cosine, constant or wsd", where, name);
}

FN int64_t schedule_warmup_steps(const Schedule *s) { return (int64_t)llround(s->warmup * (double)s->horizon); }

// The rate of step `step`, counted from 0. The warmup's first step is already above zero and the decay reaches its floor
// only after the last step, so that no step is spent on a rate of 0.
FN double schedule_lr(const Schedule *s, int64_t step) {
    int64_t warmup = schedule_warmup_steps(s);
    if (step < warmup) return s->lr * (double)(step + 1) / (double)warmup;
    int64_t begin = warmup;   // of the decay
    if (s->kind == SCHEDULE_CONSTANT) return s->lr;
    if (s->kind == SCHEDULE_WSD) {
        begin = s->horizon - (int64_t)llround(s->decay * (double)s->horizon);
        if (begin < warmup) begin = warmup;
        if (step < begin) return s->lr;
    }
    double progress = s->horizon > begin ? (double)(step - begin) / (double)(s->horizon - begin) : 1.0;
    if (progress > 1.0) progress = 1.0;
    double height = s->kind == SCHEDULE_COSINE ? 0.5 * (1.0 + cos(3.14159265358979323846 * progress)) : 1.0 - progress;
    return s->lr * (s->floor + (1.0 - s->floor) * height);
}

#endif
