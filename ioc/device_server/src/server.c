#include "server.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "connection.h"

enum { EVENTS_MAX = 256, ACCEPTS_MAX = 64, DESCRIPTORS_MAX = 65536 };
static const int64_t accept_pause_ns = 50000000;

static void prepare_descriptor(int descriptor)
{
    fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) | O_NONBLOCK);
    fcntl(descriptor, F_SETFD, FD_CLOEXEC);
}

static int open_spare(void)
{
    return open("/dev/null", O_RDONLY | O_CLOEXEC);
}

static void resume_accepting(void *owner)
{
    struct server *server = owner;
    if (!poller_change(server->poller, server->listener.descriptor, POLLER_READ, &server->listener))
        timer_set(&server->timers, &server->accept_again, clock_real() + accept_pause_ns);
}

/* Out of descriptors (or memory): tell one client by closing, and leave the others in the backlog
 * for a moment rather than spin on a listener that stays readable. */
static void refuse(struct server *server)
{
    if (server->spare >= 0) {
        close(server->spare);
        int descriptor = accept(server->listener.descriptor, NULL, NULL);
        if (descriptor >= 0)
            close(descriptor);
        server->spare = open_spare();
    }
    poller_change(server->poller, server->listener.descriptor, 0, &server->listener);
    timer_set(&server->timers, &server->accept_again, clock_real() + accept_pause_ns);
}

static void listener_ready(struct source *source, unsigned what)
{
    struct server *server =
        (struct server *)((char *)source - offsetof(struct server, listener));
    (void)what;
    for (int i = 0; i < ACCEPTS_MAX; i++) {
        int on = 1, descriptor = accept(source->descriptor, NULL, NULL);
        if (descriptor < 0) {
            int why = errno;
            if (why == ECONNABORTED || why == EINTR)
                continue;
            if (why == EMFILE || why == ENFILE || why == ENOMEM || why == ENOBUFS)
                refuse(server);
            return;
        }
        prepare_descriptor(descriptor);
        setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        setsockopt(descriptor, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
        if (!connection_open(server, descriptor))
            close(descriptor);
    }
}

static void renderer_ready(struct source *source, unsigned what)
{
    struct server *server =
        (struct server *)((char *)source - offsetof(struct server, renderer));
    (void)what;
    detector_progress(&server->sim->detector, server->sim);
    sim_tell(server->sim);
}

static void stop_ready(struct source *source, unsigned what)
{
    struct server *server = (struct server *)((char *)source - offsetof(struct server, stop));
    (void)what;
    server->stopping = true;
}

static void parent_ready(struct source *source, unsigned what)
{
    struct server *server = (struct server *)((char *)source - offsetof(struct server, parent));
    char scrap[512];
    (void)what;
    ssize_t got = read(source->descriptor, scrap, sizeof scrap);
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
        server->stopping = true;
}

static void tell_subscribers(void *owner, unsigned news)
{
    struct server *server = owner;
    for (struct connection *c = server->first, *next; c != NULL; c = next) {
        next = c->next;
        if (c->session.subscription.count > 0)
            connection_update(c, (news & NEWS_COUNTED) != 0);
    }
}

/* The injected fault of a cut link. */
static void cut_off(struct server *server)
{
    server->sim->faults.cut = false;
    for (struct connection *c = server->first, *next; c != NULL; c = next) {
        next = c->next;
        if (&c->session != server->sim->faults.spared)
            connection_close(c);
    }
}

static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return;
    rlim_t wanted = limit.rlim_max > DESCRIPTORS_MAX ? DESCRIPTORS_MAX : limit.rlim_max;
    if (limit.rlim_cur < wanted) {
        limit.rlim_cur = wanted;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static int listen_on(const char *host, unsigned port, char message[MESSAGE_MAX])
{
    char service[16];
    struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    snprintf(service, sizeof service, "%u", port);
    int status = getaddrinfo(host, service, &hints, &found);
    if (status != 0) {
        snprintf(message, MESSAGE_MAX, "cannot resolve the host '%.200s': %s.", host,
                 gai_strerror(status));
        return -1;
    }
    int on = 1, descriptor = -1, why = 0;
    for (struct addrinfo *a = found; a != NULL && descriptor < 0; a = a->ai_next) {
        descriptor = socket(a->ai_family, a->ai_socktype, a->ai_protocol);
        if (descriptor >= 0) {
            setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
            if (bind(descriptor, a->ai_addr, a->ai_addrlen) == 0
                && listen(descriptor, SOMAXCONN) == 0)
                break;
        }
        why = errno;
        if (descriptor >= 0)
            close(descriptor);
        descriptor = -1;
    }
    freeaddrinfo(found);
    if (descriptor < 0)
        snprintf(message, MESSAGE_MAX, "cannot listen on %.200s port %u: %s%s.", host, port,
                 strerror(why), why == EADDRINUSE ? "; stop the other server or take another port"
                                                  : "");
    else
        prepare_descriptor(descriptor);
    return descriptor;
}

static unsigned port_of(int descriptor)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } address = {0};
    socklen_t length = sizeof address;
    if (getsockname(descriptor, &address.any, &length) != 0)
        return 0;
    return ntohs(address.any.sa_family == AF_INET6 ? address.v6.sin6_port : address.v4.sin_port);
}

static bool watch(struct server *server, struct source *source, int descriptor,
                  void (*ready)(struct source *, unsigned))
{
    *source = (struct source){ready, descriptor};
    return poller_add(server->poller, descriptor, POLLER_READ, source);
}

bool server_start(struct server *server, struct sim *sim, const struct server_options *options,
                  unsigned *port, char message[MESSAGE_MAX])
{
    *server = (struct server){
        .sim = sim, .spare = -1, .listener.descriptor = -1,
        .accept_again = {.fire = resume_accepting, .owner = server},
    };
    raise_descriptor_limit();
    int listener = listen_on(options->host, options->port, message);
    if (listener < 0)
        return false;
    server->listener.descriptor = listener;
    *port = port_of(listener);
    if (*port == 0) {
        snprintf(message, MESSAGE_MAX, "cannot find out the port taken: %s.", strerror(errno));
        return false;
    }
    server->spare = open_spare();
    server->poller = poller_new();
    if (server->poller == NULL || !timers_reserve(&server->timers, SERVER_TIMERS)
        || !connection_fill_pool(server) || !watch(server, &server->listener, listener, listener_ready)
        || !watch(server, &server->renderer, renderer_descriptor(sim->detector.renderer),
                  renderer_ready)
        || !watch(server, &server->stop, options->stop_descriptor, stop_ready)) {
        snprintf(message, MESSAGE_MAX, "cannot set up the event loop: %s.", strerror(errno));
        return false;
    }
    if (options->exit_with_parent
        && !watch(server, &server->parent, STDIN_FILENO, parent_ready)) {
        snprintf(message, MESSAGE_MAX,
                 "--exit-with-parent needs a pipe or terminal as standard input: %s.",
                 strerror(errno));
        return false;
    }
    sim->tell = tell_subscribers;
    sim->owner = server;
    clock_start(&server->clock, sim->time_scale);
    return true;
}

static void free_closed(struct server *server)
{
    struct connection **link = &server->closed;
    while (*link != NULL) {
        struct connection *c = *link;
        if (c->in_unread && !server->stopping) { /* that list still points to it */
            link = &c->next_closed;
            continue;
        }
        *link = c->next_closed;
        connection_give(c);
    }
}

/* Take each list as it stands: what is added meanwhile waits for the next round. */
static void handle_unread(struct server *server)
{
    struct connection *c = server->unread, *next;
    server->unread = NULL;
    for (; c != NULL; c = next) {
        next = c->next_unread;
        c->in_unread = false;
        if (!c->in_closed)
            connection_handle(c);
    }
}

static void send_unsent(struct server *server)
{
    while (server->unsent != NULL) {
        struct connection *c = server->unsent;
        server->unsent = c->next_unsent;
        c->in_unsent = false;
        if (!c->in_closed && (!c->blocked || c->out.failed))
            connection_send(c);
    }
}

/* Monotonic time of the simulation's next event. */
static int64_t next_event(const struct server *server)
{
    return server->sim->lock_step ? INT64_MAX
                                  : clock_deadline(&server->clock, sim_next_event(server->sim));
}

/* Let simulated time pass; in lock step only what commands have left to do. */
static void pass_time(struct server *server, int64_t now)
{
    if (server->sim->lock_step)
        sim_settle(server->sim);
    else
        sim_advance(server->sim, clock_simulated(&server->clock, now));
}

void server_turn(struct server *server, bool wait)
{
    struct poller_event events[EVENTS_MAX];
    int64_t deadline = next_event(server);
    int64_t timer = timers_next(&server->timers);
    deadline = server->unread != NULL || !wait ? 0 : timer < deadline ? timer : deadline;
    int count = poller_wait(server->poller, deadline, events, EVENTS_MAX);
    int64_t now = clock_real();
    pass_time(server, now);
    handle_unread(server);
    for (int i = 0; i < count; i++) {
        struct source *source = events[i].owner;
        source->ready(source, events[i].what);
    }
    timers_run(&server->timers, now);
    sim_tell(server->sim); /* of what closed connections have left behind */
    if (server->sim->faults.cut)
        cut_off(server);
    send_unsent(server);
    free_closed(server);
}

void server_run(struct server *server)
{
    while (!server->stopping)
        server_turn(server, true);
}

void server_free(struct server *server)
{
    while (server->first != NULL)
        connection_close(server->first);
    free_closed(server);
    for (struct connection *c; (c = server->pool) != NULL;) {
        server->pool = c->next;
        buffer_free(&c->out);
        free(c);
    }
    if (server->listener.descriptor >= 0)
        close(server->listener.descriptor);
    if (server->spare >= 0)
        close(server->spare);
    poller_free(server->poller);
    timers_free(&server->timers);
}
