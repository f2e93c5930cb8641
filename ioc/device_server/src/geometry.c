#include "geometry.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "constants.h"

enum { PIXELS_MAX = 1 << 26, SIDE_MAX = 16384, PANELS_MAX = 256, BINS_MIN = 256, BINS_MAX = 65536 };
static const double step_px_max = 0.125;

void geometry_default(struct geometry *geometry)
{
    *geometry = (struct geometry){
        .distance_m = 0.1, .pixel_m = 150e-6,
        .nx = 512, .ny = 512, .panels = 1, .gap_px = 0,
        .beam_x = NAN, .beam_y = NAN,
    };
}

void geometry_complete(struct geometry *g)
{
    int columns = geometry_columns(g), rows = geometry_rows(g);
    if (isnan(g->beam_x))
        g->beam_x = 0.5 * (columns * g->nx + (columns - 1) * g->gap_px - 1) + 2.9;
    if (isnan(g->beam_y))
        g->beam_y = 0.5 * (rows * g->ny + (rows - 1) * g->gap_px - 1) - 3.8;
}

static bool between(double x, double low, double high)
{
    return x >= low && x <= high; /* false for NaN */
}

const char *geometry_check(const struct geometry *g)
{
    if (!between(g->distance_m, 1e-3, 100) || !between(g->pixel_m, 1e-7, 0.01))
        return "the detector distance must be 0.001 to 100 m and the pixel size 1e-7 to 0.01 m";
    if (g->nx < 1 || g->ny < 1 || g->nx > SIDE_MAX || g->ny > SIDE_MAX
        || g->nx > PIXELS_MAX / g->ny)
        return "the detector must have 1 to 16384 pixels a side and at most 67 million in all";
    if (g->panels < 1 || g->panels > PANELS_MAX || g->gap_px < 0 || g->gap_px > SIDE_MAX)
        return "the detector must have 1 to 256 panels with gaps of 0 to 16384 pixels";
    if (g->panels > PIXELS_MAX / (g->nx * g->ny))
        return "the panels must have at most 67 million pixels together";
    if (!between(g->beam_x, -1e5, 1e5) || !between(g->beam_y, -1e5, 1e5))
        return "the beam centre must be within 100000 pixels of the detector";
    return NULL;
}

int geometry_columns(const struct geometry *geometry)
{
    int columns = 1;
    while (columns * columns < geometry->panels)
        columns++;
    return columns;
}

int geometry_rows(const struct geometry *geometry)
{
    int columns = geometry_columns(geometry);
    return (geometry->panels + columns - 1) / columns;
}

void geometry_corner(const struct geometry *g, int panel, int corner[2])
{
    int columns = geometry_columns(g);
    corner[0] = panel % columns * (g->nx + g->gap_px);
    corner[1] = panel / columns * (g->ny + g->gap_px);
}

size_t geometry_pixels(const struct geometry *g)
{
    return (size_t)g->nx * (size_t)g->ny * (size_t)g->panels;
}

int geometry_panel(const struct geometry *g, int x, int y, int *fs, int *ss)
{
    int pitch_x = g->nx + g->gap_px, pitch_y = g->ny + g->gap_px, columns = geometry_columns(g);
    if (x < 0 || y < 0)
        return -1;
    int column = x / pitch_x, panel = y / pitch_y * columns + column;
    *fs = x % pitch_x;
    *ss = y % pitch_y;
    return column < columns && panel < g->panels && *fs < g->nx && *ss < g->ny ? panel : -1;
}

double geometry_two_theta(const struct geometry *g, double radius)
{
    return atan2(radius * g->pixel_m, g->distance_m);
}

double geometry_q(const struct geometry *g, double radius, double energy_eV)
{
    return 4.0 * PI * energy_eV / HC_EV_ANGSTROM * sin(0.5 * geometry_two_theta(g, radius));
}

static void sort_pixels(struct radial_map *map)
{
    const struct geometry *g = &map->geometry;
    uint16_t *bin = map->bin;
    for (int panel = 0; panel < g->panels; panel++) {
        int corner[2];
        geometry_corner(g, panel, corner);
        for (int y = 0; y < g->ny; y++)
            for (int x = 0; x < g->nx; x++) {
                double radius = hypot(corner[0] + x - g->beam_x, corner[1] + y - g->beam_y);
                *bin = (uint16_t)(radius / map->step_px);
                map->population[*bin++]++;
            }
    }
}

struct radial_map *radial_map_new(const struct geometry *g)
{
    struct radial_map *map = calloc(1, sizeof *map);
    if (map == NULL)
        return NULL;
    int columns = geometry_columns(g), rows = geometry_rows(g);
    double right = columns * (g->nx + g->gap_px) - g->gap_px - 1;
    double bottom = rows * (g->ny + g->gap_px) - g->gap_px - 1;
    double dx = fmax(fabs(g->beam_x), fabs(right - g->beam_x));
    double dy = fmax(fabs(g->beam_y), fabs(bottom - g->beam_y));
    double radius = hypot(dx, dy) + 1.0;
    *map = (struct radial_map){.geometry = *g, .pixels = geometry_pixels(g), .bins = BINS_MIN};
    while (map->bins < BINS_MAX && radius / map->bins > step_px_max)
        map->bins *= 2;
    map->step_px = radius / map->bins;
    map->bin = malloc(map->pixels * sizeof *map->bin);
    map->population = calloc((size_t)map->bins, sizeof *map->population);
    if (map->bin == NULL || map->population == NULL) {
        radial_map_free(map);
        return NULL;
    }
    sort_pixels(map);
    return map;
}

void radial_map_free(struct radial_map *map)
{
    if (map == NULL)
        return;
    free(map->bin);
    free(map->population);
    free(map);
}

double radial_map_radius(const struct radial_map *map, int bin)
{
    return (bin + 0.5) * map->step_px;
}
