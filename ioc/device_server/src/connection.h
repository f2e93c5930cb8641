/* One client: bounded input and output, its session, its timers. */
#ifndef BEAMLINE_CONNECTION_H
#define BEAMLINE_CONNECTION_H

#include <stdbool.h>

#include "protocol.h"
#include "server.h"
#include "text.h"
#include "timer.h"

/* The pool is there before the first client, with output buffers. */
enum { INPUT_SIZE = 4096, CONNECTION_POOL = 16, CONNECTION_TIMERS = 4 };

struct connection {
    struct source source; /* first: the loop finds the connection by it */
    struct server *server;
    struct session session;
    struct buffer out;
    size_t frame_limit; /* bytes of queued frames */
    struct timer monitor, update, patience, hold;
    struct connection *next, *previous, *next_unread, *next_unsent, *next_closed;
    unsigned interest;
    bool in_unread, in_unsent, in_closed;
    bool blocked;    /* the socket takes no more output at present */
    bool ended;      /* the client has sent its last byte */
    bool leaving;    /* after QUIT: sends the rest, then waits for the client to close */
    bool shut;       /* the sending direction is closed */
    bool due;        /* its lines have waited for as long as the slow link wants */
    bool discarding; /* inside a line that was too long */
    size_t length;   /* of input */
    char input[INPUT_SIZE];
};

/* Take over a connected, non-blocking socket; false if memory runs out (the caller closes it). */
bool connection_open(struct server *server, int descriptor);
/* Stop serving; the memory is given back at the end of the loop's turn. */
void connection_close(struct connection *connection);

/* Make the pool of connections; false without memory. */
bool connection_fill_pool(struct server *server);
/* Give the memory of a closed connection to the pool, or free it if that is full. */
void connection_give(struct connection *connection);

/* Handle buffered lines, send what is queued, tell a subscriber what is new. */
void connection_handle(struct connection *connection);
void connection_send(struct connection *connection);
void connection_update(struct connection *connection, bool counted);

#endif
