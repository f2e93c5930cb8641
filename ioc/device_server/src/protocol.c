#include "protocol.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "glob.h"
#include "truth.h"

/* A reply is a static status line, or NULL if the command has written its own. */
typedef const char *reply;

static const char unknown_command[] = "ERR:UNKNOWN_CMD";
static const char unknown_pv[] = "ERR:UNKNOWN_PV";
static const char invalid_value[] = "ERR:INVALID_VALUE";
static const char motor_fault[] = "ERR:MOTOR_FAULT";
static const char internal_error[] = "ERR:INTERNAL";
static const char busy[] = "ERR:BUSY";

static const int64_t ns_per_ms = 1000000;
static const double interval_max_ms = 1e12;

struct request {
    struct session *session;
    struct sim *sim;
    char *target; /* everything behind the first colon; NULL without one */
};

/* Cut the value off a target at its last colon; NULL without one. */
static char *split_value(char *target)
{
    char *colon = target == NULL ? NULL : strrchr(target, ':');
    if (colon == NULL)
        return NULL;
    *colon = '\0';
    return colon + 1;
}

static const struct pv *find(const struct request *request)
{
    return request->target == NULL ? NULL : pv_find(&request->sim->pvs, request->target);
}

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
    const struct pv *pv = find(request);
    if (pv == NULL)
        return unknown_pv;
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
            return unknown_pv;
        pvs[count++] = pv;
        name = comma;
    }
    if (count == 0)
        return unknown_pv;
    buffer_text(request->session->out, "OK:");
    pv_read(request->sim, pvs, count, request->session->out);
    buffer_text(request->session->out, "\n");
    return NULL;
}

static reply put_reply(enum pv_reply outcome, reply success)
{
    switch (outcome) {
    case PV_OK: return success;
    case PV_INVALID: return invalid_value;
    case PV_FAULT: return motor_fault;
    case PV_BUSY: return busy;
    }
    return internal_error;
}

static reply do_put(struct request *request)
{
    const char *text = split_value(request->target);
    const struct pv *pv = find(request);
    double value;
    if (pv == NULL)
        return unknown_pv;
    if (text == NULL || !parse_number(text, &value))
        return invalid_value;
    return put_reply(pv_put(request->sim, pv, value), "OK:PUT");
}

static reply do_move(struct request *request)
{
    const char *text = split_value(request->target);
    const struct pv *pv = find(request);
    double value;
    if (pv == NULL || pv_motor(pv) < 0)
        return unknown_pv;
    if (text == NULL || !parse_number(text, &value))
        return invalid_value;
    return put_reply(pv_put(request->sim, pv, value), "OK:MOVING");
}

static reply do_status(struct request *request)
{
    const struct pv *pv = find(request);
    if (pv == NULL || pv_motor(pv) < 0)
        return unknown_pv;
    const struct motor *motor = &request->sim->motors[pv_motor(pv)];
    if (motor->stalled)
        return motor_fault;
    return motor->moving ? "OK:MOVING" : "OK:IDLE";
}

static reply do_motor_stop(struct request *request)
{
    const struct pv *pv = find(request);
    if (pv == NULL || pv_motor(pv) < 0)
        return unknown_pv;
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
    const struct pv *pv = find(request);
    int64_t interval;
    if (pv == NULL)
        return unknown_pv;
    if (!parse_interval(text, &interval))
        return invalid_value;
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
        return unknown_pv;
    if (!parse_interval(text, &interval))
        return invalid_value;
    struct subscription *subscription = calloc(1, sizeof *subscription);
    if (subscription == NULL)
        return internal_error;
    if (!subscription_select(subscription, &request->sim->pvs, request->target, interval)) {
        free(subscription);
        return unknown_pv;
    }
    free(session->subscription);
    session->subscription = subscription;
    session->retimed = true;
    buffer_text(session->out, "OK:");
    subscription_list(subscription, session->out);
    buffer_text(session->out, "\n");
    subscription_tell_all(subscription, request->sim, session->out);
    return NULL;
}

static reply do_unsubscribe(struct request *request)
{
    free(request->session->subscription);
    request->session->subscription = NULL;
    request->session->retimed = true;
    return "OK:UNSUBSCRIBED";
}

static reply do_count(struct request *request)
{
    double seconds = request->sim->counters.exposure;
    if (request->target != NULL
        && (!parse_number(request->target, &seconds) || !(seconds >= 1e-4 && seconds <= 1000.0)))
        return invalid_value;
    return sim_count(request->sim, seconds) ? "OK:COUNTING" : busy;
}

static reply do_count_stop(struct request *request)
{
    sim_count_stop(request->sim);
    return "OK:STOPPED";
}

static reply do_acquire(struct request *request)
{
    double images = request->sim->detector.images;
    if (request->target != NULL && !parse_number(request->target, &images))
        return invalid_value;
    switch (sim_acquire(request->sim, images)) {
    case DETECTOR_OK: return "OK:ACQUIRING";
    case DETECTOR_BUSY: return busy;
    case DETECTOR_NO_CONSUMER: return "ERR:NO_CONSUMER";
    case DETECTOR_INVALID: return invalid_value;
    }
    return internal_error;
}

static reply do_acquire_stop(struct request *request)
{
    sim_acquire_stop(request->sim);
    return "OK:STOPPED";
}

static reply do_frames(struct request *request)
{
    struct session *session = request->session;
    if (session->sink.owner == NULL || !detector_attach(&request->sim->detector, &session->sink))
        return busy;
    session->frames = true;
    return "OK:FRAMES";
}

static reply do_abort(struct request *request)
{
    sim_abort(request->sim);
    return "OK:ABORTED";
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

static reply do_truth(struct request *request)
{
    struct buffer *out = request->session->out;
    size_t before = out->length;
    const char *number_text = split_value(request->target);
    unsigned long long number;
    buffer_text(out, "OK:");
    if (request->target == NULL) {
        truth_write(request->sim, out);
    } else {
        bool known = strcmp(request->target, "AD1") == 0;
        if (!known || number_text == NULL || !parse_unsigned(number_text, &number)
            || !detector_truth(&request->sim->detector, number, out)) {
            buffer_truncate(out, before);
            return known ? invalid_value : unknown_pv;
        }
    }
    buffer_text(out, "\n");
    return NULL;
}

static const struct {
    const char *name;
    reply (*run)(struct request *);
    bool bare; /* takes no target: one is refused, not ignored (STOP:<motor> stops no motor) */
} commands[] = {
    {"GET", do_get, false}, {"PUT", do_put, false}, {"MOVE", do_move, false},
    {"STATUS", do_status, false}, {"PING", do_ping, true}, {"MGET", do_mget, false},
    {"COUNT", do_count, false}, {"COUNTSTOP", do_count_stop, true}, {"LIST", do_list, false},
    {"MONITOR", do_monitor, false}, {"STOP", do_stop, true}, {"QUIT", do_quit, true},
    {"SUBSCRIBE", do_subscribe, false}, {"UNSUBSCRIBE", do_unsubscribe, true},
    {"MSTOP", do_motor_stop, false}, {"ABORT", do_abort, true}, {"ACQUIRE", do_acquire, false},
    {"ACQSTOP", do_acquire_stop, true}, {"FRAMES", do_frames, true},
    {"SAMPLES", do_samples, true}, {"TRUTH", do_truth, false},
};

static bool is_plain_text(const char *line, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (line[i] < 0x20 || line[i] > 0x7E)
            return false;
    return true;
}

static reply dispatch(struct session *session, struct sim *sim, char *line, size_t length)
{
    if (!is_plain_text(line, length))
        return unknown_command;
    char *colon = strchr(line, ':');
    if (colon != NULL)
        *colon = '\0';
    struct request request = {session, sim, colon == NULL ? NULL : colon + 1};
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (strcmp(commands[i].name, line) == 0)
            return commands[i].bare && colon != NULL ? invalid_value : commands[i].run(&request);
    return unknown_command;
}

static void answer(struct session *session, reply text)
{
    buffer_text(session->out, text);
    buffer_text(session->out, "\n");
}

void protocol_line(struct session *session, struct sim *sim, char *line, size_t length)
{
    reply text = dispatch(session, sim, line, length);
    if (text != NULL)
        answer(session, text);
}

void protocol_too_long(struct session *session)
{
    answer(session, unknown_command);
}

void session_monitor(struct session *session, struct sim *sim)
{
    buffer_text(session->out, "DATA:");
    pv_read(sim, &session->monitor, 1, session->out);
    buffer_text(session->out, "\n");
}

void session_update(struct session *session, struct sim *sim, bool counted)
{
    subscription_tell_changes(session->subscription, sim, counted, session->out);
}

void session_end(struct session *session, struct sim *sim)
{
    if (session->frames)
        detector_detach(&sim->detector, sim, session->sink.owner);
    free(session->subscription);
    session->subscription = NULL;
    session->monitor = NULL;
    session->frames = false;
}
