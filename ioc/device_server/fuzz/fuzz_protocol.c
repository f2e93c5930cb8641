/* Whole sessions of two clients against the event loop: framing, commands, time, closes.
 *
 * Text goes to the present client's socket. Bytes 1 to 7 act instead: time passes (1 ms, 0.1 s, 10 s),
 * the other client's turn, the client reads, closes abruptly and comes back, closes its sending
 * side. Byte 8 at the beginning takes time away: the simulation is in lock step. Clocks are replaced
 * (-Wl,--wrap), so that the same input gives the same run. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../src/connection.h"
#include "../src/renderer.h"
#include "../tests/table.h"

enum { CLIENTS = 2, INPUT_MAX = 4096, QUIET_TURNS = 2, SOCKET_BYTES = 8192 };
enum { PASS_1_MS = 1, PASS_100_MS, PASS_10_S, OTHER_CLIENT, READ_ALL, RESET, HALF_CLOSE, LOCK_STEP };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int64_t __wrap_clock_real(void);
double __wrap_clock_unix(void);

static const int64_t ms = 1000000;
static const char settings[] =
    "detector_nx = 12\ndetector_ny = 10\ndetector_panels = 2\nresolution_A = 20\n"
    "frame_queue = 2\nclient_patience_s = 0.5\n";

static int64_t now;
static int stop_pipe[2];
static struct sim sim, fresh; /* every input starts from `fresh`: a thread for each would be slow */
static bool prepared;
static struct server server;
static int peer[CLIENTS];
static bool binary; /* a client may have asked for frames or points of a scan */

int64_t __wrap_clock_real(void)
{
    return now += 1000;
}

double __wrap_clock_unix(void)
{
    return 1e9 + (double)__wrap_clock_real() * 1e-9;
}

static void must(bool good, const char *what)
{
    if (!good) {
        fprintf(stderr, "fuzz_protocol: %s\n", what);
        abort();
    }
}

static void prepare(void)
{
    char message[MESSAGE_MAX];
    struct config config;
    config_default(&config);
    const char *path = write_table(settings);
    must(config_load(&config, path, message), message);
    unlink(path);
    must(config_check(&config) == NULL, "the configuration cannot be simulated");
    char tables[2][64], map[64], text[256];
    snprintf(map, sizeof map, "%s", write_table("P2 3 2 9\n0 1 2\n3 4 9\n"));
    snprintf(text, sizeof text, "# name: grains\n# map: %s\n8000 1 0 0\n10000 2 1 1\n", map);
    snprintf(tables[0], sizeof tables[0], "%s", write_table(copper));
    snprintf(tables[1], sizeof tables[1], "%s", write_table(text));
    const char *const paths[] = {tables[0], tables[1]};
    must(sim_init(&fresh, &config, "BL02:", 1, paths, 2, message), message);
    unlink(tables[0]);
    unlink(tables[1]);
    unlink(map);
    must(pipe(stop_pipe) == 0, "no pipe");
    prepared = true;
}

/* Take over what the last input left in the renderer and on the heap. */
static void renew(void)
{
    fresh.detector.batch = sim.detector.batch + 1;
    fresh.detector.spots = sim.detector.spots;
    fresh.detector.spots_max = sim.detector.spots_max;
    sim = fresh;
}

static void join(int client)
{
    int pair[2], bytes = SOCKET_BYTES;
    must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0,
         "no socket pair");
    setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    must(connection_open(&server, pair[0]), "no connection");
    peer[client] = pair[1];
}

static void turn(void)
{
    renderer_wait(sim.detector.renderer);
    server_turn(&server, false);
}

static void take(int client)
{
    char bytes[4096];
    ssize_t got;
    for (int quiet = 0; quiet < QUIET_TURNS; quiet++) {
        while ((got = recv(peer[client], bytes, sizeof bytes, 0)) > 0) {
            quiet = 0;
            for (ssize_t b = 0; b < got && !binary; b++)
                must(bytes[b] == '\n' || (bytes[b] >= 0x20 && bytes[b] <= 0x7E),
                     "a reply is not plain text");
        }
        turn();
    }
}

static void act(int what, int *client)
{
    switch (what) {
    case PASS_1_MS: now += ms; break;
    case PASS_100_MS: now += 100 * ms; break;
    case PASS_10_S: now += 10000 * ms; break;
    case OTHER_CLIENT: *client = (*client + 1) % CLIENTS; break;
    case READ_ALL: take(*client); break;
    case RESET:
        close(peer[*client]);
        turn();
        join(*client);
        break;
    case HALF_CLOSE: shutdown(peer[*client], SHUT_WR); break;
    default: break;
    }
}

static void play(const uint8_t *data, size_t size)
{
    int client = 0;
    for (size_t at = 0; at < size;) {
        size_t length = 0;
        while (at + length < size && (data[at + length] < PASS_1_MS || data[at + length] > HALF_CLOSE))
            length++;
        if (length > 0)
            send(peer[client], data + at, length, MSG_NOSIGNAL);
        at += length;
        turn();
        if (at < size)
            act(data[at++], &client);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char message[MESSAGE_MAX];
    unsigned port;
    if (!prepared)
        prepare();
    if (size > INPUT_MAX)
        return 0;
    binary = memmem(data, size, "FRAMES", 6) != NULL || memmem(data, size, "FLYDATA", 7) != NULL;
    now = 1000 * ms;
    renew();
    const struct server_options options = {"127.0.0.1", 0, stop_pipe[0], false};
    must(server_start(&server, &sim, &options, &port, message), message);
    server.clock.origin = now;
    sim.lock_step = size > 0 && data[0] == LOCK_STEP;
    for (int i = 0; i < CLIENTS; i++)
        join(i);
    play(data, size);
    for (int i = 0; i < CLIENTS; i++) {
        take(i);
        close(peer[i]);
    }
    turn();
    turn();
    must(server.first == NULL, "a closed client is still served");
    must(sim.detector.state != FRAME_DRAWING, "a frame without a consumer was not collected");
    server_free(&server);
    fly_free(&sim.fly);
    return 0;
}
