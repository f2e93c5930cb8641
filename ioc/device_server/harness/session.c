#include "session.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../tests/table.h"

static const char settings[] =
    "detector_nx = 32\ndetector_ny = 16\nresolution_A = 10\nframe_queue = 2\n";
static char config_option[80], sample_option[80];

void files_write(void)
{
    snprintf(config_option, sizeof config_option, "--config=%s", write_table(settings));
    snprintf(sample_option, sizeof sample_option, "--sample=%s", write_table(copper));
}

void files_remove(void)
{
    unlink(strchr(config_option, '/'));
    unlink(strchr(sample_option, '/'));
}

static bool readable(int descriptor)
{
    struct pollfd one = {.fd = descriptor, .events = POLLIN};
    int got;
    while ((got = poll(&one, 1, PATIENCE_MS)) < 0 && errno == EINTR)
        ;
    return got > 0;
}

/* One line, cut at `size`; -1 at an end of file, -2 if nothing comes in time. */
static int read_line(int descriptor, char *line, size_t size)
{
    size_t length = 0;
    char byte;
    for (;;) {
        if (!readable(descriptor))
            return -2;
        if (read(descriptor, &byte, 1) != 1)
            return -1;
        if (byte == '\n')
            break;
        if (length + 1 < size)
            line[length++] = byte;
    }
    line[length] = '\0';
    return (int)length;
}

static void run(int output, int errors, void (*arm)(void))
{
    char name[] = "beamline-sim", port[] = "--port=0", scale[] = "--time-scale=1000";
    char *arguments[] = {name, port, scale, config_option, sample_option, NULL};
    dup2(output, STDOUT_FILENO);
    dup2(errors, STDERR_FILENO);
    close(output);
    if (arm != NULL)
        arm();
    exit(beamline_main(5, arguments));
}

bool child_start(struct child *child, void (*arm)(void))
{
    int output[2];
    char line[256];
    *child = (struct child){.errors = memfd_create("errors", MFD_CLOEXEC)};
    if (child->errors < 0 || pipe(output) != 0) {
        perror("harness");
        exit(2);
    }
    fflush(NULL);
    child->pid = fork();
    if (child->pid == 0) {
        close(output[0]);
        run(output[1], child->errors, arm);
    }
    close(output[1]);
    child->output = output[0];
    int length = read_line(child->output, line, sizeof line);
    const char *port = length > 0 ? strstr(line, " port=") : NULL;
    if (port != NULL)
        child->port = (unsigned)strtoul(port + 6, NULL, 10);
    return length != -2;
}

bool child_end(struct child *child)
{
    bool ended = false;
    struct timespec pause = {.tv_nsec = 1000000};
    kill(child->pid, SIGTERM);
    for (int i = 0; i < PATIENCE_MS && !ended; i++) {
        ended = waitpid(child->pid, &child->status, WNOHANG) == child->pid;
        if (!ended)
            nanosleep(&pause, NULL);
    }
    if (!ended) {
        kill(child->pid, SIGKILL);
        waitpid(child->pid, &child->status, 0);
    }
    ssize_t length = pread(child->errors, child->words, sizeof child->words - 1, 0);
    child->words[length > 0 ? length : 0] = '\0';
    close(child->errors);
    close(child->output);
    return ended;
}

int client_open(const struct child *child)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)child->port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int client = socket(AF_INET, SOCK_STREAM, 0);
    if (client >= 0 && connect(client, (struct sockaddr *)&address, sizeof address) == 0)
        return client;
    close(client);
    return -1;
}

static bool skip(int client, size_t bytes, bool *silent)
{
    char scrap[512];
    while (bytes > 0) {
        *silent = *silent || !readable(client);
        ssize_t got = *silent ? 0 : read(client, scrap, bytes < sizeof scrap ? bytes : sizeof scrap);
        if (got <= 0)
            return false;
        bytes -= (size_t)got;
    }
    return true;
}

/* The next line of reply; frames, updates and monitors pass by. */
static bool reply(int client, char *line, size_t size, bool *silent)
{
    for (;;) {
        int length = read_line(client, line, size);
        *silent = *silent || length == -2;
        if (length < 0)
            return false;
        if (strncmp(line, "UPD:", 4) != 0 && strncmp(line, "DATA:", 5) != 0)
            return true;
    }
}

bool client_ask(int client, const char *line, bool *silent)
{
    char text[8192];
    snprintf(text, sizeof text, "%s\n", line);
    if (send(client, text, strlen(text), MSG_NOSIGNAL) < 0)
        return false;
    return reply(client, text, sizeof text, silent);
}

/* Ask until the reply begins with `wanted`. */
static bool await(int client, const char *line, const char *wanted, bool *silent)
{
    char text[256];
    for (int i = 0; i < PATIENCE_MS; i++) {
        snprintf(text, sizeof text, "%s\n", line);
        if (send(client, text, strlen(text), MSG_NOSIGNAL) < 0
            || !reply(client, text, sizeof text, silent))
            return false;
        if (strncmp(text, wanted, strlen(wanted)) == 0)
            return true;
        struct timespec pause = {.tv_nsec = 1000000};
        nanosleep(&pause, NULL);
    }
    *silent = true;
    return false;
}

static bool take_frames(int client, int count, bool *silent)
{
    char line[512];
    for (int i = 0; i < count; i++) {
        size_t bytes = 0;
        if (!reply(client, line, sizeof line, silent)
            || sscanf(line, "FRAME:%*u:%*u,%*f,%*[^,],%*[^,],%zu", &bytes) != 1
            || !skip(client, bytes, silent))
            return false;
    }
    return true;
}

static bool fly(int client, bool *silent)
{
    char line[512];
    size_t bytes = 0;
    if (send(client, "FLY:BL02:SAMPLE:Y:0,10,5,1\n", 27, MSG_NOSIGNAL) < 0
        || !reply(client, line, sizeof line, silent))
        return false;
    if (strcmp(line, "OK:FLYING") != 0) /* it may lack memory */
        return true;
    if (!await(client, "GET:BL02:FLY:STATE", "OK:4", silent)
        || send(client, "FLYDATA:0,100\n", 14, MSG_NOSIGNAL) < 0
        || !reply(client, line, sizeof line, silent))
        return false;
    return sscanf(line, "OK:%*u,%*d,%*d,%zu", &bytes) != 1 || skip(client, bytes, silent);
}

static bool play(int client, int consumer, bool *silent)
{
    static const char *const lines[] = {
        "PING", "LIST", "TRUTH", "SAMPLES", "GET:BL02:RING:CURRENT",
        "MGET:BL02:DET:I0,BL02:DET:IT,BL02:MONO:ENERGY.RBV", "SUBSCRIBE:BL02:*:1",
        "MONITOR:BL02:RING:CURRENT:1", "PUT:BL02:SHUTTER:CMD:1", "PUT:BL02:ATTEN:FACTOR:0.5",
        "MOVE:BL02:SAMPLE:X:5", "STATUS:BL02:SAMPLE:X", "MSTOP:BL02:SAMPLE:X", "COUNT:1",
        "COUNTSTOP", "COUNT:2", "ABORT", "FAULT:BL02:SAMPLE:Z:STUCK", "FAULTS", "FAULT:ALL:NONE",
        "NONSENSE", "STOP", "UNSUBSCRIBE",
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        if (!client_ask(client, lines[i], silent))
            return false;
    return client_ask(consumer, "FRAMES", silent) && client_ask(client, "ACQUIRE:3", silent)
           && take_frames(consumer, 3, silent)
           && client_ask(client, "TRUTH:AD1:0", silent) && client_ask(client, "TRUTH:AD1:1:ALL", silent)
           && await(client, "STATUS:BL02:SAMPLE:Y", "OK:IDLE", silent) && fly(client, silent)
           && client_ask(client, "QUIT", silent);
}

void session_play(const struct child *child, bool *silent)
{
    int client = client_open(child), consumer = client_open(child);
    if (client >= 0 && consumer >= 0)
        play(client, consumer, silent);
    close(client);
    close(consumer);
}
