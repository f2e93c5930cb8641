/* The files that the server reads. The first byte chooses: 's' a sample table and, behind a NUL, its
 * map, whatever its name; anything else a configuration. No other file is opened (-Wl,--wrap). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/config.h"
#include "../src/sample.h"

struct file {
    const uint8_t *bytes;
    size_t size;
};

static const char path[] = "a file";
static struct file file, map;
static bool reading;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
FILE *__real_fopen(const char *name, const char *mode);
FILE *__wrap_fopen(const char *name, const char *mode);

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

static bool is_fraction(double value)
{
    return value >= -1e-9 && value <= 1.0 + 1e-9;
}

static void look_through(const struct sample_map *map, double fwhm, double mut)
{
    for (double x = -300.0; x <= 300.0; x += 150.0) {
        struct map_view view = {x, -x / 2, fwhm, 3 * fwhm, 200.0, 400.0};
        struct passage passage = sample_map_pass(map, &view, mut);
        must(is_fraction(passage.onward) && is_fraction(passage.absorbed)
                 && is_fraction(passage.scattered), "a beam behind a map is no fraction of it");
    }
}

static void read_sample(void)
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
    for (double fwhm = 0.1; sample.map.file != NULL && fwhm < 1e6; fwhm *= 7)
        for (double mut = 0.0; mut < 100.0; mut += 33.0)
            look_through(&sample.map, fwhm, mut);
    sample_free(&sample);
}

static void read_config(void)
{
    char message[MESSAGE_MAX] = "";
    struct config config;
    config_default(&config);
    if (!config_load(&config, path, message))
        must(is_sentence(message), "a refusal is no sentence");
    else
        config_check(&config);
}

FILE *__wrap_fopen(const char *name, const char *mode)
{
    if (!reading)
        return __real_fopen(name, mode);
    const struct file *opened = strcmp(name, path) == 0 ? &file : &map;
    return fmemopen((void *)(uintptr_t)opened->bytes, opened->size, "r");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    const uint8_t *text = data + 1, *end = data + size;
    const uint8_t *nul = data[0] == 's' ? memchr(text, '\0', size - 1) : NULL;
    file = (struct file){text, (size_t)((nul == NULL ? end : nul) - text)};
    map = nul == NULL ? (struct file){end, 0} : (struct file){nul + 1, (size_t)(end - nul - 1)};
    reading = true;
    (data[0] == 's' ? read_sample : read_config)();
    reading = false;
    return 0;
}
