/* Samples: absorption tables and powder reflections, loaded from text files.
 *
 * A table has header lines `# key: value` and then rows of energy (eV, increasing) and the
 * absorption (mu times thickness, dimensionless) of the whole sample, of its edge alone, and of
 * the reference foil. Between rows the absorption is linear in energy; outside, it keeps the
 * nearest row's value. */
#ifndef BEAMLINE_SAMPLE_H
#define BEAMLINE_SAMPLE_H

#include <stdbool.h>
#include <stddef.h>

#include "config.h"
#include "sample_map.h"

struct reflection_line {
    int h, k, l;
    double d;         /* Å */
    double intensity; /* the strongest is 1 */
};

struct header_line {
    char *key, *value;
};

struct sample_row {
    double energy, total, fluorescence, reference;
};

struct sample {
    char *name;
    double x_um, y_um;          /* motor position with the beam on the middle of the sample */
    double width_um, height_um;
    struct sample_map map;
    struct sample_row *rows;
    size_t row_count;
    struct reflection_line *reflections;
    size_t reflection_count;
    struct header_line *header; /* all of it, in file order */
    size_t header_count;
};

/* A sample that absorbs nothing, called "empty". */
bool sample_empty(struct sample *sample);
/* Load a table. On failure returns false, with one sentence in `message`. */
bool sample_load(struct sample *sample, const char *path, char message[MESSAGE_MAX]);
void sample_free(struct sample *sample);

/* Absorption at an energy (its `energy` is the one asked for). */
struct sample_row sample_absorption(const struct sample *sample, double energy);

#endif
