/* The beam on its way to the sample: storage ring, flux curve, shutter, attenuator; and the slow
 * quantities of the hall. All are analytic functions of simulated time. */
#ifndef BEAMLINE_BEAM_H
#define BEAMLINE_BEAM_H

#include <stdbool.h>

#include "config.h"

struct ring {
    bool dumped;
    double full; /* when the refill behind the last dump is over; from then on it decays, s */
};

struct shutter {
    bool command;     /* where it was sent: true is open */
    bool open;        /* the state reported: changes when the blade arrives */
    double fraction;  /* open fraction at `since` */
    double since, travel;
};

/* Ring current in mA at time t: exponential decay from the maximum, and a refill at constant speed
 * whenever the minimum is reached. After a beam dump there is none until that is mended, and then
 * the same refill starts from 0. */
double ring_current(const struct ring *ring, const struct config *config, double t);
/* As the current monitor shows it: in steps of 1 µA. */
double ring_reading(const struct ring *ring, const struct config *config, double t);

/* Dump the beam at time `t`, or let it come back. */
void ring_break(struct ring *ring, const struct config *config, double t, bool dumped);

/* Intensity at an energy relative to the curve's maximum, flux_peak_eV. */
double flux_curve(const struct config *config, double energy);

void shutter_init(struct shutter *shutter, double travel);
void shutter_send(struct shutter *shutter, double t, bool open);
double shutter_fraction(const struct shutter *shutter, double t);
/* When the blade arrives (infinity: it rests); call shutter_arrive then. */
double shutter_next_event(const struct shutter *shutter);
void shutter_arrive(struct shutter *shutter);

/* mbar, within 1e-10 to 1e-8; degC, within 20 to 26. New values once a simulated second. */
double vacuum_pressure(const struct config *config, double t);
double hutch_temperature(const struct config *config, double t);

#endif
