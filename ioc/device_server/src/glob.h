/* Shell patterns over PV names: `*`, `?`, `[a-z]`, `[!a-z]`, backslash quotes. */
#ifndef BEAMLINE_GLOB_H
#define BEAMLINE_GLOB_H

#include <stdbool.h>

/* Whether `name` matches `pattern` as a whole; time is at most length times length. */
bool glob_match(const char *pattern, const char *name);

#endif
