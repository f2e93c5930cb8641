#include "sample_map.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "constants.h"

/* The beam is looked at as far as this many standard deviations, in so many strips at most. */
enum { STRIPS_MAX = 64 };
static const double reach_sigma = 5.0;

struct strips {
    int count, first, stride; /* strip i: pixels first + i * stride, `stride` of them */
    double weight[STRIPS_MAX]; /* parts of the beam */
};

/* A whole number of a PGM file, behind white space and comments; -1 if there is none. */
static int read_number(FILE *file)
{
    int c = fgetc(file);
    while (isspace(c) || c == '#') {
        while (c == '#' && (c = fgetc(file)) != EOF)
            if (c != '\n')
                c = '#';
        c = fgetc(file);
    }
    if (!isdigit(c))
        return -1;
    int number = 0;
    for (; isdigit(c); c = fgetc(file))
        number = number > 100000 ? number : 10 * number + c - '0';
    return number; /* and one white space is gone, as the format wants */
}

static int read_pixel(FILE *file, bool plain, int full)
{
    if (plain)
        return read_number(file);
    int high = full > 255 ? fgetc(file) : 0, low = fgetc(file);
    return high == EOF || low == EOF ? -1 : high << 8 | low;
}

/* NULL, or what is wrong with the file. */
static const char *read_image(struct sample_map *map, FILE *file)
{
    int p = fgetc(file), kind = fgetc(file);
    if (p != 'P' || (kind != '2' && kind != '5'))
        return "it is not a PGM file (P2 or P5)";
    map->nx = read_number(file);
    map->ny = read_number(file);
    map->full = read_number(file);
    if (map->nx < 1 || map->ny < 1 || map->full < 1 || map->full > 65535)
        return "its width and height must be positive and its greatest value 1 to 65535";
    if ((long)map->nx * map->ny > MAP_PIXELS_MAX)
        return "it has more than 65536 pixels";
    int pixels = map->nx * map->ny;
    map->pixel = calloc((size_t)pixels, sizeof *map->pixel);
    if (map->pixel == NULL)
        return "out of memory";
    for (int i = 0; i < pixels; i++) {
        int value = read_pixel(file, kind == '2', map->full);
        if (value < 0)
            return "it ends before its last pixel";
        if (value > map->full)
            return "a pixel exceeds its greatest value";
        map->pixel[i] = (unsigned short)value;
    }
    return NULL;
}

bool sample_map_load(struct sample_map *map, const char *name, const char *beside,
                     char why[MESSAGE_MAX])
{
    *map = (struct sample_map){.file = strdup(name)};
    const char *slash = strrchr(beside, '/');
    size_t folder = *name == '/' || slash == NULL ? 0 : (size_t)(slash - beside) + 1;
    char *path = malloc(folder + strlen(name) + 1);
    if (map->file == NULL || path == NULL) {
        free(path);
        snprintf(why, MESSAGE_MAX, "out of memory");
        return false;
    }
    memcpy(path, beside, folder);
    strcpy(path + folder, name);
    FILE *file = fopen(path, "rb");
    const char *wrong = file == NULL ? strerror(errno) : read_image(map, file);
    if (file != NULL)
        fclose(file);
    if (wrong != NULL)
        snprintf(why, MESSAGE_MAX, "the map %.200s cannot be used: %s", path, wrong);
    free(path);
    return wrong == NULL;
}

void sample_map_free(struct sample_map *map)
{
    free(map->file);
    free(map->pixel);
    *map = (struct sample_map){0};
}

/* Part of a Gaussian beam below `edge`. */
static double below(double edge, double centre, double fwhm)
{
    return 0.5 * erf((edge - centre) * FWHM_PER_SIGMA / (fwhm * sqrt(2.0)));
}

/* Cut `pixels` over `size`, its middle at 0, into strips across a beam at `centre`. */
static void cut(struct strips *strips, double centre, double fwhm, double size, int pixels)
{
    double reach = reach_sigma * fwhm / FWHM_PER_SIGMA, pitch = size / pixels, left = -0.5 * size;
    int low = (int)fmax(floor((centre - reach - left) / pitch), 0.0);
    int high = (int)fmin(ceil((centre + reach - left) / pitch), pixels);
    strips->count = 0;
    strips->first = low;
    strips->stride = high > low ? (high - low + STRIPS_MAX - 1) / STRIPS_MAX : 1;
    double before = below(left + low * pitch, centre, fwhm);
    for (int at = low; at < high; at += strips->stride) {
        int end = at + strips->stride < high ? at + strips->stride : high;
        double here = below(left + end * pitch, centre, fwhm);
        strips->weight[strips->count++] = here - before;
        before = here;
    }
}

/* Mean relative thickness of a cell of strips. */
static double thickness(const struct sample_map *map, const struct strips *columns, int column,
                        const struct strips *rows, int row)
{
    int x = columns->first + column * columns->stride, y = rows->first + row * rows->stride;
    int right = x + columns->stride < map->nx ? x + columns->stride : map->nx;
    int top = y + rows->stride < map->ny ? y + rows->stride : map->ny;
    double sum = 0.0;
    for (int j = y; j < top; j++)
        for (int i = x; i < right; i++)
            sum += map->pixel[j * map->nx + i];
    return sum / ((double)map->full * (right - x) * (top - y));
}

struct passage sample_map_pass(const struct sample_map *map, const struct map_view *view,
                               double mut)
{
    struct strips columns, rows;
    cut(&columns, view->x, view->fwhm_x, view->width, map->nx);
    cut(&rows, view->y, view->fwhm_y, view->height, map->ny);
    struct passage passage = {.onward = 1.0};
    for (int j = 0; j < rows.count; j++)
        for (int i = 0; i < columns.count; i++) {
            double weight = columns.weight[i] * rows.weight[j];
            double relative = thickness(map, &columns, i, &rows, j);
            double through = exp(-mut * relative);
            passage.onward -= weight * (1.0 - through);
            passage.absorbed += weight * (1.0 - through);
            passage.scattered += weight * relative * through;
        }
    return passage;
}
