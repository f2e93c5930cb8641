/* An open gate: expectations integrated while motors move, the shutter travels and the ring
 * decays. */
#ifndef BEAMLINE_GATE_H
#define BEAMLINE_GATE_H

#include <stdbool.h>

#include "response.h"

struct sim;

struct gate {
    bool open;
    double start, until; /* integrated from start so far until here, s */
    double expected[CHANNEL_COUNT];
    double incident;     /* counts of I0 without dark */
    double energy_first, energy_excess; /* eV; eV s above the first */
    double theta_first, theta_excess;   /* of the sample: degrees; degrees s */
    double coverage_first, coverage_excess; /* 0 to 1; s */
};

void gate_open(struct gate *gate, const struct sim *sim, double t);
/* Integrate up to `t` under the conditions that hold since `until`. Must be called before anything
 * that the conditions depend on changes at `t`. */
void gate_advance(struct gate *gate, const struct sim *sim, double t);
/* Time-averaged energy and angle of the sample, exact while they do not change. */
double gate_energy(const struct gate *gate);
double gate_theta(const struct gate *gate);
/* The same of the relative thickness of the sample in the beam (sample_coverage). */
double gate_coverage(const struct gate *gate);

#endif
