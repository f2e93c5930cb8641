/* Sources, samples and detectors against closed formulas; the integrating gate against brute
 * force. */
#include "../src/rng.h"
#include "../src/sim.h"
#include "check.h"
#include "table.h"

static struct sim sim;
static struct config config;

static void start(void)
{
    char message[MESSAGE_MAX];
    const char *path = write_table(copper);
    config_default(&config);
    CHECK(sim_init(&sim, &config, "T:", 1, &path, 1, message), "%s", message);
    unlink(path);
}

static void test_ring(void)
{
    struct ring ring = {0};
    CHECK_NEAR(ring_current(&ring, &config, 0), 400, 0);
    CHECK_NEAR(ring_current(&ring, &config, 3600), 400 * exp(-0.1), 1e-9);
    double period = 36000 * log(400.0 / 350) + 25;
    CHECK_NEAR(ring_current(&ring, &config, period - 25), 350, 1e-6);
    CHECK_NEAR(ring_current(&ring, &config, period - 12.5), 375, 1e-6);
    CHECK_NEAR(ring_current(&ring, &config, 7 * period + 100), ring_current(&ring, &config, 100), 1e-6);
    CHECK_NEAR(ring_reading(&ring, &config, 1234.5), ring_current(&ring, &config, 1234.5), 5e-4);
    ring_break(&ring, &config, 1000, true);
    CHECK_NEAR(ring_current(&ring, &config, 1000), 0, 0);
    CHECK_NEAR(ring_current(&ring, &config, 1e6), 0, 0);
    ring_break(&ring, &config, 2000, false);
    CHECK_NEAR(ring_current(&ring, &config, 2000), 0, 1e-9);
    CHECK_NEAR(ring_current(&ring, &config, 2100), 200, 1e-9);
    CHECK_NEAR(ring_current(&ring, &config, 2200 + 3600), 400 * exp(-0.1), 1e-9);
}

static void test_environment(void)
{
    double sum = 0, square = 0, coldest = 99, warmest = 0;
    for (int t = 0; t < 100000; t++) {
        double p = vacuum_pressure(&config, t), c = hutch_temperature(&config, t);
        CHECK(p >= 1e-10 && p <= 1e-8, "%g mbar", p);
        sum += log10(p);
        square += log10(p) * log10(p);
        coldest = fmin(coldest, c);
        warmest = fmax(warmest, c);
    }
    CHECK_NEAR(sum / 1e5, -9, 0.01);
    CHECK_NEAR(sqrt(square / 1e5 - sum * sum / 1e10), 0.08, 0.003);
    CHECK(coldest > 22 && warmest < 24 && warmest - coldest > 1, "%g to %g", coldest, warmest);
    CHECK(vacuum_pressure(&config, 7.2) == vacuum_pressure(&config, 7.9), "changes too often");
}

static void test_shutter(void)
{
    struct shutter s;
    shutter_init(&s, 0.1);
    shutter_send(&s, 1.0, true);
    CHECK_NEAR(shutter_fraction(&s, 1.05), 0.5, 1e-9);
    CHECK_NEAR(shutter_next_event(&s), 1.1, 1e-9);
    shutter_send(&s, 1.05, false); /* turns round half-way */
    CHECK_NEAR(shutter_fraction(&s, 1.075), 0.25, 1e-9);
    CHECK(isinf(shutter_next_event(&s)) && shutter_fraction(&s, 1.2) == 0, "closed");
    shutter_send(&s, 2.0, true);
    shutter_arrive(&s);
    CHECK(s.open && isinf(shutter_next_event(&s)) && shutter_fraction(&s, 3) == 1, "open");
}

static struct conditions on_sample(void)
{
    return (struct conditions){.energy = 9100, .current = 400, .open = 1, .attenuation = 1,
                               .x = 380, .y = -260, .sample = &sim.samples[0]};
}

static void test_absorption(void)
{
    double rate[CHANNEL_COUNT];
    struct conditions now = on_sample();
    for (double energy = 7000; energy < 11000; energy += 37) {
        now.energy = energy;
        struct sample_row mu = sample_absorption(now.sample, energy);
        double incident = response(&config, &now, rate), dark = config.dark_per_s;
        CHECK_NEAR(log(incident / (rate[CHANNEL_IT] - dark)), mu.total, 1e-9);
        CHECK_NEAR(log((rate[CHANNEL_IT] - dark) / (rate[CHANNEL_IR] - dark)), mu.reference, 1e-9);
        CHECK_NEAR(rate[CHANNEL_I0] - dark, incident, 1e-6);
    }
    CHECK_NEAR(sample_absorption(now.sample, 8979).total, 1.7, 1e-12);
    CHECK_NEAR(sample_absorption(now.sample, 1000).total, 0.6, 0);
    CHECK_NEAR(sample_absorption(now.sample, 30000).fluorescence, 1.8, 0);
    now = on_sample();
    now.theta = 60; /* twice the way */
    double incident = response(&config, &now, rate);
    CHECK_NEAR(log(incident / (rate[CHANNEL_IT] - config.dark_per_s)),
               2 * sample_absorption(now.sample, 9100).total, 1e-9);
    now.theta = 90;
    CHECK(isfinite(response(&config, &now, rate)) && isfinite(rate[CHANNEL_IF]), "edge-on");
}

static void test_beam_factors(void)
{
    double rate[CHANNEL_COUNT];
    struct conditions now = on_sample();
    now.energy = config.flux_peak_eV;
    CHECK_NEAR(response(&config, &now, rate), 2e7, 1e-3);
    now.current = 200;
    now.attenuation = 0.5;
    now.open = 0.5;
    CHECK_NEAR(response(&config, &now, rate), 2e7 / 8, 1e-3);
    now.open = 0;
    CHECK_NEAR(response(&config, &now, rate), 0, 0);
    for (int c = 0; c < CHANNEL_COUNT; c++)
        CHECK(rate[c] == (c == CHANNEL_IF || c == CHANNEL_XRD ? config.pulse_dark_per_s
                                                              : config.dark_per_s),
              "channel %d has %g counts/s in the dark", c, rate[c]);
    CHECK(flux_curve(&config, 4000) > 0.1 && flux_curve(&config, 20000) > 0.1
              && flux_curve(&config, 8999) < 1 && flux_curve(&config, 9001) < 1, "flux curve");
}

static void test_edges_of_the_foil(void)
{
    struct conditions now = on_sample();
    CHECK_NEAR(sample_overlap(&config, &now), 1, 1e-9);
    now.x = 380 + 1000;
    CHECK_NEAR(sample_overlap(&config, &now), 0.5, 1e-9);
    now.x += 25; /* the beam's half width at half maximum: erfc(sqrt(ln 2)) / 2 */
    CHECK_NEAR(sample_overlap(&config, &now), 0.5 * erfc(sqrt(log(2.0))), 1e-9);
    now.y = -260 - 750;
    CHECK_NEAR(sample_overlap(&config, &now), 0.25 * erfc(sqrt(log(2.0))), 1e-9);
    now = on_sample();
    now.x = 380 + 500; /* half the width: the edge of the projection at 60 degrees */
    now.theta = 60;
    CHECK_NEAR(sample_overlap(&config, &now), 0.5, 1e-9);
}

static void test_powder_lines(void)
{
    double rate[CHANNEL_COUNT], best = 0, at = 0;
    struct conditions now = on_sample();
    for (now.tth = 30; now.tth < 45; now.tth += 0.001) {
        response(&config, &now, rate);
        if (rate[CHANNEL_XRD] > best) {
            best = rate[CHANNEL_XRD];
            at = now.tth;
        }
    }
    CHECK_NEAR(at, 2 * asin(12398.419843 / 9100 / (2 * 2.087)) * 180 / M_PI, 1e-3);
    now.tth = at + 0.05;
    response(&config, &now, rate);
    CHECK_NEAR(rate[CHANNEL_XRD] / best, 0.5, 0.01);
}

static void test_readings(void)
{
    enum { N = 4000 };
    struct rng rng;
    rng_seed(&rng, 9, 9);
    const double means[] = {0.3, 40, 2e5};
    for (size_t i = 0; i < sizeof means / sizeof *means; i++) {
        double seconds = 0.1, sum = 0, square = 0, pulses = 0;
        for (int n = 0; n < N; n++) {
            double counts = reading(&config, CHANNEL_I0, means[i], seconds, &rng);
            CHECK(counts == floor(counts), "%g", counts);
            sum += counts;
            square += (counts - means[i]) * (counts - means[i]);
            pulses += reading(&config, CHANNEL_IF, means[i], seconds, &rng);
        }
        CHECK_NEAR(sum / N, means[i], 5 * sqrt(means[i] / N));
        CHECK_NEAR(square / N, means[i], 0.1 * means[i]);
        double live = means[i] / (1 + means[i] * config.dead_time_s / seconds);
        CHECK_NEAR(pulses / N, live, 5 * sqrt(means[i] / N) + 1e-3 * live * config.dead_time_s);
    }
    CHECK_NEAR(reading(&config, CHANNEL_IT, 1e9, 0.1, &rng), 1e7, 0);
    CHECK(reading(&config, CHANNEL_IF, 1e9, 0.1, &rng) <= 4e5, "pulse counter beyond full scale");
}

static void test_gate_follows_motion(void)
{
    /* Shutter opening, energy through the edge, stage over the edge of the foil: all at once. */
    start();
    sim_move(&sim, MOTOR_ENERGY, 8970);
    sim_advance(&sim, 10);
    sim_shutter(&sim, true);
    sim_move(&sim, MOTOR_ENERGY, 8990);
    sim_move(&sim, MOTOR_X, 2000);
    struct sim copy = sim; /* the future of its motors is known */
    sim_count(&sim, 1.5);
    sim_advance(&sim, 11);
    sim_attenuate(&sim, 0.5); /* cuts the gate in two */
    sim_advance(&sim, 11.4999);
    double expected[CHANNEL_COUNT] = {0}, rate[CHANNEL_COUNT];
    int steps = 200000;
    for (int i = 0; i < steps; i++) {
        double t = 10 + 1.5 * (i + 0.5) / steps;
        struct conditions now;
        copy.attenuation = t < 11 ? 1 : 0.5;
        sim_conditions(&copy, t, &now);
        response(&config, &now, rate);
        for (int c = 0; c < CHANNEL_COUNT; c++)
            expected[c] += rate[c] * 1.5 / steps;
    }
    gate_advance(&sim.counters.gate, &sim, 11.5);
    for (int c = 0; c < CHANNEL_COUNT; c++)
        CHECK_NEAR(sim.counters.gate.expected[c] / expected[c], 1, 2e-3);
    sim_advance(&sim, 11.5);
    CHECK(!sim.counters.gate.open && sim.counters.elapsed == 1.5, "%g", sim.counters.elapsed);
    expected[CHANNEL_IF] /= 1 + expected[CHANNEL_IF] * config.dead_time_s / 1.5;
    for (int c = 0; c < CHANNEL_COUNT; c++)
        CHECK_NEAR(sim.counters.latched[c], expected[c],
                   6 * sqrt(expected[c]) + 2e-3 * expected[c]);
    sim_free(&sim);
}

static void test_same_seed_same_counts(void)
{
    double first[CHANNEL_COUNT] = {0};
    for (int run = 0; run < 3; run++) {
        start();
        sim.config.seed = run < 2 ? 1 : 2;
        sim_shutter(&sim, true);
        sim_advance(&sim, 1);
        double glance[CHANNEL_COUNT];
        for (int i = 0; i < run; i++) /* looking must not change what is counted */
            counters_glance(&sim.counters, &sim, glance);
        sim_count(&sim, 0.1);
        sim_advance(&sim, 2);
        bool same = memcmp(first, sim.counters.latched, sizeof first) == 0;
        CHECK(run == 0 || same == (run == 1), "run %d", run);
        memcpy(first, sim.counters.latched, sizeof first);
        sim_free(&sim);
    }
}

static void test_tables_that_are_refused(void)
{
    const struct {
        const char *text, *why;
    } cases[] = {
        {"# name: a\n1 2 3 4\n1 2 3 4\n", "line 3"},
        {"# name: a\n1 2 3 4\n2 2 3\n", "four numbers"},
        {"# name: a\n1 2 3 4\n2 2 3 nan\n", "four numbers"},
        {"# name: a\n1 2 3 4\n2 -2 3 4\n", "at least 0"},
        {"1 2 3 4\n2 2 3 4\n", "name"},
        {"# name: a\n1 2 3 4\n", "two rows"},
        {"# name: a,b\n", "comma"},
        {"# name: \xc2\xb5\n", "ASCII"},
        {"# name: a\n# width_um: 0\n", "positive"},
        {"# name: a\n# reflection: 1 1 1\n", "h k l"},
        {"", "name"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char message[MESSAGE_MAX] = "";
        struct sample sample;
        const char *path = write_table(cases[i].text);
        CHECK(!sample_load(&sample, path, message) && strstr(message, cases[i].why) != NULL,
              "case %zu: %s", i, message);
        unlink(path);
    }
}

static void test_configuration_files(void)
{
    const struct {
        const char *text, *why;
    } cases[] = {
        {"# comment\n\n ring_max_mA = 300 # mA\ndetector_nx=256\n", NULL},
        {"\nring_max_ma = 300\n", "line 2"},
        {"ring_max_mA 300\n", "key = value"},
        {"ring_max_mA = lots\n", "a number from"},
        {"detector_nx = 1.5\n", "a whole number"},
        {"detector_nx = 1000000\n", "4096"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char message[MESSAGE_MAX] = "";
        struct config read;
        config_default(&read);
        const char *path = write_table(cases[i].text);
        bool good = config_load(&read, path, message);
        CHECK(good == (cases[i].why == NULL), "case %zu: %s", i, message);
        CHECK(good || strstr(message, cases[i].why) != NULL, "case %zu: %s", i, message);
        CHECK(!good || (read.ring_max_mA == 300 && read.geometry.nx == 256), "not taken over");
        unlink(path);
    }
    struct config wrong;
    config_default(&wrong);
    CHECK(config_check(&wrong) == NULL, "the defaults are refused");
    wrong.ring_min_mA = 500;
    CHECK(config_check(&wrong) != NULL, "ring_min_mA above ring_max_mA");
}

int main(void)
{
    start();
    test_ring();
    test_environment();
    test_shutter();
    test_absorption();
    test_beam_factors();
    test_edges_of_the_foil();
    test_powder_lines();
    test_readings();
    sim_free(&sim);
    test_gate_follows_motion();
    test_same_seed_same_counts();
    test_tables_that_are_refused();
    test_configuration_files();
    return check_status();
}
