#include "motor.h"

#include <math.h>

#include "constants.h"

const struct motor_spec motor_specs[MOTOR_COUNT] = {
    [MOTOR_ENERGY] = {"MONO:ENERGY", "eV", 4000, 20000, 9000, 500, 5000, 0.1, true},
    [MOTOR_X] = {"SAMPLE:X", "um", -10000, 10000, 0, 2000, 20000, 0.1, false},
    [MOTOR_Y] = {"SAMPLE:Y", "um", -10000, 10000, 0, 2000, 20000, 0.1, false},
    [MOTOR_Z] = {"SAMPLE:Z", "um", -5000, 5000, 0, 2000, 20000, 0.1, false},
    [MOTOR_THETA] = {"SAMPLE:THETA", "deg", -180, 180, 0, 20, 200, 0.1, false},
    [MOTOR_TTH] = {"DET:TTH", "deg", -5, 150, 0, 20, 200, 0.1, false},
};

/* Bits of MSTA, EPICS motor record. */
enum {
    MSTA_PLUS = 1 << 0, MSTA_DONE = 1 << 1, MSTA_HIGH_LIMIT = 1 << 2,
    MSTA_STALL = 1 << 6, MSTA_ENCODER = 1 << 8, MSTA_PROBLEM = 1 << 9, MSTA_MOVING = 1 << 10,
    MSTA_LOW_LIMIT = 1 << 13
};

/* An axis that does not follow is given up after this time (s); a limit switch brakes it this many
 * times harder than usual. */
static const double following_error_s = 0.2, limit_braking = 5.0;

double bragg_angle(double energy)
{
    return asin(HC_EV_ANGSTROM / (2.0 * SI111_ANGSTROM * energy)) / DEGREE;
}

double bragg_energy(double angle)
{
    return HC_EV_ANGSTROM / (2.0 * SI111_ANGSTROM * sin(angle * DEGREE));
}

double motor_to_axis(const struct motor *motor, double position)
{
    return motor->spec->bragg ? bragg_angle(position) : position;
}

double motor_to_user(const struct motor *motor, double axis)
{
    return motor->spec->bragg ? bragg_energy(axis) : axis;
}

void motor_init(struct motor *motor, enum motor_axis axis, double settle)
{
    const struct motor_spec *spec = &motor_specs[axis];
    *motor = (struct motor){
        .spec = spec,
        .low = spec->low, .high = spec->high,
        .speed = spec->speed, .acceleration_time = spec->acceleration_time,
        .settle = settle,
        .setpoint = spec->initial, .rest = spec->initial,
        .forward = true,
        .trip = INFINITY,
    };
    profile_hold(&motor->profile, 0.0, motor_to_axis(motor, spec->initial));
}

/* Axis speed at which a move from `from` to `to` cruises: VELO, as a mean over the way. */
static double axis_speed(const struct motor *motor, double from, double to)
{
    if (!motor->spec->bragg)
        return motor->speed;
    double middle = 0.5 * (from + to);
    if (fabs(to - from) < 1e-6 * middle) /* where the quotient below loses digits */
        return motor->speed * tan(bragg_angle(middle) * DEGREE) / middle / DEGREE;
    return motor->speed * fabs((bragg_angle(to) - bragg_angle(from)) / (to - from));
}

double motor_ramp_time(const struct motor *motor)
{
    return fmax(motor->acceleration_time, 1e-3);
}

static double axis_acceleration(const struct motor *motor, double speed)
{
    return speed / motor_ramp_time(motor);
}

static bool on_switch(const struct motor *motor, double position)
{
    return motor->defect == AXIS_LIMIT && motor->switch_side != 0
           && motor->switch_side * (position - motor->switch_at) >= 0.0;
}

static void place_switch(struct motor *motor, double from, double to)
{
    if (motor->defect != AXIS_LIMIT || motor->switch_side != 0 || from == to)
        return;
    motor->switch_at = 0.5 * (from + to);
    motor->switch_side = to > from ? 1 : -1;
}

/* See whether the motion from `t` on closes the misplaced switch. */
static void foresee_trip(struct motor *motor, double t)
{
    motor->trip = INFINITY;
    if (motor->defect != AXIS_LIMIT || motor->switch_side == 0)
        return;
    double sign = motor->spec->bragg ? -motor->switch_side : motor->switch_side;
    motor->trip = profile_crossing(&motor->profile, t, motor_to_axis(motor, motor->switch_at), sign);
}

static void brake(struct motor *motor, double t, double acceleration)
{
    profile_brake(&motor->profile, t, acceleration);
    motor->rest = motor_to_user(motor, motor->profile.final);
    motor->finish = motor->profile.end + motor->settle;
    foresee_trip(motor, t);
}

/* The axis does not follow any more: it stands at once, and the controller has yet to notice. */
static void jam(struct motor *motor, double t)
{
    motor->rest = motor_position(motor, t);
    profile_hold(&motor->profile, t, motor_to_axis(motor, motor->rest));
    motor->finish = t + (motor->rest != motor->setpoint ? motor->patience : motor->settle);
}

static void drive(struct motor *motor, double t, double from, double first, double target)
{
    double speed = axis_speed(motor, from, first);
    motor->acceleration = axis_acceleration(motor, speed);
    profile_go(&motor->profile, t, motor_to_axis(motor, first), speed, motor->acceleration);
    if (first != target) {
        speed = axis_speed(motor, first, target);
        profile_then(&motor->profile, motor_to_axis(motor, target), speed,
                     axis_acceleration(motor, speed));
    }
    motor->rest = target;
    motor->finish = motor->profile.end + motor->settle;
    foresee_trip(motor, t);
}

enum motor_reply motor_move(struct motor *motor, double t, double target)
{
    if (!(target >= motor->low && target <= motor->high))
        return MOTOR_LIMIT;
    if (motor->stalled || motor->defect == AXIS_ENCODER)
        return MOTOR_FAULT;
    double from = motor_position(motor, t);
    double by = target - from;
    bool approach = motor->backlash != 0.0 && by * motor->backlash < 0.0;
    double first = approach ? target - motor->backlash : target;
    if (on_switch(motor, from) && motor->switch_side * (first - from) > 0.0)
        return MOTOR_FAULT;
    place_switch(motor, from, target);
    motor->setpoint = target;
    motor->forward = by >= 0.0;
    motor->moving = true;
    if (motor->defect == AXIS_STUCK)
        jam(motor, t);
    else
        drive(motor, t, from, first, target);
    return MOTOR_OK;
}

void motor_stop(struct motor *motor, double t)
{
    if (!motor->moving)
        return;
    if (t < motor->profile.end)
        brake(motor, t, motor->acceleration);
    else
        motor->finish = fmin(motor->finish, t + motor->settle);
    motor->setpoint = motor->rest;
}

void motor_sweep(struct motor *motor, double t, double axis, double speed)
{
    double from = profile_position(&motor->profile, t);
    motor->setpoint = motor_to_user(motor, axis);
    motor->forward = (axis >= from) != motor->spec->bragg;
    motor->moving = true;
    if (motor->defect == AXIS_STUCK) {
        jam(motor, t);
        return;
    }
    motor->acceleration = axis_acceleration(motor, speed);
    profile_go(&motor->profile, t, axis, speed, motor->acceleration);
    motor->rest = motor->setpoint;
    motor->finish = motor->profile.end + motor->settle;
    place_switch(motor, motor_to_user(motor, from), motor->setpoint);
    foresee_trip(motor, t);
}

double motor_next_event(const struct motor *motor)
{
    return motor->moving ? fmin(motor->finish, motor->trip) : INFINITY;
}

void motor_event(struct motor *motor, double t)
{
    if (motor->trip <= t) {
        brake(motor, t, limit_braking * motor->acceleration);
        motor->trip = INFINITY;
        return;
    }
    motor->moving = false;
    motor->stalled = motor->defect == AXIS_STUCK && motor->rest != motor->setpoint;
}

void motor_break(struct motor *motor, double t, enum motor_defect defect, double number)
{
    double here = motor_position(motor, t);
    motor->shown = motor_readback(motor, t);
    motor->defect = defect;
    motor->stalled = false;
    motor->trip = INFINITY;
    motor->patience = isnan(number) ? following_error_s : number;
    motor->switch_at = number;
    motor->switch_side = isnan(number) ? 0 : number > here ? 1 : -1;
    if (!motor->moving)
        return;
    if (defect == AXIS_STUCK)
        jam(motor, t);
    else if (defect == AXIS_ENCODER && t < motor->profile.end)
        brake(motor, t, motor->acceleration);
    place_switch(motor, here, motor->setpoint);
    foresee_trip(motor, t);
}

bool motor_faulty(const struct motor *motor, double t)
{
    return motor->stalled || motor->defect == AXIS_ENCODER
           || on_switch(motor, motor_position(motor, t));
}

double motor_position(const struct motor *motor, double t)
{
    /* At rest it is where it was sent, without the rounding of the way through the angle. */
    if (t >= motor->profile.end)
        return motor->rest;
    return motor_to_user(motor, profile_position(&motor->profile, t));
}

static bool encoder_silent(const struct motor *motor)
{
    return motor->defect == AXIS_ENCODER || motor->defect == AXIS_FROZEN;
}

double motor_readback(const struct motor *motor, double t)
{
    return encoder_silent(motor) ? motor->shown : motor_position(motor, t);
}

double motor_axis_readback(const struct motor *motor, double t)
{
    return encoder_silent(motor) ? motor_to_axis(motor, motor->shown)
                                 : profile_position(&motor->profile, t);
}

/* The switches lie a hundredth of the travel beyond the range of the soft limits. */
static double switch_margin(const struct motor *motor)
{
    return 0.01 * (motor->spec->high - motor->spec->low);
}

bool motor_at_high_limit(const struct motor *motor, double t)
{
    double position = motor_position(motor, t);
    return position >= motor->spec->high + switch_margin(motor)
           || (motor->switch_side > 0 && on_switch(motor, position));
}

bool motor_at_low_limit(const struct motor *motor, double t)
{
    double position = motor_position(motor, t);
    return position <= motor->spec->low - switch_margin(motor)
           || (motor->switch_side < 0 && on_switch(motor, position));
}

unsigned motor_status_word(const struct motor *motor, double t)
{
    return (motor->forward ? MSTA_PLUS : 0u) | (motor->moving ? MSTA_MOVING : MSTA_DONE)
           | (motor_at_high_limit(motor, t) ? MSTA_HIGH_LIMIT : 0u)
           | (motor_at_low_limit(motor, t) ? MSTA_LOW_LIMIT : 0u)
           | (motor->defect == AXIS_ENCODER ? MSTA_PROBLEM : MSTA_ENCODER)
           | (motor->stalled ? MSTA_STALL | MSTA_PROBLEM : 0u);
}
