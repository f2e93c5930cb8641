#include "connection.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"

/* Above OUTPUT_HIGH a client's next lines wait until it has read; what is pushed to it (monitors,
 * updates) may queue up to OUTPUT_LIMIT. */
enum { OUTPUT_HIGH = 64 * 1024, OUTPUT_LIMIT = 1024 * 1024, FRAME_HEADER = 256 };

/* Capacity that an output buffer keeps: two replies of the longest kind, and as much again. */
enum { OUTPUT_KEPT = 256 * 1024 };

static const int64_t farewell_ns = 1000000000;  /* for a client that does not close after QUIT */
static const int64_t turn_ns = 1000000;         /* for one client before others get their turn */

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* SIGPIPE is ignored as well */
#endif

static void connection_ready(struct source *source, unsigned what);

static void mark_unread(struct connection *c)
{
    if (!c->in_unread) {
        c->in_unread = true;
        c->next_unread = c->server->unread;
        c->server->unread = c;
    }
}

static void mark_unsent(struct connection *c)
{
    if (!c->in_unsent && (c->out.length > 0 || c->out.failed)) {
        c->in_unsent = true;
        c->next_unsent = c->server->unsent;
        c->server->unsent = c;
    }
}

static void fire_hold(void *owner)
{
    struct connection *c = owner;
    c->due = true;
    connection_handle(c);
}

/* Whether a line has to wait because the link is slow (an injected fault). Commands about faults
 * never do, so that it can be mended. */
static bool held(struct connection *c, const char *line)
{
    double delay = fault_delay(&c->server->sim->faults);
    if (delay <= 0.0 || c->due || strncmp(line, "FAULT", 5) == 0)
        return false;
    if (c->hold.place == 0)
        timer_set(&c->server->timers, &c->hold, clock_real() + (int64_t)(delay * 1e9));
    return true;
}

static bool backlogged(const struct connection *c)
{
    return c->out.length > OUTPUT_HIGH && !c->session.frames;
}

static void set_interest(struct connection *c)
{
    bool full = c->length == sizeof c->input;
    unsigned interest = (c->ended || full || c->in_unread || backlogged(c) ? 0u : POLLER_READ)
                        | (c->blocked ? POLLER_WRITE : 0u);
    if (interest == c->interest)
        return;
    if (poller_change(c->server->poller, c->source.descriptor, interest, &c->source))
        c->interest = interest;
    else
        connection_close(c); /* it would never be heard again */
}

static void fire_monitor(void *owner)
{
    struct connection *c = owner;
    session_monitor(&c->session, c->server->sim);
    /* Intervals that were missed are not made up for. */
    int64_t now = clock_real();
    int64_t next = c->monitor.deadline + c->session.monitor_interval;
    timer_set(&c->server->timers, &c->monitor, next > now ? next : now + 1);
    if (c->out.failed)
        connection_close(c);
    mark_unsent(c);
}

static void fire_update(void *owner)
{
    connection_update(owner, false);
}

static void fire_patience(void *owner)
{
    connection_close(owner);
}

/* A consumer's queue holds whole frames beside its other output. */
static bool sink_has_room(void *owner, size_t bytes)
{
    const struct connection *c = owner;
    return c->out.length + bytes <= c->frame_limit;
}

static void sink_send(void *owner, const void *header, size_t header_bytes, const void *image,
                      size_t image_bytes)
{
    struct connection *c = owner;
    buffer_add(&c->out, header, header_bytes);
    buffer_add(&c->out, image, image_bytes);
    mark_unsent(c);
}

/* From the pool, with the output buffer of its last client, or new; NULL without memory. */
static struct connection *connection_take(struct server *server)
{
    struct connection *c = server->pool;
    struct buffer out = {0};
    if (c == NULL) {
        c = calloc(1, sizeof *c);
        if (c == NULL)
            return NULL;
    } else {
        server->pool = c->next;
        server->pooled--;
        out = c->out;
        memset(c, 0, sizeof *c);
    }
    c->server = server;
    buffer_init(&c->out, OUTPUT_LIMIT);
    buffer_reuse(&c->out, &out);
    return c;
}

bool connection_fill_pool(struct server *server)
{
    while (server->pooled < CONNECTION_POOL) {
        struct connection *c = calloc(1, sizeof *c);
        if (c == NULL)
            return false;
        c->server = server;
        buffer_init(&c->out, OUTPUT_LIMIT);
        if (!buffer_reserve(&c->out, OUTPUT_HIGH)) {
            free(c);
            return false;
        }
        connection_give(c);
    }
    return true;
}

void connection_give(struct connection *c)
{
    struct server *server = c->server;
    if (c->out.capacity > OUTPUT_KEPT)
        buffer_free(&c->out);
    if (server->pooled == CONNECTION_POOL) {
        buffer_free(&c->out);
        free(c);
        return;
    }
    c->next = server->pool;
    server->pool = c;
    server->pooled++;
}

bool connection_open(struct server *server, int descriptor)
{
    if (!timers_reserve(&server->timers, SERVER_TIMERS + CONNECTION_TIMERS * (server->count + 1)))
        return false;
    struct connection *c = connection_take(server);
    if (c == NULL)
        return false;
    const struct sim *sim = server->sim;
    c->frame_limit =
        (size_t)sim->config.frame_queue * (sim->detector.image_bytes + FRAME_HEADER);
    c->session = (struct session){.out = &c->out, .sink = {c, sink_has_room, sink_send}};
    c->monitor = (struct timer){.fire = fire_monitor, .owner = c};
    c->update = (struct timer){.fire = fire_update, .owner = c};
    c->patience = (struct timer){.fire = fire_patience, .owner = c};
    c->hold = (struct timer){.fire = fire_hold, .owner = c};
    c->interest = POLLER_READ;
    c->source.descriptor = descriptor;
    c->source.ready = connection_ready;
    if (!poller_add(server->poller, descriptor, c->interest, &c->source)) {
        connection_give(c);
        return false;
    }
    server->count++;
    c->next = server->first;
    if (c->next != NULL)
        c->next->previous = c;
    server->first = c;
    return true;
}

void connection_close(struct connection *c)
{
    if (c->in_closed)
        return;
    c->in_closed = true;
    c->server->count--;
    c->next_closed = c->server->closed;
    c->server->closed = c;
    timer_cancel(&c->server->timers, &c->monitor);
    timer_cancel(&c->server->timers, &c->update);
    timer_cancel(&c->server->timers, &c->patience);
    timer_cancel(&c->server->timers, &c->hold);
    poller_remove(c->server->poller, c->source.descriptor);
    close(c->source.descriptor);
    if (c->previous != NULL)
        c->previous->next = c->next;
    else
        c->server->first = c->next;
    if (c->next != NULL)
        c->next->previous = c->previous;
    session_end(&c->session, c->server->sim);
}

static void retime(struct connection *c)
{
    int64_t now = clock_real();
    struct timers *timers = &c->server->timers;
    c->session.retimed = false;
    timer_set(timers, &c->monitor,
              c->session.monitor != NULL ? now + c->session.monitor_interval : INT64_MAX);
    timer_set(timers, &c->update,
              c->session.subscription.count > 0 ? now + c->session.subscription.interval
                                                : INT64_MAX);
}

/* Handle one line of `length` bytes at `line`, its line end replaced by NUL. */
static void handle_line(struct connection *c, char *line, size_t length)
{
    if (length > 0 && line[length - 1] == '\r')
        line[--length] = '\0';
    if (length > LINE_LIMIT) {
        protocol_too_long(&c->session);
        return;
    }
    fault_count_line(&c->server->sim->faults, &c->session);
    protocol_line(&c->session, c->server->sim, line, length);
    if (c->session.frames)
        c->out.limit = OUTPUT_LIMIT + c->frame_limit;
    if (c->session.retimed)
        retime(c);
    mark_unsent(c);
    sim_tell(c->server->sim);
    if (c->server->sim->lock_step)
        sim_settle(c->server->sim);
}

void connection_handle(struct connection *c)
{
    int64_t began = clock_real();
    size_t used = 0;
    bool yielded = false;
    while (!c->leaving && !c->in_closed && !backlogged(c)) {
        char *line = c->input + used;
        char *end = memchr(line, '\n', c->length - used);
        if (end == NULL || held(c, line))
            break;
        *end = '\0';
        used += (size_t)(end - line) + 1;
        if (c->discarding)
            c->discarding = false;
        else
            handle_line(c, line, (size_t)(end - line));
        c->leaving = c->session.quit;
        if (clock_real() - began > turn_ns) {
            yielded = true;
            break;
        }
    }
    c->due = false;
    if (c->in_closed)
        return;
    c->length -= used;
    memmove(c->input, c->input + used, c->length);
    bool more = memchr(c->input, '\n', c->length) != NULL;
    /* One byte more than a full line may be the '\r' of its line end. */
    if (!more && c->length > LINE_LIMIT + 1) {
        if (!c->discarding)
            protocol_too_long(&c->session);
        c->discarding = true;
    }
    if (c->leaving || (c->discarding && !more))
        c->length = 0;
    if (c->out.failed) {
        connection_close(c);
        return;
    }
    if (yielded && more)
        mark_unread(c);
    mark_unsent(c);
    if (c->ended && !more && c->out.length == 0) {
        connection_close(c);
        return;
    }
    set_interest(c);
}

/* Read once: with level-triggered readiness, others come first before we read again. */
static void receive(struct connection *c)
{
    char scrap[INPUT_SIZE];
    bool scrapping = c->leaving;
    size_t room = scrapping ? sizeof scrap : sizeof c->input - c->length;
    ssize_t got = recv(c->source.descriptor, scrapping ? scrap : c->input + c->length, room, 0);
    if (got < 0) {
        if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
            connection_close(c);
        return;
    }
    if (got == 0)
        c->ended = true;
    else if (!scrapping)
        c->length += (size_t)got;
    if (scrapping && c->ended && c->shut)
        connection_close(c);
    else
        connection_handle(c);
}

static void connection_ready(struct source *source, unsigned what)
{
    struct connection *c = (struct connection *)source;
    if (c->in_closed)
        return;
    if (what & POLLER_GONE) {
        connection_close(c);
        return;
    }
    if (what & POLLER_WRITE)
        connection_send(c);
    /* The report may be older than our loss of interest. */
    if ((what & c->interest & POLLER_READ) && !c->in_closed)
        receive(c);
}

/* All is sent: see whether the connection ends here. */
static void after_last_byte(struct connection *c)
{
    if (c->out.capacity > OUTPUT_KEPT && !c->session.frames)
        buffer_free(&c->out);
    if (c->leaving && !c->shut) {
        /* Closing with unread input would reset the connection, and the last reply with it. */
        c->shut = true;
        shutdown(c->source.descriptor, SHUT_WR);
        timer_set(&c->server->timers, &c->patience, clock_real() + farewell_ns);
    }
    if (c->ended && !c->in_unread && memchr(c->input, '\n', c->length) == NULL)
        connection_close(c);
}

void connection_send(struct connection *c)
{
    bool was_backlogged = backlogged(c);
    if (c->out.failed) {
        connection_close(c);
        return;
    }
    c->blocked = false;
    while (!c->in_closed && c->out.length > 0 && !c->blocked) {
        ssize_t sent = send(c->source.descriptor, c->out.data + c->out.start, c->out.length,
                            MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && errno != EAGAIN && errno != EWOULDBLOCK) {
            connection_close(c);
            return;
        }
        c->blocked = sent < 0 || (size_t)sent < c->out.length;
        if (sent > 0) {
            buffer_consume(&c->out, (size_t)sent);
            timer_cancel(&c->server->timers, &c->patience);
            if (c->session.frames) {
                detector_progress(&c->server->sim->detector, c->server->sim);
                sim_tell(c->server->sim);
            }
        }
    }
    if (c->in_closed)
        return;
    if (c->out.length == 0)
        after_last_byte(c);
    else if (c->patience.place == 0 && !c->session.frames)
        timer_set(&c->server->timers, &c->patience,
                  clock_real() + (int64_t)(c->server->sim->config.client_patience_s * 1e9));
    if (c->in_closed)
        return;
    if (was_backlogged && !backlogged(c))
        mark_unread(c);
    set_interest(c);
}

void connection_update(struct connection *c, bool counted)
{
    session_update(&c->session, c->server->sim, counted);
    if (c->out.failed) {
        connection_close(c);
        return;
    }
    timer_set(&c->server->timers, &c->update, clock_real() + c->session.subscription.interval);
    mark_unsent(c);
}
