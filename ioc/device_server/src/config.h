/* Settings of the simulated physics, defaults, and the `key = value` file to change them. */
#ifndef BEAMLINE_CONFIG_H
#define BEAMLINE_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "geometry.h"
#include "saxs.h"
#include "speckle.h"
#include "stills.h"

enum { MESSAGE_MAX = 512, SAMPLES_MAX = 16, PREFIX_MAX = 32 };

struct config {
    uint64_t seed;
    double ring_max_mA, ring_min_mA, ring_lifetime_h, ring_fill_mA_per_s;
    double flux_counts_per_s; /* I0 at ring_max_mA and flux_peak_eV, no attenuator */
    double flux_peak_eV;
    double photons_per_count; /* photons behind one count of I0 */
    double beam_fwhm_x_um, beam_fwhm_y_um;
    double dark_per_s, full_scale_per_s;                         /* ion chambers */
    double pulse_dark_per_s, dead_time_s, pulse_full_scale_per_s; /* DET:IF, DET:XRD */
    double fluorescence_yield; /* counts of IF per count of I0 absorbed by the edge */
    double xrd_yield;          /* counts of XRD per count of I0 on the strongest reflection */
    double xrd_background;     /* the same, between reflections */
    double xrd_fwhm_deg;
    double shutter_travel_s, motor_settle_s;
    /* Placement of every sample; NaN leaves what its table says. */
    double sample_x_um, sample_y_um, sample_width_um, sample_height_um;
    double stalled_axis; /* number of a motor that does not move; -1: none */
    double frame_queue;  /* frames held for a consumer that is behind */
    double client_patience_s; /* until a client that reads nothing is disconnected */
    struct geometry geometry; /* of the area detector */
    struct stills_config stills;
    struct saxs_config saxs;
    struct speckle_config speckle;
};

void config_default(struct config *config);

/* Read a file over `config`. On failure returns false, with one sentence in `message`. */
bool config_load(struct config *config, const char *path, char message[MESSAGE_MAX]);

/* Combinations that no single key shows; NULL if the settings can be simulated. */
const char *config_check(const struct config *config);

#endif
