/* Injected faults: what is broken at present, and how to break and mend it. Each kind makes its
 * device behave as the real one does when it fails; the devices' own files say how. */
#ifndef BEAMLINE_FAULT_H
#define BEAMLINE_FAULT_H

#include <stdbool.h>

#include "motor.h"
#include "response.h"

struct sim;

enum fault_kind {
    FAULT_NONE, FAULT_STUCK, FAULT_LIMIT, FAULT_ENCODER, FAULT_FROZEN, FAULT_DEAD, FAULT_DUMP,
    FAULT_DELAY, FAULT_DROP, FAULT_KINDS
};

/* What can break: the motors, the counters' channels, and these. */
enum {
    FAULT_COUNTER = MOTOR_COUNT,
    FAULT_CAMERA = FAULT_COUNTER + CHANNEL_COUNT,
    FAULT_RING,
    FAULT_LINK,
    FAULT_TARGETS
};

struct fault {
    enum fault_kind kind;
    double number; /* NaN: none given */
};

struct faults {
    struct fault active[FAULT_TARGETS];
    const void *spared; /* client that FAULT_DROP does not cut off */
    bool cut;           /* cut off all the others now */
};

extern const char *const fault_kind_names[FAULT_KINDS];
/* Name of a target; all but LINK stand behind the prefix. */
const char *fault_target_name(int target);
bool fault_has_prefix(int target);

/* Break `target`, or mend it (FAULT_NONE), at sim->now. False if it cannot break so, or if the
 * number is missing, superfluous or out of range. `client` is who asks. */
bool fault_set(struct sim *sim, int target, enum fault_kind kind, double number,
               const void *client);
void fault_clear_all(struct sim *sim);

/* Real seconds by which every reply is delayed. */
double fault_delay(const struct faults *faults);
/* A line has come from `client`: counts down to the cut, if one is set. */
void fault_count_line(struct faults *faults, const void *client);

#endif
