#include "profile.h"

#include <math.h>
#include <stdbool.h>

static const struct profile_piece *piece_at(const struct profile *profile, double t)
{
    int i = profile->count - 1;
    while (i > 0 && profile->piece[i].start > t)
        i--;
    return &profile->piece[i];
}

double profile_position(const struct profile *profile, double t)
{
    if (profile->count == 0 || t >= profile->end)
        return profile->final;
    const struct profile_piece *p = piece_at(profile, t);
    double dt = fmax(t - p->start, 0.0);
    return p->position + dt * (p->velocity + 0.5 * p->acceleration * dt);
}

double profile_velocity(const struct profile *profile, double t)
{
    if (profile->count == 0 || t >= profile->end)
        return 0.0;
    const struct profile_piece *p = piece_at(profile, t);
    return p->velocity + p->acceleration * fmax(t - p->start, 0.0);
}

void profile_hold(struct profile *profile, double t, double position)
{
    profile->count = 0;
    profile->end = t;
    profile->final = position;
}

static void add(struct profile *profile, double position, double velocity, double acceleration,
                double duration)
{
    if (duration <= 0.0 || profile->count == PROFILE_PIECES)
        return;
    profile->piece[profile->count++] =
        (struct profile_piece){profile->end, position, velocity, acceleration};
    profile->end += duration;
}

/* Append a trapezoid from `position`, moving at `velocity` towards `target` or at rest, where the
 * target is no nearer than the braking distance. */
static void trapezoid(struct profile *profile, double position, double velocity, double target,
                      double speed, double acceleration)
{
    double sign = target < position ? -1.0 : 1.0;
    double distance = fabs(target - position);
    double first = fabs(velocity);
    double peak = fmin(speed, sqrt(acceleration * distance + 0.5 * first * first));
    double ramp = first < peak ? acceleration : -acceleration;
    double t1 = fabs(peak - first) / acceleration;
    double d1 = 0.5 * (first + peak) * t1;
    double t3 = peak / acceleration;
    double d3 = 0.5 * peak * t3;
    double d2 = fmax(distance - d1 - d3, 0.0);
    add(profile, position, sign * first, sign * ramp, t1);
    if (peak > 0.0)
        add(profile, position + sign * d1, sign * peak, 0.0, d2 / peak);
    add(profile, position + sign * (d1 + d2), sign * peak, -sign * acceleration, t3);
    profile->final = target;
}

void profile_go(struct profile *profile, double t, double target, double speed,
                double acceleration)
{
    double position = profile_position(profile, t);
    double velocity = profile_velocity(profile, t);
    double braking = 0.5 * velocity * velocity / acceleration;
    double ahead = velocity < 0.0 ? position - target : target - position;
    profile_hold(profile, t, position);
    if (velocity != 0.0 && ahead < braking) {
        double sign = velocity < 0.0 ? -1.0 : 1.0;
        add(profile, position, velocity, -sign * acceleration, fabs(velocity) / acceleration);
        position += sign * braking;
        velocity = 0.0;
    }
    trapezoid(profile, position, velocity, target, speed, acceleration);
}

void profile_then(struct profile *profile, double target, double speed, double acceleration)
{
    trapezoid(profile, profile->final, 0.0, target, speed, acceleration);
}

void profile_brake(struct profile *profile, double t, double acceleration)
{
    double position = profile_position(profile, t);
    double velocity = profile_velocity(profile, t);
    double sign = velocity < 0.0 ? -1.0 : 1.0;
    profile_hold(profile, t, position);
    add(profile, position, velocity, -sign * acceleration, fabs(velocity) / acceleration);
    profile->final = position + sign * 0.5 * velocity * velocity / acceleration;
}

/* The root of a t^2 / 2 + b t + c in [low, high] at which the polynomial rises; NaN: none. */
static double rising_root(double a, double b, double c, double low, double high)
{
    double square = b * b - 2.0 * a * c;
    if (square < 0.0)
        return NAN;
    /* There its slope is sqrt(square). Of the two forms of the root, the one that loses no digits. */
    double slope = sqrt(square);
    double root = b < 0.0 ? (slope - b) / a : -2.0 * c / (b + slope);
    return root >= low && root <= high ? root : NAN;
}

double profile_crossing(const struct profile *profile, double t, double position, double sign)
{
    bool before = false;
    for (int i = 0; i < profile->count; i++) {
        const struct profile_piece *p = &profile->piece[i];
        double end = i + 1 < profile->count ? profile->piece[i + 1].start : profile->end;
        double a = sign * p->acceleration, b = sign * p->velocity;
        double c = sign * (p->position - position);
        double low = fmax(t - p->start, 0.0), high = end - p->start;
        if (high < low)
            continue;
        /* Just where two pieces meet, rounding may leave the root in neither. */
        if (before && c + low * (b + 0.5 * a * low) >= 0.0)
            return p->start + low;
        double root = rising_root(a, b, c, low, high);
        if (!isnan(root))
            return fmax(p->start + root, t);
        before = c + high * (b + 0.5 * a * high) < 0.0;
    }
    return before && sign * (profile->final - position) >= 0.0 ? profile->end : INFINITY;
}
