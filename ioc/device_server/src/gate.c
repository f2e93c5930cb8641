#include "gate.h"

#include <math.h>

#include "sim.h"

/* Longest time step, and the largest part of a beam, an energy (eV) or an angle (degrees) that
 * anything may move in one; a gate is never cut into more than STEPS_MAX steps. */
static const double step_s = 5.0, step_beam = 0.1, step_eV = 0.25, step_deg = 0.02, step_tilt = 0.5;
enum { STEPS_MAX = 1024 };

void gate_open(struct gate *gate, const struct sim *sim, double t)
{
    struct conditions now;
    sim_conditions(sim, t, &now);
    *gate = (struct gate){.open = true, .start = t, .until = t, .energy_first = now.energy,
                          .theta_first = now.theta,
                          .coverage_first = sample_coverage(&sim->config, &now)};
}

static int steps_needed(const struct sim *sim, double from, double to)
{
    const struct config *config = &sim->config;
    const double resolution[MOTOR_COUNT] = {
        [MOTOR_ENERGY] = step_eV,
        [MOTOR_X] = step_beam * config->beam_fwhm_x_um,
        [MOTOR_Y] = step_beam * config->beam_fwhm_y_um,
        [MOTOR_Z] = INFINITY,
        [MOTOR_THETA] = step_tilt,
        [MOTOR_TTH] = step_deg,
    };
    double steps = (to - from) / step_s;
    for (int i = 0; i < MOTOR_COUNT; i++) {
        const struct motor *motor = &sim->motors[i];
        if (!motor->moving)
            continue;
        /* Within a gate a motor may turn round: the speed limit bounds the way. */
        double way = fabs(motor_position(motor, to) - motor_position(motor, from));
        way = fmax(way, fmin((to - from), fmax(motor->profile.end - from, 0.0)) * motor->speed);
        steps = fmax(steps, way / resolution[i]);
    }
    if (shutter_next_event(&sim->shutter) < INFINITY)
        steps = fmax(steps, 32.0);
    return (int)fmin(fmax(ceil(steps), 1.0), STEPS_MAX);
}

void gate_advance(struct gate *gate, const struct sim *sim, double t)
{
    if (!gate->open || t <= gate->until)
        return;
    /* Two-point Gauss-Legendre per step: exact for cubics, and no step shares an end with the
     * next. */
    const double node = 0.21132486540518712;
    int steps = steps_needed(sim, gate->until, t);
    double width = (t - gate->until) / steps;
    for (int i = 0; i < 2 * steps; i++) {
        double at = gate->until + width * (i / 2 + (i % 2 ? 1.0 - node : node));
        struct conditions now;
        double rate[CHANNEL_COUNT];
        sim_conditions(sim, at, &now);
        gate->incident += 0.5 * width * response(&sim->config, &now, rate);
        gate->energy_excess += 0.5 * width * (now.energy - gate->energy_first);
        gate->theta_excess += 0.5 * width * (now.theta - gate->theta_first);
        gate->coverage_excess +=
            0.5 * width * (sample_coverage(&sim->config, &now) - gate->coverage_first);
        for (int c = 0; c < CHANNEL_COUNT; c++)
            gate->expected[c] += 0.5 * width * rate[c];
    }
    gate->until = t;
}

static double average(const struct gate *gate, double first, double excess)
{
    double seconds = gate->until - gate->start;
    return first + (seconds > 0.0 ? excess / seconds : 0.0);
}

double gate_energy(const struct gate *gate)
{
    return average(gate, gate->energy_first, gate->energy_excess);
}

double gate_theta(const struct gate *gate)
{
    return average(gate, gate->theta_first, gate->theta_excess);
}

double gate_coverage(const struct gate *gate)
{
    return average(gate, gate->coverage_first, gate->coverage_excess);
}
