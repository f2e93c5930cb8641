#include "protocol.h"

#include <stdlib.h>
#include <string.h>

#include "commands.h"

const char reply_unknown_command[] = "ERR:UNKNOWN_CMD";
const char reply_unknown_pv[] = "ERR:UNKNOWN_PV";
const char reply_invalid_value[] = "ERR:INVALID_VALUE";
const char reply_motor_fault[] = "ERR:MOTOR_FAULT";
const char reply_internal_error[] = "ERR:INTERNAL";
const char reply_busy[] = "ERR:BUSY";

char *split_value(char *target)
{
    char *colon = target == NULL ? NULL : strrchr(target, ':');
    if (colon == NULL)
        return NULL;
    *colon = '\0';
    return colon + 1;
}

const struct pv *request_pv(const struct request *request)
{
    return request->target == NULL ? NULL : pv_find(&request->sim->pvs, request->target);
}

static bool is_plain_text(const char *line, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (line[i] < 0x20 || line[i] > 0x7E)
            return false;
    return true;
}

static const struct command *find_command(const char *name)
{
    static const struct command *const tables[] = {pv_commands, detector_commands, fault_commands,
                                                   fly_commands};
    for (size_t t = 0; t < sizeof tables / sizeof *tables; t++)
        for (const struct command *command = tables[t]; command->name != NULL; command++)
            if (strcmp(command->name, name) == 0)
                return command;
    return NULL;
}

static reply dispatch(struct session *session, struct sim *sim, char *line, size_t length)
{
    if (!is_plain_text(line, length))
        return reply_unknown_command;
    char *colon = strchr(line, ':');
    if (colon != NULL)
        *colon = '\0';
    struct request request = {session, sim, colon == NULL ? NULL : colon + 1};
    const struct command *command = find_command(line);
    if (command == NULL)
        return reply_unknown_command;
    return command->bare && colon != NULL ? reply_invalid_value : command->run(&request);
}

static void answer(struct session *session, reply text)
{
    buffer_text(session->out, text);
    buffer_text(session->out, "\n");
}

void protocol_line(struct session *session, struct sim *sim, char *line, size_t length)
{
    reply text = dispatch(session, sim, line, length);
    if (text != NULL)
        answer(session, text);
}

void protocol_too_long(struct session *session)
{
    answer(session, reply_unknown_command);
}

void session_monitor(struct session *session, struct sim *sim)
{
    buffer_text(session->out, "DATA:");
    pv_read(sim, &session->monitor, 1, session->out);
    buffer_text(session->out, "\n");
}

void session_update(struct session *session, struct sim *sim, bool counted)
{
    subscription_tell_changes(&session->subscription, sim, counted, session->out);
}

void session_end(struct session *session, struct sim *sim)
{
    if (session->frames)
        detector_detach(&sim->detector, sim, session->sink.owner);
    if (sim->faults.spared == session)
        sim->faults.spared = NULL;
    session->subscription.count = 0;
    session->monitor = NULL;
    session->frames = false;
}
