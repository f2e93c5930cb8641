#include "sample.h"

#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text.h"

enum { ROWS_MAX = 1000000, HEADER_MAX = 4096, NAME_MAX_LENGTH = 64 };

void sample_free(struct sample *sample)
{
    for (size_t i = 0; i < sample->header_count; i++) {
        free(sample->header[i].key);
        free(sample->header[i].value);
    }
    free(sample->header);
    sample_map_free(&sample->map);
    free(sample->rows);
    free(sample->reflections);
    free(sample->name);
    *sample = (struct sample){0};
}

/* Make room for one more element of `size` bytes in an array that doubles; false without memory. */
static bool grow(void **array, size_t count, size_t size)
{
    if (count != 0 && (count < 16 || (count & (count - 1)) != 0))
        return true;
    void *larger = realloc(*array, (count < 16 ? 16 : 2 * count) * size);
    if (larger == NULL)
        return false;
    *array = larger;
    return true;
}

bool sample_empty(struct sample *sample)
{
    *sample = (struct sample){.width_um = 1.0, .height_um = 1.0};
    sample->name = strdup("empty");
    sample->rows = calloc(1, sizeof *sample->rows);
    sample->row_count = 1;
    return sample->name != NULL && sample->rows != NULL;
}

/* Read `count` numbers, separated by white space, that make up all of `text`. */
static bool read_numbers(char *text, double *numbers, int count)
{
    char *rest = NULL;
    int found = 0;
    for (char *word = strtok_r(text, " \t,", &rest); word != NULL;
         word = strtok_r(NULL, " \t,", &rest))
        if (found == count || !parse_number(word, &numbers[found++]))
            return false;
    return found == count;
}

static const char *add_row(struct sample *sample, char *text)
{
    double v[4];
    if (!read_numbers(text, v, 4))
        return "a row must hold four numbers (energy_eV mut_total mut_fluor mut_reference)";
    if (!(v[0] > 0) || v[1] < 0 || v[2] < 0 || v[3] < 0)
        return "energies must be positive and absorptions at least 0";
    if (sample->row_count > 0 && v[0] <= sample->rows[sample->row_count - 1].energy)
        return "energies must increase from row to row";
    if (sample->row_count == ROWS_MAX)
        return "a table holds at most 1000000 rows";
    if (!grow((void **)&sample->rows, sample->row_count, sizeof *sample->rows))
        return "out of memory";
    sample->rows[sample->row_count++] = (struct sample_row){v[0], v[1], v[2], v[3]};
    return NULL;
}

static const char *add_reflection(struct sample *sample, char *text)
{
    double v[5];
    if (!read_numbers(text, v, 5) || !(v[3] > 0) || v[4] < 0 || fabs(v[0]) > 1000
        || fabs(v[1]) > 1000 || fabs(v[2]) > 1000)
        return "a reflection must be 'h k l d_A relative_intensity'";
    if (!grow((void **)&sample->reflections, sample->reflection_count,
              sizeof *sample->reflections))
        return "out of memory";
    sample->reflections[sample->reflection_count++] =
        (struct reflection_line){(int)v[0], (int)v[1], (int)v[2], v[3], v[4]};
    return NULL;
}

/* Commas separate names in replies, and the protocol is ASCII. */
static bool is_name(const char *text)
{
    size_t length = strlen(text);
    for (const char *c = text; *c != '\0'; c++)
        if (*c < 0x20 || *c > 0x7E || *c == ',')
            return false;
    return length > 0 && length <= NAME_MAX_LENGTH;
}

/* Take one header line (without its `#`). Lines without a colon are comments. */
static const char *add_header(struct sample *sample, char *text)
{
    char *colon = strchr(text, ':');
    if (colon == NULL)
        return NULL;
    *colon = '\0';
    char *key = trim_space(text), *value = trim_space(colon + 1);
    if (*key == '\0')
        return NULL;
    if (sample->header_count == HEADER_MAX)
        return "a table has at most 4096 header lines";
    if (!grow((void **)&sample->header, sample->header_count, sizeof *sample->header))
        return "out of memory";
    struct header_line line = {strdup(key), strdup(value)};
    sample->header[sample->header_count++] = line;
    if (line.key == NULL || line.value == NULL)
        return "out of memory";
    if (strcmp(key, "name") == 0) {
        if (!is_name(value))
            return "the name must be 1 to 64 printable ASCII characters without a comma";
        free(sample->name);
        sample->name = strdup(value);
        return sample->name == NULL ? "out of memory" : NULL;
    }
    if (strcmp(key, "reflection") == 0)
        return add_reflection(sample, value);
    const struct {
        const char *key;
        double *field;
        bool positive;
    } numbers[] = {
        {"x_um", &sample->x_um, false}, {"y_um", &sample->y_um, false},
        {"width_um", &sample->width_um, true}, {"height_um", &sample->height_um, true},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (strcmp(key, numbers[i].key) == 0
            && (!parse_number(value, numbers[i].field)
                || (numbers[i].positive && !(*numbers[i].field > 0))))
            return "x_um and y_um must be numbers, width_um and height_um positive ones";
    return NULL;
}

static const char *read_lines(struct sample *sample, FILE *file, int *number)
{
    char *line = NULL;
    size_t capacity = 0;
    ssize_t length;
    const char *why = NULL;
    *number = 0;
    while (why == NULL && (length = getline(&line, &capacity, file)) >= 0) {
        ++*number;
        bool text = strlen(line) == (size_t)length;
        char *content = trim_space(line);
        if (!text)
            why = "it is not a text file";
        else if (*content == '#')
            why = add_header(sample, content + 1);
        else if (*content != '\0')
            why = add_row(sample, content);
    }
    if (why == NULL && ferror(file))
        why = strerror(errno);
    free(line);
    return why;
}

/* The map that the header names, if it names one. */
static bool load_map(struct sample *sample, const char *path, char message[MESSAGE_MAX])
{
    char why[MESSAGE_MAX];
    for (size_t i = 0; i < sample->header_count; i++) {
        if (strcmp(sample->header[i].key, "map") != 0)
            continue;
        if (sample->map.file != NULL)
            snprintf(why, sizeof why, "it names more than one map");
        else if (sample_map_load(&sample->map, sample->header[i].value, path, why))
            continue;
        snprintf(message, MESSAGE_MAX, "the sample table %.150s is wrong: %.300s.", path, why);
        return false;
    }
    return true;
}

bool sample_load(struct sample *sample, const char *path, char message[MESSAGE_MAX])
{
    *sample = (struct sample){.width_um = 1e4, .height_um = 1e4};
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        snprintf(message, MESSAGE_MAX, "cannot read the sample table %.200s: %s.", path,
                 strerror(errno));
        return false;
    }
    int number;
    const char *why = read_lines(sample, file, &number);
    fclose(file);
    if (why != NULL) {
        snprintf(message, MESSAGE_MAX, "line %d of the sample table %.200s is wrong: %s.", number,
                 path, why);
    } else if (sample->name == NULL || sample->row_count < 2) {
        snprintf(message, MESSAGE_MAX, "the sample table %.200s has no %s.", path,
                 sample->name == NULL ? "'# name:' line" : "two rows of absorption");
    } else if (load_map(sample, path, message)) {
        double strongest = 0.0;
        for (size_t i = 0; i < sample->reflection_count; i++)
            strongest = fmax(strongest, sample->reflections[i].intensity);
        for (size_t i = 0; strongest > 0.0 && i < sample->reflection_count; i++)
            sample->reflections[i].intensity /= strongest;
        return true;
    }
    sample_free(sample);
    return false;
}

struct sample_row sample_absorption(const struct sample *sample, double energy)
{
    const struct sample_row *rows = sample->rows;
    size_t low = 0, high = sample->row_count - 1;
    struct sample_row row = energy <= rows[low].energy ? rows[low] : rows[high];
    if (energy > rows[low].energy && energy < rows[high].energy) {
        while (high - low > 1) {
            size_t middle = low + (high - low) / 2;
            if (rows[middle].energy <= energy)
                low = middle;
            else
                high = middle;
        }
        double f = (energy - rows[low].energy) / (rows[high].energy - rows[low].energy);
        row.total = rows[low].total + f * (rows[high].total - rows[low].total);
        row.fluorescence =
            rows[low].fluorescence + f * (rows[high].fluorescence - rows[low].fluorescence);
        row.reference = rows[low].reference + f * (rows[high].reference - rows[low].reference);
    }
    row.energy = energy;
    return row;
}
