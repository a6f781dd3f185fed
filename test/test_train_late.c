// test_train_late.c: every test of test_train.c once more, with the training loop as it runs on a GPU: a step's results are read
// when the next step is on its way. Nothing that a user or a resumed run can see may differ.
#define FINDAP_RESULTS_LATE 1
#include "test_train.c"
