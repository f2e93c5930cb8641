/* The event loop: descriptors, deadlines, the simulation's events, connections. */
#ifndef BEAMLINE_SERVER_H
#define BEAMLINE_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "clock.h"
#include "config.h"
#include "poller.h"
#include "sim.h"
#include "timer.h"

struct connection;

enum { SERVER_TIMERS = 1 };

/* Something with a descriptor in the loop. */
struct source {
    void (*ready)(struct source *source, unsigned what);
    int descriptor;
};

struct server {
    struct poller *poller;
    struct timers timers;
    struct clock clock;
    struct sim *sim;
    struct source listener, renderer, stop, parent;
    struct timer accept_again;
    int spare; /* descriptor given up to turn a client away when there are no others */
    struct connection *first;     /* all connections */
    struct connection *unread;    /* with input still to be handled */
    struct connection *unsent;    /* with output to be sent */
    struct connection *closed;    /* to be given to the pool at the end of a turn */
    struct connection *pool;      /* for the next clients */
    size_t count, pooled;         /* connections in `first` and in `pool` */
    bool stopping;
};

struct server_options {
    const char *host;
    unsigned port;          /* 0: any free one */
    int stop_descriptor;    /* readable when the server is to stop */
    bool exit_with_parent;  /* stop at end of file on standard input */
};

/* Start listening; `port` is the port taken. On failure returns false with one sentence in
 * `message`. server_free is right in either case. */
bool server_start(struct server *server, struct sim *sim, const struct server_options *options,
                  unsigned *port, char message[MESSAGE_MAX]);
/* One turn of the loop: what is due and what is ready; waits for something to be, if asked to. */
void server_turn(struct server *server, bool wait);
/* Serve until told to stop. */
void server_run(struct server *server);
void server_free(struct server *server);

#endif
