// test_report.c: what eval's runs have left, compared, drawn and fitted: the tables, the statistics against numbers worked out by hand, the page, and what is said to damaged files.
//
//     build/test_report --pages DIR    writes pages to be looked at: DIR/three.html (40 tasks, three runs), DIR/one.html, DIR/scaling.html
#include "../findap/eval_report.h"
#include "../findap/eval_scaling.h"
#include "check.h"
#include "scratch.h"           // defines: directory, setup, teardown, in
#include "program.h"           // defines: run_words, output
#include "report_fixture.h"    // defines: fake_run, fake_log

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

#define N NAN
static const FakeTask large[] = {
    {"fpb", "FPB", "acc", "finance", "similar", "task", "direct", FAKE_LABELS, 970, 3, 0.59, {0.73, 0.929, 0.911}, {91.13, 73.09}},
    {"fiqasa", "FiQA SA", "acc", "finance", "similar", "task", "direct", FAKE_LABELS, 235, 3, 0.6, {0.778, 0.944, 0.953}, {95.32, 77.87}},
    {"fomc", "FOMC", "acc", "finance", "similar", "task", "direct", FAKE_LABELS, 496, 3, 0.49, {0.566, 0.631, 0.643}, {64.31, 56.65}},
    {"ner", "NER", "entity_f1", "finance", "similar", "task", "direct", FAKE_COUNTS, 98, 0, 0, {0.45, 0.74, 0.77}, {76.69, 45.03}},
    {"edtsum", "EDTSUM", "rouge1", "finance", "similar", "task", "direct", FAKE_TEXT, 2000, 0, 0, {0.115, 0.542, 0.537}, {53.78, 11.5}},
    {"finer-ord", "FiNER-ORD", "entity_f1", "finance", "similar", "task", "direct", FAKE_COUNTS, 1080, 0, 0, {0.30, 0.62, 0.64}, {N, N}},
    {"headlines", "Gold commodity headlines: nine questions about price, direction, past, future and comparison of each headline", "avg_f1", "finance", "similar", "task", "direct", FAKE_SUBSETS, 2000, 2, 0.6, {0.66, 0.88, 0.89}, {N, N}},
    {"tsa", "TSA", "rmse", "finance", "similar", "task", "direct", FAKE_RMSE, 561, 0, 0, {0.2, 0.5, 0.6}, {N, N}},
    {"mmlu-finance", "MMLU-Finance", "acc", "finance", "novel", "concept", "direct", FAKE_LABELS, 1460, 4, 0.27, {0.657, 0.639, 0.642}, {64.2, 65.71}},
    {"ectsum", "Flare-ECTSUM", "rouge1", "finance", "novel", "task", "direct", FAKE_TEXT, 495, 0, 0, {0.359, 0.344, 0.341}, {34.1, 35.92}},
    {"mlesg", "MLESG", "acc", "finance", "novel", "task", "direct", FAKE_LABELS, 300, 35, 0.1, {0.363, 0.42, 0.407}, {40.67, 36.33}},
    {"ma", "MA", "acc", "finance", "novel", "task", "direct", FAKE_LABELS, 500, 2, 0.65, {0.826, 0.846, 0.84}, {84, 82.6}},
    {"sm-bigdata", "SM-Bigdata", "acc", "finance", "novel", "task", "cot", FAKE_LABELS, 1470, 2, 0.55, {0.553, 0.52, 0.541}, {54.14, 55.3}},
    {"sm-acl", "SM-ACL", "acc", "finance", "novel", "task", "cot", FAKE_LABELS, 3720, 2, 0.51, {0.505, 0.499, 0.52}, {51.99, 50.51}},
    {"sm-cikm", "SM-CIKM", "acc", "finance", "novel", "task", "cot", FAKE_LABELS, 1140, 2, 0.56, {0.555, 0.449, 0.549}, {54.94, 55.56}},
    {"cra-ccf", "CRA-CCF", "mcc", "finance", "novel", "task", "cot", FAKE_LABELS, 2280, 2, 0.99, {0.2, 0.4, 0.45}, {0.83, -0.32}},
    {"cra-ccfraud", "CRA-CCFraud", "acc", "finance", "novel", "task", "cot", FAKE_LABELS, 2100, 2, 0.941, {0.148, 0.323, 0.34}, {34.03, 14.78}},
    {"german", "Flare-German", "acc", "finance", "novel", "task", "cot", FAKE_LABELS, 200, 2, 0.66, {0.335, 0.605, 0.64}, {64, 33.5}},
    {"australian", "Flare-Australian", "acc", "finance", "novel", "task", "cot", FAKE_LABELS, 139, 2, 0.56, {0.669, 0.518, 0.446}, {44.6, 66.91}},
    {"lendingclub", "CRA-LendingClub", "acc", "finance", "novel", "task", "cot", FAKE_LABELS, 2690, 2, 0.81, {0.527, 0.66, 0.685}, {68.49, 52.69}},
    {"polish", "CRA-Polish", "mcc", "finance", "novel", "task", "cot", FAKE_LABELS, 1740, 2, 0.95, {0.3, 0.1, 0.5}, {15.3, 12.37}},
    {"taiwan", "CRA-Taiwan", "acc", "finance", "novel", "task", "cot", FAKE_LABELS, 1370, 2, 0.967, {0.12, 0.964, 0.408}, {40.81, 12.01}},
    {"portoseguro", "CRA-ProtoSeguro", "acc", "finance", "novel", "task", "cot", FAKE_LABELS, 2380, 2, 0.963, {0.97, 0.866, 0.351}, {35.14, 96.98}},
    {"travelinsurance", "CRA-TravelInsurance", "acc", "finance", "novel", "task", "cot", FAKE_LABELS, 2534, 2, 0.985, {0.064, 0.985, 0.415}, {41.52, 6.39}},
    {"tatqa", "Flare-TATQA", "number_rounded", "finance", "novel", "reasoning", "cot", FAKE_TEXT, 1670, 0, 0, {0.634, 0.664, 0.666}, {66.61, 63.43}},
    {"financebench", "FinanceBench", "judge", "finance", "novel", "reasoning", "cot", FAKE_TEXT, 150, 0, 0, {0.527, 0.52, 0.54}, {54, 52.7}},
    {"cfa-easy", "CFA-Easy", "acc", "finance", "novel", "reasoning", "cot", FAKE_LABELS, 1032, 3, 0.36, {0.606, 0.623, 0.663}, {66.28, 60.56}},
    {"cfa-challenge", "CFA-Challenge", "acc", "finance", "novel", "reasoning", "cot", FAKE_LABELS, 90, 3, 0.356, {0.344, 0.356, 0.556}, {55.56, 34.44}},
    {"finred", "FinRED", "relation_f1", "finance", "novel", "task", "direct", FAKE_COUNTS, 1068, 0, 0, {0.1, 0.3, N}, {N, N}},
    {"convfinqa", "ConvFinQA", "number_rounded", "finance", "novel", "reasoning", "cot", FAKE_TEXT, 1490, 0, 0, {N, 0.45, 0.5}, {N, N}},
    {"mmlu", "MMLU", "acc", "general", "novel", "concept", "cot", FAKE_LABELS, 6000, 4, 0.26, {0.481, 0.472, 0.474}, {47.42, 48.14}},
    {"arc", "AI2-ARC", "acc", "general", "novel", "concept", "cot", FAKE_LABELS, 3548, 4, 0.26, {0.893, 0.889, 0.894}, {89.43, 89.29}},
    {"nq-open", "NQ-open", "em", "general", "novel", "concept", "cot", FAKE_TEXT, 3610, 0, 0, {0.185, 0.162, 0.192}, {19.2, 18.47}},
    {"mt-bench", "MT-bench", "judge", "general", "novel", "chat", "direct", FAKE_TEXT, 80, 0, 0, {0.788, 0.729, 0.736}, {73.6, 78.8}},
    {"mathqa", "MathQA", "acc", "general", "novel", "reasoning", "cot", FAKE_LABELS, 2985, 5, 0.21, {0.512, 0.543, 0.551}, {55.08, 51.16}},
    {"social-iqa", "Social-IQA", "acc", "general", "novel", "reasoning", "cot", FAKE_LABELS, 2636, 3, 0.34, {0.688, 0.736, 0.752}, {75.23, 68.83}},
    {"openbookqa", "OpenBookQA", "acc", "general", "novel", "reasoning", "cot", FAKE_LABELS, 500, 4, 0.28, {0.77, 0.792, 0.826}, {82.6, 77}},
    {"hellaswag", "HellaSwag", "acc", "general", "novel", "reasoning", "cot", FAKE_LABELS, 4000, 4, 0.25, {0.733, 0.7, 0.68}, {81.9, 73.34}},
    {"winogrande", "Winogrande", "acc", "general", "novel", "reasoning", "cot", FAKE_LABELS, 1767, 2, 0.5, {0.625, 0.675, 0.703}, {70.32, 62.51}},
    {"piqa_with_a_name_that_is_far_longer_than_any_column_would_like_it_to_be", "PIQA_with_a_title_that_is_far_longer_than_any_column_would_like_it_to_be_and_no_blank", "acc", "general", "novel", "reasoning", "cot", FAKE_LABELS, 1838, 2, 0.505, {0.798, 0.844, 0.859}, {85.85, 79.82}},
};
#undef N

static int pages(const char *dir) {
    static const char *const labels[] = {"Llama-3-8B-Instruct", "CPT+IT", "+PA"};
    Error e;
    StringList dirs = {(const char **)xcalloc(3, sizeof(char *)), 0}, logs = {(const char **)xcalloc(1, sizeof(char *)), 0}, none = {NULL, 0};
    for (int i = 0; i < 3; i++) {
        char *run = xprintf("%s/run%d", dir, i);
        fake_json(run, "results.json", fake_run(run, labels[i], large, COUNT(large), i));
        dirs.items[dirs.n++] = run;
    }
    char *log = xprintf("%s/log.jsonl", dir), *three = xprintf("%s/three.html", dir), *one = xprintf("%s/one.html", dir), *two = xprintf("%s/scaling.html", dir), *points = xprintf("%s/points.jsonl", dir);
    fake_log(log, 2000);
    logs.items[logs.n++] = log;
    if (!report_run(&dirs, &logs, three, &e)) fail_msg("%s", e.text);
    dirs.n = 1;
    if (!report_run(&dirs, &none, one, &e)) fail_msg("%s", e.text);
    const char *rows = "{\"size\": 1000, \"f1\": 0.51}\n{\"size\": 4000, \"f1\": 0.66}\n{\"size\": 16000, \"f1\": 0.77}\n{\"size\": 64000, \"f1\": 0.84}\n{\"size\": 256000, \"f1\": 0.9}\n";
    if (!write_file(points, rows, (int64_t)strlen(rows), &e)) fail_msg("%s", e.text);
    char *argv[] = {(char *)"scaling", points, (char *)"--out", two, NULL};
    int result = eval_scaling_main(4, argv);
    char *compare[] = {(char *)"compare", (char *)dirs.items[0], (char *)dirs.items[1], NULL};
    return result | eval_compare_main(3, compare);
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "--pages") == 0) return pages(argv[2]);
    free(output);
    return 0;
}
