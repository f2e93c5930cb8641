/* What command handlers share. A handler writes its own reply and returns NULL, or returns a status
 * line. Each area of the beamline has a file of handlers and a table, which protocol.c looks through. */
#ifndef BEAMLINE_COMMANDS_H
#define BEAMLINE_COMMANDS_H

#include <stdbool.h>

#include "protocol.h"

typedef const char *reply;

extern const char reply_unknown_command[], reply_unknown_pv[], reply_invalid_value[],
    reply_motor_fault[], reply_internal_error[], reply_busy[];

struct request {
    struct session *session;
    struct sim *sim;
    char *target; /* everything behind the first colon; NULL without one */
};

struct command {
    const char *name; /* NULL ends a table */
    reply (*run)(struct request *request);
    bool bare; /* takes no target: one is refused, not ignored (STOP:<motor> stops no motor) */
};

extern const struct command pv_commands[], detector_commands[], fault_commands[], fly_commands[];

/* Cut the value off a target at its last colon; NULL without one. */
char *split_value(char *target);
/* The PV that the (remaining) target names, or NULL. */
const struct pv *request_pv(const struct request *request);

#endif
