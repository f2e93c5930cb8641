/* A server in a child process of a test program, and a scripted session with it. */
#ifndef BEAMLINE_HARNESS_SESSION_H
#define BEAMLINE_HARNESS_SESSION_H

#include <stdbool.h>
#include <sys/types.h>

enum { PATIENCE_MS = 5000, WORDS_MAX = 2048 };

struct child {
    pid_t pid;
    int output, errors;   /* its standard output and error */
    unsigned port;        /* 0: it ended before it was ready */
    int status;           /* as from waitpid, after child_end */
    char words[WORDS_MAX]; /* its standard error, after child_end */
};

/* main of the server's program, renamed by the compiler's options. */
int beamline_main(int count, char **arguments);

/* Write the settings and the table of the server into temporary files; remove them. */
void files_write(void);
void files_remove(void);

/* Fork a server and wait until it is ready or has ended; false if it does neither in time. `arm` is
 * called in the child before it starts. */
bool child_start(struct child *child, void (*arm)(void));
/* Stop it; false, and it is killed, if it does not end in time. */
bool child_end(struct child *child);

/* A connected client; -1 if the server refuses. */
int client_open(const struct child *child);
/* Send a line and read one line of reply, updates and monitors left out: false at an end of file. A
 * server that says nothing in time makes `*silent` true. */
bool client_ask(int client, const char *line, bool *silent);
/* All commands once, two clients, frames, a fly scan; ends early if a connection ends. */
void session_play(const struct child *child, bool *silent);

#endif
