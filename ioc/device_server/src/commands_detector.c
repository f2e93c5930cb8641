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

/* MAP:<sample>, by its number. */
static reply write_map(struct request *request, const char *number_text)
{
    const struct sim *sim = request->sim;
    unsigned long long number;
    if (number_text == NULL || !parse_unsigned(number_text, &number)
        || number >= (unsigned long long)sim->sample_count
        || !truth_write_map(&sim->samples[number], request->session->out))
        return reply_invalid_value;
    return NULL;
}

/* MAP:<sample>, AD1:<frame>, AD1:<frame>:ALL or AD1:<frame>:CRYSTAL. */
static reply write_part(struct request *request)
{
    char *target = request->target, *number_text = strchr(target, ':');
    unsigned long long number;
    if (number_text != NULL)
        *number_text++ = '\0';
    if (strcmp(target, "MAP") == 0)
        return write_map(request, number_text);
    if (strcmp(target, "AD1") != 0)
        return reply_unknown_pv;
    char *extent = number_text == NULL ? NULL : strchr(number_text, ':');
    if (extent != NULL)
        *extent++ = '\0';
    if (number_text == NULL || !parse_unsigned(number_text, &number)
        || (extent != NULL && strcmp(extent, "ALL") != 0 && strcmp(extent, "CRYSTAL") != 0))
        return reply_invalid_value;
    struct detector *detector = &request->sim->detector;
    struct buffer *out = request->session->out;
    bool known = extent != NULL && strcmp(extent, "CRYSTAL") == 0
                     ? detector_truth_crystal(detector, number, out)
                     : detector_truth(detector, number, extent != NULL, out);
    return known ? NULL : reply_invalid_value;
}

static reply do_truth(struct request *request)
{
    struct buffer *out = request->session->out;
    size_t before = out->length;
    buffer_text(out, "OK:");
    if (request->target == NULL) {
        truth_write(request->sim, out);
    } else {
        reply wrong = write_part(request);
        if (wrong != NULL) {
            buffer_truncate(out, before);
            return wrong;
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
