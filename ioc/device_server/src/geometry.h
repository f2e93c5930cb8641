/* Where the pixels of the area detector are.
 *
 * Laboratory. The beam goes along +z; fast scan (fs) is +x, slow scan (ss) is +y. The detector is flat
 * and normal to the beam at `distance_m`. Positions are in pixels of the laboratory: the middle of the
 * first pixel of the first panel is (0, 0), and `beam_x`, `beam_y` is where the direct beam hits.
 *
 * Panels. All have nx x ny pixels. They stand in rows of geometry_columns, `gap_px` apart, in the order
 * of reading; pixel (fs, ss) of a panel is at its corner + (fs, ss). In memory one panel follows the
 * other, rows of nx pixels in each: a stack of shape panels x ny x nx. */
#ifndef BEAMLINE_GEOMETRY_H
#define BEAMLINE_GEOMETRY_H

#include <stddef.h>
#include <stdint.h>

struct geometry {
    double distance_m, pixel_m;
    int nx, ny; /* of a panel: fs, ss */
    int panels, gap_px;
    double beam_x, beam_y; /* px; NaN: a little off the middle of all panels */
};

/* 512 x 512 pixels of 150 µm at 100 mm, one panel. */
void geometry_default(struct geometry *geometry);
/* Replace a beam centre that was left open: (+2.9, -3.8) pixels off the middle, so that swapped axes
 * show. */
void geometry_complete(struct geometry *geometry);
/* NULL if such a detector can be simulated, else what is wrong with it (a static string). */
const char *geometry_check(const struct geometry *geometry);

/* The arrangement nearest to a square, with as many columns as rows or more. */
int geometry_columns(const struct geometry *geometry);
int geometry_rows(const struct geometry *geometry);
/* Laboratory position of the middle of the panel's first pixel. */
void geometry_corner(const struct geometry *geometry, int panel, int corner[2]);
size_t geometry_pixels(const struct geometry *geometry);
/* Panel with the laboratory pixel (x, y), and its place there; -1 beside all panels. */
int geometry_panel(const struct geometry *geometry, int x, int y, int *fs, int *ss);

/* 2 theta of a pixel at `radius` px from the beam centre, rad; and its q = 4 pi / lambda sin theta,
 * 1/Å. */
double geometry_two_theta(const struct geometry *geometry, double radius);
double geometry_q(const struct geometry *geometry, double radius, double energy_eV);

/* Every pixel's distance from the beam centre, in steps of at most an eighth of a pixel where 65,536
 * steps are enough. */
struct radial_map {
    struct geometry geometry;
    size_t pixels;
    int bins;       /* a power of two */
    double step_px; /* bin i holds radii from i to i + 1 steps */
    uint16_t *bin;  /* per pixel */
    uint32_t *population; /* pixels per bin */
};

/* NULL if memory runs out. */
struct radial_map *radial_map_new(const struct geometry *geometry);
void radial_map_free(struct radial_map *map);
/* Middle of a bin, px. */
double radial_map_radius(const struct radial_map *map, int bin);

#endif
