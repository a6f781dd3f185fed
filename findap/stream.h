// stream.h: from token shards to the rows of a step. Which rows, and in which order, is a pure function of
// (seed, stage, epoch): nothing is drawn while training, so the whole state of the data is a cursor (stage, epoch, row),
// the same for any micro-batch size, and a resumed run reads what the interrupted one would have read.
//
//   documents of a stream -> held-out ones taken away, over-long CPT documents cut into pieces, over-long IT documents dropped
//                         -> an endless sequence of seeded permutations, from which every epoch takes the next share
//   all streams' pieces   -> shuffled, packed into rows (pack.h), rows shuffled
//   rows                  -> tokens, positions, targets and weights of one step
//
// The loss weight of a token belongs to it as a TARGET: the weight that stands beside token i in the shard goes to the
// place that predicts i, which is i-1. A piece's first token is predicted by nothing, so it is never a target.
#ifndef FINDAP_STREAM_H
#define FINDAP_STREAM_H
#include "model.h"    // defines: Batch
#include "pack.h"     // defines: pack_best_fit, pack_next_fit, shuffle_i64
#include "recipe.h"   // defines: Recipe
#include "shard.h"    // defines: shard_open, shard_list

typedef struct {
    char *path;
    Hash hash;          // of what is in it: tokens, weights, bounds
    Shard shard;
    uint8_t *held_out;  // per document: 1 when it is for evaluation only
    bool decided;       // held_out is final: a shard that appears again in a later stage keeps its held-out documents
    bool training, evaluation;   // named under "shards", under "dev_shards"
} DataFile;

typedef struct { int32_t file; int64_t document; } Document;
typedef struct { int64_t start; int32_t file, length, stream; } Piece;   // tokens [start, start + length) of a shard

typedef struct {
    const char *name;
    ShardKind kind;
    Document *documents, *dev;   // for training; for evaluation
    int64_t num_documents, num_dev;
    int64_t num_tokens;          // of the training documents that fit or are split
    int64_t take, take_tokens;   // an epoch's share: documents, or (when >= 0) tokens
    int64_t held_out, split, split_pieces, dropped, dropped_tokens, too_short;   // rows, for the report
    int64_t cached_epoch, cached_position;   // take_tokens: where that epoch begins in the endless sequence
} Stream;

typedef struct {
    Stream *streams;
    int num_streams;
    Piece *dev_pieces;
    Packing dev;                 // evaluation rows of all streams
    int64_t epoch;               // of `pieces`, -1: none yet
    Piece *pieces;
    int64_t num_pieces;
    Packing packing;
    int64_t horizon, stop;       // steps
    int64_t first_rows, first_tokens, first_trained;   // of epoch 0
    double first_fill;
} StageData;

typedef struct {
    const Recipe *recipe;
    DataFile *files;
    int num_files;
    StageData *stages;
} Data;

FN void stage_data_free(StageData *s) {
    for (int k = 0; k < s->num_streams; k++) { free(s->streams[k].documents); free(s->streams[k].dev); }
    free(s->streams); free(s->dev_pieces); free(s->pieces);
    packing_free(&s->dev);
    packing_free(&s->packing);
}
FN void data_free(Data *d) {
    for (int i = 0; d->stages && i < d->recipe->num_stages; i++) stage_data_free(&d->stages[i]);
    for (int i = 0; i < d->num_files; i++) { shard_close(&d->files[i].shard); free(d->files[i].held_out); free(d->files[i].path); }
    free(d->files); free(d->stages);
    memset(d, 0, sizeof *d);
}

// what a sequence of random numbers is for; different numbers, different sequences
typedef enum { KEY_PASS = 1, KEY_SHUFFLE, KEY_ROWS } KeyUse;
FN uint64_t data_key(KeyUse use, int64_t stage, int64_t stream, int64_t pass) {
    return mix64(mix64(mix64((uint64_t)use) ^ (uint64_t)stage) ^ ((uint64_t)stream << 40) ^ (uint64_t)pass);
}

FN int64_t document_length(const Data *d, Document x) {
    const int64_t *bounds = d->files[x.file].shard.documents;
    return bounds[x.document + 1] - bounds[x.document];
}

// ---------------------------------------------------------------------------------------------------------------
// opening: shards, held-out documents, shares

// What a shard holds, and nothing about how it was made: the same data prepared by a newer program is the same data, so the
// held-out documents, hence the whole run, and the right to --resume stay the same.
FN Hash shard_content_hash(const Shard *s) {
    XXH3_state_t *state = XXH3_createState();
    CHECK(state && XXH3_128bits_reset(state) == XXH_OK);
    XXH3_128bits_update(state, s->tokens, (size_t)s->num_tokens * sizeof(int32_t));
    XXH3_128bits_update(state, s->weights, (size_t)s->num_tokens);
    XXH3_128bits_update(state, s->documents, (size_t)(s->num_documents + 1) * sizeof(int64_t));
    Hash h = hash_digest(XXH3_128bits_digest(state));
    XXH3_freeState(state);
    return h;
}

// the number of the shard at `path` in d->files, opened once however often the recipe names it; -1 with an error
FN int data_file(Data *d, const char *path, int64_t vocab_size, Error *e) {
    for (int i = 0; i < d->num_files; i++) if (strcmp(d->files[i].path, path) == 0) return i;
    Shard shard;
    if (!shard_open(path, &shard, e)) return -1;
    Hash hash = shard_content_hash(&shard);
    for (int i = 0; i < d->num_files; i++) {   // the same under another name
        if (strcmp(d->files[i].hash.hex, hash.hex) != 0 || d->files[i].shard.kind != shard.kind) continue;
        shard_close(&shard);
        return i;
    }
    d->files = (DataFile *)xrealloc(d->files, d->num_files + 1, sizeof(DataFile));
    DataFile *f = &d->files[d->num_files];
    memset(f, 0, sizeof *f);
    f->shard = shard;
    f->path = xstrdup(path);
    f->hash = hash;
    f->held_out = (uint8_t *)xcalloc(f->shard.num_documents, 1);
    d->num_files++;
    const Shard *first = &d->files[0].shard;
    if (f->shard.kind == SHARD_PREF) { fail(e, "%s: is a shard of kind pref, expected cpt or it ---> preference pairs are for `dpo`", path); return -1; }
    if (f->shard.vocab_size > vocab_size) {
        fail(e, "%s: was made for a vocabulary of %" PRId64 ", the model has %" PRId64 " ---> prepare the data with the model's own tokenizer", path, f->shard.vocab_size, vocab_size);
        return -1;
    }
    if (strcmp(f->shard.tokenizer, first->tokenizer) != 0) {
        fail(e, "%s: was made with another tokenizer (%.8s) than %s (%.8s) ---> prepare both with the same one", path, f->shard.tokenizer, d->files[0].path, first->tokenizer);
        return -1;
    }
    return d->num_files - 1;
}

typedef struct { uint64_t key; Document document; } HoldOut;
FN int hold_out_compare(const void *a, const void *b) {
    const HoldOut *x = (const HoldOut *)a, *y = (const HoldOut *)b;
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    if (x->document.file != y->document.file) return x->document.file < y->document.file ? -1 : 1;
    return x->document.document < y->document.document ? -1 : x->document.document > y->document.document;
}

// Holds out `amount` (a share below 1, else a count) of the documents in `files`, by a key of (seed, the shard's content,
// the document): neither the stage nor the order of the recipe matters, so that what one stage evaluates on is not what
// another one trains on.
FN bool data_hold_out(Data *d, const int *files, int n, double amount, const char *name, Error *e) {
    int64_t total = 0, fresh = 0;
    for (int i = 0; i < n; i++) {
        total += d->files[files[i]].shard.num_documents;
        if (!d->files[files[i]].decided) fresh += d->files[files[i]].shard.num_documents;
    }
    if (fresh == 0 || amount <= 0) {
        for (int i = 0; i < n; i++) d->files[files[i]].decided = true;
        return true;
    }
    double share = amount < 1 ? amount : amount / (double)total;
    if (share >= 1) return fail(e, "stream \"%s\": dev_rows is %.0f, but it has only %" PRId64 " documents ---> hold out fewer", name, amount, total);
    int64_t count = (int64_t)llround(share * (double)fresh), m = 0;
    HoldOut *all = (HoldOut *)xmalloc(fresh * (int64_t)sizeof(HoldOut));
    for (int i = 0; i < n; i++) {
        DataFile *f = &d->files[files[i]];
        if (f->decided) continue;
        f->decided = true;   // also guards against the same file twice in the list
        uint64_t content = XXH3_64bits(f->hash.hex, 32);
        for (int64_t k = 0; k < f->shard.num_documents; k++) {
            all[m].key = random_u64((uint64_t)d->recipe->seed, content, (uint64_t)k);
            all[m].document.file = files[i];
            all[m++].document.document = k;
        }
    }
    qsort(all, (size_t)m, sizeof(HoldOut), hold_out_compare);
    for (int64_t k = 0; k < count && k < m; k++) d->files[all[k].document.file].held_out[all[k].document.document] = 1;
    free(all);
    return true;
}

FN bool data_open_list(Data *d, const StringList *words, int64_t vocab_size, int **files, int *n, Error *e) {
    StringList paths = {NULL, 0};
    bool ok = shard_list(words, &paths, e);
    *files = (int *)xcalloc(paths.n + 1, sizeof(int));
    *n = 0;
    for (int i = 0; ok && i < paths.n; i++) {
        int f = data_file(d, paths.items[i], vocab_size, e);
        bool twice = false;
        for (int k = 0; k < *n; k++) twice = twice || (*files)[k] == f;
        if (twice) ok = fail(e, "%s: this data is in the list twice ---> use \"weight\": 2 to take it twice", paths.items[i]);
        else if (f < 0) ok = false;
        else (*files)[(*n)++] = f;
    }
    shard_list_free(&paths);
    return ok;
}

// the documents of one stream: those to train on
FN void stream_collect(const Data *d, Stream *s, const int *files, int n) {
    int64_t T = d->recipe->seq_len, total = 0;
    for (int i = 0; i < n; i++) total += d->files[files[i]].shard.num_documents;
    s->documents = (Document *)xmalloc(total * (int64_t)sizeof(Document));
    for (int i = 0; i < n; i++) {
        const DataFile *f = &d->files[files[i]];
        for (int64_t k = 0; k < f->shard.num_documents; k++) {
            Document x;
            x.file = files[i]; x.document = k;
            int64_t length = document_length(d, x);
            if (f->held_out[k]) { s->held_out++; continue; }
            if (length < 2) { s->too_short++; continue; }
            if (length > T && s->kind == SHARD_IT) { s->dropped++; s->dropped_tokens += length; continue; }
            if (length > T) { s->split++; s->split_pieces += (length + T - 1) / T; }
            s->num_tokens += length;
            s->documents[s->num_documents++] = x;
        }
    }
}

// the documents to evaluate on: the held-out ones of these files, or (whole) all; evenly thinned to the recipe's max_rows
FN void stream_collect_dev(const Data *d, Stream *s, const int *files, int n, bool whole) {
    int64_t total = 0, seen = 0;
    for (int i = 0; i < n; i++)
        for (int64_t k = 0; k < d->files[files[i]].shard.num_documents; k++) total += whole || d->files[files[i]].held_out[k];
    int64_t most = total < d->recipe->dev_max_rows ? total : d->recipe->dev_max_rows;
    s->dev = (Document *)xrealloc(s->dev, s->num_dev + most, sizeof(Document));
    for (int i = 0; i < n; i++)
        for (int64_t k = 0; k < d->files[files[i]].shard.num_documents; k++) {
            if (!whole && !d->files[files[i]].held_out[k]) continue;
            seen++;
            if ((int64_t)((__int128)seen * most / total) == (int64_t)((__int128)(seen - 1) * most / total)) continue;
            s->dev[s->num_dev].file = files[i];
            s->dev[s->num_dev++].document = k;
        }
}

FN void document_pieces(const Data *d, Document x, int stream, ShardKind kind, Piece **out, int64_t *n, int64_t *cap) {
    int64_t T = d->recipe->seq_len, start = d->files[x.file].shard.documents[x.document], length = document_length(d, x);
    if (length < 2 || (kind == SHARD_IT && length > T)) return;
    for (int64_t at = 0; at < length; at += T) {
        if (*n == *cap) { *cap = *cap ? 2 * *cap : 1024; *out = (Piece *)xrealloc(*out, *cap, sizeof(Piece)); }
        Piece *p = &(*out)[(*n)++];
        p->start = start + at;
        p->file = x.file;
        p->stream = stream;
        p->length = (int32_t)(length - at < T ? length - at : T);
    }
}

// an epoch's share of every stream: what the recipe asks for, then the balance
FN bool stage_shares(StageData *s, const RecipeStage *r, int64_t T, Error *e) {
    double cpt_rows = 0, it_rows = 0, cpt_tokens = 0, it_tokens = 0;
    for (int k = 0; k < s->num_streams; k++) {
        Stream *t = &s->streams[k];
        const RecipeStream *want = &r->streams[k];
        if (t->num_documents == 0)
            return fail(e, "stage \"%s\", stream \"%s\": no document is left to train on: %" PRId64 " do not fit into a row of %" PRId64 " tokens, %" PRId64 " are too short, %" PRId64 " are held out ---> %s", r->name, t->name,
                        t->dropped, T, t->too_short, t->held_out, t->dropped ? "longer rows (--seq-len)" : "look at the data");
        double mean = (double)t->num_tokens / (double)t->num_documents;
        t->take_tokens = want->tokens;
        t->take = want->rows >= 0 ? want->rows : (int64_t)llround(want->weight * (double)t->num_documents);
        if (t->take < 1) t->take = 1;
        double tokens = want->tokens >= 0 ? (double)want->tokens : mean * (double)t->take, rows = want->tokens >= 0 ? tokens / mean : (double)t->take;
        if (t->kind == SHARD_CPT) { cpt_rows += rows; cpt_tokens += tokens; } else { it_rows += rows; it_tokens += tokens; }
    }
    if (r->balance == BALANCE_NONE) return true;
    bool by_rows = r->balance == BALANCE_ROWS;
    double have = by_rows ? cpt_rows : cpt_tokens, want = by_rows ? it_rows : it_tokens, carry = 0;
    if (have == 0 || want == 0) return fail(e, "stage \"%s\": \"balance\" needs a cpt stream and an it stream", r->name);
    if (have <= want) return true;   // balance only takes away
    for (int k = 0; k < s->num_streams; k++) {
        Stream *t = &s->streams[k];
        if (t->kind != SHARD_CPT) continue;
        double mean = (double)t->num_tokens / (double)t->num_documents;
        double rows = t->take_tokens >= 0 ? (double)t->take_tokens / mean : (double)t->take, tokens = t->take_tokens >= 0 ? (double)t->take_tokens : mean * rows;
        double share = (by_rows ? rows : tokens) * want / have + carry;   // the carry keeps the sum over streams exact
        int64_t whole = llround(share);
        if (whole < 1) whole = 1;
        carry = share - (double)whole;
        if (by_rows) { t->take = whole; t->take_tokens = -1; } else t->take_tokens = whole;
    }
    return true;
}

// ---------------------------------------------------------------------------------------------------------------
// epochs

// Walks the stream's endless sequence from `position`: gives the next epoch's documents to `out` (NULL: only walks) and
// returns the position after them. A pass over all documents is one seeded permutation.
FN int64_t stream_walk(const Data *d, const Stream *s, int64_t stage, int64_t stream, int64_t position, Piece **out, int64_t *n, int64_t *cap) {
    int64_t *order = NULL, pass = -1, taken = 0, count = 0;
    for (;; position++, count++) {
        if (s->take_tokens < 0 && count >= s->take) break;
        if (position / s->num_documents != pass) {
            free(order);
            pass = position / s->num_documents;
            order = permutation_new(s->num_documents, (uint64_t)d->recipe->seed, data_key(KEY_PASS, stage, stream, pass));
        }
        Document x = s->documents[order[position % s->num_documents]];
        int64_t length = document_length(d, x);
        // a token budget is met within half a document; at least one document, or the epoch would be empty for ever
        if (s->take_tokens >= 0 && count > 0 && taken + length / 2 > s->take_tokens) break;
        taken += length;
        if (out) document_pieces(d, x, (int)stream, s->kind, out, n, cap);
    }
    free(order);
    return position;
}

// makes s->pieces and s->packing those of `epoch`: a function of (seed, stage, epoch) alone
FN void stage_epoch(Data *d, int stage, int64_t epoch) {
    StageData *s = &d->stages[stage];
    if (s->epoch == epoch) return;
    Piece *pieces = NULL;
    int64_t n = 0, cap = 0;
    for (int k = 0; k < s->num_streams; k++) {
        Stream *t = &s->streams[k];
        int64_t position = 0;
        if (t->take_tokens < 0) position = epoch * t->take;
        else {
            if (t->cached_epoch > epoch) t->cached_epoch = t->cached_position = 0;
            while (t->cached_epoch < epoch) { t->cached_position = stream_walk(d, t, stage, k, t->cached_position, NULL, NULL, NULL); t->cached_epoch++; }
            position = t->cached_position;
        }
        stream_walk(d, t, stage, k, position, &pieces, &n, &cap);
    }
    uint64_t seed = (uint64_t)d->recipe->seed;
    int64_t *order = permutation_new(n, seed, data_key(KEY_SHUFFLE, stage, 0, epoch));
    free(s->pieces);
    s->pieces = (Piece *)xmalloc(n * (int64_t)sizeof(Piece));
    int32_t *lengths = (int32_t *)xmalloc(n * (int64_t)sizeof(int32_t));
    for (int64_t i = 0; i < n; i++) { s->pieces[i] = pieces[order[i]]; lengths[i] = s->pieces[i].length; }
    packing_free(&s->packing);
    s->packing = d->recipe->stages[stage].next_fit ? pack_next_fit(lengths, n, d->recipe->seq_len)
                                                   : pack_best_fit(lengths, n, d->recipe->seq_len, seed, data_key(KEY_ROWS, stage, 0, epoch));
    s->num_pieces = n;
    s->epoch = epoch;
    free(lengths); free(order); free(pieces);
}

FN int64_t piece_trained(const Data *d, const Piece *p) {
    int64_t n = 0;
    const uint8_t *w = d->files[p->file].shard.weights + p->start;
    for (int64_t i = 1; i < p->length; i++) n += w[i] != 0;
    return n;
}

// epoch 0's figures, the number of steps, the evaluation rows
FN void stage_plan(Data *d, int stage) {
    const RecipeStage *r = &d->recipe->stages[stage];
    StageData *s = &d->stages[stage];
    int64_t rows_per_step = d->recipe->step_tokens / d->recipe->seq_len, n = 0, cap = 0;
    stage_epoch(d, stage, 0);
    s->first_rows = s->packing.num_rows;
    s->first_tokens = s->packing.filled;
    s->first_fill = packing_fill(&s->packing);
    for (int64_t i = 0; i < s->num_pieces; i++) s->first_trained += piece_trained(d, &s->pieces[i]);
    if (r->steps) s->horizon = r->steps;
    else if (r->tokens) s->horizon = (r->tokens + d->recipe->step_tokens - 1) / d->recipe->step_tokens;
    else {
        // best-fit makes the same number of rows of the same lengths, whatever their order
        bool same = !r->next_fit;
        for (int k = 0; k < s->num_streams; k++) same = same && s->streams[k].take_tokens < 0 && s->streams[k].take % s->streams[k].num_documents == 0;
        int64_t rows = s->first_rows;
        for (int64_t epoch = 1; epoch < r->epochs; epoch++) {
            if (!same) stage_epoch(d, stage, epoch);
            rows += same ? s->first_rows : s->packing.num_rows;
        }
        s->horizon = (rows + rows_per_step - 1) / rows_per_step;
    }
    s->stop = r->stop_after_steps && r->stop_after_steps < s->horizon ? r->stop_after_steps : s->horizon;
    for (int k = 0; k < s->num_streams; k++)
        for (int64_t i = 0; i < s->streams[k].num_dev; i++) document_pieces(d, s->streams[k].dev[i], k, s->streams[k].kind, &s->dev_pieces, &n, &cap);
    int32_t *lengths = (int32_t *)xmalloc(n * (int64_t)sizeof(int32_t));
    for (int64_t i = 0; i < n; i++) lengths[i] = s->dev_pieces[i].length;
    s->dev = pack_best_fit(lengths, n, d->recipe->seq_len, 0, 0);
    free(lengths);
}

// dev shards, after all training shards of the stage: each goes to its own stream if that has its kind, else to the first
// stream that does (so that --dev-data may be listed in any order)
FN bool stage_open_dev(Data *d, const Recipe *recipe, int stage, int64_t vocab_size, Error *e) {
    const RecipeStage *r = &recipe->stages[stage];
    StageData *s = &d->stages[stage];
    for (int k = 0; k < r->num_streams; k++) {
        int *files = NULL, *mine = NULL, n = 0;
        bool ok = data_open_list(d, &r->streams[k].dev_shards, vocab_size, &files, &n, e);
        mine = (int *)xcalloc(n, sizeof(int));
        for (int round = 0; ok && round < s->num_streams; round++) {
            int to = round == 0 ? k : round <= k ? round - 1 : round, num_mine = 0;
            for (int i = 0; i < n; i++) {
                DataFile *f = &d->files[files[i]];
                if (f->shard.kind != s->streams[to].kind) continue;
                f->evaluation = true;
                mine[num_mine++] = files[i];
                files[i--] = files[--n];
            }
            if (num_mine) stream_collect_dev(d, &s->streams[to], mine, num_mine, true);
        }
        if (ok && n > 0) ok = fail(e, "%s: is of kind %s, but there is no such stream to evaluate", d->files[files[0]].path, shard_kind_names[d->files[files[0]].shard.kind]);
        free(mine);
        free(files);
        if (!ok) return false;
    }
    return true;
}

FN bool stage_open(Data *d, Recipe *recipe, int stage, int64_t vocab_size, Error *e) {
    RecipeStage *r = &recipe->stages[stage];
    StageData *s = &d->stages[stage];
    s->epoch = -1;
    s->streams = (Stream *)xcalloc(r->num_streams, sizeof(Stream));
    for (int k = 0; k < r->num_streams; k++) {
        RecipeStream *want = &r->streams[k];
        Stream *t = &s->streams[s->num_streams++];
        int *files = NULL, n = 0;
        bool ok = data_open_list(d, &want->shards, vocab_size, &files, &n, e);
        for (int i = 0; ok && i < n; i++) {
            ShardKind kind = d->files[files[i]].shard.kind;
            d->files[files[i]].training = true;
            if (!want->kind_given) { want->kind = kind; want->kind_given = true; }
            if (kind != want->kind) ok = fail(e, "%s: is of kind %s, but stream \"%s\" is of kind %s", d->files[files[i]].path, shard_kind_names[kind], want->name, shard_kind_names[want->kind]);
        }
        t->name = want->name;
        t->kind = want->kind;
        double amount = want->dev_shards.n ? 0 : want->dev_rows >= 0 ? want->dev_rows : recipe->dev_rows;
        ok = ok && data_hold_out(d, files, n, amount, want->name, e);
        if (ok) { stream_collect(d, t, files, n); if (!want->dev_shards.n) stream_collect_dev(d, t, files, n, false); }
        free(files);
        if (!ok) return false;
    }
    return stage_open_dev(d, recipe, stage, vocab_size, e) && stage_shares(s, r, recipe->seq_len, e);
}

// Opens every shard of every stage (so that a missing one is known now and not after a week) and plans the stages. Fills in
// the kinds of --data streams. `recipe` must outlive d. False with one line in e; data_free either way.
FN bool data_open(Data *d, Recipe *recipe, int64_t vocab_size, Error *e) {
    memset(d, 0, sizeof *d);
    d->recipe = recipe;
    d->stages = (StageData *)xcalloc(recipe->num_stages, sizeof(StageData));
    for (int i = 0; i < recipe->num_stages; i++) if (!stage_open(d, recipe, i, vocab_size, e)) return false;
    for (int i = 0; i < d->num_files; i++)
        if (d->files[i].training && d->files[i].evaluation) return fail(e, "%s: is both training and dev data ---> use dev_rows to hold out a part of it", d->files[i].path);
    for (int i = 0; i < recipe->num_stages; i++) stage_plan(d, i);
    return true;
}

// ---------------------------------------------------------------------------------------------------------------
// rows

// One step's rows, all at once: the number of trained targets has to be known before the first backward.
typedef struct {
    int64_t rows, T, capacity;
    int32_t *tokens, *positions, *targets, *stream;   // (rows, T); stream: of the document, -1 in an unfilled tail
    float *weights;                                   // (rows, T)
    int64_t trained, filled, documents;
} Step;

FN void step_new(Step *s, int64_t rows, int64_t T) {
    memset(s, 0, sizeof *s);
    s->T = T; s->capacity = rows;
    int64_t bytes = rows * T * 4;
    s->tokens = (int32_t *)xmalloc(bytes); s->positions = (int32_t *)xmalloc(bytes); s->targets = (int32_t *)xmalloc(bytes);
    s->stream = (int32_t *)xmalloc(bytes); s->weights = (float *)xmalloc(bytes);
}
FN void step_free(Step *s) { free(s->tokens); free(s->positions); free(s->targets); free(s->stream); free(s->weights); memset(s, 0, sizeof *s); }
FN void step_clear(Step *s) { s->rows = s->trained = s->filled = s->documents = 0; }

FN Batch step_batch(const Step *s, int64_t row, int64_t rows) {   // rows [row, row + rows), in place
    Batch b;
    b.B = rows; b.T = s->T; b.last = row + rows == s->rows;
    b.tokens = s->tokens + row * s->T; b.positions = s->positions + row * s->T; b.targets = s->targets + row * s->T; b.weights = s->weights + row * s->T;
    return b;
}

// appends row `row` of another step, or a row of documents of one token without targets
FN void step_copy_row(Step *s, const Step *from, int64_t row) {
    CHECK(s->rows < s->capacity && s->T == from->T);
    int64_t to = s->rows * s->T, at = row * s->T, n = s->T;
    memcpy(s->tokens + to, from->tokens + at, (size_t)n * sizeof *s->tokens);
    memcpy(s->positions + to, from->positions + at, (size_t)n * sizeof *s->positions);
    memcpy(s->targets + to, from->targets + at, (size_t)n * sizeof *s->targets);
    memcpy(s->stream + to, from->stream + at, (size_t)n * sizeof *s->stream);
    memcpy(s->weights + to, from->weights + at, (size_t)n * sizeof *s->weights);
    s->rows++;
}
FN void step_inert_row(Step *s) {
    CHECK(s->rows < s->capacity);
    for (int64_t i = s->rows * s->T; i < (s->rows + 1) * s->T; i++) {
        s->tokens[i] = s->positions[i] = 0;
        s->targets[i] = s->stream[i] = -1;
        s->weights[i] = 0;
    }
    s->rows++;
}

// Ends the row that is being appended, filled up to place `at`. What no document fills is an inert stretch: a document of its own, without targets.
FN void step_end_row(Step *s, int64_t at) {
    int64_t end = (s->rows + 1) * s->T;
    CHECK(at <= end);
    for (int32_t i = 0; at < end; i++, at++) { s->tokens[at] = 0; s->positions[at] = i; s->targets[at] = -1; s->weights[at] = 0; s->stream[at] = -1; }
    s->rows++;
}

// appends one packed row
FN void step_add_row(Step *s, const Data *d, const Piece *pieces, const Packing *packing, int64_t row) {
    CHECK(s->rows < s->capacity);
    int64_t at = s->rows * s->T;
    for (int64_t k = packing->row_start[row]; k < packing->row_start[row + 1]; k++) {
        const Piece *p = &pieces[packing->items[k]];
        const int32_t *tokens = d->files[p->file].shard.tokens + p->start;
        const uint8_t *weights = d->files[p->file].shard.weights + p->start;
        for (int64_t i = 0; i < p->length; i++, at++) {
            bool last = i + 1 == p->length;
            s->tokens[at] = tokens[i];
            s->positions[at] = (int32_t)i;
            s->targets[at] = last ? -1 : tokens[i + 1];
            s->weights[at] = last ? 0 : (float)weights[i + 1];
            s->stream[at] = p->stream;
            if (!last && weights[i + 1]) s->trained++;
        }
        s->filled += p->length;
        s->documents++;
    }
    step_end_row(s, at);
}

// Fills the step that begins at (*epoch, *row) and moves the cursor behind it. A step goes on into the next epoch, so that
// no row is dropped; only the last step of a stage that ends with an epoch can be smaller.
FN void step_fill(Step *s, Data *d, int stage, int64_t *epoch, int64_t *row) {
    const RecipeStage *r = &d->recipe->stages[stage];
    step_clear(s);
    while (s->rows < s->capacity) {
        stage_epoch(d, stage, *epoch);
        const StageData *data = &d->stages[stage];
        if (*row == data->packing.num_rows) {
            if (r->epochs && *epoch + 1 >= r->epochs) break;
            ++*epoch;
            *row = 0;
            continue;
        }
        step_add_row(s, d, data->pieces, &data->packing, (*row)++);
    }
}

// ---------------------------------------------------------------------------------------------------------------
// which rank gets which rows

typedef struct { double flops; int64_t row; } RowWork;
FN int row_work_compare(const void *a, const void *b) {   // falling, equal work in the order of rows
    const RowWork *x = (const RowWork *)a, *y = (const RowWork *)b;
    if (x->flops != y->flops) return x->flops > y->flops ? -1 : 1;
    return x->row < y->row ? -1 : x->row > y->row;
}
// This rank's rows of a step, which every rank has laid out whole: the same rows in the same order whatever the number of ranks. Rows are
// given out by falling work, each to the rank that has least so far, so many to each; and a rank that has fewer gets an
// inert one (documents of one token, no target), so that all ranks run the same number of micro-batches and meet in the same collectives.
// Work is what differs from row to row, in FLOPs of both passes: of attention (visible pairs), and of the LM head (trained targets), which
// for Llama-3-8B is a sixth of the difference between a row of instructions and one long document.
// owner (rows) gets the rank of each row.
FN const Step *step_share(const Comm *c, const Config *config, const Step *s, Step *mine, int *owner) {
    if (c->size == 1) return s;
    int64_t rows = s->rows, most = (rows + c->size - 1) / c->size;
    RowWork *work = (RowWork *)xcalloc(rows, sizeof(RowWork));
    double *load = (double *)xcalloc(c->size, sizeof(double));
    int64_t *given = (int64_t *)xcalloc(c->size, sizeof(int64_t));
    for (int64_t r = 0; r < rows; r++) work[r].row = r;
    // of a pair two products forward and five backward in each layer, of a target one forward and two backward
    const double pair = 14.0 * (double)(config->num_layers * config->num_heads * config->head_dim), target = 6.0 * (double)config->hidden_size * (double)config->vocab_size;
    for (int64_t i = 0; i < rows * s->T; i++) work[i / s->T].flops += pair * ((double)s->positions[i] + 1) + (s->weights[i] != 0 ? target : 0);
    qsort(work, (size_t)rows, sizeof *work, row_work_compare);
    for (int64_t k = 0; k < rows; k++) {
        int lightest = -1;
        for (int r = 0; r < c->size; r++) if (given[r] < most && (lightest < 0 || load[r] < load[lightest])) lightest = r;
        owner[work[k].row] = lightest;
        given[lightest]++;
        load[lightest] += work[k].flops;
    }
    step_clear(mine);
    for (int64_t r = 0; r < rows; r++) if (owner[r] == c->rank) step_copy_row(mine, s, r);
    while (mine->rows < most) step_inert_row(mine);
    free(work); free(load); free(given);
    return mine;
}

#endif
