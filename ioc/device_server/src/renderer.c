#include "renderer.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

enum job { JOB_NONE, JOB_DRAW, JOB_DONE, JOB_QUIT };

struct renderer {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    enum job job; /* guarded by lock, like the three below */
    uint64_t frame;
    double energy, photons;
    struct stills *stills; /* the thread's own */
    uint16_t *image;       /* the thread's between JOB_DRAW and JOB_DONE */
    size_t pixels;
    int pipe[2];
};

static void to_little_endian(uint16_t *image, size_t pixels)
{
    const union {
        uint16_t word;
        unsigned char bytes[2];
    } probe = {1};
    if (probe.bytes[0] == 1)
        return;
    for (size_t i = 0; i < pixels; i++)
        image[i] = (uint16_t)(image[i] << 8 | image[i] >> 8);
}

static void *draw_frames(void *argument)
{
    struct renderer *r = argument;
    pthread_mutex_lock(&r->lock);
    while (r->job != JOB_QUIT) {
        if (r->job != JOB_DRAW) {
            pthread_cond_wait(&r->wake, &r->lock);
            continue;
        }
        uint64_t frame = r->frame;
        double energy = r->energy, photons = r->photons;
        pthread_mutex_unlock(&r->lock);
        stills_render(r->stills, frame, energy, photons, r->image);
        to_little_endian(r->image, r->pixels);
        pthread_mutex_lock(&r->lock);
        if (r->job == JOB_DRAW)
            r->job = JOB_DONE;
        /* The pipe holds at most one byte per frame and is emptied when the frame is collected. */
        while (write(r->pipe[1], "", 1) < 0 && r->job != JOB_QUIT)
            ;
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

static bool start_thread(struct renderer *r)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int status = pthread_create(&r->thread, NULL, draw_frames, r);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return status == 0;
}

struct renderer *renderer_new(const struct stills_config *config)
{
    struct renderer *r = calloc(1, sizeof *r);
    if (r == NULL)
        return NULL;
    r->pixels = (size_t)config->nx * (size_t)config->ny;
    r->image = calloc(r->pixels, sizeof *r->image);
    r->stills = stills_new(config);
    if (r->image == NULL || r->stills == NULL || pipe(r->pipe) != 0) {
        stills_free(r->stills);
        free(r->image);
        free(r);
        return NULL;
    }
    for (int i = 0; i < 2; i++)
        fcntl(r->pipe[i], F_SETFD, FD_CLOEXEC);
    fcntl(r->pipe[0], F_SETFL, O_NONBLOCK);
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->wake, NULL);
    if (start_thread(r))
        return r;
    close(r->pipe[0]);
    close(r->pipe[1]);
    stills_free(r->stills);
    free(r->image);
    free(r);
    return NULL;
}

void renderer_free(struct renderer *renderer)
{
    if (renderer == NULL)
        return;
    pthread_mutex_lock(&renderer->lock);
    renderer->job = JOB_QUIT;
    pthread_cond_signal(&renderer->wake);
    pthread_mutex_unlock(&renderer->lock);
    pthread_join(renderer->thread, NULL);
    pthread_cond_destroy(&renderer->wake);
    pthread_mutex_destroy(&renderer->lock);
    close(renderer->pipe[0]);
    close(renderer->pipe[1]);
    stills_free(renderer->stills);
    free(renderer->image);
    free(renderer);
}

int renderer_descriptor(const struct renderer *renderer)
{
    return renderer->pipe[0];
}

void renderer_submit(struct renderer *renderer, uint64_t frame, double energy, double photons)
{
    pthread_mutex_lock(&renderer->lock);
    renderer->frame = frame;
    renderer->energy = energy;
    renderer->photons = photons;
    renderer->job = JOB_DRAW;
    pthread_cond_signal(&renderer->wake);
    pthread_mutex_unlock(&renderer->lock);
}

const uint16_t *renderer_collect(struct renderer *renderer)
{
    pthread_mutex_lock(&renderer->lock);
    bool done = renderer->job == JOB_DONE;
    if (done) {
        char bytes[16];
        renderer->job = JOB_NONE;
        while (read(renderer->pipe[0], bytes, sizeof bytes) > 0)
            ;
    }
    pthread_mutex_unlock(&renderer->lock);
    return done ? renderer->image : NULL;
}
