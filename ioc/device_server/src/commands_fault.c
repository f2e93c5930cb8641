/* Commands that break and mend the beamline. */
#include <math.h>
#include <string.h>

#include "commands.h"
#include "fault.h"

/* Number of the target called `name`, -1 without one. */
static int find_target(const struct sim *sim, const char *name)
{
    size_t prefix = strlen(sim->prefix);
    for (int target = 0; target < FAULT_TARGETS; target++) {
        size_t skip = fault_has_prefix(target) ? prefix : 0;
        if (strncmp(name, sim->prefix, skip) == 0
            && strcmp(name + skip, fault_target_name(target)) == 0)
            return target;
    }
    return -1;
}

static enum fault_kind find_kind(const char *name)
{
    int kind = 0;
    while (kind < FAULT_KINDS && strcmp(name, fault_kind_names[kind]) != 0)
        kind++;
    return (enum fault_kind)kind;
}

static reply do_fault(struct request *request)
{
    char *kind_name = split_value(request->target);
    double number = NAN;
    if (kind_name == NULL)
        return reply_unknown_pv;
    char *equals = strchr(kind_name, '=');
    if (equals != NULL) {
        *equals = '\0';
        if (!parse_number(equals + 1, &number))
            return reply_invalid_value;
    }
    enum fault_kind kind = find_kind(kind_name);
    if (strcmp(request->target, "ALL") == 0) {
        if (kind != FAULT_NONE || equals != NULL)
            return reply_invalid_value;
        fault_clear_all(request->sim);
        return "OK:FAULT";
    }
    int target = find_target(request->sim, request->target);
    if (target < 0)
        return reply_unknown_pv;
    return fault_set(request->sim, target, kind, number, request->session) ? "OK:FAULT"
                                                                           : reply_invalid_value;
}

static reply do_faults(struct request *request)
{
    struct buffer *out = request->session->out;
    const char *separator = "OK:";
    for (int target = 0; target < FAULT_TARGETS; target++) {
        const struct fault *fault = &request->sim->faults.active[target];
        if (fault->kind == FAULT_NONE)
            continue;
        buffer_text(out, separator);
        buffer_text(out, fault_has_prefix(target) ? request->sim->prefix : "");
        buffer_format(out, "%s:%s", fault_target_name(target), fault_kind_names[fault->kind]);
        if (!isnan(fault->number)) {
            buffer_text(out, "=");
            buffer_number(out, fault->number);
        }
        separator = ",";
    }
    buffer_text(out, *separator == ',' ? "\n" : "OK:\n");
    return NULL;
}

const struct command fault_commands[] = {
    {"FAULT", do_fault, false},
    {"FAULTS", do_faults, true},
    {NULL, NULL, false},
};
