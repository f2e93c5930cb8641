#include "fault.h"

#include <math.h>
#include <stddef.h>

#include "sim.h"

const char *const fault_kind_names[FAULT_KINDS] = {
    [FAULT_NONE] = "NONE", [FAULT_STUCK] = "STUCK", [FAULT_LIMIT] = "LIMIT",
    [FAULT_ENCODER] = "ENCODER", [FAULT_FROZEN] = "FROZEN", [FAULT_DEAD] = "DEAD",
    [FAULT_DUMP] = "DUMP", [FAULT_DELAY] = "DELAY", [FAULT_DROP] = "DROP",
};

static const char *const plain_names[FAULT_TARGETS] = {
    [FAULT_COUNTER + CHANNEL_I0] = "DET:I0", [FAULT_COUNTER + CHANNEL_IT] = "DET:IT",
    [FAULT_COUNTER + CHANNEL_IF] = "DET:IF", [FAULT_COUNTER + CHANNEL_IR] = "DET:IR",
    [FAULT_COUNTER + CHANNEL_XRD] = "DET:XRD", [FAULT_CAMERA] = "AD1",
    [FAULT_RING] = "RING:CURRENT", [FAULT_LINK] = "LINK",
};

/* Most seconds that an axis may take to give up, that a reply may be late; most lines to a cut. */
static const double patience_max = 1000.0, delay_max = 60.0, lines_max = 1e9;

const char *fault_target_name(int target)
{
    return target < MOTOR_COUNT ? motor_specs[target].name : plain_names[target];
}

bool fault_has_prefix(int target)
{
    return target != FAULT_LINK;
}

static bool within(double number, double low, double high)
{
    return number >= low && number <= high;
}

static bool possible(int target, enum fault_kind kind, double number)
{
    bool none = isnan(number);
    bool motor = target < MOTOR_COUNT;
    switch (kind) {
    case FAULT_NONE: return none;
    case FAULT_STUCK: return motor && (none || within(number, 0.0, patience_max));
    case FAULT_LIMIT:
        return motor
               && (none || within(number, motor_specs[target].low, motor_specs[target].high));
    case FAULT_ENCODER:
    case FAULT_FROZEN: return motor && none;
    case FAULT_DEAD: return !motor && target <= FAULT_CAMERA && none;
    case FAULT_DUMP: return target == FAULT_RING && none;
    case FAULT_DELAY: return target == FAULT_LINK && within(number, 0.0, delay_max);
    case FAULT_DROP:
        return target == FAULT_LINK
               && (none || (within(number, 1.0, lines_max) && number == floor(number)));
    case FAULT_KINDS: break;
    }
    return false;
}

static void break_motor(struct sim *sim, int axis, enum fault_kind kind, double number)
{
    enum motor_defect defect = kind == FAULT_STUCK     ? AXIS_STUCK
                               : kind == FAULT_LIMIT   ? AXIS_LIMIT
                               : kind == FAULT_ENCODER ? AXIS_ENCODER
                               : kind == FAULT_FROZEN  ? AXIS_FROZEN
                                                       : AXIS_SOUND;
    motor_break(&sim->motors[axis], sim->now, defect, number);
}

static void break_link(struct faults *faults, enum fault_kind kind, double number,
                       const void *client)
{
    faults->spared = client;
    if (kind != FAULT_DROP || !isnan(number))
        return;
    faults->cut = true;
    faults->active[FAULT_LINK].kind = FAULT_NONE;
}

bool fault_set(struct sim *sim, int target, enum fault_kind kind, double number,
               const void *client)
{
    if (!possible(target, kind, number))
        return false;
    sim_before_change(sim);
    sim->faults.active[target] = (struct fault){kind, number};
    if (target < MOTOR_COUNT)
        break_motor(sim, target, kind, number);
    else if (target < FAULT_CAMERA)
        counters_break(&sim->counters, (enum channel)(target - FAULT_COUNTER),
                       kind == FAULT_DEAD);
    else if (target == FAULT_CAMERA)
        sim->detector.dead = kind == FAULT_DEAD;
    else if (target == FAULT_RING)
        ring_break(&sim->ring, &sim->config, sim->now, kind == FAULT_DUMP);
    else
        break_link(&sim->faults, kind, number, client);
    return true;
}

void fault_clear_all(struct sim *sim)
{
    for (int target = 0; target < FAULT_TARGETS; target++)
        if (sim->faults.active[target].kind != FAULT_NONE)
            fault_set(sim, target, FAULT_NONE, NAN, NULL);
}

double fault_delay(const struct faults *faults)
{
    const struct fault *link = &faults->active[FAULT_LINK];
    return link->kind == FAULT_DELAY ? link->number : 0.0;
}

void fault_count_line(struct faults *faults, const void *client)
{
    struct fault *link = &faults->active[FAULT_LINK];
    if (link->kind != FAULT_DROP || client == faults->spared || (link->number -= 1.0) > 0.0)
        return;
    link->kind = FAULT_NONE;
    faults->cut = true;
}
