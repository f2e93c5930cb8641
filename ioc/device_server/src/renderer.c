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
    pthread_cond_t wake, done;
    enum job job; /* guarded by lock, like the next two */
    struct frame_order order;
    struct drawn_frame frame;
    struct artist *artist; /* the thread's own */
    int pipe[2];
};

static void *draw_frames(void *argument)
{
    struct renderer *r = argument;
    pthread_mutex_lock(&r->lock);
    while (r->job != JOB_QUIT) {
        if (r->job != JOB_DRAW) {
            pthread_cond_wait(&r->wake, &r->lock);
            continue;
        }
        struct frame_order order = r->order;
        pthread_mutex_unlock(&r->lock);
        struct drawn_frame frame = artist_draw(r->artist, &order);
        pthread_mutex_lock(&r->lock);
        r->frame = frame;
        if (r->job == JOB_DRAW)
            r->job = JOB_DONE;
        pthread_cond_signal(&r->done);
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

struct renderer *renderer_new(const struct config *config)
{
    struct renderer *r = calloc(1, sizeof *r);
    if (r == NULL)
        return NULL;
    r->artist = artist_new(config);
    if (r->artist == NULL || pipe(r->pipe) != 0) {
        artist_free(r->artist);
        free(r);
        return NULL;
    }
    for (int i = 0; i < 2; i++)
        fcntl(r->pipe[i], F_SETFD, FD_CLOEXEC);
    fcntl(r->pipe[0], F_SETFL, O_NONBLOCK);
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->wake, NULL);
    pthread_cond_init(&r->done, NULL);
    if (start_thread(r))
        return r;
    close(r->pipe[0]);
    close(r->pipe[1]);
    artist_free(r->artist);
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
    pthread_cond_destroy(&renderer->done);
    pthread_mutex_destroy(&renderer->lock);
    close(renderer->pipe[0]);
    close(renderer->pipe[1]);
    artist_free(renderer->artist);
    free(renderer);
}

const struct radial_map *renderer_map(const struct renderer *renderer)
{
    return artist_map(renderer->artist);
}

int renderer_descriptor(const struct renderer *renderer)
{
    return renderer->pipe[0];
}

void renderer_submit(struct renderer *renderer, const struct frame_order *order)
{
    pthread_mutex_lock(&renderer->lock);
    renderer->order = *order;
    renderer->job = JOB_DRAW;
    pthread_cond_signal(&renderer->wake);
    pthread_mutex_unlock(&renderer->lock);
}

struct drawn_frame renderer_collect(struct renderer *renderer)
{
    struct drawn_frame frame = {0};
    pthread_mutex_lock(&renderer->lock);
    if (renderer->job == JOB_DONE) {
        char bytes[16];
        frame = renderer->frame;
        renderer->job = JOB_NONE;
        while (read(renderer->pipe[0], bytes, sizeof bytes) > 0)
            ;
    }
    pthread_mutex_unlock(&renderer->lock);
    return frame;
}

void renderer_wait(struct renderer *renderer)
{
    pthread_mutex_lock(&renderer->lock);
    while (renderer->job == JOB_DRAW)
        pthread_cond_wait(&renderer->done, &renderer->lock);
    pthread_mutex_unlock(&renderer->lock);
}
