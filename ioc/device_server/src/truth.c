#include "truth.h"

#include <stdbool.h>
#include <string.h>

#include "constants.h"
#include "sim.h"

struct field {
    const char *key;
    double value;
};

/* Append `"name":{...}` with numbers; braces without a name if it is NULL. */
static void write_numbers(struct buffer *out, const char *name, const struct field *fields,
                          size_t count)
{
    if (name != NULL)
        buffer_format(out, "\"%s\":", name);
    buffer_text(out, "{");
    for (size_t i = 0; i < count; i++) {
        buffer_format(out, "%s\"%s\":", i > 0 ? "," : "", fields[i].key);
        buffer_number(out, fields[i].value);
    }
    buffer_text(out, "}");
}

#define COUNT(array) (sizeof(array) / sizeof *(array))

static void write_value(struct buffer *out, const char *key, const char *value)
{
    static const char *const texts[] = {"name", "formula", "element", "edge", "origin"};
    bool text = false;
    double number;
    for (size_t i = 0; i < COUNT(texts); i++)
        text = text || strcmp(key, texts[i]) == 0;
    if (!text && parse_number(value, &number))
        buffer_number(out, number);
    else
        buffer_json_string(out, value);
}

/* Append one header key with its value, or an array of values if the key occurs several times;
 * nothing for the second and later occurrences. */
static void write_header_key(struct buffer *out, const struct sample *sample, size_t index)
{
    const char *key = sample->header[index].key;
    for (size_t i = 0; i < index; i++)
        if (strcmp(sample->header[i].key, key) == 0)
            return;
    buffer_text(out, ",");
    buffer_json_string(out, key);
    buffer_text(out, ":");
    size_t found = 0;
    for (size_t i = index; i < sample->header_count; i++)
        found += strcmp(sample->header[i].key, key) == 0;
    buffer_text(out, found > 1 ? "[" : "");
    for (size_t i = index, written = 0; i < sample->header_count; i++) {
        if (strcmp(sample->header[i].key, key) != 0)
            continue;
        buffer_text(out, written++ > 0 ? "," : "");
        write_value(out, key, sample->header[i].value);
    }
    buffer_text(out, found > 1 ? "]" : "");
}

static bool is_own_key(const char *key)
{
    static const char *const keys[] = {"name", "x_um", "y_um", "width_um", "height_um", "map",
                                       "reflection", "reflections"};
    for (size_t i = 0; i < COUNT(keys); i++)
        if (strcmp(key, keys[i]) == 0)
            return true;
    return false;
}

static void write_sample(struct buffer *out, const struct sample *sample)
{
    buffer_text(out, "{\"name\":");
    buffer_json_string(out, sample->name);
    const struct field place[] = {
        {"x_um", sample->x_um},
        {"y_um", sample->y_um},
        {"width_um", sample->width_um},
        {"height_um", sample->height_um},
    };
    for (size_t i = 0; i < COUNT(place); i++) {
        buffer_format(out, ",\"%s\":", place[i].key);
        buffer_number(out, place[i].value);
    }
    for (size_t i = 0; i < sample->header_count; i++)
        if (!is_own_key(sample->header[i].key))
            write_header_key(out, sample, i);
    if (sample->map.file != NULL) {
        buffer_text(out, ",\"map\":{\"file\":");
        buffer_json_string(out, sample->map.file);
        buffer_format(out, ",\"shape\":[%d,%d]}", sample->map.ny, sample->map.nx);
    }
    buffer_text(out, ",\"reflections\":[");
    for (size_t i = 0; i < sample->reflection_count; i++) {
        const struct reflection_line *line = &sample->reflections[i];
        const struct field fields[] = {{"h", line->h}, {"k", line->k}, {"l", line->l},
                                       {"d_A", line->d}, {"intensity", line->intensity}};
        buffer_text(out, i > 0 ? "," : "");
        write_numbers(out, NULL, fields, COUNT(fields));
    }
    buffer_text(out, "]}");
}

static void write_panels(struct buffer *out, const struct geometry *g)
{
    buffer_text(out, ",\"panels\":[");
    for (int panel = 0; panel < g->panels; panel++) {
        int corner[2];
        geometry_corner(g, panel, corner);
        buffer_format(out, "%s{\"corner_x_px\":%d,\"corner_y_px\":%d}", panel > 0 ? "," : "",
                      corner[0], corner[1]);
    }
    buffer_text(out, "]");
}

/* What the modes saxs and speckle show, and how bright it is at present. */
static void write_scattering(struct sim *sim, struct buffer *out)
{
    const struct saxs_config *s = &sim->config.saxs;
    const struct speckle_config *d = &sim->config.speckle;
    struct conditions now;
    double rate[CHANNEL_COUNT];
    sim_conditions(sim, sim->now, &now);
    double photons = response(&sim->config, &now, rate) * sim->detector.exposure
                     * sim->config.photons_per_count;
    const struct field saxs[] = {
        {"radius_A", s->radius_A},
        {"polydispersity", s->polydispersity},
        {"forward_per_cm", s->forward_per_cm},
        {"background_per_cm", s->background_per_cm},
        {"thickness_mm", s->thickness_mm},
        {"beam_stop_px", s->beam_stop_px},
        {"wavelength_A", HC_EV_ANGSTROM / now.energy},
        {"photons_per_frame", photons},
        {"mean_photons_per_pixel", photons * detector_mean_share(&sim->detector, now.energy)},
    };
    const struct field speckle[] = {
        {"diffusion_A2_per_s", d->diffusion_A2_per_s},
        {"contrast", d->contrast},
        {"fields", speckle_fields(d)},
    };
    write_numbers(out, "saxs", saxs, COUNT(saxs));
    buffer_text(out, ",");
    write_numbers(out, "speckle", speckle, COUNT(speckle));
}

static void write_detector(struct sim *sim, struct buffer *out)
{
    const struct geometry *g = &sim->config.geometry;
    const struct stills_config *s = &sim->config.stills;
    buffer_format(out, "\"detector\":{\"name\":\"AD1\",\"mode\":\"%s\",\"shape\":[",
                  detector_mode_names[sim->detector.mode]);
    if (g->panels > 1)
        buffer_format(out, "%d,", g->panels);
    buffer_format(out, "%d,%d]", g->ny, g->nx);
    buffer_format(out, ",\"distance_m\":%.17g,\"pixel_m\":%.17g", g->distance_m, g->pixel_m);
    buffer_format(out, ",\"beam_centre_px\":[%.17g,%.17g]", g->beam_x, g->beam_y);
    write_panels(out, g);
    /* A pixel's value is its number of photons. */
    buffer_format(out, ",\"adu_per_photon\":1,\"visibility_limit\":%.17g", s->visibility_limit);
    buffer_format(out, ",\"spot_fwhm_px\":%.17g,\"hit_probability\":%.17g", s->spot_fwhm_px,
                  s->hit_probability);
    buffer_format(out, ",\"orientation\":\"%s\",",
                  s->orientation == ORIENTATION_THETA ? "theta" : "random");
    write_scattering(sim, out);
    buffer_text(out, "}");
}

void truth_write(struct sim *sim, struct buffer *out)
{
    const struct config *c = &sim->config;
    const struct stills_config *s = &c->stills;
    const struct field beam[] = {{"fwhm_x_um", c->beam_fwhm_x_um},
                                 {"fwhm_y_um", c->beam_fwhm_y_um},
                                 {"flux_counts_per_s", c->flux_counts_per_s},
                                 {"flux_peak_eV", c->flux_peak_eV},
                                 {"photons_per_count", c->photons_per_count}};
    const struct field counters[] = {{"dark_per_s", c->dark_per_s},
                                     {"pulse_dark_per_s", c->pulse_dark_per_s},
                                     {"dead_time_s", c->dead_time_s},
                                     {"full_scale_per_s", c->full_scale_per_s},
                                     {"pulse_full_scale_per_s", c->pulse_full_scale_per_s}};
    const struct field crystal[] = {{"a", s->a}, {"b", s->b}, {"c", s->c}, {"alpha", s->alpha},
                                    {"beta", s->beta}, {"gamma", s->gamma}};
    /* 2^53 and more would lose digits as a double. */
    buffer_format(out, "{\"seed\":%llu,\"time_scale\":", (unsigned long long)c->seed);
    buffer_number(out, sim->time_scale);
    buffer_format(out, ",\"lock_step\":%s", sim->lock_step ? "true" : "false");
    buffer_text(out, ",\"prefix\":");
    buffer_json_string(out, sim->prefix);
    buffer_text(out, ",\"samples\":[");
    for (int i = 0; i < sim->sample_count; i++) {
        buffer_text(out, i > 0 ? "," : "");
        write_sample(out, &sim->samples[i]);
    }
    buffer_text(out, "],");
    write_numbers(out, "beam", beam, COUNT(beam));
    buffer_text(out, ",");
    write_numbers(out, "counters", counters, COUNT(counters));
    buffer_text(out, ",");
    write_numbers(out, "crystal", crystal, COUNT(crystal));
    buffer_text(out, ",");
    write_detector(sim, out);
    buffer_text(out, "}");
}

bool truth_write_map(const struct sample *sample, struct buffer *out)
{
    const struct sample_map *map = &sample->map;
    if (map->pixel == NULL)
        return false;
    buffer_format(out, "%d;%d;%d;", map->ny, map->nx, map->full);
    for (int i = 0; i < map->nx * map->ny; i++)
        buffer_format(out, i > 0 ? ",%d" : "%d", map->pixel[i]);
    return true;
}
