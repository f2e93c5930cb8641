#include "glob.h"

#include <stddef.h>

/* Match one bracket expression at `p` (just behind `[`) against `c`. Returns the end of the
 * expression, or NULL if it has none, in which case `[` is an ordinary character. */
static const char *match_bracket(const char *p, char c, bool *matched)
{
    bool negated = *p == '!' || *p == '^';
    bool found = false;
    const char *first = negated ? ++p : p;
    while (*p != '\0' && (*p != ']' || p == first)) {
        char low = *p++;
        if (low == '\\' && *p != '\0')
            low = *p++;
        char high = low;
        if (*p == '-' && p[1] != '\0' && p[1] != ']') {
            high = p[1];
            p += 2;
            if (high == '\\' && *p != '\0')
                high = *p++;
        }
        if (c >= low && c <= high)
            found = true;
    }
    if (*p != ']')
        return NULL;
    *matched = found != negated;
    return p + 1;
}

/* Match one pattern element against `c`; returns the rest of the pattern, NULL on a mismatch. */
static const char *match_one(const char *p, char c)
{
    if (*p == '?')
        return p + 1;
    if (*p == '[') {
        bool matched = false;
        const char *rest = match_bracket(p + 1, c, &matched);
        if (rest != NULL)
            return matched ? rest : NULL;
    }
    if (*p == '\\' && p[1] != '\0')
        p++;
    return *p == c ? p + 1 : NULL;
}

bool glob_match(const char *pattern, const char *name)
{
    /* Only the last star ever needs to be retried: an earlier one has already matched the shortest
     * run that lets everything up to the last one fit. */
    const char *star = NULL, *star_name = NULL;
    while (*name != '\0') {
        if (*pattern == '*') {
            star = ++pattern;
            star_name = name;
            continue;
        }
        const char *rest = *pattern != '\0' ? match_one(pattern, *name) : NULL;
        if (rest != NULL) {
            pattern = rest;
            name++;
        } else if (star != NULL) {
            pattern = star;
            name = ++star_name;
        } else {
            return false;
        }
    }
    while (*pattern == '*')
        pattern++;
    return *pattern == '\0';
}
