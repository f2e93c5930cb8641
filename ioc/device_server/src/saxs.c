#include "saxs.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "constants.h"

enum { STREAM_SAXS = 0x7361 };
static const double cut_sigmas = 4.0, mm_per_cm = 10.0;
/* Photons per pixel below which they are drawn one by one. */
static const double weak = 0.1;
static const double mean_max = 1e30; /* any more is as saturated, and no float */

void saxs_default(struct saxs_config *config)
{
    *config = (struct saxs_config){
        .radius_A = 12.0, .polydispersity = 0.1,
        .forward_per_cm = 1.0, .background_per_cm = 1e-3,
        .thickness_mm = 1.0,
        .beam_stop_px = 8.0,
        .seed = 1,
    };
}

void form_factor_init(struct form_factor *form, double radius_A, double polydispersity)
{
    bool many = polydispersity > 0.0;
    *form = (struct form_factor){.points = many ? FORM_FACTOR_RADII : 1, .first_A = radius_A};
    if (many) {
        form->first_A = radius_A * (1.0 - cut_sigmas * polydispersity);
        form->step_A = 2.0 * cut_sigmas * polydispersity * radius_A / (FORM_FACTOR_RADII - 1);
    }
    double sum = 0.0;
    for (int i = 0; i < form->points; i++) {
        double r = (form->first_A + i * form->step_A) / radius_A;
        double z = many ? (r - 1.0) / polydispersity : 0.0;
        form->weight[i] = exp(-0.5 * z * z) * pow(r, 6);
        sum += form->weight[i];
    }
    for (int i = 0; i < form->points; i++)
        form->weight[i] /= sum;
}

double form_factor(const struct form_factor *form, double q)
{
    double x = q * form->first_A, step = q * form->step_A, sum = 0.0;
    double sine = sin(x), cosine = cos(x), sine_step = sin(step), cosine_step = cos(step);
    for (int i = 0; i < form->points; i++) {
        double x2 = x * x, f = 1.0 - x2 * (1.0 / 10 - x2 / 280); /* 3 (sin x - x cos x) / x^3 */
        if (x > 0.1)
            f = 3.0 * (sine - x * cosine) / (x * x2);
        sum += form->weight[i] * f * f;
        double next = sine * cosine_step + cosine * sine_step;
        cosine = cosine * cosine_step - sine * sine_step;
        sine = next;
        x += step;
    }
    return sum;
}

bool saxs_init(struct saxs *saxs, const struct saxs_config *config, const struct radial_map *map)
{
    *saxs = (struct saxs){.config = *config, .map = map, .energy = NAN};
    form_factor_init(&saxs->form, config->radius_A, config->polydispersity);
    noise_init(&saxs->noise);
    saxs->share = calloc((size_t)map->bins, sizeof *saxs->share);
    return saxs->share != NULL;
}

void saxs_free(struct saxs *saxs)
{
    free(saxs->share);
    *saxs = (struct saxs){0};
}

void saxs_tune(struct saxs *saxs, double energy_eV)
{
    const struct saxs_config *c = &saxs->config;
    const struct geometry *g = &saxs->map->geometry;
    if (energy_eV == saxs->energy)
        return;
    saxs->energy = energy_eV;
    saxs->total = 0.0;
    double straight = pow(g->pixel_m / g->distance_m, 2) * c->thickness_mm / mm_per_cm;
    for (int i = 0; i < saxs->map->bins; i++) {
        double radius = radial_map_radius(saxs->map, i), q = geometry_q(g, radius, energy_eV);
        bool shadow = radius < c->beam_stop_px || saxs->map->population[i] == 0;
        double section = shadow ? 0.0 : c->forward_per_cm * form_factor(&saxs->form, q)
                                            + c->background_per_cm;
        saxs->share[i] = section * straight * pow(cos(geometry_two_theta(g, radius)), 3);
        saxs->total += saxs->share[i] * saxs->map->population[i];
    }
}

void photon_walk_start(struct photon_walk *walk, const struct saxs *saxs, double photons)
{
    *walk = (struct photon_walk){.saxs = saxs, .photons = photons};
}

bool photon_walk_next(struct photon_walk *walk, struct rng *rng)
{
    const double *share = walk->saxs->share;
    const uint16_t *bin = walk->saxs->map->bin;
    size_t pixels = walk->saxs->map->pixels, pixel = walk->pixel;
    double gap = walk->gap - log(1.0 - rng_uniform(rng)) / walk->photons;
    while (pixel < pixels && gap >= share[bin[pixel]])
        gap -= share[bin[pixel++]];
    walk->pixel = pixel;
    walk->gap = gap;
    if (pixel == pixels)
        return false;
    walk->time = gap / share[bin[pixel]];
    return true;
}

static void draw_strong(struct saxs *saxs, double photons, uint16_t *image)
{
    size_t pixels = saxs->map->pixels;
    for (size_t first = 0; first < pixels; first += NOISE_BLOCK) {
        float mean[NOISE_BLOCK] = {0};
        uint16_t counts[NOISE_BLOCK];
        size_t n = pixels - first < NOISE_BLOCK ? pixels - first : NOISE_BLOCK;
        for (size_t i = 0; i < n; i++)
            mean[i] = (float)fmin(photons * saxs->share[saxs->map->bin[first + i]], mean_max);
        noise_poissons(&saxs->noise, mean, counts);
        memcpy(&image[first], counts, n * sizeof *counts);
    }
}

void saxs_draw(struct saxs *saxs, const struct shot *shot, struct canvas *canvas)
{
    if (!shot_has_light(shot)) {
        canvas_begin_photons(canvas);
        return;
    }
    noise_seed(&saxs->noise, rng_mix(saxs->config.seed ^ STREAM_SAXS), shot->frame);
    saxs_tune(saxs, shot->energy);
    if (shot->photons * saxs->total > weak * (double)saxs->map->pixels) {
        draw_strong(saxs, shot->photons, canvas->image);
        canvas_list_photons(canvas);
        return;
    }
    struct photon_walk walk;
    canvas_begin_photons(canvas);
    photon_walk_start(&walk, saxs, shot->photons);
    while (photon_walk_next(&walk, &saxs->noise.rng))
        canvas_photon(canvas, walk.pixel);
}
