/* What the simulation knows, as one line of JSON: what measured answers are compared with. */
#ifndef BEAMLINE_TRUTH_H
#define BEAMLINE_TRUTH_H

#include <stdbool.h>

#include "text.h"

struct sample;
struct sim;

void truth_write(struct sim *sim, struct buffer *out);
/* Append a sample's map as `<ny>;<nx>;<full>;<pixel>,...`, row by row; false if it has none. */
bool truth_write_map(const struct sample *sample, struct buffer *out);

#endif
