/* Fast Poisson numbers of one mean: Walker's alias method on a table of at most 256 outcomes. */
#ifndef BEAMLINE_POISSON_TABLE_H
#define BEAMLINE_POISSON_TABLE_H

#include <stdint.h>

#include "rng.h"

enum { POISSON_TABLE_BITS = 8, POISSON_TABLE_SIZE = 1 << POISSON_TABLE_BITS };

struct poisson_table {
    double mean;
    uint32_t keep[POISSON_TABLE_SIZE]; /* below: own outcome */
    uint8_t other[POISSON_TABLE_SIZE];
    uint32_t lowest; /* outcome of index 0 */
    int bits;        /* 2^bits outcomes; -1: mean too large for a table; 0: not built */
};

/* Means above 150 get no table: draw those with rng_poisson. */
void poisson_table_build(struct poisson_table *table, double mean);

/* Draw with 32 random bits; the table must have been built with bits > 0. */
static inline uint32_t poisson_table_draw(const struct poisson_table *table, uint32_t random)
{
    uint32_t i = random >> (32 - table->bits);
    return table->lowest + (random << table->bits < table->keep[i] ? i : table->other[i]);
}

#endif
