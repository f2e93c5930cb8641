#include "text.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BUFFER_FIRST = 512, FORMAT_MAX = 512 };

void buffer_init(struct buffer *buffer, size_t limit)
{
    *buffer = (struct buffer){.limit = limit};
}

void buffer_free(struct buffer *buffer)
{
    free(buffer->data);
    *buffer = (struct buffer){.limit = buffer->limit};
}

void buffer_reuse(struct buffer *buffer, const struct buffer *spare)
{
    buffer->data = spare->data;
    buffer->capacity = spare->capacity;
}

bool buffer_has_room(const struct buffer *buffer, size_t length)
{
    return !buffer->failed && length <= buffer->limit && buffer->length <= buffer->limit - length;
}

bool buffer_reserve(struct buffer *buffer, size_t length)
{
    if (!buffer_has_room(buffer, length)) {
        buffer->failed = true;
        return false;
    }
    size_t needed = buffer->length + length;
    if (buffer->start + needed <= buffer->capacity)
        return true;
    if (needed <= buffer->capacity && buffer->start >= buffer->length) {
        /* The front half is free: moving costs no more than what was consumed. */
        memcpy(buffer->data, buffer->data + buffer->start, buffer->length);
        buffer->start = 0;
        return true;
    }
    /* With room for twice the queue, moving it to the front is always cheap from then on. */
    size_t capacity = buffer->capacity ? buffer->capacity : BUFFER_FIRST;
    while (capacity < needed + buffer->length)
        capacity *= 2;
    char *data = malloc(capacity);
    if (data == NULL) {
        buffer->failed = true;
        return false;
    }
    if (buffer->length > 0)
        memcpy(data, buffer->data + buffer->start, buffer->length);
    free(buffer->data);
    buffer->data = data;
    buffer->start = 0;
    buffer->capacity = capacity;
    return true;
}

void buffer_add(struct buffer *buffer, const void *bytes, size_t length)
{
    if (length > 0 && buffer_reserve(buffer, length)) {
        memcpy(buffer->data + buffer->start + buffer->length, bytes, length);
        buffer->length += length;
    }
}

void buffer_text(struct buffer *buffer, const char *text)
{
    buffer_add(buffer, text, strlen(text));
}

void buffer_format(struct buffer *buffer, const char *format, ...)
{
    char text[FORMAT_MAX];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (length < 0 || length >= FORMAT_MAX)
        buffer->failed = true;
    else
        buffer_add(buffer, text, (size_t)length);
}

void buffer_number(struct buffer *buffer, double value)
{
    /* Most values are small integers (states, counts); printf's exact path costs ten times more. */
    if (value >= 0 && value < 1e15 && value == floor(value) && !signbit(value)) {
        char digits[24];
        size_t at = sizeof digits;
        uint64_t rest = (uint64_t)value;
        do {
            digits[--at] = (char)('0' + rest % 10);
            rest /= 10;
        } while (rest > 0);
        buffer_add(buffer, digits + at, sizeof digits - at);
        return;
    }
    buffer_format(buffer, "%.17g", value);
}

/* Decode one UTF-8 sequence; anything invalid is U+FFFD and one byte long. */
static uint32_t next_code_point(const unsigned char **text)
{
    const unsigned char *p = *text;
    int extra = p[0] < 0x80 ? 0 : p[0] >= 0xC2 && p[0] < 0xE0 ? 1 : p[0] >= 0xE0 && p[0] < 0xF0 ? 2
                : p[0] >= 0xF0 && p[0] < 0xF5 ? 3 : -1;
    uint32_t code = extra <= 0 ? p[0] : p[0] & (0x3Fu >> extra);
    for (int i = 1; i <= extra; i++) {
        if ((p[i] & 0xC0) != 0x80) {
            extra = -1;
            break;
        }
        code = code << 6 | (p[i] & 0x3Fu);
    }
    *text += extra < 0 ? 1 : extra + 1;
    return extra < 0 || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000) ? 0xFFFD : code;
}

void buffer_json_string(struct buffer *buffer, const char *text)
{
    const unsigned char *p = (const unsigned char *)text;
    buffer_text(buffer, "\"");
    while (*p != '\0') {
        uint32_t code = next_code_point(&p);
        if (code == '"' || code == '\\')
            buffer_format(buffer, "\\%c", (char)code);
        else if (code >= 0x20 && code < 0x7F)
            buffer_format(buffer, "%c", (char)code);
        else if (code < 0x10000)
            buffer_format(buffer, "\\u%04x", (unsigned)code);
        else
            buffer_format(buffer, "\\u%04x\\u%04x", (unsigned)(0xD7C0 + (code >> 10)),
                          (unsigned)(0xDC00 + (code & 0x3FF)));
    }
    buffer_text(buffer, "\"");
}

void buffer_consume(struct buffer *buffer, size_t length)
{
    if (length >= buffer->length) {
        buffer->start = 0;
        buffer->length = 0;
    } else {
        buffer->start += length;
        buffer->length -= length;
    }
}

void buffer_truncate(struct buffer *buffer, size_t length)
{
    if (length < buffer->length)
        buffer->length = length;
}

char *trim_space(char *text)
{
    while (isspace((unsigned char)*text))
        text++;
    char *end = text + strlen(text);
    while (end > text && isspace((unsigned char)end[-1]))
        *--end = '\0';
    return text;
}

bool parse_number(const char *text, double *value)
{
    size_t length = strspn(text, "0123456789+-.eE");
    if (length == 0 || text[length] != '\0')
        return false;
    char *end = NULL;
    double parsed = strtod(text, &end);
    if (*end != '\0' || !isfinite(parsed))
        return false;
    *value = parsed;
    return true;
}

bool parse_unsigned(const char *text, unsigned long long *value)
{
    size_t length = strspn(text, "0123456789");
    if (length == 0 || text[length] != '\0')
        return false;
    errno = 0;
    unsigned long long parsed = strtoull(text, NULL, 10);
    if (errno != 0)
        return false;
    *value = parsed;
    return true;
}
