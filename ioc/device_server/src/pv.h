/* Process variables: names, reading and writing. */
#ifndef BEAMLINE_PV_H
#define BEAMLINE_PV_H

#include <stdbool.h>

#include "config.h"
#include "text.h"

struct sim;

enum { PV_NAME_MAX = PREFIX_MAX + 32, PV_COUNT_MAX = 160, PV_SLOTS = 512 };

struct pv {
    char name[PV_NAME_MAX];
    unsigned char kind;  /* private to pv.c */
    unsigned char index; /* axis or channel */
};

struct pv_table {
    struct pv pv[PV_COUNT_MAX];
    int count;
    short slot[PV_SLOTS]; /* hash table of 1 + index */
};

enum pv_reply { PV_OK, PV_INVALID, PV_FAULT, PV_BUSY };

void pv_table_build(struct pv_table *table, const char *prefix);
/* NULL if there is no PV of that full name. */
const struct pv *pv_find(const struct pv_table *table, const char *name);

/* Axis of a motor's setpoint PV, -1 for any other PV. */
int pv_motor(const struct pv *pv);
/* A detector count, whose latched value a plain read replaces by a fresh one. */
bool pv_is_count(const struct pv *pv);
/* Part of what is reported together at the end of a count. */
bool pv_is_count_result(const struct pv *pv);
/* Changes by itself all the time. */
bool pv_drifts(const struct pv *pv);
/* NULL for numbers, the value of a text PV otherwise. */
const char *pv_text(const struct pv *pv);
/* Present value; latched counts for detectors. NaN for a text PV. */
double pv_value(const struct sim *sim, const struct pv *pv);

/* Append values as a GET shows them, separated by commas: outside a count, detectors are exposed
 * afresh, all of them in one exposure. */
void pv_read(struct sim *sim, const struct pv *const *pvs, int count, struct buffer *out);

enum pv_reply pv_put(struct sim *sim, const struct pv *pv, double value);

#endif
