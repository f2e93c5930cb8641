/* What the simulation knows, as one line of JSON: what measured answers are compared with. */
#ifndef BEAMLINE_TRUTH_H
#define BEAMLINE_TRUTH_H

#include "text.h"

struct sim;

void truth_write(const struct sim *sim, struct buffer *out);

#endif
