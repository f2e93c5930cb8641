/* A small sample table in a temporary file. */
#ifndef BEAMLINE_TESTS_TABLE_H
#define BEAMLINE_TESTS_TABLE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char copper[] =
    "# name: Cu foil\n# element: Cu\n# e0_eV: 8979\n# edge_step: 2.6\n"
    "# x_um: 380\n# y_um: -260\n# width_um: 2000\n# height_um: 1500\n"
    "# a comment without a key\n# shell: one\n# shell: two \"2\"\n"
    "# reflection: 1 1 1 2.087 100\n# reflection: 2 0 0 1.808 46\n"
    "8000 0.6 0 0.3\n8978 0.4 0 0.2\n8980 3.0 2.6 1.5\n10000 2.0 1.8 1.0\n";

/* Write `text` into a new file; returns its path (static). */
static inline const char *write_table(const char *text)
{
    static char path[] = "/tmp/beamline-table-XXXXXX";
    strcpy(path + strlen(path) - 6, "XXXXXX");
    int descriptor = mkstemp(path);
    size_t length = strlen(text);
    if (descriptor < 0 || write(descriptor, text, length) != (ssize_t)length) {
        perror(path);
        exit(EXIT_FAILURE);
    }
    close(descriptor);
    return path;
}

#endif
