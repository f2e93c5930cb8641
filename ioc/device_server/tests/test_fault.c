/* Injected faults: what each kind does to its device, and that mending it ends it. */
#include "../src/protocol.h"
#include "check.h"
#include "table.h"

static struct sim sim;
static struct buffer out;
static struct session session;

static void start(void)
{
    char message[MESSAGE_MAX];
    struct config config;
    config_default(&config);
    config.geometry.nx = config.geometry.ny = 64;
    const char *path = write_table(copper);
    CHECK(sim_init(&sim, &config, "BL02:", 1, &path, 1, message), "%s", message);
    unlink(path);
    buffer_init(&out, 1 << 20);
    session = (struct session){.out = &out};
}

static void end(void)
{
    session_end(&session, &sim);
    sim_free(&sim);
    buffer_free(&out);
}

static const char *ask(const char *line)
{
    static char text[4096];
    char scratch[LINE_LIMIT + 1];
    snprintf(scratch, sizeof scratch, "%s", line);
    protocol_line(&session, &sim, scratch, strlen(scratch));
    snprintf(text, sizeof text, "%.*s", (int)out.length - 1, out.data + out.start);
    buffer_consume(&out, out.length);
    return text;
}

#define EXPECT(line, reply)                                                                       \
    do {                                                                                          \
        const char *got = ask(line);                                                              \
        CHECK(strcmp(got, reply) == 0, "%s gave %s", line, got);                                  \
    } while (0)

static double get(const char *pv)
{
    char line[128];
    snprintf(line, sizeof line, "GET:BL02:%s", pv);
    return atof(ask(line) + 3);
}

static bool has_bits(const char *pv, unsigned bits)
{
    return ((unsigned)get(pv) & bits) == bits;
}

static void pass(double seconds)
{
    sim_advance(&sim, sim.now + seconds);
}

static void test_list_and_errors(void)
{
    start();
    EXPECT("FAULTS", "OK:");
    EXPECT("FAULT:LINK:DELAY=0.25", "OK:FAULT");
    EXPECT("FAULT:BL02:DET:IT:DEAD", "OK:FAULT");
    EXPECT("FAULT:BL02:SAMPLE:X:LIMIT=12.5", "OK:FAULT");
    EXPECT("FAULTS", "OK:BL02:SAMPLE:X:LIMIT=12.5,BL02:DET:IT:DEAD,LINK:DELAY=0.25");
    EXPECT("FAULT:BL02:SAMPLE:X:STUCK", "OK:FAULT"); /* one at a time: replaces */
    EXPECT("FAULT:LINK:NONE", "OK:FAULT");
    EXPECT("FAULTS", "OK:BL02:SAMPLE:X:STUCK,BL02:DET:IT:DEAD");
    EXPECT("FAULT:ALL:NONE", "OK:FAULT");
    EXPECT("FAULTS", "OK:");
    const char *const unknown[] = {"FAULT", "FAULT:", "FAULT:BL02:NO:SUCH:STUCK", "FAULT:STUCK",
                                   "FAULT:SAMPLE:X:STUCK", "FAULT:BL02:LINK:DROP",
                                   "FAULT:BL02:SAMPLE:X.RBV:FROZEN"};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++)
        EXPECT(unknown[i], "ERR:UNKNOWN_PV");
    const char *const refused[] = {
        "FAULT:BL02:SAMPLE:X:", "FAULT:BL02:SAMPLE:X:stuck", "FAULT:BL02:SAMPLE:X:DEAD",
        "FAULT:BL02:SAMPLE:X:FROZEN=1", "FAULT:BL02:SAMPLE:X:STUCK=-1",
        "FAULT:BL02:SAMPLE:X:LIMIT=10001", "FAULT:BL02:SAMPLE:X:LIMIT=", "FAULT:BL02:DET:IT:DUMP",
        "FAULT:BL02:RING:CURRENT:DEAD", "FAULT:LINK:DELAY", "FAULT:LINK:DELAY=61",
        "FAULT:LINK:DELAY=nan", "FAULT:LINK:DROP=0", "FAULT:LINK:DROP=1.5", "FAULT:ALL:DEAD",
        "FAULT:ALL:NONE=1", "FAULT:BL02:AD1:NONE=1", "FAULTS:"};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        EXPECT(refused[i], "ERR:INVALID_VALUE");
    EXPECT("FAULTS", "OK:");
    end();
}

static void test_stuck(void)
{
    start();
    EXPECT("FAULT:BL02:SAMPLE:X:STUCK=0.5", "OK:FAULT");
    EXPECT("MOVE:BL02:SAMPLE:X:0", "OK:MOVING"); /* no way, no following error */
    pass(0.1);
    EXPECT("STATUS:BL02:SAMPLE:X", "OK:IDLE");
    EXPECT("MOVE:BL02:SAMPLE:X:100", "OK:MOVING");
    pass(0.49);
    EXPECT("STATUS:BL02:SAMPLE:X", "OK:MOVING");
    pass(0.02);
    EXPECT("STATUS:BL02:SAMPLE:X", "ERR:MOTOR_FAULT");
    EXPECT("MGET:BL02:SAMPLE:X,BL02:SAMPLE:X.RBV,BL02:SAMPLE:X.DMOV", "OK:100,0,1");
    CHECK(has_bits("SAMPLE:X.MSTA", 1 << 6 | 1 << 9), "no stall in MSTA");
    EXPECT("MOVE:BL02:SAMPLE:X:100", "ERR:MOTOR_FAULT");
    EXPECT("FAULT:BL02:SAMPLE:X:NONE", "OK:FAULT");
    CHECK(!has_bits("SAMPLE:X.MSTA", 1 << 9), "problem stays");
    EXPECT("MOVE:BL02:SAMPLE:X:100", "OK:MOVING");
    pass(0.1);
    double here = get("SAMPLE:X.RBV");
    EXPECT("FAULT:BL02:SAMPLE:X:STUCK", "OK:FAULT"); /* in the middle of the move */
    pass(5);
    CHECK(get("SAMPLE:X.RBV") == here && here > 0 && here < 100, "at %g", here);
    EXPECT("STATUS:BL02:SAMPLE:X", "ERR:MOTOR_FAULT");
    end();
}

static void test_limit(const char *motor, double from, double to, double at, int side)
{
    char line[128], pv[64], name[64];
    snprintf(name, sizeof name, "BL02:%s", motor);
    start();
    snprintf(line, sizeof line, "MOVE:%s:%g", name, from);
    ask(line);
    pass(1000);
    snprintf(line, sizeof line, "FAULT:%s:LIMIT=%g", name, at);
    EXPECT(line, "OK:FAULT");
    snprintf(line, sizeof line, "MOVE:%s:%g", name, to);
    EXPECT(line, "OK:MOVING");
    pass(1000);
    snprintf(pv, sizeof pv, "%s.RBV", motor);
    double stands = get(pv);
    CHECK(side * (stands - at) >= 0 && side * (to - stands) > 0, "%s stands at %g", motor, stands);
    snprintf(pv, sizeof pv, "%s.HLS", motor);
    CHECK(get(pv) == (side > 0), "HLS of %s", motor);
    snprintf(pv, sizeof pv, "%s.LLS", motor);
    CHECK(get(pv) == (side < 0), "LLS of %s", motor);
    snprintf(pv, sizeof pv, "%s.MSTA", motor);
    CHECK(has_bits(pv, side > 0 ? 1 << 2 : 1 << 13), "MSTA of %s", motor);
    EXPECT(line, "ERR:MOTOR_FAULT");
    snprintf(line, sizeof line, "STATUS:%s", name);
    EXPECT(line, "ERR:MOTOR_FAULT");
    snprintf(line, sizeof line, "MOVE:%s:%g", name, from); /* away from it */
    EXPECT(line, "OK:MOVING");
    pass(1000);
    snprintf(line, sizeof line, "STATUS:%s", name);
    EXPECT(line, "OK:IDLE");
    ask("FAULT:ALL:NONE");
    snprintf(line, sizeof line, "MOVE:%s:%g", name, to);
    EXPECT(line, "OK:MOVING");
    pass(1000);
    snprintf(pv, sizeof pv, "%s.RBV", motor);
    CHECK(get(pv) == to, "%s does not arrive", motor);
    end();
}

static void test_limit_somewhere_on_the_way(void)
{
    start();
    EXPECT("FAULT:BL02:SAMPLE:Y:LIMIT", "OK:FAULT");
    EXPECT("MOVE:BL02:SAMPLE:Y:-1", "OK:MOVING");
    pass(10);
    double stands = get("SAMPLE:Y.RBV");
    CHECK(stands <= -0.5 && stands > -1, "stands at %g", stands);
    CHECK(get("SAMPLE:Y.LLS") == 1 && get("SAMPLE:Y.HLS") == 0, "switches");
    EXPECT("FAULT:BL02:SAMPLE:X:NONE", "OK:FAULT");
    EXPECT("MOVE:BL02:SAMPLE:X:5000", "OK:MOVING");
    pass(1);
    EXPECT("FAULT:BL02:SAMPLE:X:LIMIT", "OK:FAULT"); /* while it moves */
    pass(1000);
    stands = get("SAMPLE:X.RBV");
    CHECK(stands > 2500 && stands < 5000 && get("SAMPLE:X.HLS") == 1, "stands at %g", stands);
    end();
}

static void test_encoder(void)
{
    start();
    ask("MOVE:BL02:SAMPLE:X:5000");
    pass(1);
    double here = get("SAMPLE:X.RBV");
    EXPECT("FAULT:BL02:SAMPLE:X:ENCODER", "OK:FAULT");
    pass(10);
    CHECK(get("SAMPLE:X.RBV") == here && here > 0, "readback at %g", get("SAMPLE:X.RBV"));
    CHECK(!has_bits("SAMPLE:X.MSTA", 1 << 8) && has_bits("SAMPLE:X.MSTA", 1 << 9), "MSTA");
    EXPECT("STATUS:BL02:SAMPLE:X", "ERR:MOTOR_FAULT");
    EXPECT("MOVE:BL02:SAMPLE:X:0", "ERR:MOTOR_FAULT");
    ask("FAULT:ALL:NONE");
    CHECK(get("SAMPLE:X.RBV") > here && get("SAMPLE:X.RBV") < 5000, "did not brake");
    CHECK(has_bits("SAMPLE:X.MSTA", 1 << 8), "encoder stays lost");
    end();
}

static void test_frozen(void)
{
    start();
    unsigned before = (unsigned)get("MONO:ENERGY.MSTA");
    double angle = get("MONO:ENERGY.ANGLE");
    EXPECT("FAULT:BL02:MONO:ENERGY:FROZEN", "OK:FAULT");
    ask("MOVE:BL02:MONO:ENERGY:9500");
    pass(10);
    EXPECT("MGET:BL02:MONO:ENERGY.RBV,BL02:MONO:ENERGY.DMOV", "OK:9000,1");
    CHECK(get("MONO:ENERGY.ANGLE") == angle, "the angle is not frozen");
    CHECK((unsigned)get("MONO:ENERGY.MSTA") == before, "MSTA tells");
    struct conditions now;
    sim_conditions(&sim, sim.now, &now);
    CHECK(now.energy == 9500, "the beam has %g eV", now.energy);
    ask("FAULT:ALL:NONE");
    CHECK(get("MONO:ENERGY.RBV") == 9500, "readback stays frozen");
    end();
}

static void test_dead_channel(void)
{
    start();
    ask("PUT:BL02:SHUTTER:CMD:1");
    pass(1);
    EXPECT("FAULT:BL02:DET:IT:DEAD", "OK:FAULT");
    EXPECT("GET:BL02:DET:IT", "OK:nan");
    CHECK(get("DET:I0") > 0, "the others are dead, too");
    EXPECT("COUNT:1", "OK:COUNTING");
    pass(0.5);
    ask("FAULT:ALL:NONE"); /* half a count is none */
    pass(1);
    CHECK(isnan(sim.counters.latched[CHANNEL_IT]) && sim.counters.latched[CHANNEL_I0] > 0, "latch");
    EXPECT("COUNT:1", "OK:COUNTING");
    pass(2);
    CHECK(sim.counters.latched[CHANNEL_IT] > 0, "stays dead");
    end();
}

static bool has_room(void *owner, size_t bytes)
{
    (void)owner;
    return bytes > 0;
}

static void send_frame(void *owner, const void *header, size_t header_bytes, const void *image,
                       size_t image_bytes)
{
    (void)header, (void)header_bytes, (void)image, (void)image_bytes;
    ++*(int *)owner;
}

static void test_dead_camera(void)
{
    start();
    int frames = 0;
    session.sink = (struct frame_sink){&frames, has_room, send_frame};
    EXPECT("FRAMES", "OK:FRAMES");
    EXPECT("FAULT:BL02:AD1:DEAD", "OK:FAULT");
    EXPECT("GET:BL02:AD1:FAULT", "OK:1");
    EXPECT("ACQUIRE:3", "OK:ACQUIRING");
    pass(10);
    EXPECT("MGET:BL02:AD1:ACQUIRING,BL02:AD1:COUNTER", "OK:0,0");
    ask("FAULT:ALL:NONE");
    EXPECT("ACQUIRE:1", "OK:ACQUIRING");
    for (int i = 0; i < 20000 && frames == 0; i++) {
        pass(0.1);
        detector_progress(&sim.detector, &sim);
        usleep(100);
    }
    CHECK(frames == 1 && get("AD1:FAULT") == 0, "%d frames", frames);
    end();
}

static void test_beam_dump(void)
{
    start();
    ask("PUT:BL02:SHUTTER:CMD:1");
    pass(1);
    EXPECT("COUNT:2", "OK:COUNTING");
    pass(1);
    EXPECT("FAULT:BL02:RING:CURRENT:DUMP", "OK:FAULT");
    EXPECT("GET:BL02:RING:CURRENT", "OK:0");
    pass(2);
    double half = sim.counters.latched[CHANNEL_I0];
    CHECK_NEAR(half, 2e7, 1e5); /* what came before the dump is counted */
    ask("FAULT:ALL:NONE");
    CHECK_NEAR(get("RING:CURRENT"), 0, 0.01);
    pass(100);
    CHECK_NEAR(get("RING:CURRENT"), 200, 0.01);
    pass(110);
    CHECK_NEAR(get("RING:CURRENT"), 400, 1);
    end();
}

static void test_link(void)
{
    start();
    int other;
    CHECK(fault_delay(&sim.faults) == 0, "slow");
    EXPECT("FAULT:LINK:DELAY=0.5", "OK:FAULT");
    CHECK(fault_delay(&sim.faults) == 0.5, "not slow");
    EXPECT("FAULT:LINK:DROP", "OK:FAULT");
    CHECK(sim.faults.cut && sim.faults.spared == &session, "no cut");
    EXPECT("FAULTS", "OK:"); /* done at once */
    sim.faults.cut = false;
    EXPECT("FAULT:LINK:DROP=2", "OK:FAULT");
    fault_count_line(&sim.faults, &session); /* its own lines do not count */
    fault_count_line(&sim.faults, &other);
    EXPECT("FAULTS", "OK:LINK:DROP=1");
    fault_count_line(&sim.faults, &other);
    CHECK(sim.faults.cut, "no cut");
    EXPECT("FAULTS", "OK:");
    session_end(&session, &sim);
    CHECK(sim.faults.spared == NULL, "spares one who is gone");
    end();
}

int main(void)
{
    test_list_and_errors();
    test_stuck();
    test_limit("SAMPLE:X", 0, 5000, 2000, 1);
    test_limit("SAMPLE:X", 0, -3, -1.5, -1);
    test_limit("SAMPLE:X", 100, 100.5, 100.25, 1);
    test_limit("MONO:ENERGY", 9000, 10000, 9100, 1);
    test_limit("MONO:ENERGY", 9000, 8000, 8900, -1);
    test_limit_somewhere_on_the_way();
    test_encoder();
    test_frozen();
    test_dead_channel();
    test_dead_camera();
    test_beam_dump();
    test_link();
    return check_status();
}
