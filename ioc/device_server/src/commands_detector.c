/* Commands for the area detector, and the truth about everything. */
#include <string.h>

#include "commands.h"
#include "truth.h"

static reply do_acquire(struct request *request)
{
    double images = request->sim->detector.images;
    if (request->target != NULL && !parse_number(request->target, &images))
        return reply_invalid_value;
    switch (sim_acquire(request->sim, images)) {
    case DETECTOR_OK: return "OK:ACQUIRING";
    case DETECTOR_BUSY: return reply_busy;
    case DETECTOR_NO_CONSUMER: return "ERR:NO_CONSUMER";
    case DETECTOR_INVALID: return reply_invalid_value;
    }
    return reply_internal_error;
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
        return reply_busy;
    session->frames = true;
    return "OK:FRAMES";
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
            return known ? reply_invalid_value : reply_unknown_pv;
        }
    }
    buffer_text(out, "\n");
    return NULL;
}

const struct command detector_commands[] = {
    {"ACQUIRE", do_acquire, false}, {"ACQSTOP", do_acquire_stop, true},
    {"FRAMES", do_frames, true}, {"TRUTH", do_truth, false},
    {NULL, NULL, false},
};
