/* Fly scans: one motor sweeps at constant speed while the counters are read out by the clock.
 *
 * A point is a gate of `dwell` seconds; the gates are contiguous, and the middle of gate i is where
 * a step scan of as many points would stop. The axis starts from rest far enough before the first
 * gate to reach its speed and brakes behind the last one. The monochromator sweeps its Bragg angle
 * at constant angular speed, so its points are equidistant in angle. */
#ifndef BEAMLINE_FLY_H
#define BEAMLINE_FLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gate.h"
#include "motor.h"
#include "rng.h"

enum { FLY_POINTS_MAX = 1000000, FLY_REASON_MAX = 256 };

enum fly_state {
    FLY_IDLE, FLY_APPROACHING, FLY_FLYING, FLY_STOPPING, FLY_DONE, FLY_ABORTED, FLY_FAULT
};
enum fly_fault { FLY_FAULT_NONE, FLY_FAULT_STALLED, FLY_FAULT_COURSE };
enum fly_reply { FLY_OK, FLY_INVALID, FLY_BUSY, FLY_MOTOR_FAULT, FLY_NO_MEMORY };

struct fly_request {
    enum motor_axis axis;
    double start, stop; /* user units: middle of the first and of the last gate */
    double points, dwell;
};

struct fly_point {
    double position, energy; /* means over the gate */
    double counts[CHANNEL_COUNT];
};

struct fly {
    enum fly_state state;
    enum fly_fault fault;
    enum motor_axis axis;
    uint64_t number;       /* scans so far: each draws its noise from a stream of its own */
    double dwell;          /* s */
    int points, taken;
    int block;             /* points between two events */
    double opening;        /* when the first gate opens, s */
    double unix_start;     /* the same in real time */
    double run_up, beyond; /* where the axis starts from rest and comes to rest, axis units */
    double speed;          /* axis units/s */
    double course_end;     /* of the profile that the axis was given */
    struct gate gate;
    bool spoiled[CHANNEL_COUNT]; /* dead during the gate: no counts */
    struct rng rng;
    struct fly_point *point; /* of the last scan */
    size_t capacity;
};

/* Begin a scan: send the axis to its run-up. FLY_INVALID puts what is wrong into `reason`. */
enum fly_reply fly_start(struct fly *fly, struct sim *sim, const struct fly_request *request,
                         char reason[FLY_REASON_MAX]);
/* End a scan early: the running gate is dropped, the axis brakes. */
void fly_stop(struct fly *fly, struct sim *sim);
void fly_free(struct fly *fly);

bool fly_active(const struct fly *fly);

/* Take all points that are complete at `t`. Must be called before anything that the conditions
 * depend on changes at `t`. */
void fly_advance(struct fly *fly, const struct sim *sim, double t);

/* When fly_event must be called next; it must also be called whenever the motor arrives. */
double fly_next_event(const struct fly *fly);
void fly_event(struct fly *fly, struct sim *sim);

/* Middle of gate `index`, s since the first gate opened. */
double fly_time(const struct fly *fly, int index);

#endif
