#include "subscription.h"

#include <math.h>

#include "clock.h"
#include "glob.h"
#include "sim.h"

bool subscription_select(struct subscription *subscription, const struct pv_table *table,
                         const char *glob, int64_t interval)
{
    int count = 0;
    for (int i = 0; i < table->count; i++)
        if (glob_match(glob, table->pv[i].name))
            subscription->pvs[count++] = &table->pv[i];
    if (count == 0)
        return false;
    subscription->interval = interval;
    subscription->drift_due = 0;
    subscription->count = count;
    return true;
}

void subscription_list(const struct subscription *subscription, struct buffer *out)
{
    buffer_format(out, "%d;", subscription->count);
    for (int i = 0; i < subscription->count; i++) {
        if (i > 0)
            buffer_text(out, ",");
        buffer_text(out, subscription->pvs[i]->name);
    }
}

/* The value of a dead channel is NaN, which equals nothing. */
static bool same(double a, double b)
{
    return a == b || (isnan(a) && isnan(b));
}

/* What drifts also jumps: the beam is lost, a gauge fails. */
static bool jumped(double value, double told)
{
    return !(fabs(value - told) <= 0.1 * fabs(told));
}

enum extent { ALL, CHANGES, CHANGES_AND_COUNTS };

static void tell(struct subscription *subscription, const struct sim *sim, enum extent extent,
                 struct buffer *out)
{
    size_t before = out->length;
    int told = 0;
    int64_t now = clock_real();
    bool drifting = extent == ALL || sim->lock_step || now >= subscription->drift_due;
    buffer_format(out, "UPD:%.6f:", sim_unix_time(sim));
    for (int i = 0; i < subscription->count; i++) {
        const struct pv *pv = subscription->pvs[i];
        const char *text = pv_text(pv);
        double value = text == NULL ? pv_value(sim, pv) : 0.0;
        if (!drifting && pv_drifts(pv) && !jumped(value, subscription->told[i]))
            continue;
        if (extent != ALL && (text != NULL || same(value, subscription->told[i]))
            && !(extent == CHANGES_AND_COUNTS && pv_is_count_result(pv)))
            continue;
        buffer_format(out, told++ > 0 ? ",%d=" : "%d=", i);
        if (text != NULL)
            buffer_text(out, text);
        else
            buffer_number(out, value);
        subscription->told[i] = value;
    }
    if (told == 0)
        buffer_truncate(out, before);
    else
        buffer_text(out, "\n");
    if (drifting)
        subscription->drift_due = now + subscription->interval;
}

void subscription_tell_all(struct subscription *subscription, const struct sim *sim,
                           struct buffer *out)
{
    tell(subscription, sim, ALL, out);
}

void subscription_tell_changes(struct subscription *subscription, const struct sim *sim,
                               bool counted, struct buffer *out)
{
    tell(subscription, sim, counted ? CHANGES_AND_COUNTS : CHANGES, out);
}
