/* Motors: limits, speeds, backlash and settling over a trapezoidal profile.
 *
 * Positions are in user units. The monochromator moves a Bragg angle, so its energy follows
 * E = hc / (2 d sin theta) along the way; VELO is then the mean speed in eV/s of a move's cruise. */
#ifndef BEAMLINE_MOTOR_H
#define BEAMLINE_MOTOR_H

#include <stdbool.h>

#include "profile.h"

enum motor_axis {
    MOTOR_ENERGY, MOTOR_X, MOTOR_Y, MOTOR_Z, MOTOR_THETA, MOTOR_TTH, MOTOR_COUNT
};

struct motor_spec {
    const char *name, *unit;
    double low, high; /* widest soft limits */
    double initial;
    double speed, speed_max;
    double acceleration_time; /* s from rest to full speed */
    bool bragg;
};

extern const struct motor_spec motor_specs[MOTOR_COUNT];

/* What can be broken about an axis. */
enum motor_defect { AXIS_SOUND, AXIS_STUCK, AXIS_LIMIT, AXIS_ENCODER, AXIS_FROZEN };

struct motor {
    const struct motor_spec *spec;
    double low, high;         /* soft limits */
    double speed;             /* units/s */
    double acceleration_time; /* s */
    double backlash;          /* approach from this side; 0: no correction */
    double settle;            /* s at rest before a move counts as done */
    double setpoint;
    double rest;              /* where it stands once the profile has ended */
    bool moving;
    bool forward;             /* direction of the last move */
    bool stalled;             /* has given up: refuses to move */
    double finish;            /* when `moving` ends */
    double trip;              /* when the move runs into a closing limit switch; infinity: never */
    enum motor_defect defect;
    double patience;          /* s of following error until the axis gives up (AXIS_STUCK) */
    double switch_at;         /* where the misplaced limit switch closes (AXIS_LIMIT) */
    int switch_side;          /* +1 high, -1 low; 0: to be placed by the next move */
    double shown;             /* the readback that stays (AXIS_ENCODER, AXIS_FROZEN) */
    double acceleration;      /* of the present move, axis units/s^2 */
    struct profile profile;   /* in axis units: degrees of Bragg angle, or user units */
};

enum motor_reply { MOTOR_OK, MOTOR_LIMIT, MOTOR_FAULT };

void motor_init(struct motor *motor, enum motor_axis axis, double settle);

/* Start or redirect a move at time `t`. */
enum motor_reply motor_move(struct motor *motor, double t, double target);
/* Brake; the setpoint becomes the place where the axis comes to rest. */
void motor_stop(struct motor *motor, double t);

/* Go to `axis` at `speed`, both in axis units and within the limits: the caller has looked. */
void motor_sweep(struct motor *motor, double t, double axis, double speed);

/* When the motor's state changes next (infinity: never); call motor_event then. */
double motor_next_event(const struct motor *motor);
void motor_event(struct motor *motor, double t);

/* Break the axis in one way, or mend it (AXIS_SOUND). `number`, NaN where none is given, is the
 * patience (s) of a stuck axis or the place of the limit switch. */
void motor_break(struct motor *motor, double t, enum motor_defect defect, double number);
/* Stalled, without its encoder or on a misplaced limit switch. */
bool motor_faulty(const struct motor *motor, double t);

/* Where the axis is, and where its encoder says it is. */
double motor_position(const struct motor *motor, double t);
double motor_readback(const struct motor *motor, double t);
/* The readback of the Bragg axis in degrees; the readback itself for other motors. */
double motor_axis_readback(const struct motor *motor, double t);
/* Between user units and axis units. */
double motor_to_axis(const struct motor *motor, double position);
double motor_to_user(const struct motor *motor, double axis);
/* s from rest to full speed. */
double motor_ramp_time(const struct motor *motor);
/* Limit switches, and the status word of the EPICS motor record (MSTA). */
bool motor_at_high_limit(const struct motor *motor, double t);
bool motor_at_low_limit(const struct motor *motor, double t);
unsigned motor_status_word(const struct motor *motor, double t);

/* Si(111): energy in eV, angle in degrees. */
double bragg_angle(double energy);
double bragg_energy(double angle);

#endif
