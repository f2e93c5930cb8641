#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server.h"
#include "sim.h"
#include "text.h"

static const char version[] = "0.1.0";
static const char usage[] =
    "usage: beamline-sim [options]\n"
    "Simulate a beamline behind a line protocol over TCP.\n"
    "\n"
    "  --host HOST          address to listen on (127.0.0.1)\n"
    "  --port PORT          TCP port, 0 for any free one (6064)\n"
    "  --prefix PREFIX      prefix of all process variables (BL02:)\n"
    "  --seed N             seed of all noise (1)\n"
    "  --time-scale FACTOR  simulated seconds per second (1)\n"
    "  --lock-step          no clock: time passes with the commands, at once\n"
    "  --sample TABLE       absorption table of a sample; up to 16 times\n"
    "  --config FILE        'key = value' settings of the physics\n"
    "  --exit-with-parent   stop at end of file on standard input\n"
    "  --version, --help    print and exit\n"
    "\n"
    "Prints one line 'READY host=... port=... pid=...' when it listens.\n"
    "SIGINT and SIGTERM stop it.\n";

struct options {
    struct server_options server;
    const char *prefix, *config;
    const char *samples[SAMPLES_MAX];
    int sample_count;
    uint64_t seed;
    double time_scale;
    bool lock_step;
};

static int stop_pipe[2];

static void on_signal(int number)
{
    int saved = errno;
    (void)number;
    while (write(stop_pipe[1], "", 1) < 0 && errno == EINTR)
        ; /* a full pipe: a stop is already on its way */
    errno = saved;
}

static bool catch_signals(void)
{
    if (pipe(stop_pipe) != 0)
        return false;
    for (int i = 0; i < 2; i++) {
        fcntl(stop_pipe[i], F_SETFD, FD_CLOEXEC);
        fcntl(stop_pipe[i], F_SETFL, O_NONBLOCK);
    }
    struct sigaction stop = {.sa_handler = on_signal}, ignore = {.sa_handler = SIG_IGN};
    sigemptyset(&stop.sa_mask);
    sigemptyset(&ignore.sa_mask);
    return sigaction(SIGINT, &stop, NULL) == 0 && sigaction(SIGTERM, &stop, NULL) == 0
           && sigaction(SIGPIPE, &ignore, NULL) == 0;
}

static int fail(const char *message)
{
    fprintf(stderr, "beamline-sim: %s\n", message);
    return 2;
}

/* Colons may end a prefix, but commas, spaces and '=' would break replies. */
static bool is_prefix(const char *text)
{
    size_t length = strlen(text);
    for (const char *c = text; *c != '\0'; c++)
        if (*c <= 0x20 || *c > 0x7E || strchr(",=;*?[]\\", *c) != NULL)
            return false;
    return length <= PREFIX_MAX;
}

/* Take one option; NULL, or what is wrong with it. */
static const char *take(struct options *options, int option, const char *text)
{
    unsigned long long number;
    switch (option) {
    case 'h': options->server.host = text; return NULL;
    case 'c': options->config = text; return NULL;
    case 'l': options->lock_step = true; return NULL;
    case 'e': options->server.exit_with_parent = true; return NULL;
    case 'p':
        if (!parse_unsigned(text, &number) || number > 65535)
            return "--port must be a whole number from 0 to 65535";
        options->server.port = (unsigned)number;
        return NULL;
    case 'x':
        options->prefix = text;
        return is_prefix(text) ? NULL
                               : "--prefix must be at most 32 printable ASCII characters, without "
                                 "spaces and ,=;*?[]\\";
    case 's':
        if (!parse_unsigned(text, &number))
            return "--seed must be a whole number from 0 to 18446744073709551615";
        options->seed = number;
        return NULL;
    case 't':
        if (!parse_number(text, &options->time_scale)
            || !(options->time_scale >= 1e-3 && options->time_scale <= 1000.0))
            return "--time-scale must be a number from 0.001 to 1000";
        return NULL;
    case 'm':
        if (options->sample_count == SAMPLES_MAX)
            return "--sample can be given at most 16 times";
        options->samples[options->sample_count++] = text;
        return NULL;
    default: return "see beamline-sim --help";
    }
}

/* -1 to go on, else an exit status. */
static int read_options(struct options *options, int count, char **arguments)
{
    static const struct option known[] = {
        {"host", required_argument, NULL, 'h'},
        {"port", required_argument, NULL, 'p'},
        {"prefix", required_argument, NULL, 'x'},
        {"seed", required_argument, NULL, 's'},
        {"time-scale", required_argument, NULL, 't'},
        {"sample", required_argument, NULL, 'm'},
        {"config", required_argument, NULL, 'c'},
        {"lock-step", no_argument, NULL, 'l'},
        {"exit-with-parent", no_argument, NULL, 'e'},
        {"version", no_argument, NULL, 'V'},
        {"help", no_argument, NULL, 'H'},
        {NULL, 0, NULL, 0},
    };
    char message[MESSAGE_MAX];
    int option;
    opterr = 0;
    while ((option = getopt_long(count, arguments, ":", known, NULL)) != -1) {
        if (option == 'V' || option == 'H') {
            if (option == 'V')
                printf("beamline-sim %s\n", version);
            else
                fputs(usage, stdout);
            return fflush(stdout) == 0 ? 0 : 2;
        }
        if (option == '?' || option == ':') {
            snprintf(message, sizeof message, "%s '%.200s'; see beamline-sim --help.",
                     option == ':' ? "no value behind" : "unknown option", arguments[optind - 1]);
            return fail(message);
        }
        const char *wrong = take(options, option, optarg);
        if (wrong != NULL) {
            snprintf(message, sizeof message, "%s, found '%.200s'.", wrong,
                     optarg == NULL ? "" : optarg);
            return fail(message);
        }
    }
    if (optind < count) {
        snprintf(message, sizeof message, "unexpected argument '%.200s'; see beamline-sim --help.",
                 arguments[optind]);
        return fail(message);
    }
    return -1;
}

/* Everything between a built simulation and the end. */
static int serve(struct sim *sim, const struct options *options)
{
    struct server server;
    char message[MESSAGE_MAX];
    unsigned port;
    sim->lock_step = options->lock_step;
    bool started = server_start(&server, sim, &options->server, &port, message);
    if (started) {
        printf("READY host=%s port=%u pid=%ld\n", options->server.host, port, (long)getpid());
        fflush(stdout);
        server_run(&server);
    }
    server_free(&server);
    return started ? 0 : fail(message);
}

int main(int count, char **arguments)
{
    struct options options = {
        .server = {.host = "127.0.0.1", .port = 6064},
        .prefix = "BL02:", .seed = 1, .time_scale = 1.0,
    };
    char message[MESSAGE_MAX];
    int status = read_options(&options, count, arguments);
    if (status >= 0)
        return status;
    struct config config;
    config_default(&config);
    if (options.config != NULL && !config_load(&config, options.config, message))
        return fail(message);
    config.seed = options.seed;
    const char *wrong = config_check(&config);
    if (wrong != NULL) {
        snprintf(message, sizeof message, "the configuration cannot be simulated: %s.", wrong);
        return fail(message);
    }
    if (!catch_signals()) {
        snprintf(message, sizeof message, "cannot catch signals: %s.", strerror(errno));
        return fail(message);
    }
    options.server.stop_descriptor = stop_pipe[0];
    struct sim *sim = calloc(1, sizeof *sim);
    if (sim == NULL)
        return fail("out of memory.");
    if (sim_init(sim, &config, options.prefix, options.time_scale, options.samples,
                 options.sample_count, message))
        status = serve(sim, &options);
    else
        status = fail(message);
    sim_free(sim);
    free(sim);
    return status;
}
