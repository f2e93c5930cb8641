#include "pv.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "sim.h"

enum kind {
    MOTOR_VAL, MOTOR_RBV, MOTOR_DMOV, MOTOR_MOVN, MOTOR_VELO, MOTOR_ACCL, MOTOR_HLM, MOTOR_LLM,
    MOTOR_HLS, MOTOR_LLS, MOTOR_MSTA, MOTOR_BDST, MOTOR_VMAX, MOTOR_EGU, MOTOR_ANGLE,
    RING_CURRENT, COUNTS, EXPOSURE, ELAPSED, COUNTING, VACUUM, TEMPERATURE,
    SHUTTER_STATUS, SHUTTER_COMMAND, ATTENUATION, SAMPLE_SELECT,
    AD_EXPOSURE, AD_PERIOD, AD_IMAGES, AD_ACQUIRING, AD_COUNTER, AD_TOTAL, AD_WAITED, AD_LOST,
    AD_NX, AD_NY, AD_FAULT, AD_PANELS, AD_MODE, AD_SPARSE, AD_PRELOAD, AD_OVERFLOWS, AD_LATE,
    FLY_STATE, FLY_FAULT_CODE, FLY_NUMBER, FLY_TOTAL, FLY_POINTS, FLY_DWELL, FLY_OPENED
};

static const struct {
    const char *suffix;
    enum kind kind;
} motor_fields[] = {
    {"", MOTOR_VAL}, {".RBV", MOTOR_RBV}, {".DMOV", MOTOR_DMOV}, {".MOVN", MOTOR_MOVN},
    {".VELO", MOTOR_VELO}, {".ACCL", MOTOR_ACCL}, {".HLM", MOTOR_HLM}, {".LLM", MOTOR_LLM},
    {".HLS", MOTOR_HLS}, {".LLS", MOTOR_LLS}, {".MSTA", MOTOR_MSTA}, {".BDST", MOTOR_BDST}, {".VMAX", MOTOR_VMAX},
    {".EGU", MOTOR_EGU}, {".ANGLE", MOTOR_ANGLE},
};

static const struct {
    const char *name;
    enum kind kind;
    int index;
} plain[] = {
    {"RING:CURRENT", RING_CURRENT, 0},
    {"DET:I0", COUNTS, CHANNEL_I0}, {"DET:IT", COUNTS, CHANNEL_IT}, {"DET:IF", COUNTS, CHANNEL_IF},
    {"DET:IR", COUNTS, CHANNEL_IR}, {"DET:XRD", COUNTS, CHANNEL_XRD},
    {"DET:EXPOSURE", EXPOSURE, 0}, {"DET:ELAPSED", ELAPSED, 0}, {"DET:COUNTING", COUNTING, 0},
    {"VACUUM:PRESSURE", VACUUM, 0}, {"HUTCH:TEMP", TEMPERATURE, 0},
    {"SHUTTER:STATUS", SHUTTER_STATUS, 0}, {"SHUTTER:CMD", SHUTTER_COMMAND, 0},
    {"ATTEN:FACTOR", ATTENUATION, 0}, {"SAMPLE:SELECT", SAMPLE_SELECT, 0},
    {"AD1:EXPOSURE", AD_EXPOSURE, 0}, {"AD1:PERIOD", AD_PERIOD, 0}, {"AD1:NIMAGES", AD_IMAGES, 0},
    {"AD1:ACQUIRING", AD_ACQUIRING, 0}, {"AD1:COUNTER", AD_COUNTER, 0}, {"AD1:TOTAL", AD_TOTAL, 0},
    {"AD1:WAITED", AD_WAITED, 0}, {"AD1:LOST", AD_LOST, 0}, {"AD1:NX", AD_NX, 0},
    {"AD1:NY", AD_NY, 0}, {"AD1:PANELS", AD_PANELS, 0}, {"AD1:MODE", AD_MODE, 0},
    {"AD1:FAULT", AD_FAULT, 0}, {"AD1:SPARSE", AD_SPARSE, 0}, {"AD1:PRELOAD", AD_PRELOAD, 0},
    {"AD1:OVERFLOWS", AD_OVERFLOWS, 0}, {"AD1:LATE", AD_LATE, 0},
    {"FLY:STATE", FLY_STATE, 0}, {"FLY:FAULT", FLY_FAULT_CODE, 0}, {"FLY:NUMBER", FLY_NUMBER, 0},
    {"FLY:TOTAL", FLY_TOTAL, 0}, {"FLY:POINTS", FLY_POINTS, 0}, {"FLY:DWELL", FLY_DWELL, 0},
    {"FLY:OPENED", FLY_OPENED, 0},
};

static uint32_t hash(const char *name)
{
    uint32_t h = 2166136261u; /* FNV-1a */
    for (; *name != '\0'; name++)
        h = (h ^ (unsigned char)*name) * 16777619u;
    return h ^ h >> 15;
}

static void add(struct pv_table *table, const char *prefix, const char *name, const char *suffix,
                enum kind kind, int index)
{
    struct pv *pv = &table->pv[table->count++];
    snprintf(pv->name, sizeof pv->name, "%s%s%s", prefix, name, suffix);
    pv->kind = (unsigned char)kind;
    pv->index = (unsigned char)index;
    uint32_t at = hash(pv->name);
    while (table->slot[at % PV_SLOTS] != 0)
        at++;
    table->slot[at % PV_SLOTS] = (short)table->count;
}

void pv_table_build(struct pv_table *table, const char *prefix)
{
    memset(table, 0, sizeof *table);
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        add(table, prefix, plain[i].name, "", plain[i].kind, plain[i].index);
    for (int axis = 0; axis < MOTOR_COUNT; axis++)
        for (size_t f = 0; f < sizeof motor_fields / sizeof *motor_fields; f++)
            if (motor_fields[f].kind != MOTOR_ANGLE || motor_specs[axis].bragg)
                add(table, prefix, motor_specs[axis].name, motor_fields[f].suffix,
                    motor_fields[f].kind, axis);
}

const struct pv *pv_find(const struct pv_table *table, const char *name)
{
    for (uint32_t at = hash(name); table->slot[at % PV_SLOTS] != 0; at++) {
        const struct pv *pv = &table->pv[table->slot[at % PV_SLOTS] - 1];
        if (strcmp(pv->name, name) == 0)
            return pv;
    }
    return NULL;
}

int pv_motor(const struct pv *pv)
{
    return pv->kind == MOTOR_VAL ? pv->index : -1;
}

bool pv_is_count(const struct pv *pv)
{
    return pv->kind == COUNTS;
}

bool pv_is_count_result(const struct pv *pv)
{
    return pv->kind == COUNTS || pv->kind == ELAPSED || pv->kind == COUNTING;
}

bool pv_drifts(const struct pv *pv)
{
    return pv->kind == RING_CURRENT || pv->kind == VACUUM || pv->kind == TEMPERATURE;
}

const char *pv_text(const struct pv *pv)
{
    return pv->kind == MOTOR_EGU ? motor_specs[pv->index].unit : NULL;
}

static double motor_value(const struct sim *sim, const struct pv *pv)
{
    const struct motor *motor = &sim->motors[pv->index];
    switch ((enum kind)pv->kind) {
    case MOTOR_VAL: return motor->setpoint;
    case MOTOR_RBV: return motor_readback(motor, sim->now);
    case MOTOR_DMOV: return !motor->moving;
    case MOTOR_MOVN: return motor->moving;
    case MOTOR_VELO: return motor->speed;
    case MOTOR_VMAX: return motor->spec->speed_max;
    case MOTOR_ACCL: return motor->acceleration_time;
    case MOTOR_HLM: return motor->high;
    case MOTOR_LLM: return motor->low;
    case MOTOR_HLS: return motor_at_high_limit(motor, sim->now);
    case MOTOR_LLS: return motor_at_low_limit(motor, sim->now);
    case MOTOR_MSTA: return motor_status_word(motor, sim->now);
    case MOTOR_BDST: return motor->backlash;
    case MOTOR_ANGLE: return motor_axis_readback(motor, sim->now);
    default: return NAN;
    }
}

static double detector_value(const struct sim *sim, const struct pv *pv)
{
    const struct detector *detector = &sim->detector;
    switch ((enum kind)pv->kind) {
    case AD_EXPOSURE: return detector->exposure;
    case AD_PERIOD: return detector->period;
    case AD_IMAGES: return detector->images;
    case AD_ACQUIRING: return detector->acquiring;
    case AD_COUNTER: return (double)detector->delivered;
    case AD_TOTAL: return (double)detector->total;
    case AD_WAITED: return (double)detector->waited;
    case AD_LOST: return detector->consumer_lost;
    case AD_FAULT: return detector->dead;
    case AD_NX: return detector->geometry.nx;
    case AD_NY: return detector->geometry.ny;
    case AD_PANELS: return detector->geometry.panels;
    case AD_MODE: return detector->mode;
    case AD_SPARSE: return detector->sparse;
    case AD_PRELOAD: return detector->preload;
    case AD_OVERFLOWS: return (double)detector->overflows;
    case AD_LATE: return (double)detector->late;
    default: return NAN;
    }
}

static double fly_value(const struct fly *fly, const struct pv *pv)
{
    switch ((enum kind)pv->kind) {
    case FLY_STATE: return fly->state;
    case FLY_FAULT_CODE: return fly->fault;
    case FLY_NUMBER: return (double)fly->number;
    case FLY_TOTAL: return fly->points;
    case FLY_POINTS: return fly->taken;
    case FLY_DWELL: return fly->dwell;
    case FLY_OPENED: return fly->unix_start;
    default: return NAN;
    }
}

double pv_value(const struct sim *sim, const struct pv *pv)
{
    const struct counters *counters = &sim->counters;
    switch ((enum kind)pv->kind) {
    case RING_CURRENT: return ring_reading(&sim->ring, &sim->config, sim->now);
    case COUNTS: return counters->dead[pv->index] ? NAN : counters->latched[pv->index];
    case EXPOSURE: return counters->exposure;
    case ELAPSED: return counters->elapsed;
    case COUNTING: return counters->gate.open;
    case VACUUM: return vacuum_pressure(&sim->config, sim->now);
    case TEMPERATURE: return hutch_temperature(&sim->config, sim->now);
    case SHUTTER_STATUS: return sim->shutter.open;
    case SHUTTER_COMMAND: return sim->shutter.command;
    case ATTENUATION: return sim->attenuation;
    case SAMPLE_SELECT: return sim->selected;
    default: break;
    }
    if (pv->kind >= FLY_STATE)
        return fly_value(&sim->fly, pv);
    return pv->kind >= AD_EXPOSURE ? detector_value(sim, pv) : motor_value(sim, pv);
}

void pv_read(struct sim *sim, const struct pv *const *pvs, int count, struct buffer *out)
{
    double fresh[CHANNEL_COUNT];
    bool exposed = false;
    for (int i = 0; i < count; i++) {
        const char *text = pv_text(pvs[i]);
        if (i > 0)
            buffer_text(out, ",");
        if (pvs[i]->kind == COUNTS && !sim->counters.gate.open && !exposed) {
            counters_glance(&sim->counters, sim, fresh);
            exposed = true;
        }
        if (text != NULL)
            buffer_text(out, text);
        else
            buffer_number(out, pvs[i]->kind == COUNTS && exposed ? fresh[pvs[i]->index]
                                                                 : pv_value(sim, pvs[i]));
    }
}

static bool set(double *field, double value, double low, double high)
{
    bool good = value >= low && value <= high;
    if (good)
        *field = value;
    return good;
}

static enum pv_reply put_motor(struct sim *sim, const struct pv *pv, double value)
{
    struct motor *motor = &sim->motors[pv->index];
    const struct motor_spec *spec = motor->spec;
    double travel = spec->high - spec->low;
    bool good;
    if (fly_active(&sim->fly) && sim->fly.axis == (enum motor_axis)pv->index)
        return PV_BUSY;
    switch ((enum kind)pv->kind) {
    case MOTOR_VAL: {
        enum motor_reply reply = sim_move(sim, (enum motor_axis)pv->index, value);
        return reply == MOTOR_LIMIT ? PV_INVALID : reply == MOTOR_FAULT ? PV_FAULT : PV_OK;
    }
    case MOTOR_VELO: good = set(&motor->speed, value, 1e-6 * spec->speed, spec->speed_max); break;
    case MOTOR_ACCL: good = set(&motor->acceleration_time, value, 1e-3, 100.0); break;
    case MOTOR_HLM: good = set(&motor->high, value, motor->low, spec->high); break;
    case MOTOR_LLM: good = set(&motor->low, value, spec->low, motor->high); break;
    /* Within the limit switches wherever the move ends. */
    case MOTOR_BDST: good = set(&motor->backlash, value, -0.005 * travel, 0.005 * travel); break;
    default: good = false;
    }
    return good ? PV_OK : PV_INVALID;
}

static enum pv_reply put_detector(struct detector *detector, const struct pv *pv, double value)
{
    bool good;
    switch ((enum kind)pv->kind) {
    case AD_EXPOSURE:
    case AD_PERIOD:
    case AD_IMAGES:
    case AD_MODE:
    case AD_SPARSE:
    case AD_PRELOAD: break;
    default: return PV_INVALID;
    }
    if (detector->acquiring)
        return PV_BUSY;
    switch ((enum kind)pv->kind) {
    case AD_EXPOSURE: good = set(&detector->exposure, value, 1e-4, 1000.0); break;
    case AD_PERIOD: good = set(&detector->period, value, 0.0, 1e6); break;
    case AD_IMAGES:
        good = value == floor(value) && set(&detector->images, value, 1.0, 1e9);
        break;
    case AD_MODE: good = detector_set_mode(detector, value); break;
    case AD_SPARSE: good = detector_set_sparse(detector, value); break;
    default: good = detector_set_preload(detector, value);
    }
    return good ? PV_OK : PV_INVALID;
}

enum pv_reply pv_put(struct sim *sim, const struct pv *pv, double value)
{
    bool whole = value == floor(value);
    bool good = false;
    sim->news |= NEWS_CHANGED;
    switch ((enum kind)pv->kind) {
    case EXPOSURE: good = set(&sim->counters.exposure, value, 1e-4, 1000.0); break;
    case SHUTTER_COMMAND:
        good = value == 0.0 || value == 1.0;
        if (good)
            sim_shutter(sim, value == 1.0);
        break;
    case ATTENUATION:
        good = value >= 0.0 && value <= 1.0;
        if (good)
            sim_attenuate(sim, value);
        break;
    case SAMPLE_SELECT:
        good = whole && value >= 0.0 && value < sim->sample_count;
        if (good)
            sim_select(sim, (int)value);
        break;
    default:
        return pv->kind <= MOTOR_ANGLE  ? put_motor(sim, pv, value)
               : pv->kind >= AD_EXPOSURE ? put_detector(&sim->detector, pv, value)
                                         : PV_INVALID;
    }
    return good ? PV_OK : PV_INVALID;
}
