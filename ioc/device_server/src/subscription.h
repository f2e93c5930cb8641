/* A client's subscription: its PVs, what it has been told, and UPD lines of what changed since. */
#ifndef BEAMLINE_SUBSCRIPTION_H
#define BEAMLINE_SUBSCRIPTION_H

#include <stdbool.h>
#include <stdint.h>

#include "pv.h"
#include "text.h"

struct subscription {
    int64_t interval; /* ns */
    int64_t drift_due;  /* ns; real time at which what drifts may be told again */
    int count;        /* of PVs; 0: no subscription */
    const struct pv *pvs[PV_COUNT_MAX];
    double told[PV_COUNT_MAX];
};

/* Subscribe to all PVs that match; false, and nothing changed, if none does. */
bool subscription_select(struct subscription *subscription, const struct pv_table *table,
                         const char *glob, int64_t interval);
/* Append `<n>;<pv>,<pv>,...`. */
void subscription_list(const struct subscription *subscription, struct buffer *out);

/* Append a line with all values. */
void subscription_tell_all(struct subscription *subscription, const struct sim *sim,
                           struct buffer *out);
/* Append a line with the values that differ from what was told, and the results of a count if one
 * has just ended; nothing if there are none. What drifts is told once per interval at most, however
 * often something happens that is told at once, unless it jumps by more than a tenth; in lock step,
 * where only commands pass time, always. */
void subscription_tell_changes(struct subscription *subscription, const struct sim *sim,
                               bool counted, struct buffer *out);

#endif
