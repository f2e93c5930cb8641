/* Commands for process variables, motors and counters. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "glob.h"

static const int64_t ns_per_ms = 1000000;
static const double interval_max_ms = 1e12;
static const double advance_max_s = 1e7;

static bool parse_interval(const char *text, int64_t *interval)
{
    double ms;
    if (text == NULL || !parse_number(text, &ms) || !(ms >= 1.0))
        return false;
    *interval = (int64_t)(fmin(ms, interval_max_ms) * (double)ns_per_ms);
    return true;
}

static reply do_ping(struct request *request)
{
    (void)request;
    return "OK:PONG";
}

static reply do_get(struct request *request)
{
    const struct pv *pv = request_pv(request);
    if (pv == NULL)
        return reply_unknown_pv;
    buffer_text(request->session->out, "OK:");
    pv_read(request->sim, &pv, 1, request->session->out);
    buffer_text(request->session->out, "\n");
    return NULL;
}

static reply do_mget(struct request *request)
{
    const struct pv *pvs[LINE_LIMIT / 2];
    int count = 0;
    for (char *name = request->target; name != NULL;) {
        char *comma = strchr(name, ',');
        if (comma != NULL)
            *comma++ = '\0';
        const struct pv *pv = pv_find(&request->sim->pvs, name);
        if (pv == NULL || count == LINE_LIMIT / 2)
            return reply_unknown_pv;
        pvs[count++] = pv;
        name = comma;
    }
    if (count == 0)
        return reply_unknown_pv;
    buffer_text(request->session->out, "OK:");
    pv_read(request->sim, pvs, count, request->session->out);
    buffer_text(request->session->out, "\n");
    return NULL;
}

static reply put_reply(enum pv_reply outcome, reply success)
{
    switch (outcome) {
    case PV_OK: return success;
    case PV_INVALID: return reply_invalid_value;
    case PV_FAULT: return reply_motor_fault;
    case PV_BUSY: return reply_busy;
    }
    return reply_internal_error;
}

static reply do_put(struct request *request)
{
    const char *text = split_value(request->target);
    const struct pv *pv = request_pv(request);
    double value;
    if (pv == NULL)
        return reply_unknown_pv;
    if (text == NULL || !parse_number(text, &value))
        return reply_invalid_value;
    return put_reply(pv_put(request->sim, pv, value), "OK:PUT");
}

static reply do_move(struct request *request)
{
    const char *text = split_value(request->target);
    const struct pv *pv = request_pv(request);
    double value;
    if (pv == NULL || pv_motor(pv) < 0)
        return reply_unknown_pv;
    if (text == NULL || !parse_number(text, &value))
        return reply_invalid_value;
    return put_reply(pv_put(request->sim, pv, value), "OK:MOVING");
}

static reply do_status(struct request *request)
{
    const struct pv *pv = request_pv(request);
    if (pv == NULL || pv_motor(pv) < 0)
        return reply_unknown_pv;
    const struct motor *motor = &request->sim->motors[pv_motor(pv)];
    if (motor->moving)
        return "OK:MOVING";
    return motor_faulty(motor, request->sim->now) ? reply_motor_fault : "OK:IDLE";
}

static reply do_motor_stop(struct request *request)
{
    const struct pv *pv = request_pv(request);
    if (pv == NULL || pv_motor(pv) < 0)
        return reply_unknown_pv;
    sim_stop_motor(request->sim, (enum motor_axis)pv_motor(pv));
    return "OK:STOPPING";
}

static reply do_list(struct request *request)
{
    const struct pv_table *pvs = &request->sim->pvs;
    struct buffer *out = request->session->out;
    bool all = request->target == NULL || *request->target == '\0';
    const char *separator = "OK:";
    for (int i = 0; i < pvs->count; i++) {
        if (!all && !glob_match(request->target, pvs->pv[i].name))
            continue;
        buffer_text(out, separator);
        buffer_text(out, pvs->pv[i].name);
        separator = ",";
    }
    buffer_text(out, *separator == ',' ? "\n" : "OK:\n");
    return NULL;
}

static reply do_monitor(struct request *request)
{
    struct session *session = request->session;
    const char *text = split_value(request->target);
    const struct pv *pv = request_pv(request);
    int64_t interval;
    if (pv == NULL)
        return reply_unknown_pv;
    if (!parse_interval(text, &interval))
        return reply_invalid_value;
    session->monitor = pv;
    session->monitor_interval = interval;
    session->retimed = true;
    return "OK:MONITORING";
}

static reply do_stop(struct request *request)
{
    request->session->monitor = NULL;
    request->session->retimed = true;
    return "OK:STOPPED";
}

static reply do_quit(struct request *request)
{
    request->session->quit = true;
    return "OK:BYE";
}

static reply do_subscribe(struct request *request)
{
    struct session *session = request->session;
    const char *text = split_value(request->target);
    int64_t interval;
    if (request->target == NULL)
        return reply_unknown_pv;
    if (!parse_interval(text, &interval))
        return reply_invalid_value;
    struct subscription *subscription = &session->subscription;
    if (!subscription_select(subscription, &request->sim->pvs, request->target, interval))
        return reply_unknown_pv;
    session->retimed = true;
    buffer_text(session->out, "OK:");
    subscription_list(subscription, session->out);
    buffer_text(session->out, "\n");
    subscription_tell_all(subscription, request->sim, session->out);
    return NULL;
}

static reply do_unsubscribe(struct request *request)
{
    request->session->subscription.count = 0;
    request->session->retimed = true;
    return "OK:UNSUBSCRIBED";
}

static reply do_count(struct request *request)
{
    double seconds = request->sim->counters.exposure;
    if (request->target != NULL
        && (!parse_number(request->target, &seconds) || !(seconds >= 1e-4 && seconds <= 1000.0)))
        return reply_invalid_value;
    return sim_count(request->sim, seconds) ? "OK:COUNTING" : reply_busy;
}

static reply do_count_stop(struct request *request)
{
    sim_count_stop(request->sim);
    return "OK:STOPPED";
}

static reply do_abort(struct request *request)
{
    sim_abort(request->sim);
    return "OK:ABORTED";
}

static reply do_advance(struct request *request)
{
    struct sim *sim = request->sim;
    double seconds;
    if (!sim->lock_step)
        return reply_unknown_command; /* time passes by itself */
    if (request->target == NULL || !parse_number(request->target, &seconds)
        || !(seconds >= 0.0 && seconds <= advance_max_s))
        return reply_invalid_value;
    sim_advance(sim, sim->now + seconds);
    sim->news |= NEWS_CHANGED;
    return "OK:ADVANCED";
}

static reply do_samples(struct request *request)
{
    struct buffer *out = request->session->out;
    for (int i = 0; i < request->sim->sample_count; i++) {
        buffer_text(out, i == 0 ? "OK:" : ",");
        buffer_text(out, request->sim->samples[i].name);
    }
    buffer_text(out, "\n");
    return NULL;
}

const struct command pv_commands[] = {
    {"GET", do_get, false}, {"PUT", do_put, false}, {"MOVE", do_move, false},
    {"STATUS", do_status, false}, {"PING", do_ping, true}, {"MGET", do_mget, false},
    {"COUNT", do_count, false}, {"COUNTSTOP", do_count_stop, true}, {"LIST", do_list, false},
    {"MONITOR", do_monitor, false}, {"STOP", do_stop, true}, {"QUIT", do_quit, true},
    {"SUBSCRIBE", do_subscribe, false}, {"UNSUBSCRIBE", do_unsubscribe, true},
    {"MSTOP", do_motor_stop, false}, {"ABORT", do_abort, true}, {"SAMPLES", do_samples, true},
    {"ADVANCE", do_advance, false},
    {NULL, NULL, false},
};
