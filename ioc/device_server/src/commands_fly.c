/* Commands for fly scans. */
#include <math.h>
#include <string.h>

#include "commands.h"

/* One reply stays below the output at which a client's next lines must wait. */
enum { POINTS_PER_REPLY = 1000, NUMBERS = 3 + CHANNEL_COUNT };

static reply refusal(struct request *request, const char *reason)
{
    struct buffer *out = request->session->out;
    buffer_text(out, reply_invalid_value);
    buffer_text(out, ":");
    buffer_text(out, reason);
    buffer_text(out, "\n");
    return NULL;
}

/* Numbers separated by commas; false unless there are exactly `count`. */
static bool parse_list(char *text, double *numbers, int count)
{
    for (int i = 0; i < count; i++) {
        char *comma = text == NULL ? NULL : strchr(text, ',');
        if (comma != NULL)
            *comma++ = '\0';
        if (text == NULL || !parse_number(text, &numbers[i]))
            return false;
        text = comma;
    }
    return text == NULL;
}

static reply do_fly(struct request *request)
{
    char *values = split_value(request->target), reason[FLY_REASON_MAX];
    const struct pv *pv = request_pv(request);
    double number[4];
    if (pv == NULL || pv_motor(pv) < 0)
        return reply_unknown_pv;
    if (!parse_list(values, number, 4))
        return refusal(request, "expected <start>,<stop>,<points>,<seconds per point>");
    const struct fly_request wanted = {(enum motor_axis)pv_motor(pv), number[0], number[1],
                                       number[2], number[3]};
    switch (sim_fly(request->sim, &wanted, reason)) {
    case FLY_OK: return "OK:FLYING";
    case FLY_INVALID: return refusal(request, reason);
    case FLY_BUSY: return reply_busy;
    case FLY_MOTOR_FAULT: return reply_motor_fault;
    case FLY_NO_MEMORY: return reply_internal_error;
    }
    return reply_internal_error;
}

static reply do_fly_abort(struct request *request)
{
    sim_fly_stop(request->sim);
    return "OK:STOPPING";
}

static void add_point(struct buffer *out, const struct fly *fly, int index)
{
    const struct fly_point *point = &fly->point[index];
    double numbers[NUMBERS] = {fly_time(fly, index), point->position, point->energy};
    memcpy(numbers + 3, point->counts, sizeof point->counts);
    buffer_add(out, numbers, sizeof numbers);
}

static reply do_fly_data(struct request *request)
{
    const struct fly *fly = &request->sim->fly;
    struct buffer *out = request->session->out;
    double range[2];
    if (!parse_list(request->target, range, 2) || !(range[0] >= 0.0 && range[0] <= fly->taken)
        || range[0] != floor(range[0]) || !(range[1] >= 1.0))
        return reply_invalid_value;
    int from = (int)range[0];
    int count = (int)fmin(fmin(floor(range[1]), POINTS_PER_REPLY), fly->taken - from);
    buffer_format(out, "OK:%llu,%d,%d,%zu\n", (unsigned long long)fly->number, from, count,
                  (size_t)count * NUMBERS * sizeof(double));
    for (int i = 0; i < count; i++)
        add_point(out, fly, from + i);
    return NULL;
}

const struct command fly_commands[] = {
    {"FLY", do_fly, false}, {"FLYABORT", do_fly_abort, true}, {"FLYDATA", do_fly_data, false},
    {NULL, NULL, false},
};
