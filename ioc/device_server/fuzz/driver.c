/* Runs a fuzz target without libFuzzer: the files of the corpus, then mutations of them with a fixed
 * seed for some seconds.
 *
 * usage: fuzz_<target> SECONDS FILE... */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { FILES_MAX = 1024, SIZE_MAX_BYTES = 4096, MUTATIONS_MAX = 8 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
    uint8_t bytes[SIZE_MAX_BYTES];
    size_t size;
};

static struct input *corpus;
static size_t corpus_size;
static uint64_t state = 0x9E3779B97F4A7C15u;

static uint64_t draw(uint64_t below)
{
    state ^= state << 13; /* xorshift64 */
    state ^= state >> 7;
    state ^= state << 17;
    return state % below;
}

static double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void load(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL || corpus_size == FILES_MAX) {
        fprintf(stderr, "%s: cannot be read, or too many files\n", path);
        exit(2);
    }
    struct input *input = &corpus[corpus_size++];
    input->size = fread(input->bytes, 1, sizeof input->bytes, file);
    fclose(file);
}

static void insert(struct input *input, size_t at, const uint8_t *bytes, size_t count)
{
    if (count > sizeof input->bytes - input->size)
        count = sizeof input->bytes - input->size;
    memmove(input->bytes + at + count, input->bytes + at, input->size - at);
    memcpy(input->bytes + at, bytes, count);
    input->size += count;
}

static void mutate(struct input *input)
{
    const struct input *other = &corpus[draw(corpus_size)];
    size_t at = draw(input->size + 1), left = input->size - at;
    uint8_t byte = (uint8_t)draw(256);
    switch (draw(5)) {
    case 0:
        if (left > 0)
            input->bytes[at] = byte;
        break;
    case 1:
        if (left > 0)
            input->bytes[at] ^= (uint8_t)(1u << draw(8));
        break;
    case 2: { /* cut */
        size_t count = draw(left + 1);
        memmove(input->bytes + at, input->bytes + at + count, left - count);
        input->size -= count;
        break;
    }
    case 3: insert(input, at, &byte, 1); break;
    default: { /* a piece of another input */
        size_t from = draw(other->size + 1);
        insert(input, at, other->bytes + from, draw(other->size - from + 1));
        break;
    }
    }
}

int main(int count, char **arguments)
{
    if (count < 3) {
        fprintf(stderr, "usage: %s SECONDS FILE...\n", arguments[0]);
        return 2;
    }
    corpus = calloc(FILES_MAX, sizeof *corpus);
    struct input *input = malloc(sizeof *input);
    if (corpus == NULL || input == NULL)
        return 2;
    for (int i = 2; i < count; i++) {
        load(arguments[i]);
        LLVMFuzzerTestOneInput(corpus[corpus_size - 1].bytes, corpus[corpus_size - 1].size);
    }
    double end = seconds_now() + atof(arguments[1]);
    unsigned long runs = corpus_size;
    for (; seconds_now() < end; runs++) {
        *input = corpus[draw(corpus_size)];
        for (uint64_t n = 1 + draw(MUTATIONS_MAX); n > 0; n--)
            mutate(input);
        /* A copy of exact size, so that the sanitizer sees a read behind its end. */
        uint8_t *exact = malloc(input->size > 0 ? input->size : 1);
        if (exact == NULL)
            return 2;
        memcpy(exact, input->bytes, input->size);
        LLVMFuzzerTestOneInput(exact, input->size);
        free(exact);
    }
    printf("%lu runs\n", runs);
    free(input);
    free(corpus);
    return 0;
}
