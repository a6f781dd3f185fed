// check.h: cmocka for the tests of this house. Include it after the headers under test: cmocka has a macro called fail,
// which is the name of our error function, so it is taken away and fail_msg is made to do without it.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {   // test_generate.c is compiled as CUDA too
#endif
#include <cmocka.h>
#ifdef __cplusplus
}
#endif
#undef fail
#undef fail_msg
#define fail_msg(...) do { print_error("ERROR: "); print_error(__VA_ARGS__); print_error("\n"); _fail(__FILE__, __LINE__); } while (0)
