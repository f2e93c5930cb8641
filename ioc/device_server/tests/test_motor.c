/* Motion: smooth, within speed and acceleration, and it arrives. */
#include "../src/motor.h"
#include "../src/rng.h"
#include "check.h"

static double duration(double distance, double speed, double ramp)
{
    double acceleration = speed / ramp;
    return distance >= speed * ramp ? distance / speed + ramp : 2 * sqrt(distance / acceleration);
}

static void test_duration_of_a_move(void)
{
    const double distances[] = {0.01, 1, 100, 5000};
    for (size_t i = 0; i < sizeof distances / sizeof *distances; i++) {
        struct motor m;
        motor_init(&m, MOTOR_X, 0.002);
        CHECK(motor_move(&m, 10.0, -distances[i]) == MOTOR_OK, "refused");
        double expected = duration(distances[i], m.speed, m.acceleration_time);
        CHECK_NEAR(m.profile.end - 10.0, expected, 1e-9 * (1 + expected));
        CHECK_NEAR(motor_next_event(&m) - m.profile.end, 0.002, 1e-12);
        CHECK_NEAR(motor_position(&m, 10.0 + expected / 2), -distances[i] / 2, 1e-6);
        CHECK(m.moving && motor_position(&m, m.finish) == -distances[i], "does not arrive");
        motor_event(&m, m.finish);
        CHECK(!m.moving && isinf(motor_next_event(&m)), "still moving");
    }
}

/* Redirect, stop and slow down at random; position and speed must never jump. */
static void test_motion_is_smooth(enum motor_axis axis, double backlash)
{
    struct motor m;
    struct rng rng;
    rng_seed(&rng, 5, (uint64_t)axis);
    motor_init(&m, axis, 0.002);
    m.backlash = backlash;
    const struct motor_spec *spec = m.spec;
    double t = 0, dt = 1e-3, last = spec->initial, speed = 0;
    /* In user units a Bragg axis is up to this much faster at the high end than on the average. */
    double fast = spec->bragg ? 8 * spec->speed_max : spec->speed_max;
    for (int i = 0; i < 60000; i++) {
        uint64_t dice = rng_next(&rng) % 4000;
        if (dice < 8) {
            double span = rng_uniform(&rng) < 0.5 ? spec->high - spec->low : 10 * m.speed * dt;
            double target = last + (rng_uniform(&rng) - 0.5) * span;
            enum motor_reply reply = motor_move(&m, t, target);
            CHECK(reply == (target < spec->low || target > spec->high ? MOTOR_LIMIT : MOTOR_OK),
                  "%g", target);
        } else if (dice < 10) {
            motor_stop(&m, t);
        } else if (dice < 12) {
            m.speed = spec->speed * (0.2 + 3 * rng_uniform(&rng));
        }
        t += dt;
        double now = motor_position(&m, t), v = (now - last) / dt;
        CHECK(fabs(v) <= fast * 1.001, "%g units/s at %g s", v, t);
        CHECK(fabs(v - speed) <= 2 * fast / m.acceleration_time * dt + 1e-6,
              "jump from %g to %g units/s at %g s", speed, v, t);
        last = now;
        speed = v;
        if (motor_next_event(&m) <= t) {
            CHECK_NEAR(now, m.setpoint, 0);
            motor_event(&m, m.finish);
        }
    }
}

static void test_same_position_still_moves(void)
{
    struct motor m;
    motor_init(&m, MOTOR_ENERGY, 0.002);
    CHECK(motor_move(&m, 1.0, 9000) == MOTOR_OK && m.moving, "does not blink");
    CHECK(motor_next_event(&m) > 1.0 && motor_next_event(&m) < 1.01, "%g", motor_next_event(&m));
    CHECK(motor_position(&m, 1.001) == 9000, "has moved");
}

static void test_retarget_does_not_overshoot_needlessly(void)
{
    struct motor m;
    motor_init(&m, MOTOR_X, 0.002);
    motor_move(&m, 0, 5000);
    double t = 1.0, braking = 0.5 * m.speed * m.acceleration_time;
    double here = motor_position(&m, t);
    motor_move(&m, t, here + braking + 1);
    double top = here;
    for (double s = t; s < m.finish; s += 1e-3)
        top = fmax(top, motor_position(&m, s));
    CHECK_NEAR(top, here + braking + 1, 1e-6);
    motor_init(&m, MOTOR_X, 0.002);
    motor_move(&m, 0, 5000);
    motor_move(&m, t, 0);
    CHECK_NEAR(motor_position(&m, t + m.acceleration_time), here + braking, 1e-6);
}

static void test_stop_sets_the_setpoint(void)
{
    struct motor m;
    motor_init(&m, MOTOR_ENERGY, 0.002);
    motor_move(&m, 0, 12000);
    motor_stop(&m, 1.0);
    CHECK(m.setpoint > 9000 && m.setpoint < 12000, "%g", m.setpoint);
    CHECK(m.finish < 1.0 + m.acceleration_time + 0.01, "%g", m.finish);
    CHECK(motor_position(&m, m.finish) == m.setpoint, "rests elsewhere");
    motor_event(&m, m.finish);
    motor_stop(&m, 5.0);
    CHECK(!m.moving, "stopping a motor at rest moves it");
}

static void test_backlash(void)
{
    struct motor m;
    motor_init(&m, MOTOR_X, 0.002);
    m.backlash = 20;
    motor_move(&m, 0, 100);
    double top = 0;
    for (double s = 0; s < m.finish; s += 1e-4)
        top = fmax(top, motor_position(&m, s));
    CHECK_NEAR(top, 100, 1e-9); /* in the direction of the approach there is nothing to correct */
    motor_event(&m, m.finish);
    double start = m.finish, low = 100;
    motor_move(&m, start, 50);
    for (double s = start; s < m.finish; s += 1e-4)
        low = fmin(low, motor_position(&m, s));
    CHECK_NEAR(low, 30, 0.01);
    CHECK(motor_position(&m, m.finish) == 50, "does not arrive");
}

/* The first passage of a place, against a walk along the profile. */
static void test_crossing(void)
{
    struct rng rng;
    rng_seed(&rng, 3, 3);
    int crossed = 0;
    for (int i = 0; i < 3000; i++) {
        struct profile p;
        profile_hold(&p, 0, 0);
        profile_go(&p, 0, 20 * rng_uniform(&rng) - 10, 1 + rng_uniform(&rng), 1 + rng_uniform(&rng));
        double t = 3 * rng_uniform(&rng), sign = rng_uniform(&rng) < 0.5 ? -1 : 1;
        profile_go(&p, t, 20 * rng_uniform(&rng) - 10, 1 + rng_uniform(&rng), 2);
        if (i % 2)
            profile_then(&p, 20 * rng_uniform(&rng) - 10, 1, 1);
        double place = i % 3 == 0 ? 0.5 * (profile_position(&p, t) + p.final)
                                  : 20 * rng_uniform(&rng) - 10;
        double found = profile_crossing(&p, t, place, sign), step = 1e-3, walked = INFINITY;
        for (double s = t; s < p.end && isinf(walked); s += step)
            if (sign * (profile_position(&p, s) - place) < 0
                && sign * (profile_position(&p, s + step) - place) >= 0)
                walked = s;
        if (isinf(found)) {
            CHECK(isinf(walked), "%d: passes %g at %g s unseen", i, place, walked);
            continue;
        }
        crossed++;
        CHECK_NEAR(profile_position(&p, found), place, 1e-9);
        CHECK(found >= t && found <= p.end, "%d: at %g s", i, found);
        CHECK(found <= walked + step, "%d: found at %g s, passes at %g s", i, found, walked);
    }
    CHECK(crossed > 500, "only %d", crossed);
}

static void test_bragg(void)
{
    struct motor m;
    CHECK_NEAR(bragg_angle(8979.0), 12.7199, 1e-4); /* asin(12398.42 / (2 * 3.135601 * 8979)) */
    CHECK_NEAR(bragg_energy(bragg_angle(8979.0)), 8979.0, 1e-9);
    motor_init(&m, MOTOR_ENERGY, 0.002);
    motor_move(&m, 0, 10000);
    CHECK_NEAR(m.profile.end, 1000 / m.speed + m.acceleration_time, 1e-6);
    for (double t = 0; t < m.finish; t += 0.01)
        CHECK_NEAR(motor_position(&m, t), bragg_energy(motor_axis_readback(&m, t)), 1e-6);
    /* The angle has constant speed, so the energy speeds up with its square, roughly. */
    double early = motor_position(&m, 0.6) - motor_position(&m, 0.5);
    double late = motor_position(&m, 1.6) - motor_position(&m, 1.5);
    CHECK(late > 1.1 * early, "%g, %g", early, late);
    CHECK(motor_move(&m, 0, 3999.9) == MOTOR_LIMIT, "below the limit");
    CHECK(motor_move(&m, 0, NAN) == MOTOR_LIMIT, "not a number");
    m.stalled = true;
    CHECK(motor_move(&m, 0, 9000) == MOTOR_FAULT, "stalled");
}

int main(void)
{
    test_duration_of_a_move();
    for (int axis = 0; axis < MOTOR_COUNT; axis++) {
        test_motion_is_smooth((enum motor_axis)axis, 0);
        test_motion_is_smooth((enum motor_axis)axis, 0.001 * motor_specs[axis].high);
    }
    test_same_position_still_moves();
    test_retarget_does_not_overshoot_needlessly();
    test_stop_sets_the_setpoint();
    test_backlash();
    test_crossing();
    test_bragg();
    return check_status();
}
