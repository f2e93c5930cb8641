/* Bounded byte queues and strict parsing: what the protocol is made of. No I/O. */
#ifndef BEAMLINE_TEXT_H
#define BEAMLINE_TEXT_H

#include <stdbool.h>
#include <stddef.h>

/* A byte queue that grows on demand up to `limit`. An append that does not fit appends nothing and
 * sets `failed`, which stays set: the owner checks it once, after a sequence of appends. */
struct buffer {
    char *data;
    size_t start;    /* first byte not yet consumed */
    size_t length;   /* bytes from start */
    size_t capacity;
    size_t limit;
    bool failed;
};

void buffer_init(struct buffer *buffer, size_t limit);
void buffer_free(struct buffer *buffer);
/* Give a new buffer the memory of one that is no longer used. */
void buffer_reuse(struct buffer *buffer, const struct buffer *spare);

/* Append bytes, a string, a formatted string (at most 511 bytes), a number as %.17g. */
void buffer_add(struct buffer *buffer, const void *bytes, size_t length);
void buffer_text(struct buffer *buffer, const char *text);
void buffer_format(struct buffer *buffer, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void buffer_number(struct buffer *buffer, double value);

/* Append `text` as a JSON string, quotes included, in ASCII. */
void buffer_json_string(struct buffer *buffer, const char *text);

/* Make room for `length` more bytes, so that appending them allocates nothing; false, and failed, if
 * it cannot be had. */
bool buffer_reserve(struct buffer *buffer, size_t length);
/* Whether `length` more bytes fit within the limit. */
bool buffer_has_room(const struct buffer *buffer, size_t length);
/* Drop `length` bytes from the front. */
void buffer_consume(struct buffer *buffer, size_t length);
/* Undo appends: keep only the first `length` bytes. */
void buffer_truncate(struct buffer *buffer, size_t length);

/* Cut white space off both ends, in place; returns the new beginning. */
char *trim_space(char *text);

/* Parse a finite decimal number that fills the whole string; false for anything else (hexadecimal,
 * infinities, NaN, white space and empty strings included). */
bool parse_number(const char *text, double *value);

/* Parse a decimal integer 0 to 2^64-1 that fills the whole string. */
bool parse_unsigned(const char *text, unsigned long long *value);

#endif
