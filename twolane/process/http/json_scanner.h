/* A scanner of common JSON (RFC 8259), for the quick readers in C: each reader is made of functions that read one value
 * or one member, and move on behind it. They return 0 for what is no JSON, and for what is left to the full reader: keys
 * with escapes, repeated keys, lone surrogates, long numbers, and whatever exceeds a limit.
 *
 * All loops are bounded by the size of the input, and the stack by MAX_DEPTH and MAX_KEYS.
 */

#ifndef TWOLANE_JSON_SCANNER_H
#define TWOLANE_JSON_SCANNER_H

#include <stdint.h>
#include <string.h>
#if defined(__SSE2__) && defined(__GNUC__)
#include <emmintrin.h>
#define IN_VECTORS
#endif

#define MAX_DEPTH 64
#define MAX_KEYS 256 /* of all objects that are open at a time: each new key is compared with those of its own object */
#define MAX_MEMBERS 64
#define MAX_NUMBER 17 /* characters: no integer beyond 64 bits, no float out of range */

typedef unsigned char byte;

typedef struct {
    const byte *start;
    Py_ssize_t size;
} span;

/* A string between its quotes, as it is written, and the number of characters that it means. `widest` has the bits of
 * all of them, or of the widest ones of as many bytes: enough to know how CPython stores them. */
typedef struct {
    span written;
    Py_ssize_t chars;
    int has_escape, widest;
} string;

typedef struct {
    const byte *text, *at, *end;
    Py_ssize_t values, max_values; /* counted as `json_body.shape_of` does: one, and one for each bracket and comma */
    int depth;
    int keys; /* that are in use */
    int first_key[MAX_DEPTH + 1];
    span key[MAX_KEYS];
} scanner;

static inline void start_scan(scanner *s, const byte *text, Py_ssize_t size, Py_ssize_t max_values)
{
    s->text = s->at = text;
    s->end = text + size;
    s->values = 1;
    s->max_values = max_values;
    s->depth = s->keys = 0;
}

static inline int is_key(span key, const char *name)
{
    return key.size == (Py_ssize_t)strlen(name) && !memcmp(key.start, name, key.size);
}

static inline int skip_space(scanner *s)
{
    while (s->at < s->end && (*s->at == ' ' || *s->at == '\n' || *s->at == '\r' || *s->at == '\t'))
        s->at++;
    return s->at < s->end;
}

/* One character of more than one byte, in UTF-8's shortest form and without surrogates. */
static inline int read_multibyte(scanner *s, string *found)
{
    byte lead = *s->at;
    Py_ssize_t left = s->end - s->at;
    int more = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : 1;
    byte low = 0x80, high = 0xBF;
    if (lead < 0xC2 || lead > 0xF4 || left <= more)
        return 0;
    if (lead == 0xE0)
        low = 0xA0;
    else if (lead == 0xED)
        high = 0x9F;
    else if (lead == 0xF0)
        low = 0x90;
    else if (lead == 0xF4)
        high = 0x8F;
    if (s->at[1] < low || s->at[1] > high)
        return 0;
    for (int i = 2; i <= more; i++)
        if ((s->at[i] & 0xC0) != 0x80)
            return 0;
    s->at += more + 1;
    found->chars -= more;
    found->widest |= lead <= 0xC3 ? 0xFF : lead < 0xF0 ? 0xFFFF : 0x10FFFF;
    return 1;
}

static inline int is_hex(byte c)
{
    return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'f');
}

/* The UTF-16 unit of an escape with `u` that begins here; -1 if there is none. */
static inline int read_unit(const byte *at, const byte *end)
{
    int unit = 0;
    if (end - at < 6 || at[0] != '\\' || at[1] != 'u')
        return -1;
    for (int i = 2; i < 6; i++) {
        if (!is_hex(at[i]))
            return -1;
        unit = unit * 16 + (at[i] <= '9' ? at[i] - '0' : (at[i] | 0x20) - 'a' + 10);
    }
    return unit;
}

/* Behind a backslash. Lone surrogates are left to the full reader. */
static inline int read_escape(scanner *s, string *found)
{
    if (s->end - s->at < 2)
        return 0;
    byte c = s->at[1];
    found->has_escape = 1;
    if (c != 'u') {
        s->at += 2;
        found->chars--;
        return c == '"' || c == '\\' || c == '/' || c == 'b' || c == 'f' || c == 'n' || c == 'r' || c == 't';
    }
    int unit = read_unit(s->at, s->end);
    if (unit < 0 || (unit & 0xFC00) == 0xDC00)
        return 0;
    int units = (unit & 0xFC00) == 0xD800 ? 2 : 1;
    found->widest |= units == 2 ? 0x10FFFF : unit;
    if (units == 2 && (read_unit(s->at + 6, s->end) & ~0x3FF) != 0xDC00)
        return 0;
    s->at += 6 * units;
    found->chars -= 6 * units - 1;
    return 1;
}

/* Characters that need no look in a string: not below 0x20, above 0x7F, a quote or a backslash. */
static inline int is_plain(byte c)
{
    return c >= 0x20 && c < 0x80 && c != '"' && c != '\\';
}

/* Move to the next character that is not plain, or to the end. */
static inline void skip_plain(scanner *s)
{
    const byte *at = s->at, *end = s->end;
#ifdef IN_VECTORS
    const __m128i space = _mm_set1_epi8(0x20), quote = _mm_set1_epi8('"'), backslash = _mm_set1_epi8('\\');
    for (; end - at >= 16; at += 16) {
        __m128i chars = _mm_loadu_si128((const __m128i *)at);
        __m128i others = _mm_cmplt_epi8(chars, space); /* as signed numbers: those above 0x7F, too */
        others = _mm_or_si128(others, _mm_or_si128(_mm_cmpeq_epi8(chars, quote), _mm_cmpeq_epi8(chars, backslash)));
        int mask = _mm_movemask_epi8(others);
        if (mask) {
            s->at = at + __builtin_ctz(mask);
            return;
        }
    }
#else
#define EACH(c) (0x0101010101010101u * (c))
#define ZEROS(word) (((word) - EACH(1)) & ~(word)) /* the high bit of each byte that is 0, if others are clear */
    for (; end - at >= 8; at += 8) {
        uint64_t word;
        memcpy(&word, at, sizeof word);
        uint64_t quotes = word ^ EACH('"'), backslashes = word ^ EACH('\\');
        if ((word | ((word - EACH(0x20)) & ~word) | ZEROS(quotes) | ZEROS(backslashes)) & EACH(0x80))
            break;
    }
#endif
    while (at < end && is_plain(*at))
        at++;
    s->at = at;
}

/* A string whose quote is next. */
static inline int read_string(scanner *s, string *found)
{
    found->written.start = ++s->at;
    found->chars = found->has_escape = found->widest = 0;
    for (;;) {
        skip_plain(s);
        if (s->at == s->end)
            return 0;
        if (*s->at == '"')
            break;
        if (*s->at == '\\') {
            if (!read_escape(s, found))
                return 0;
        } else {
            do {
                if (*s->at < 0x80 || !read_multibyte(s, found))
                    return 0;
            } while (s->at < s->end && *s->at >= 0x80);
        }
    }
    found->written.size = s->at++ - found->written.start;
    found->chars += found->written.size;
    return 1;
}

static inline int read_digits(scanner *s)
{
    const byte *start = s->at;
    while (s->at < s->end && *s->at >= '0' && *s->at <= '9')
        s->at++;
    return s->at > start;
}

/* Numbers with an exponent, and long ones, are left to the full reader. */
static inline int read_number(scanner *s)
{
    const byte *start = s->at;
    if (*s->at == '-')
        s->at++;
    const byte *digits = s->at;
    if (!read_digits(s) || (*digits == '0' && s->at - digits > 1))
        return 0;
    if (s->at < s->end && *s->at == '.') {
        s->at++;
        if (!read_digits(s))
            return 0;
    }
    return s->at - start <= MAX_NUMBER && !(s->at < s->end && (*s->at | 0x20) == 'e');
}

static inline int read_word(scanner *s, const char *word)
{
    Py_ssize_t size = (Py_ssize_t)strlen(word);
    if (s->end - s->at < size || memcmp(s->at, word, size))
        return 0;
    s->at += size;
    return 1;
}

static inline int note_key(scanner *s, span found)
{
    int first = s->first_key[s->depth];
    if (s->keys == MAX_KEYS || s->keys - first == MAX_MEMBERS)
        return 0;
    for (int i = first; i < s->keys; i++)
        if (s->key[i].size == found.size && !memcmp(s->key[i].start, found.start, found.size))
            return 0;
    s->key[s->keys++] = found;
    return 1;
}

/* The key of a member of the innermost object, up to its value. */
static inline int read_key(scanner *s, span *key)
{
    string found;
    if (*s->at != '"' || !read_string(s, &found) || found.has_escape)
        return 0;
    *key = found.written;
    return note_key(s, *key) && skip_space(s) && *s->at++ == ':' && skip_space(s);
}

/* The members of an object, or the values of an array, behind the bracket. */
static inline int read_entries(scanner *s, byte close, int (*read_entry)(scanner *))
{
    s->at++;
    if (s->depth == MAX_DEPTH || ++s->values > s->max_values || !skip_space(s))
        return 0;
    s->first_key[++s->depth] = s->keys;
    if (*s->at != close) {
        for (;;) {
            if (!read_entry(s) || !skip_space(s))
                return 0;
            if (*s->at == close)
                break;
            if (*s->at++ != ',' || ++s->values > s->max_values || !skip_space(s))
                return 0;
        }
    }
    s->at++;
    s->keys = s->first_key[s->depth--];
    return 1;
}

static int read_value(scanner *s);

static int read_member(scanner *s)
{
    span key;
    return read_key(s, &key) && read_value(s);
}

static int read_value(scanner *s)
{
    string ignored;
    switch (*s->at) {
    case '"':
        return read_string(s, &ignored);
    case '{':
        return read_entries(s, '}', read_member);
    case '[':
        return read_entries(s, ']', read_value);
    case 't':
        return read_word(s, "true");
    case 'f':
        return read_word(s, "false");
    case 'n':
        return read_word(s, "null");
    default:
        return read_number(s);
    }
}

#endif
