/* Checks that go on after a failure and count it. */
#ifndef BEAMLINE_TESTS_CHECK_H
#define BEAMLINE_TESTS_CHECK_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int check_failures;

#define CHECK(condition, ...)                                                                     \
    do {                                                                                          \
        if (!(condition)) {                                                                       \
            check_failures++;                                                                     \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition);                       \
            fprintf(stderr, __VA_ARGS__);                                                         \
            fputc('\n', stderr);                                                                  \
        }                                                                                         \
    } while (0)

#define CHECK_NEAR(found, expected, tolerance)                                                    \
    CHECK(fabs((found) - (expected)) <= (tolerance), "found %.17g, expected %.17g",              \
          (double)(found), (double)(expected))

static inline int check_status(void)
{
    if (check_failures > 0)
        fprintf(stderr, "%d checks failed\n", check_failures);
    return check_failures > 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

#endif
