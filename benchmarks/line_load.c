/* usage: line_load echo                         a bare epoll echo server; prints its port
 *        line_load load PORT CLIENTS SECONDS LINE   clients that each wait for the reply;
 *                                               prints requests/s, median and 99 % in us
 *        line_load hostile PORT SECONDS             half lines, garbage, long lines and resets, every
 *                                               2 ms; prints connections/s
 *        line_load sink                         reads and forgets; prints its port */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CLIENTS_MAX = 4096, SAMPLES_MAX = 1 << 22, EVENTS = 256 };
static double sent_at[CLIENTS_MAX], samples[SAMPLES_MAX];

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void watch(int poller, int descriptor, int number)
{
    int on = 1;
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = (uint64_t)number << 32 | (uint32_t)descriptor};
    setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    epoll_ctl(poller, EPOLL_CTL_ADD, descriptor, &event);
}

static int serve(bool answering)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    struct epoll_event events[EVENTS];
    char bytes[4096];
    int listener = socket(AF_INET, SOCK_STREAM, 0), poller = epoll_create1(0);
    if (bind(listener, (struct sockaddr *)&address, length) != 0 || listen(listener, 4096) != 0)
        return 1;
    getsockname(listener, (struct sockaddr *)&address, &length);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    watch(poller, listener, 1);
    for (;;) {
        int count = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            int descriptor = (int)(uint32_t)events[i].data.u64;
            if (descriptor == listener) {
                watch(poller, accept(listener, NULL, NULL), 0);
                continue;
            }
            ssize_t got = recv(descriptor, bytes, sizeof bytes, 0);
            if (got <= 0 || (answering && send(descriptor, bytes, (size_t)got, MSG_NOSIGNAL) < 0))
                close(descriptor);
        }
    }
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int load(int port, int clients, double seconds, const char *line)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct epoll_event events[EVENTS];
    char request[1024], bytes[65536];
    int poller = epoll_create1(0);
    size_t length = (size_t)snprintf(request, sizeof request, "%s\n", line), count = 0;
    double began = now(), end = began + seconds;
    for (int i = 0; i < clients; i++) {
        int client = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(client, (struct sockaddr *)&address, sizeof address) != 0) {
            perror("connect");
            return 1;
        }
        watch(poller, client, i);
        sent_at[i] = now();
        send(client, request, length, 0);
    }
    while (now() < end) {
        int ready = epoll_wait(poller, events, EVENTS, 1000);
        for (int i = 0; i < ready; i++) {
            int client = (int)(uint32_t)events[i].data.u64, number = (int)(events[i].data.u64 >> 32);
            ssize_t got = recv(client, bytes, sizeof bytes, 0);
            if (got <= 0) {
                fprintf(stderr, "the server has closed a connection\n");
                return 1;
            }
            if (bytes[got - 1] != '\n')
                continue;
            double at = now();
            samples[count++ % SAMPLES_MAX] = at - sent_at[number];
            sent_at[number] = at;
            send(client, request, length, MSG_NOSIGNAL);
        }
    }
    double rate = (double)count / (now() - began);
    size_t kept = count < SAMPLES_MAX ? count : SAMPLES_MAX;
    if (kept == 0)
        return 1;
    qsort(samples, kept, sizeof *samples, ascending);
    printf("%.0f %.1f %.1f\n", rate, 1e6 * samples[kept / 2], 1e6 * samples[kept * 99 / 100]);
    return 0;
}

static int harass(int port, double seconds)
{
    static char pieces[4][4096] = {"GET:BL02:RI"};
    size_t lengths[4] = {strlen(pieces[0])};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct linger reset = {.l_onoff = 1};
    long connections = 0;
    double began = now();
    for (int i = 0; i < 50; i++, lengths[1] += 3)
        memcpy(pieces[1] + lengths[1], "\0\xff\n", 3);
    memset(pieces[2], 'A', lengths[2] = 3000);
    for (int i = 0; i < 20; i++, lengths[3] += 5)
        memcpy(pieces[3] + lengths[3], "LIST\n", 5);
    memcpy(pieces[3] + lengths[3], "PI", 2);
    lengths[3] += 2;
    while (now() < began + seconds) {
        for (int i = 0; i < 4; i++, connections++) {
            int client = socket(AF_INET, SOCK_STREAM, 0);
            setsockopt(client, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
            if (connect(client, (struct sockaddr *)&address, sizeof address) != 0) {
                perror("connect");
                return 1;
            }
            send(client, pieces[i], lengths[i], MSG_NOSIGNAL);
            close(client);
        }
        usleep(2000);
    }
    printf("%.0f\n", (double)connections / (now() - began));
    return 0;
}

int main(int count, char **arguments)
{
    if (count == 2 && strcmp(arguments[1], "echo") == 0)
        return serve(true);
    if (count == 2 && strcmp(arguments[1], "sink") == 0)
        return serve(false);
    if (count == 4 && strcmp(arguments[1], "hostile") == 0)
        return harass(atoi(arguments[2]), atof(arguments[3]));
    if (count == 6 && atoi(arguments[3]) <= CLIENTS_MAX)
        return load(atoi(arguments[2]), atoi(arguments[3]), atof(arguments[4]), arguments[5]);
    return 2;
}
