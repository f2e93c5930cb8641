#include "config.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text.h"

struct key {
    const char *name;
    size_t offset;
    double low, high;
    bool integer;  /* kept in an int */
    const char *const *words; /* the value is one of these, kept as its place in an int; or NULL */
};

static const double frame_queue_max = 1073741824.0, speckle_bytes_max = 2147483648.0;

#define NUMBER(field, low, high) {#field, offsetof(struct config, field), low, high, false, NULL}
#define STILLS(name, field, low, high) \
    {name, offsetof(struct config, stills.field), low, high, false, NULL}
#define SAXS(name, field, low, high) \
    {name, offsetof(struct config, saxs.field), low, high, false, NULL}
#define SPECKLE(name, field, low, high) \
    {name, offsetof(struct config, speckle.field), low, high, false, NULL}
#define GEOMETRY(name, field, low, high) \
    {name, offsetof(struct config, geometry.field), low, high, false, NULL}
#define GEOMETRY_INT(name, field, low, high) \
    {name, offsetof(struct config, geometry.field), low, high, true, NULL}

static const char *const orientations[] = {
    [ORIENTATION_RANDOM] = "random", [ORIENTATION_THETA] = "theta", NULL,
};

static const struct key keys[] = {
    NUMBER(ring_max_mA, 1, 1000),
    NUMBER(ring_min_mA, 0.5, 1000),
    NUMBER(ring_lifetime_h, 1e-3, 1e6),
    NUMBER(ring_fill_mA_per_s, 1e-3, 1e6),
    NUMBER(flux_counts_per_s, 1, 1e12),
    NUMBER(flux_peak_eV, 1000, 100000),
    NUMBER(photons_per_count, 1e-3, 1e12),
    NUMBER(beam_fwhm_x_um, 0.01, 10000),
    NUMBER(beam_fwhm_y_um, 0.01, 10000),
    NUMBER(dark_per_s, 0, 1e9),
    NUMBER(full_scale_per_s, 1, 1e15),
    NUMBER(pulse_dark_per_s, 0, 1e9),
    NUMBER(dead_time_s, 0, 1e-3),
    NUMBER(pulse_full_scale_per_s, 1, 1e15),
    NUMBER(fluorescence_yield, 0, 1),
    NUMBER(xrd_yield, 0, 1),
    NUMBER(xrd_background, 0, 1),
    NUMBER(xrd_fwhm_deg, 1e-3, 10),
    NUMBER(shutter_travel_s, 0, 10),
    NUMBER(motor_settle_s, 1e-4, 10),
    NUMBER(sample_x_um, -1e6, 1e6),
    NUMBER(sample_y_um, -1e6, 1e6),
    NUMBER(sample_width_um, 0.1, 1e6),
    NUMBER(sample_height_um, 0.1, 1e6),
    NUMBER(stalled_axis, -1, 5),
    NUMBER(frame_queue, 1, 1024),
    NUMBER(client_patience_s, 0.01, 1e6),
    STILLS("cell_a_A", a, 2, 1000),
    STILLS("cell_b_A", b, 2, 1000),
    STILLS("cell_c_A", c, 2, 1000),
    STILLS("cell_alpha_deg", alpha, 20, 160),
    STILLS("cell_beta_deg", beta, 20, 160),
    STILLS("cell_gamma_deg", gamma, 20, 160),
    STILLS("resolution_A", resolution, 0.5, 100),
    STILLS("low_resolution_A", low_resolution, 0.5, 1e6),
    STILLS("b_factor_A2", b_factor, 0, 1000),
    STILLS("profile_radius_per_A", profile_radius, 1e-6, 0.01),
    STILLS("mosaicity_deg", mosaicity, 0, 5),
    STILLS("hit_probability", hit_probability, 0, 1),
    {"orientation", offsetof(struct config, stills.orientation), 0, 0, true, orientations},
    GEOMETRY("detector_distance_m", distance_m, 1e-3, 100),
    GEOMETRY("pixel_size_m", pixel_m, 1e-7, 0.01),
    GEOMETRY_INT("detector_nx", nx, 1, 4096),
    GEOMETRY_INT("detector_ny", ny, 1, 4096),
    GEOMETRY_INT("detector_panels", panels, 1, 256),
    GEOMETRY_INT("panel_gap_px", gap_px, 0, 4096),
    GEOMETRY("beam_centre_x_px", beam_x, -1e5, 1e5),
    GEOMETRY("beam_centre_y_px", beam_y, -1e5, 1e5),
    STILLS("nominal_photons", nominal_photons, 1, 1e18),
    STILLS("spot_photons", spot_photons, 0, 1e9),
    STILLS("background_photons", background_photons, 0, 1e6),
    STILLS("spot_fwhm_px", spot_fwhm_px, 0.2, 15),
    SAXS("saxs_radius_A", radius_A, 1, 1e5),
    SAXS("saxs_polydispersity", polydispersity, 0, 0.24),
    SAXS("saxs_forward_per_cm", forward_per_cm, 0, 1e6),
    SAXS("saxs_background_per_cm", background_per_cm, 0, 1e6),
    SAXS("saxs_thickness_mm", thickness_mm, 1e-6, 100),
    SAXS("beam_stop_px", beam_stop_px, 0, 1e4),
    SPECKLE("diffusion_A2_per_s", diffusion_A2_per_s, 1e-9, 1e15),
    SPECKLE("speckle_contrast", contrast, 0.05, 1),
    STILLS("visibility_limit", visibility_limit, 0, 1e9),
};

void config_default(struct config *config)
{
    *config = (struct config){
        .seed = 1,
        .ring_max_mA = 400, .ring_min_mA = 350, .ring_lifetime_h = 10, .ring_fill_mA_per_s = 2,
        .flux_counts_per_s = 2e7, .flux_peak_eV = 9000, .photons_per_count = 5e4,
        .beam_fwhm_x_um = 50, .beam_fwhm_y_um = 50,
        .dark_per_s = 200, .full_scale_per_s = 1e8,
        .pulse_dark_per_s = 5, .dead_time_s = 200e-9, .pulse_full_scale_per_s = 4e6,
        .fluorescence_yield = 0.02,
        .xrd_yield = 0.005, .xrd_background = 2e-5, .xrd_fwhm_deg = 0.1,
        .shutter_travel_s = 0.1, .motor_settle_s = 0.002,
        .sample_x_um = NAN, .sample_y_um = NAN, .sample_width_um = NAN, .sample_height_um = NAN,
        .stalled_axis = -1,
        .frame_queue = 8,
        .client_patience_s = 5,
    };
    geometry_default(&config->geometry);
    stills_default(&config->stills);
    saxs_default(&config->saxs);
    speckle_default(&config->speckle);
}

/* Take one of the words that a key may have; false with all of them in `why`. */
static bool take_word(const struct key *key, const char *text, int *field,
                      char why[MESSAGE_MAX])
{
    int length = snprintf(why, MESSAGE_MAX, "%s must be", key->name);
    for (int i = 0; key->words[i] != NULL; i++) {
        if (strcmp(key->words[i], text) == 0) {
            *field = i;
            return true;
        }
        length += snprintf(why + length, MESSAGE_MAX - (size_t)length, "%s %s", i > 0 ? " or" : "",
                           key->words[i]);
    }
    snprintf(why + length, MESSAGE_MAX - (size_t)length, ", found '%.80s'", text);
    return false;
}

static bool take_value(struct config *config, const struct key *key, const char *text,
                       char why[MESSAGE_MAX])
{
    void *field = (char *)config + key->offset;
    double value;
    if (key->words != NULL)
        return take_word(key, text, field, why);
    if (!parse_number(text, &value) || !(value >= key->low && value <= key->high)
        || (key->integer && value != floor(value))) {
        snprintf(why, MESSAGE_MAX, "%s must be %s from %g to %g, found '%.80s'", key->name,
                 key->integer ? "a whole number" : "a number", key->low, key->high, text);
        return false;
    }
    if (key->integer)
        *(int *)field = (int)value;
    else
        *(double *)field = value;
    return true;
}

/* Apply one line without its comment; false with the reason in `why`. */
static bool apply(struct config *config, char *line, char why[MESSAGE_MAX])
{
    char *equals = strchr(line, '=');
    if (equals == NULL) {
        snprintf(why, MESSAGE_MAX, "expected 'key = value', found '%.80s'", line);
        return false;
    }
    *equals = '\0';
    const char *name = trim_space(line), *text = trim_space(equals + 1);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (strcmp(keys[i].name, name) == 0)
            return take_value(config, &keys[i], text, why);
    snprintf(why, MESSAGE_MAX, "unknown key '%.80s'; docs/protocol.md lists the keys", name);
    return false;
}

bool config_load(struct config *config, const char *path, char message[MESSAGE_MAX])
{
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        snprintf(message, MESSAGE_MAX, "cannot read the configuration %.200s: %s.", path,
                 strerror(errno));
        return false;
    }
    char *line = NULL, why[MESSAGE_MAX];
    size_t capacity = 0;
    bool good = true;
    for (int number = 1; good && getline(&line, &capacity, file) >= 0; number++) {
        line[strcspn(line, "#")] = '\0';
        char *content = trim_space(line);
        if (*content != '\0' && !apply(config, content, why)) {
            snprintf(message, MESSAGE_MAX, "line %d of the configuration %.150s is wrong: %.250s.",
                     number, path, why);
            good = false;
        }
    }
    if (good && ferror(file)) {
        snprintf(message, MESSAGE_MAX, "cannot read the configuration %.200s: %s.", path,
                 strerror(errno));
        good = false;
    }
    free(line);
    fclose(file);
    return good;
}

const char *config_check(const struct config *config)
{
    if (config->ring_min_mA >= config->ring_max_mA)
        return "ring_min_mA must be below ring_max_mA";
    if (config->stalled_axis != floor(config->stalled_axis))
        return "stalled_axis must be a whole number: 0 for MONO:ENERGY to 5 for DET:TTH";
    struct geometry geometry = config->geometry;
    geometry_complete(&geometry);
    const char *wrong = geometry_check(&geometry);
    if (wrong != NULL)
        return wrong;
    double frame = 2.0 * (double)geometry_pixels(&geometry);
    if (config->frame_queue * frame > frame_queue_max)
        return "frame_queue must hold at most 1 GiB of frames";
    if ((double)geometry_pixels(&geometry) * (double)speckle_pixel_bytes(&config->speckle)
        > speckle_bytes_max)
        return "speckle_contrast must be higher, or the detector smaller: the fields of all pixels "
               "must fit into 2 GiB";
    return stills_check(&config->stills);
}
