/* The protocol without sockets: every command and error, updates, frames, hostile lines. */
#include "../src/protocol.h"
#include "../src/rng.h"
#include "check.h"
#include "table.h"

enum { OUTPUT_LIMIT = 1 << 20 };
static struct sim sim;
static struct buffer out;
static struct session session;

static void start(const char *config_text)
{
    char message[MESSAGE_MAX];
    struct config config;
    config_default(&config);
    config.geometry.nx = config.geometry.ny = 64;
    if (config_text != NULL) {
        const char *path = write_table(config_text);
        CHECK(config_load(&config, path, message), "%s", message);
        unlink(path);
    }
    const char *path = write_table(copper);
    CHECK(sim_init(&sim, &config, "BL02:", 1, &path, 1, message), "%s", message);
    unlink(path);
    buffer_init(&out, OUTPUT_LIMIT);
    session = (struct session){.out = &out};
}

static void end(void)
{
    session_end(&session, &sim);
    sim_free(&sim);
    buffer_free(&out);
}

/* What has been written since the last call (static). */
static const char *taken(void)
{
    static char text[OUTPUT_LIMIT + 1];
    if (out.length > 0)
        memcpy(text, out.data + out.start, out.length);
    text[out.length] = '\0';
    buffer_consume(&out, out.length);
    return text;
}

static const char *ask_bytes(const char *line, size_t length)
{
    static char scratch[LINE_LIMIT + 1];
    memcpy(scratch, line, length);
    scratch[length] = '\0';
    protocol_line(&session, &sim, scratch, length);
    return taken();
}

static const char *ask(const char *line)
{
    return ask_bytes(line, strlen(line));
}

#define EXPECT(line, reply)                                                                       \
    do {                                                                                          \
        const char *got = ask(line);                                                              \
        CHECK(strcmp(got, reply "\n") == 0, "%s gave %s", line, got);                             \
    } while (0)

static void test_contract(void)
{
    start(NULL);
    EXPECT("PING", "OK:PONG");
    EXPECT("GET:BL02:MONO:ENERGY", "OK:9000");
    EXPECT("GET:BL02:MONO:ENERGY.EGU", "OK:eV");
    EXPECT("PUT:BL02:ATTEN:FACTOR:0.1", "OK:PUT");
    EXPECT("GET:BL02:ATTEN:FACTOR", "OK:0.10000000000000001");
    EXPECT("MOVE:BL02:SAMPLE:X:12.5", "OK:MOVING");
    EXPECT("STATUS:BL02:SAMPLE:X", "OK:MOVING");
    EXPECT("GET:BL02:SAMPLE:X.DMOV", "OK:0");
    EXPECT("GET:BL02:SAMPLE:X", "OK:12.5");
    EXPECT("GET:BL02:SAMPLE:X.RBV", "OK:0");
    sim_advance(&sim, 1);
    EXPECT("STATUS:BL02:SAMPLE:X", "OK:IDLE");
    EXPECT("MGET:BL02:SAMPLE:X.RBV,BL02:SAMPLE:X.DMOV", "OK:12.5,1");
    EXPECT("PUT:BL02:SAMPLE:X:-3", "OK:PUT");
    EXPECT("STATUS:BL02:SAMPLE:X", "OK:MOVING");
    EXPECT("LIST:BL02:SAMPLE:?", "OK:BL02:SAMPLE:X,BL02:SAMPLE:Y,BL02:SAMPLE:Z");
    EXPECT("LIST:nothing*", "OK:");
    EXPECT("SAMPLES", "OK:Cu foil");
    EXPECT("STOP", "OK:STOPPED");
    EXPECT("QUIT", "OK:BYE");
    CHECK(session.quit, "QUIT does not quit");
    end();
}

static void test_every_pv_is_listed_and_read(void)
{
    start(NULL);
    char list[16384], *rest = NULL;
    snprintf(list, sizeof list, "%s", ask("LIST"));
    list[strcspn(list, "\n")] = '\0';
    int count = 0;
    for (char *name = strtok_r(list + 3, ",", &rest); name; name = strtok_r(NULL, ",", &rest)) {
        char line[128];
        snprintf(line, sizeof line, "GET:%s", name);
        CHECK(strncmp(ask(line), "OK:", 3) == 0 && strcmp(taken(), "OK:nan\n") != 0, "%s", name);
        count++;
    }
    CHECK(count == sim.pvs.count, "%d of %d", count, sim.pvs.count);
    end();
}

static void test_errors(void)
{
    start("stalled_axis = 3\n");
    EXPECT("", "ERR:UNKNOWN_CMD");
    EXPECT("ping", "ERR:UNKNOWN_CMD");
    EXPECT(" PING", "ERR:UNKNOWN_CMD");
    EXPECT(":", "ERR:UNKNOWN_CMD");
    const char *const commands[] = {"GET:%s", "PUT:%s:1", "MOVE:%s:1", "STATUS:%s",
                                    "MONITOR:%s:10", "MSTOP:%s", "MGET:%s", "SUBSCRIBE:%s:10"};
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        char line[256];
        snprintf(line, sizeof line, commands[i], "BL02:NO:SUCH");
        CHECK(strcmp(ask(line), "ERR:UNKNOWN_PV\n") == 0, "%s", line);
        line[strcspn(line, ":")] = '\0';
        CHECK(strcmp(ask(line), "ERR:UNKNOWN_PV\n") == 0, "%s", line);
    }
    EXPECT("MGET:BL02:RING:CURRENT,,BL02:RING:CURRENT", "ERR:UNKNOWN_PV");
    EXPECT("MOVE:BL02:RING:CURRENT:1", "ERR:UNKNOWN_PV");
    EXPECT("STATUS:BL02:RING:CURRENT", "ERR:UNKNOWN_PV");
    EXPECT("PUT:BL02:NO:SUCH:nan", "ERR:UNKNOWN_PV");
    const char *const refused[] = {
        "PUT:BL02:MONO:ENERGY:", "PUT:BL02:MONO:ENERGY:nan", "PUT:BL02:MONO:ENERGY:inf",
        "PUT:BL02:MONO:ENERGY:1e999", "PUT:BL02:MONO:ENERGY:9000 ", "PUT:BL02:MONO:ENERGY:0x2710",
        "MOVE:BL02:MONO:ENERGY:3999.99", "MOVE:BL02:MONO:ENERGY:20000.01",
        "PUT:BL02:RING:CURRENT:1", "PUT:BL02:SAMPLE:X.RBV:1", "PUT:BL02:SAMPLE:X.EGU:1",
        "PUT:BL02:SHUTTER:CMD:2", "PUT:BL02:SHUTTER:CMD:0.5", "PUT:BL02:SHUTTER:STATUS:1",
        "PUT:BL02:ATTEN:FACTOR:1.01", "PUT:BL02:ATTEN:FACTOR:-0.01", "PUT:BL02:SAMPLE:SELECT:1",
        "PUT:BL02:SAMPLE:SELECT:-1", "PUT:BL02:SAMPLE:SELECT:0.5", "PUT:BL02:DET:EXPOSURE:9e-5",
        "PUT:BL02:DET:EXPOSURE:1000.1", "PUT:BL02:SAMPLE:X.VELO:0", "PUT:BL02:SAMPLE:X.HLM:10001",
        "PUT:BL02:SAMPLE:X.LLM:10001", "PUT:BL02:AD1:NIMAGES:0", "PUT:BL02:AD1:NIMAGES:1.5",
        "MONITOR:BL02:RING:CURRENT:0", "MONITOR:BL02:RING:CURRENT:0.9",
        "MONITOR:BL02:RING:CURRENT:", "MONITOR:BL02:RING:CURRENT:nan",
        "SUBSCRIBE:BL02:*:0", "COUNT:0", "COUNT:1001", "COUNT:", "COUNT:x", "ACQUIRE:0",
        "ACQUIRE:1.5", "ACQUIRE:", "TRUTH:AD1:0", "TRUTH:AD1:-1", "TRUTH:AD1", "STOP:BL02:SAMPLE:X",
        "ABORT:BL02:SAMPLE:X", "PING:",
    };
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        const char *got = ask(refused[i]);
        CHECK(strcmp(got, "ERR:INVALID_VALUE\n") == 0, "%s gave %s", refused[i], got);
    }
    EXPECT("MOVE:BL02:SAMPLE:Z:1", "ERR:MOTOR_FAULT");
    EXPECT("PUT:BL02:SAMPLE:Z:1", "ERR:MOTOR_FAULT");
    EXPECT("STATUS:BL02:SAMPLE:Z", "ERR:MOTOR_FAULT");
    EXPECT("ACQUIRE:1", "ERR:NO_CONSUMER");
    EXPECT("FRAMES", "ERR:BUSY"); /* this session cannot take frames */
    EXPECT("COUNT:1", "OK:COUNTING");
    EXPECT("COUNT:1", "ERR:BUSY");
    EXPECT("TRUTH:AD2:0", "ERR:UNKNOWN_PV");
    end();
}

static void test_soft_limits_can_be_narrowed(void)
{
    start(NULL);
    EXPECT("PUT:BL02:SAMPLE:X.HLM:100", "OK:PUT");
    EXPECT("MOVE:BL02:SAMPLE:X:101", "ERR:INVALID_VALUE");
    EXPECT("MOVE:BL02:SAMPLE:X:100", "OK:MOVING");
    EXPECT("PUT:BL02:SAMPLE:X.LLM:101", "ERR:INVALID_VALUE");
    end();
}

/* Value of a PV in the last update that has it, "" if there is none. */
static const char *updated(const char *text, const char *name)
{
    static char value[64];
    char key[16];
    const struct pv *pv = pv_find(&sim.pvs, name);
    value[0] = '\0';
    for (int i = 0; i < session.subscription.count; i++)
        if (session.subscription.pvs[i] == pv)
            snprintf(key, sizeof key, "%d=", i);
    for (const char *line = strstr(text, "UPD:"); line != NULL; line = strstr(line + 1, "UPD:")) {
        const char *at = strchr(line + 4, ':');
        size_t length = strcspn(line, "\n");
        while (at != NULL && at < line + length) {
            if (strncmp(at + 1, key, strlen(key)) == 0)
                snprintf(value, sizeof value, "%.*s", (int)strcspn(at + 1 + strlen(key), ",\n"),
                         at + 1 + strlen(key));
            at = strpbrk(at + 1, ",\n");
            if (at != NULL && *at == '\n')
                break;
        }
    }
    return value;
}

#define UPDATED(text, name, expected)                                                             \
    CHECK(strcmp(updated(text, name), expected) == 0, "%s is '%s'", name, updated(text, name))

static void tell(void *owner, unsigned news)
{
    (void)owner;
    session_update(&session, &sim, (news & NEWS_COUNTED) != 0);
}

static void test_subscription(void)
{
    start(NULL);
    char text[OUTPUT_LIMIT];
    snprintf(text, sizeof text, "%s", ask("SUBSCRIBE:BL02:*:100"));
    CHECK(strncmp(text, "OK:", 3) == 0 && atoi(text + 3) == sim.pvs.count, "%.80s", text);
    UPDATED(text, "BL02:MONO:ENERGY.RBV", "9000");
    UPDATED(text, "BL02:MONO:ENERGY.EGU", "eV");
    session_update(&session, &sim, false);
    CHECK(strcmp(taken(), "") == 0, "nothing changed, yet there is an update");
    sim.tell = tell;
    EXPECT("MOVE:BL02:SAMPLE:X:0", "OK:MOVING"); /* where it is: must blink all the same */
    sim_tell(&sim);
    snprintf(text, sizeof text, "%s", taken());
    UPDATED(text, "BL02:SAMPLE:X.DMOV", "0");
    sim_advance(&sim, 0.5);
    snprintf(text, sizeof text, "%s", taken());
    UPDATED(text, "BL02:SAMPLE:X.DMOV", "1");
    ask("MOVE:BL02:SAMPLE:X:100");
    sim_tell(&sim);
    taken();
    sim_advance(&sim, 10);
    snprintf(text, sizeof text, "%s", taken());
    CHECK(strchr(text, '\n') == text + strlen(text) - 1, "arrival takes several lines: %s", text);
    UPDATED(text, "BL02:SAMPLE:X.DMOV", "1");
    UPDATED(text, "BL02:SAMPLE:X.RBV", "100");
    ask("COUNT:0.5");
    sim_tell(&sim);
    UPDATED(taken(), "BL02:DET:COUNTING", "1");
    ask("GET:BL02:DET:I0"); /* the latched value, which no fresh exposure replaces while counting */
    sim_advance(&sim, 11);
    snprintf(text, sizeof text, "%s", taken());
    UPDATED(text, "BL02:DET:COUNTING", "0");
    UPDATED(text, "BL02:DET:ELAPSED", "0.5");
    CHECK(*updated(text, "BL02:DET:I0") && *updated(text, "BL02:DET:XRD"), "counts missing");
    ask("COUNT:0.5");
    sim_advance(&sim, 11.1);
    taken();
    EXPECT("COUNTSTOP", "OK:STOPPED");
    sim_tell(&sim);
    UPDATED(taken(), "BL02:DET:COUNTING", "0");
    CHECK_NEAR(sim.counters.elapsed, 0.1, 1e-9);
    ask("SUBSCRIBE:BL02:*:3600000");
    ask("MOVE:BL02:SAMPLE:X:0");
    sim_tell(&sim);
    taken();
    sim_advance(&sim, 100);
    snprintf(text, sizeof text, "%s", taken());
    UPDATED(text, "BL02:SAMPLE:X.DMOV", "1");
    UPDATED(text, "BL02:RING:CURRENT", ""); /* drifts: not before the interval is over */
    sim.lock_step = true;
    session_update(&session, &sim, false);
    CHECK(*updated(taken(), "BL02:RING:CURRENT"), "lock step hides what drifts");
    sim.lock_step = false;
    ask("FAULT:BL02:RING:CURRENT:DUMP");
    sim_tell(&sim);
    UPDATED(taken(), "BL02:RING:CURRENT", "0"); /* jumps */
    ask("FAULT:BL02:RING:CURRENT:NONE");
    snprintf(text, sizeof text, "%s", ask("SUBSCRIBE:BL02:SHUTTER:*:10")); /* replaces the first */
    CHECK(strncmp(text, "OK:2;BL02:SHUTTER:STATUS,BL02:SHUTTER:CMD\nUPD:", 46) == 0, "%s", text);
    EXPECT("UNSUBSCRIBE", "OK:UNSUBSCRIBED");
    end();
}

static bool has_room(void *owner, size_t bytes)
{
    return *(size_t *)owner >= bytes;
}

static void send_frame(void *owner, const void *header, size_t header_bytes, const void *image,
                       size_t image_bytes)
{
    (void)owner;
    buffer_add(&out, header, header_bytes);
    buffer_add(&out, image, image_bytes);
}

/* Let the simulation run on, with its renderer, until `frames` have been drawn. */
static void run_frames(uint64_t frames)
{
    for (int i = 0; i < 20000 && sim.detector.delivered < frames; i++) {
        sim_advance(&sim, sim.now + 0.01);
        detector_progress(&sim.detector, &sim);
        usleep(100);
    }
}

static void test_frames(void)
{
    start(NULL);
    size_t room = OUTPUT_LIMIT, bytes = 64 * 64 * 2;
    session.sink = (struct frame_sink){&room, has_room, send_frame};
    EXPECT("FRAMES", "OK:FRAMES");
    EXPECT("PUT:BL02:SHUTTER:CMD:1", "OK:PUT");
    EXPECT("PUT:BL02:AD1:EXPOSURE:0.05", "OK:PUT");
    sim_advance(&sim, 1);
    EXPECT("ACQUIRE:3", "OK:ACQUIRING");
    EXPECT("ACQUIRE:3", "ERR:BUSY");
    EXPECT("PUT:BL02:AD1:EXPOSURE:1", "ERR:BUSY");
    run_frames(3);
    CHECK(!sim.detector.acquiring && sim.detector.total == 3, "%d", (int)sim.detector.total);
    for (int i = 0; i < 3; i++) {
        unsigned long long number, index;
        double time, energy, exposure;
        int ny, nx, size;
        const char *header = out.data + out.start;
        CHECK(sscanf(header, "FRAME:%llu:%llu,%lf,uint16,%dx%d,%d,%lf,%lf", &number, &index, &time,
                     &ny, &nx, &size, &energy, &exposure) == 8, "%.80s", header);
        CHECK(number == (unsigned)i && index == (unsigned)i && nx == 64 && ny == 64
                  && size == (int)bytes && energy == 9000 && exposure == 0.05, "%.80s", header);
        buffer_consume(&out, strcspn(header, "\n") + 1 + bytes);
    }
    CHECK(out.length == 0, "%zu bytes too many", out.length);
    CHECK(strncmp(ask("TRUTH:AD1:2"), "OK:", 3) == 0, "no truth");
    EXPECT("TRUTH:AD1:3", "ERR:INVALID_VALUE");

    room = 0; /* the consumer is behind: the detector waits and loses nothing, but its clock goes on */
    EXPECT("ACQUIRE:3", "OK:ACQUIRING");
    for (int i = 0; i < 20000 && (i < 50 || sim.detector.waited == 0); i++) {
        sim_advance(&sim, sim.now + 1);
        usleep(200);
        detector_progress(&sim.detector, &sim);
    }
    CHECK(out.length == 0 && sim.detector.acquiring && sim.detector.waited == 1, "does not wait");
    room = OUTPUT_LIMIT;
    run_frames(3);
    CHECK(!sim.detector.acquiring && sim.detector.total == 6, "%d", (int)sim.detector.total);
    double stamps[3];
    for (int i = 0; i < 3; i++) {
        const char *header = out.data + out.start;
        CHECK(sscanf(header, "FRAME:%*u:%*u,%lf", &stamps[i]) == 1, "%.80s", header);
        buffer_consume(&out, strcspn(header, "\n") + 1 + bytes);
        CHECK_NEAR(stamps[i] - stamps[0], i * 0.05 / sim.time_scale, 2e-6);
    }
    EXPECT("GET:BL02:AD1:LATE", "OK:1"); /* the third began when the first had been taken */

    EXPECT("ACQUIRE:1000000", "OK:ACQUIRING");
    EXPECT("GET:BL02:AD1:LATE", "OK:0");
    run_frames(2);
    taken();
    room = 0; /* or a frame drawn in the meantime would come before the reply */
    EXPECT("ACQSTOP", "OK:STOPPED");
    room = OUTPUT_LIMIT;
    for (int i = 0; i < 2000 && sim.detector.acquiring; i++) {
        usleep(1000);
        detector_progress(&sim.detector, &sim);
    }
    CHECK(!sim.detector.acquiring, "does not stop");
    taken();
    EXPECT("ACQUIRE:10", "OK:ACQUIRING");
    session_end(&session, &sim);
    CHECK(!sim.detector.acquiring && sim.detector.consumer_lost, "goes on without a consumer");
    EXPECT("ACQUIRE:1", "ERR:NO_CONSUMER");
    end();
}

static void test_lock_step(void)
{
    start(NULL);
    size_t room = OUTPUT_LIMIT;
    session.sink = (struct frame_sink){&room, has_room, send_frame};
    EXPECT("ADVANCE:1", "ERR:UNKNOWN_CMD"); /* time passes by itself */
    sim.lock_step = true;
    EXPECT("ADVANCE:2.5", "OK:ADVANCED");
    EXPECT("ADVANCE:-1", "ERR:INVALID_VALUE");
    EXPECT("ADVANCE", "ERR:INVALID_VALUE");
    CHECK(sim.now == 2.5, "it is %g", sim.now);
    EXPECT("MOVE:BL02:SAMPLE:X:4000", "OK:MOVING");
    EXPECT("COUNT:0.5", "OK:COUNTING");
    sim_settle(&sim);
    EXPECT("MGET:BL02:SAMPLE:X.RBV,BL02:SAMPLE:X.DMOV,BL02:DET:COUNTING", "OK:4000,1,0");
    double arrived = sim.now;
    sim_settle(&sim);
    CHECK(sim.now == arrived && sim_unix_time(&sim) == 1767225600.0 + arrived, "time passes");
    EXPECT("FRAMES", "OK:FRAMES");
    EXPECT("ACQUIRE:3", "OK:ACQUIRING");
    sim_settle(&sim); /* waits for the renderer */
    CHECK(!sim.detector.acquiring && sim.detector.delivered == 3, "frames are missing");
    CHECK_NEAR(sim.now, arrived + 3 * 0.1, 1e-9);
    taken();
    room = 0; /* it does not wait for a consumer that is behind */
    EXPECT("ACQUIRE:2", "OK:ACQUIRING");
    sim_settle(&sim);
    CHECK(sim.detector.acquiring && out.length == 0, "sent without room");
    room = OUTPUT_LIMIT;
    detector_progress(&sim.detector, &sim);
    sim_settle(&sim);
    CHECK(!sim.detector.acquiring && sim.detector.delivered == 2, "does not go on");
    end();
}

static void test_abort(void)
{
    start(NULL);
    ask("MOVE:BL02:MONO:ENERGY:12000");
    ask("MOVE:BL02:DET:TTH:90");
    ask("COUNT:100");
    sim_advance(&sim, 1);
    EXPECT("ABORT", "OK:ABORTED");
    EXPECT("GET:BL02:DET:COUNTING", "OK:0");
    sim_advance(&sim, 1.2);
    EXPECT("MGET:BL02:MONO:ENERGY.DMOV,BL02:DET:TTH.DMOV", "OK:1,1");
    CHECK(sim.motors[MOTOR_ENERGY].setpoint < 10000, "went on to %g",
          sim.motors[MOTOR_ENERGY].setpoint);
    end();
}

static void test_hostile_lines(void)
{
    start(NULL);
    const char nul[] = "GET:BL02:RING:CURRENT\0X", high[] = "PING\xff";
    CHECK(strcmp(ask_bytes(nul, sizeof nul - 1), "ERR:UNKNOWN_CMD\n") == 0, "NUL");
    CHECK(strcmp(ask_bytes(high, sizeof high - 1), "ERR:UNKNOWN_CMD\n") == 0, "binary");
    struct rng rng;
    rng_seed(&rng, 11, 11);
    const char *const words[] = {"GET", "PUT", "MGET", "MOVE", "SUBSCRIBE", "MONITOR", "LIST",
                                 "TRUTH", "COUNT", "ACQUIRE", "AD1", "BL02", "SAMPLE", "X", "DET",
                                 "I0", "*", "[", "]", "?", "\\", ",", ":", ":", ":", ".RBV", "1",
                                 "1e308", "-", "99999999999999999999", "nan", "MSTOP", "STATUS", "FAULT", "STUCK", "LIMIT",
                                 "DROP=", "=", "NONE", "LINK", "BL02:SAMPLE:X"};
    for (int i = 0; i < 30000; i++) {
        char line[LINE_LIMIT + 1];
        size_t length = 0;
        for (uint64_t n = rng_next(&rng) % 12; n > 0; n--) {
            const char *word = words[rng_next(&rng) % (sizeof words / sizeof *words)];
            memcpy(line + length, word, strlen(word));
            length += strlen(word);
            if (rng_next(&rng) % 20 == 0)
                line[length++] = (char)rng_next(&rng);
        }
        const char *reply = ask_bytes(line, length);
        CHECK(strncmp(reply, "OK:", 3) == 0 || strncmp(reply, "ERR:", 4) == 0, "%.*s", (int)length,
              line);
        sim_advance(&sim, sim.now + 1e-3);
        taken();
    }
    char longest[LINE_LIMIT];
    memset(longest, ',', sizeof longest);
    memcpy(longest, "MGET:", 5);
    CHECK(strcmp(ask_bytes(longest, sizeof longest), "ERR:UNKNOWN_PV\n") == 0, "commas");
    protocol_too_long(&session);
    CHECK(strncmp(taken(), "ERR:", 4) == 0, "too long");
    EXPECT("PING", "OK:PONG");
    end();
}

int main(void)
{
    test_contract();
    test_every_pv_is_listed_and_read();
    test_errors();
    test_soft_limits_can_be_narrowed();
    test_subscription();
    test_frames();
    test_lock_step();
    test_abort();
    test_hostile_lines();
    return check_status();
}
