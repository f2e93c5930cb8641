/* Trapezoidal motion of an axis as pieces of constant acceleration: an analytic function of time. */
#ifndef BEAMLINE_PROFILE_H
#define BEAMLINE_PROFILE_H

enum { PROFILE_PIECES = 10 };

struct profile_piece {
    double start; /* s */
    double position, velocity; /* at start */
    double acceleration;       /* throughout */
};

struct profile {
    struct profile_piece piece[PROFILE_PIECES];
    int count;
    double end;   /* s: at rest from here on */
    double final; /* position at rest */
};

/* At rest at `position` from time `t` on. */
void profile_hold(struct profile *profile, double t, double position);

/* Forget the future: keep the position and velocity that the axis has at time `t`, and go to
 * `target` from there, braking first if it must turn round or would overshoot. `speed` and
 * `acceleration` are positive. */
void profile_go(struct profile *profile, double t, double target, double speed,
                double acceleration);

/* Append another move after the end of the present ones. */
void profile_then(struct profile *profile, double target, double speed, double acceleration);

/* Brake to rest from what the axis does at time `t`. */
void profile_brake(struct profile *profile, double t, double acceleration);

/* First time from `t` on at which the profile passes `position` upwards (downwards if `sign` is
 * negative), coming from the other side; infinity if it never does. */
double profile_crossing(const struct profile *profile, double t, double position, double sign);

double profile_position(const struct profile *profile, double t);
double profile_velocity(const struct profile *profile, double t);

#endif
