/* Buffers against a model, number parsing and printing, JSON strings, globs against fnmatch. */
#include <fnmatch.h>

#include "../src/glob.h"
#include "../src/rng.h"
#include "../src/text.h"
#include "check.h"

static void test_buffer_against_model(void)
{
    enum { LIMIT = 5000, STEPS = 20000 };
    static char model[LIMIT];
    size_t length = 0;
    struct buffer buffer;
    struct rng rng;
    rng_seed(&rng, 1, 1);
    buffer_init(&buffer, LIMIT);
    for (int i = 0; i < STEPS; i++) {
        size_t n = rng_next(&rng) % 600;
        if (rng_next(&rng) % 2 == 0) {
            char bytes[600];
            for (size_t j = 0; j < n; j++)
                bytes[j] = (char)rng_next(&rng);
            CHECK(buffer_has_room(&buffer, n) == (length + n <= LIMIT), "room for %zu at %zu", n,
                  length);
            if (length + n > LIMIT)
                continue;
            buffer_add(&buffer, bytes, n);
            memcpy(model + length, bytes, n);
            length += n;
        } else {
            n = n < length ? n : length;
            buffer_consume(&buffer, n);
            memmove(model, model + n, length - n);
            length -= n;
        }
        CHECK(!buffer.failed && buffer.length == length
                  && (length == 0 || memcmp(buffer.data + buffer.start, model, length) == 0),
              "step %d: %zu bytes, expected %zu", i, buffer.length, length);
    }
    CHECK(buffer.capacity <= 4 * LIMIT, "capacity %zu", buffer.capacity);
    buffer_free(&buffer);
}

static void test_buffer_limit_sticks(void)
{
    struct buffer buffer;
    buffer_init(&buffer, 8);
    buffer_text(&buffer, "12345");
    buffer_text(&buffer, "67890");
    CHECK(buffer.failed && buffer.length == 5, "%zu", buffer.length);
    buffer_text(&buffer, "6");
    CHECK(buffer.failed && buffer.length == 5, "an append after a failure was taken");
    buffer_free(&buffer);
}

static const char *printed(double value)
{
    static char text[64];
    struct buffer buffer;
    buffer_init(&buffer, 64);
    buffer_number(&buffer, value);
    memcpy(text, buffer.data + buffer.start, buffer.length);
    text[buffer.length] = '\0';
    buffer_free(&buffer);
    return text;
}

static void test_numbers_are_printed_like_printf(void)
{
    const double values[] = {0.0, -0.0, 1, -1, 0.1, 1e14, 999999999999999.0, 1e15, 1e16, 1e17,
                             1e300, -12.5, 8979.0, 1.0 / 3, 2e-308, 123456789012.0};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        char expected[64];
        double back;
        snprintf(expected, sizeof expected, "%.17g", values[i]);
        CHECK(strcmp(printed(values[i]), expected) == 0, "%s, expected %s", printed(values[i]),
              expected);
        CHECK(parse_number(printed(values[i]), &back) && back == values[i], "%s", expected);
    }
}

static void test_parse_number(void)
{
    const char *const good[] = {"0", "-1", "+1", "1.5", ".5", "5.", "1e3", "1E-3", "007"};
    const char *const bad[] = {"", " 1", "1 ", "nan", "inf", "-inf", "1e999", "0x10", "1,5", "1e",
                               "e1", "-", "+-1", "1.2.3", "1\t", "infinity", "1e+", "--1"};
    double value;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        CHECK(parse_number(good[i], &value) && value == strtod(good[i], NULL), "%s", good[i]);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK(!parse_number(bad[i], &value), "'%s' was taken as %g", bad[i], value);
    unsigned long long number;
    CHECK(parse_unsigned("18446744073709551615", &number) && number == UINT64_MAX, "2^64 - 1");
    CHECK(!parse_unsigned("18446744073709551616", &number), "2^64");
    CHECK(!parse_unsigned("-1", &number) && !parse_unsigned("", &number)
              && !parse_unsigned("1.0", &number), "not whole");
}

static void test_json_strings(void)
{
    const struct {
        const char *text, *json;
    } cases[] = {
        {"plain", "\"plain\""},
        {"\"\\\n\x7f", "\"\\\"\\\\\\u000a\\u007f\""},
        {"Fe\xe2\x82\x82O\xe2\x82\x83", "\"Fe\\u2082O\\u2083\""},
        {"\xf0\x9d\x84\x9e", "\"\\ud834\\udd1e\""},
        {"\xff\xc3", "\"\\ufffd\\ufffd\""},
        {"\xed\xa0\x80!", "\"\\ufffd!\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buffer buffer;
        buffer_init(&buffer, 256);
        buffer_json_string(&buffer, cases[i].text);
        buffer_add(&buffer, "", 1);
        CHECK(strcmp(buffer.data + buffer.start, cases[i].json) == 0, "%s, expected %s",
              buffer.data + buffer.start, cases[i].json);
        buffer_free(&buffer);
    }
}

static void test_globs_against_fnmatch(void)
{
    static const char letters[] = "AB:*?[]!-\\.";
    struct rng rng;
    rng_seed(&rng, 2, 2);
    for (int i = 0; i < 200000; i++) {
        char pattern[12], name[10];
        size_t n = rng_next(&rng) % sizeof pattern, m = rng_next(&rng) % sizeof name;
        for (size_t j = 0; j < n; j++)
            pattern[j] = letters[rng_next(&rng) % (sizeof letters - 1)];
        for (size_t j = 0; j < m; j++)
            name[j] = "AB:."[rng_next(&rng) % 4];
        pattern[n] = name[m] = '\0';
        /* Left to each implementation: a quote at the end, and within brackets quotes, colons
         * (character classes) and unfinished or reversed ranges. */
        const char *bracket = strchr(pattern, '[');
        if ((n > 0 && pattern[n - 1] == '\\') || (bracket != NULL && strpbrk(bracket, "\\:.-[")
            && strpbrk(bracket + 1, "\\:.-[") != NULL))
            continue;
        CHECK(glob_match(pattern, name) == (fnmatch(pattern, name, 0) == 0), "'%s' and '%s'",
              pattern, name);
    }
}

static void test_globs_of_the_contract(void)
{
    CHECK(glob_match("*:DET:*", "BL02:DET:I0"), "infix");
    CHECK(glob_match("**", "BL02:DET:I0") && glob_match("*", ""), "stars");
    CHECK(glob_match("*ENERGY*", "BL02:MONO:ENERGY.RBV"), "word");
    CHECK(glob_match("BL02:SAMPLE:?", "BL02:SAMPLE:X"), "one");
    CHECK(!glob_match("BL02:SAMPLE:?", "BL02:SAMPLE:XY"), "not two");
    CHECK(glob_match("BL02:SAMPLE:[X-Z]", "BL02:SAMPLE:Y"), "range");
    CHECK(!glob_match("BL02:SAMPLE:[!X-Z]", "BL02:SAMPLE:Y"), "negated range");
    CHECK(glob_match("[]]", "]") && glob_match("[", "["), "brackets as such");
    CHECK(!glob_match("det:*", "DET:I0"), "case matters");
    CHECK(!glob_match("", "A") && glob_match("", ""), "empty");
}

int main(void)
{
    test_buffer_against_model();
    test_buffer_limit_sticks();
    test_numbers_are_printed_like_printf();
    test_parse_number();
    test_json_strings();
    test_globs_against_fnmatch();
    test_globs_of_the_contract();
    return check_status();
}
