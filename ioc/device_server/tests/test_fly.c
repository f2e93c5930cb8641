/* Fly scans: where and when the points are, what they count, and how a scan ends. */
#include "../src/protocol.h"
#include "../src/sim.h"
#include "check.h"
#include "table.h"

static struct sim sim;
static struct config config;
static char reason[FLY_REASON_MAX];

static void start(void)
{
    char message[MESSAGE_MAX];
    const char *path = write_table(copper);
    config_default(&config);
    CHECK(sim_init(&sim, &config, "T:", 1, &path, 1, message), "%s", message);
    unlink(path);
    sim_shutter(&sim, true);
    sim_move(&sim, MOTOR_X, 380);
    sim_move(&sim, MOTOR_Y, -260);
    sim_advance(&sim, 2);
}

static enum fly_reply fly(enum motor_axis axis, double from, double to, double points,
                          double dwell)
{
    const struct fly_request request = {axis, from, to, points, dwell};
    reason[0] = '\0';
    return sim_fly(&sim, &request, reason);
}

/* Advance from event to event until the scan is over. */
static void finish(void)
{
    for (int i = 0; fly_active(&sim.fly) && i < 10000000; i++)
        sim_advance(&sim, sim_next_event(&sim));
}

static void test_positions(void)
{
    enum { N = 101 };
    start();
    CHECK(fly(MOTOR_X, 100, -900, N, 0.01) == FLY_OK, "%s", reason);
    CHECK(sim.fly.state == FLY_APPROACHING && sim.motors[MOTOR_X].moving, "on its way");
    finish();
    CHECK(sim.fly.state == FLY_DONE && sim.fly.taken == N, "state %d", sim.fly.state);
    for (int i = 0; i < N; i++) {
        CHECK_NEAR(sim.fly.point[i].position, 100 - 10.0 * i, 1e-9);
        CHECK_NEAR(sim.fly.point[i].energy, 9000, 1e-9);
    }
    CHECK_NEAR(fly_time(&sim.fly, 100), 1.005, 1e-12);
    /* 1000 um/s, 0.1 s from rest: it stops 5 um and 50 um behind the last point. */
    CHECK_NEAR(motor_position(&sim.motors[MOTOR_X], sim.now), -955, 1e-9);
    CHECK_NEAR(sim.now - sim.fly.opening, 1.01 + 0.1 + config.motor_settle_s, 1e-9);
    sim_free(&sim);
}

static void test_energies(void)
{
    enum { N = 401 };
    start();
    CHECK(fly(MOTOR_ENERGY, 8800, 9800, N, 0.005) == FLY_OK, "%s", reason);
    finish();
    CHECK(sim.fly.state == FLY_DONE, "state %d", sim.fly.state);
    double first = bragg_angle(8800), step = (bragg_angle(9800) - first) / (N - 1);
    for (int i = 0; i < N; i++) {
        double mean = 0; /* of the energy while the angle sweeps through the gate */
        for (int s = 0; s < 100; s++)
            mean += bragg_energy(first + step * (i - 0.5 + (s + 0.5) / 100)) / 100;
        CHECK_NEAR(sim.fly.point[i].energy, mean, 1e-5);
        CHECK(sim.fly.point[i].position == sim.fly.point[i].energy, "position is the energy");
    }
    sim_free(&sim);
}

/* Expectation of one gate by brute force, with the motors' courses of `copy`. */
static void integrate(const struct sim *copy, double from, double seconds,
                      double expected[CHANNEL_COUNT])
{
    enum { STEPS = 400 };
    for (int c = 0; c < CHANNEL_COUNT; c++)
        expected[c] = 0;
    for (int s = 0; s < STEPS; s++) {
        struct conditions now;
        double rate[CHANNEL_COUNT];
        sim_conditions(copy, from + seconds * (s + 0.5) / STEPS, &now);
        response(&config, &now, rate);
        for (int c = 0; c < CHANNEL_COUNT; c++)
            expected[c] += rate[c] * seconds / STEPS;
    }
}

static void test_counts(void)
{
    enum { N = 200 };
    const double dwell = 0.002;
    start();
    CHECK(fly(MOTOR_ENERGY, 8930, 9030, N, dwell) == FLY_OK, "%s", reason);
    while (sim.fly.state != FLY_FLYING)
        sim_advance(&sim, sim_next_event(&sim));
    sim_advance(&sim, sim.now);
    struct sim copy = sim; /* the future of its motors is known */
    finish();
    double sums[CHANNEL_COUNT] = {0}, totals[CHANNEL_COUNT] = {0}, squares[CHANNEL_COUNT] = {0};
    for (int i = 0; i < N; i++) {
        double expected[CHANNEL_COUNT];
        integrate(&copy, copy.fly.opening + dwell * i, dwell, expected);
        expected[CHANNEL_IF] /= 1 + expected[CHANNEL_IF] * config.dead_time_s / dwell;
        for (int c = 0; c < CHANNEL_COUNT; c++) {
            double found = sim.fly.point[i].counts[c];
            sums[c] += found;
            totals[c] += expected[c];
            squares[c] += (found - expected[c]) * (found - expected[c]) / expected[c];
        }
    }
    for (int c = 0; c <= CHANNEL_IR; c++) {
        CHECK_NEAR(squares[c] / N, 1, c == CHANNEL_IF ? 0.6 : 0.5);
        CHECK_NEAR(sums[c], totals[c], 5 * sqrt(totals[c]));
    }
    sim_free(&sim);
}

static void test_sum_is_that_of_a_long_count(void)
{
    start();
    CHECK(fly(MOTOR_THETA, -1, 1, 500, 0.002) == FLY_OK, "%s", reason);
    finish();
    double sum = 0;
    for (int i = 0; i < 500; i++)
        sum += sim.fly.point[i].counts[CHANNEL_IT];
    sim_move(&sim, MOTOR_THETA, 0);
    sim_advance(&sim, sim.now + 2);
    CHECK(sim_count(&sim, 1.0), "busy");
    sim_advance(&sim, sim.now + 1.5);
    double counted = sim.counters.latched[CHANNEL_IT];
    CHECK_NEAR(sum, counted, 5 * sqrt(2 * counted) + 1e-3 * counted); /* 1/cos of a degree */
    sim_free(&sim);
}

static void test_shutter_and_pace(void)
{
    struct fly_point first[300];
    for (int run = 0; run < 3; run++) {
        start();
        sim.config.seed = run < 2 ? 1 : 2;
        CHECK(fly(MOTOR_X, 0, 300, 300, 0.001) == FLY_OK, "%s", reason);
        while (sim.fly.state != FLY_FLYING)
            sim_advance(&sim, sim_next_event(&sim));
        double opening = sim.fly.opening;
        /* The same changes at the same time give the same counts, however time advances. */
        for (double t = sim.now; run == 1 && t < opening + 0.1; t += 1.7e-4)
            sim_advance(&sim, t);
        sim_advance(&sim, opening + 0.1005);
        CHECK(sim.fly.taken <= 100, "%d points", sim.fly.taken);
        sim_shutter(&sim, false);
        CHECK(sim.fly.taken == 100, "%d points", sim.fly.taken);
        finish();
        bool same = memcmp(first, sim.fly.point, sizeof first) == 0;
        CHECK(run == 0 || same == (run == 1), "run %d", run);
        memcpy(first, sim.fly.point, sizeof first);
        for (int i = 202; i < 300; i++)
            CHECK(first[i].counts[CHANNEL_I0] < 10, "point %d has light", i);
        CHECK_NEAR(first[150].counts[CHANNEL_I0] / first[99].counts[CHANNEL_I0], 0.5, 0.05);
        sim_free(&sim);
    }
}

static void test_refusals(void)
{
    start();
    const struct {
        enum motor_axis axis;
        double from, to, points, dwell;
        const char *why;
    } cases[] = {
        {MOTOR_X, 0, 10001, 10, 0.1, "cannot go to 10001 um"},
        {MOTOR_X, -10001, 0, 10, 0.1, "cannot go to -10001 um"},
        {MOTOR_X, 0, 9999, 1000, 0.1, "with run-up SAMPLE:X would go from"},
        {MOTOR_X, -9999, 0, 1000, 0.1, "with run-up SAMPLE:X would go from"},
        {MOTOR_X, 5, 5, 10, 0.1, "must differ"},
        {MOTOR_X, 0, 1, 1, 0.1, "whole number from 2 to 1000000"},
        {MOTOR_X, 0, 1, 10.5, 0.1, "whole number"},
        {MOTOR_X, 0, 1, 1000001, 0.1, "whole number from 2 to 1000000"},
        {MOTOR_X, 0, 1, 10, 9e-6, "1e-05 to 1000 s"},
        {MOTOR_X, 0, 1, 10, 1001, "1e-05 to 1000 s"},
        {MOTOR_X, 0, 1000, 101, 4e-4, "25000 um/s and can do 20000 um/s"},
        {MOTOR_ENERGY, 8000, 9000, 101, 1.9e-3, "can do 5000 eV/s"},
        {MOTOR_ENERGY, 4001, 9000, 101, 0.1, "limits are 4000 to 20000 eV"},
        {MOTOR_ENERGY, 4100, 19990, 3, 1e-5, "limits are 4000 to 20000 eV"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        enum fly_reply reply = fly(cases[i].axis, cases[i].from, cases[i].to, cases[i].points,
                                   cases[i].dwell);
        CHECK(reply == FLY_INVALID && strstr(reason, cases[i].why) != NULL, "case %zu: %s", i,
              reason);
        CHECK(!fly_active(&sim.fly) && !sim.motors[cases[i].axis].moving, "case %zu moves", i);
    }
    sim.motors[MOTOR_Z].stalled = true;
    CHECK(fly(MOTOR_Z, 0, 1, 10, 0.1) == FLY_MOTOR_FAULT, "stalled");
    sim_move(&sim, MOTOR_TTH, 20);
    CHECK(fly(MOTOR_TTH, 0, 1, 10, 0.1) == FLY_BUSY, "moving");
    sim_count(&sim, 1);
    CHECK(fly(MOTOR_X, 0, 1, 10, 0.1) == FLY_BUSY, "counting");
    sim_count_stop(&sim);
    CHECK(fly(MOTOR_X, 0, 100, FLY_POINTS_MAX, 1e-5) == FLY_OK, "the largest scan: %s", reason);
    CHECK(!sim_count(&sim, 1), "counts while flying");
    CHECK(fly(MOTOR_Y, 0, 1, 10, 0.1) == FLY_BUSY, "flies twice");
    CHECK(pv_put(&sim, pv_find(&sim.pvs, "T:SAMPLE:X"), 5) == PV_BUSY, "moved while flying");
    CHECK(pv_put(&sim, pv_find(&sim.pvs, "T:SAMPLE:X.VELO"), 5) == PV_BUSY, "set while flying");
    CHECK(pv_put(&sim, pv_find(&sim.pvs, "T:SAMPLE:Y"), 5) == PV_OK, "another motor");
    finish();
    CHECK(sim.fly.taken == FLY_POINTS_MAX, "%d points", sim.fly.taken);
    CHECK_NEAR(sim.fly.point[FLY_POINTS_MAX - 1].position, 100, 1e-6);
    sim_free(&sim);
}

enum way_to_end { BY_FLYABORT, BY_ABORT, BY_MSTOP, BY_STALL, BY_BRAKE };

static void test_early_ends(void)
{
    for (enum way_to_end how = BY_FLYABORT; how <= BY_BRAKE; how++) {
        start();
        CHECK(fly(MOTOR_X, 0, 1000, 1000, 0.001) == FLY_OK, "%s", reason);
        while (sim.fly.state != FLY_FLYING)
            sim_advance(&sim, sim_next_event(&sim));
        sim_advance(&sim, sim.fly.opening + 0.2505);
        switch (how) {
        case BY_FLYABORT: sim_fly_stop(&sim); break;
        case BY_ABORT: sim_abort(&sim); break;
        case BY_MSTOP: sim_stop_motor(&sim, MOTOR_X); break;
        case BY_STALL: fault_set(&sim, MOTOR_X, FAULT_STUCK, NAN, NULL); break;
        case BY_BRAKE: fault_set(&sim, MOTOR_X, FAULT_ENCODER, NAN, NULL); break;
        }
        bool fault = how >= BY_STALL;
        CHECK(fault || sim.fly.state == FLY_STOPPING, "way %d: state %d", how, sim.fly.state);
        finish();
        CHECK(sim.fly.state == (fault ? FLY_FAULT : FLY_ABORTED), "way %d: state %d", how,
              sim.fly.state);
        CHECK(sim.fly.fault == (how == BY_STALL   ? FLY_FAULT_STALLED
                                : how == BY_BRAKE ? FLY_FAULT_COURSE
                                                  : FLY_FAULT_NONE),
              "way %d: fault %d", how, sim.fly.fault);
        CHECK(sim.fly.taken >= 245 && sim.fly.taken <= 250, "way %d: %d points", how,
              sim.fly.taken);
        sim_advance(&sim, sim.now + 1);
        CHECK(!sim.motors[MOTOR_X].moving && sim.fly.taken <= 250, "way %d", how);
        fault_clear_all(&sim);
        CHECK(fly(MOTOR_X, 0, 10, 10, 0.001) == FLY_OK, "again: %s", reason);
        finish();
        CHECK(sim.fly.state == FLY_DONE && sim.fly.fault == FLY_FAULT_NONE, "again");
        sim_free(&sim);
    }
}

static void test_dead_counter_and_frozen_readback(void)
{
    start();
    CHECK(fly(MOTOR_X, 0, 99, 100, 0.001) == FLY_OK, "%s", reason);
    while (sim.fly.state != FLY_FLYING)
        sim_advance(&sim, sim_next_event(&sim));
    double opening = sim.fly.opening;
    sim_advance(&sim, opening + 0.0105);
    fault_set(&sim, FAULT_COUNTER + CHANNEL_IT, FAULT_DEAD, NAN, NULL);
    sim_advance(&sim, opening + 0.0205);
    fault_set(&sim, FAULT_COUNTER + CHANNEL_IT, FAULT_NONE, NAN, NULL);
    sim_advance(&sim, opening + 0.0505);
    fault_set(&sim, MOTOR_X, FAULT_FROZEN, NAN, NULL);
    finish();
    CHECK(sim.fly.state == FLY_DONE, "state %d", sim.fly.state);
    for (int i = 0; i < 100; i++) {
        const struct fly_point *point = &sim.fly.point[i];
        CHECK(isnan(point->counts[CHANNEL_IT]) == (i >= 10 && i <= 20), "point %d", i);
        CHECK(!isnan(point->counts[CHANNEL_I0]), "point %d", i);
        CHECK_NEAR(point->position, i <= 50 ? i : 50, 0.51);
    }
    sim_free(&sim);
}

static void test_abort_on_the_approach(void)
{
    start();
    CHECK(fly(MOTOR_X, 5000, 6000, 10, 0.1) == FLY_OK, "%s", reason);
    sim_fly_stop(&sim);
    CHECK(sim.fly.state == FLY_STOPPING, "state %d", sim.fly.state);
    finish();
    CHECK(sim.fly.state == FLY_ABORTED && sim.fly.taken == 0, "state %d", sim.fly.state);
    CHECK(motor_position(&sim.motors[MOTOR_X], sim.now) < 5000, "did not brake");
    sim_free(&sim);
}

static struct session session;

/* The reply of one line, its line end cut off; bytes behind it stay. */
static const char *reply_to(const char *text)
{
    static struct buffer out;
    char line[LINE_LIMIT + 1];
    buffer_free(&out);
    buffer_init(&out, 1 << 20);
    session.out = &out;
    snprintf(line, sizeof line, "%s", text);
    protocol_line(&session, &sim, line, strlen(line));
    *(char *)memchr(out.data, '\n', out.length) = '\0';
    return out.data;
}

#define CHECK_REPLY(line, expected)                                                               \
    do {                                                                                          \
        const char *found_ = reply_to(line);                                                      \
        CHECK(strcmp(found_, expected) == 0, "%s gives %s", line, found_);                        \
    } while (0)

static void test_commands(void)
{
    start();
    CHECK_REPLY("FLY:T:RING:CURRENT:0,1,10,0.1", "ERR:UNKNOWN_PV");
    CHECK_REPLY("FLY", "ERR:UNKNOWN_PV");
    CHECK_REPLY("FLY:T:SAMPLE:X:0,1,10", "ERR:INVALID_VALUE:expected <start>,<stop>,<points>,"
                                         "<seconds per point>");
    CHECK_REPLY("FLY:T:SAMPLE:X:0,1,10,0.1,7", "ERR:INVALID_VALUE:expected <start>,<stop>,<points>,"
                                               "<seconds per point>");
    CHECK_REPLY("FLY:T:SAMPLE:X:0,1,1,0.1", "ERR:INVALID_VALUE:the points must be a whole number "
                                            "from 2 to 1000000, found 1");
    CHECK_REPLY("FLYDATA:0,10", "OK:0,0,0,0");
    CHECK_REPLY("FLYDATA:1,10", "ERR:INVALID_VALUE");
    CHECK_REPLY("FLY:T:SAMPLE:X:0,1199,1200,0.001", "OK:FLYING");
    CHECK_REPLY("FLY:T:SAMPLE:X:0,1199,1200,0.001", "ERR:BUSY");
    CHECK_REPLY("COUNT:1", "ERR:BUSY");
    CHECK_REPLY("MOVE:T:SAMPLE:X:1", "ERR:BUSY");
    finish();
    CHECK_REPLY("GET:T:FLY:STATE", "OK:4");
    CHECK_REPLY("FLYDATA:1201,1", "ERR:INVALID_VALUE");
    CHECK_REPLY("FLYDATA:1200,5", "OK:1,1200,0,0");
    CHECK_REPLY("FLYDATA:0,5000", "OK:1,0,1000,64000");
    const char *header = reply_to("FLYDATA:1000,5000");
    CHECK(strcmp(header, "OK:1,1000,200,12800") == 0, "%s", header);
    double number[8];
    memcpy(number, header + strlen(header) + 1 + 64 * 199, sizeof number);
    CHECK_NEAR(number[0], 1.1995, 1e-12);
    CHECK_NEAR(number[1], 1199, 1e-9);
    CHECK(number[3] == sim.fly.point[1199].counts[CHANNEL_I0], "%g counts", number[3]);
    CHECK_REPLY("FLYABORT", "OK:STOPPING");
    CHECK_REPLY("GET:T:FLY:STATE", "OK:4");
    buffer_free(session.out);
    sim_free(&sim);
}

int main(void)
{
    test_positions();
    test_energies();
    test_counts();
    test_sum_is_that_of_a_long_count();
    test_shutter_and_pace();
    test_refusals();
    test_early_ends();
    test_dead_counter_and_frozen_readback();
    test_abort_on_the_approach();
    test_commands();
    return check_status();
}
