/* The line protocol without sockets: lines in, bytes out. */
#ifndef BEAMLINE_PROTOCOL_H
#define BEAMLINE_PROTOCOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sim.h"
#include "subscription.h"

enum { LINE_LIMIT = 1024 };

/* What one connection has asked for. Its owner sets `out` and `sink`, looks at the rest after each
 * line, and calls the session_... functions when they are due. */
struct session {
    struct buffer *out;
    struct frame_sink sink; /* how to send this client frames, should it ask for them */
    const struct pv *monitor;
    int64_t monitor_interval; /* ns */
    struct subscription subscription;
    bool retimed;   /* monitor or subscription changed: owner clears it */
    bool frames;    /* is the frame consumer */
    bool quit;
};

/* Answer one line (without its line end, NUL behind it); `line` is used as scratch space. */
void protocol_line(struct session *session, struct sim *sim, char *line, size_t length);
/* Answer a line that was too long. */
void protocol_too_long(struct session *session);

/* Send the monitored value, or what changed for the subscription. */
void session_monitor(struct session *session, struct sim *sim);
void session_update(struct session *session, struct sim *sim, bool counted);
/* Give back what the session holds. */
void session_end(struct session *session, struct sim *sim);

#endif
