/* The files that the server reads. The first byte chooses: 's' a sample table, anything else a
 * configuration. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../src/config.h"
#include "../src/sample.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool good, const char *what)
{
    if (!good) {
        fprintf(stderr, "fuzz_files: %s\n", what);
        abort();
    }
}

static bool is_sentence(const char *message)
{
    size_t length = strlen(message);
    return length > 1 && length < MESSAGE_MAX - 1 && message[length - 1] == '.';
}

static void read_sample(const char *path)
{
    char message[MESSAGE_MAX] = "";
    struct sample sample;
    if (!sample_load(&sample, path, message)) {
        must(is_sentence(message), "a refusal is no sentence");
        return;
    }
    must(sample.name != NULL && sample.row_count >= 2, "an accepted table is empty");
    for (double energy = 1.0; energy < 1e6; energy *= 1.5) {
        struct sample_row row = sample_absorption(&sample, energy);
        must(isfinite(row.total) && row.total >= 0.0, "an accepted table has no absorption");
    }
    sample_free(&sample);
}

static void read_config(const char *path)
{
    char message[MESSAGE_MAX] = "";
    struct config config;
    config_default(&config);
    if (!config_load(&config, path, message))
        must(is_sentence(message), "a refusal is no sentence");
    else
        config_check(&config);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char path[64];
    static int descriptor = -1;
    if (descriptor < 0) {
        descriptor = memfd_create("fuzz", MFD_CLOEXEC);
        must(descriptor >= 0, "no file in memory");
        snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
    }
    if (size == 0)
        return 0;
    must(ftruncate(descriptor, 0) == 0
             && pwrite(descriptor, data + 1, size - 1, 0) == (ssize_t)(size - 1),
         "cannot write the file");
    (data[0] == 's' ? read_sample : read_config)(path);
    return 0;
}
