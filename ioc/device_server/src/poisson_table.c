#include "poisson_table.h"

#include <math.h>

static const double table_mean_max = 150.0; /* 8 standard deviations still fit into a table */

void poisson_table_build(struct poisson_table *t, double mean)
{
    t->mean = mean;
    t->bits = -1;
    if (mean > table_mean_max)
        return;
    double spread = 8.0 * sqrt(mean) + 8.0;
    double low = fmax(0.0, floor(mean - spread));
    t->bits = 3;
    while (t->bits < POISSON_TABLE_BITS && low + (1 << t->bits) < mean + spread)
        t->bits++;
    int size = 1 << t->bits;
    t->lowest = (uint32_t)low;

    /* Outwards from the mode, where nothing under- or overflows; the sum normalises. */
    double p[POISSON_TABLE_SIZE], total = 0.0;
    int mode = (int)(floor(mean) - low);
    p[mode] = 1.0;
    for (int i = mode + 1; i < size; i++)
        p[i] = p[i - 1] * mean / (low + i);
    for (int i = mode - 1; i >= 0; i--)
        p[i] = p[i + 1] * (low + i + 1) / mean;
    for (int i = 0; i < size; i++)
        total += p[i];
    uint8_t poor[POISSON_TABLE_SIZE], rich[POISSON_TABLE_SIZE];
    int n_poor = 0, n_rich = 0;
    for (int i = 0; i < size; i++) {
        p[i] *= size / total;
        t->keep[i] = UINT32_MAX;
        t->other[i] = (uint8_t)i;
        if (p[i] < 1.0)
            poor[n_poor++] = (uint8_t)i;
        else
            rich[n_rich++] = (uint8_t)i;
    }
    while (n_poor > 0 && n_rich > 0) {
        uint8_t i = poor[--n_poor], j = rich[n_rich - 1];
        t->keep[i] = (uint32_t)(p[i] * 4294967295.0);
        t->other[i] = j;
        p[j] -= 1.0 - p[i];
        if (p[j] < 1.0) {
            n_rich--;
            poor[n_poor++] = j;
        }
    }
}
