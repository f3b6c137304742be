/* Quick readers of common input: an HTTP/1.1 message, the chunks of its body, a JSON object, and an event of a stream.
 * Each accepts a strict subset of what the full reader accepts (llhttp, `json_body.read_json`, the reader of answers),
 * with the same result, and returns None for everything else, which the full reader then accepts or refuses. So nothing
 * here refuses input, and no error message is made here. Headers are written likewise.
 *
 * The module is optional: where it is not built, the full readers read everything. Tests compare the two on random input.
 * All loops are bounded by the size of the input, and the stack by MAX_DEPTH and MAX_KEYS.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#if defined(__SSE2__) && defined(__GNUC__)
#include <emmintrin.h>
#define IN_VECTORS
#endif

#define VERSION 5
#define MAX_DEPTH 64
#define MAX_KEYS 256 /* of all objects that are open at a time: each new key is compared with those of its own object */
#define MAX_MEMBERS 64
#define MAX_NUMBER 17 /* characters: no integer beyond 64 bits, no float out of range */
#define MAX_HEADERS 100
#define MAX_EVENT_VALUES 4096

typedef unsigned char byte;

typedef struct {
    const byte *start;
    Py_ssize_t size;
} span;

/* JSON (RFC 8259) */

typedef struct {
    const byte *text, *at, *end;
    Py_ssize_t values, max_values; /* counted as `json_body.shape_of` does: one, and one for each bracket and comma */
    int depth;
    int keys; /* that are in use */
    int first_key[MAX_DEPTH + 1];
    span key[MAX_KEYS];
    PyObject *members; /* of the outermost object */
} scanner;

static int skip_space(scanner *s)
{
    while (s->at < s->end && (*s->at == ' ' || *s->at == '\n' || *s->at == '\r' || *s->at == '\t'))
        s->at++;
    return s->at < s->end;
}

/* One character of more than one byte, in UTF-8's shortest form and without surrogates. */
static int read_multibyte(scanner *s)
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
    return 1;
}

static int is_hex(byte c)
{
    return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'f');
}

/* Behind a backslash. Surrogates are left to the full reader, which decides about lone ones. */
static int read_escape(scanner *s)
{
    if (s->end - s->at < 2)
        return 0;
    byte c = s->at[1];
    if (c != 'u') {
        s->at += 2;
        return c == '"' || c == '\\' || c == '/' || c == 'b' || c == 'f' || c == 'n' || c == 'r' || c == 't';
    }
    if (s->end - s->at < 6)
        return 0;
    for (int i = 2; i < 6; i++)
        if (!is_hex(s->at[i]))
            return 0;
    if ((s->at[2] | 0x20) == 'd' && s->at[3] >= '8')
        return 0;
    s->at += 6;
    return 1;
}

static byte plain[256]; /* the characters that need no look in a string */

#define EACH(c) (0x0101010101010101u * (c))
#define ZEROS(word) (((word) - EACH(1)) & ~(word)) /* the high bit of each byte that is 0, if others are clear */

/* Whether eight characters are all plain: not below 0x20, above 0x7F, a quote or a backslash. */
static int are_plain(const byte *at)
{
    uint64_t word;
    memcpy(&word, at, sizeof word);
    uint64_t quotes = word ^ EACH('"'), escapes = word ^ EACH('\\');
    return !((word | ((word - EACH(0x20)) & ~word) | ZEROS(quotes) | ZEROS(escapes)) & EACH(0x80));
}

/* Skip plain characters, up to the first other one or to a few before the end. */
static void skip_plain(scanner *s)
{
#ifdef IN_VECTORS
    while (s->end - s->at >= 16) {
        __m128i chars = _mm_loadu_si128((const __m128i *)s->at);
        __m128i low = _mm_cmplt_epi8(chars, _mm_set1_epi8(0x20)); /* signed, so above 0x7F, too */
        __m128i ends = _mm_or_si128(_mm_cmpeq_epi8(chars, _mm_set1_epi8('"')), _mm_cmpeq_epi8(chars, _mm_set1_epi8('\\')));
        int others = _mm_movemask_epi8(_mm_or_si128(low, ends));
        if (others) {
            s->at += __builtin_ctz((unsigned)others);
            return;
        }
        s->at += 16;
    }
#endif
    while (s->end - s->at >= 8 && are_plain(s->at))
        s->at += 8;
}

static int read_string(scanner *s, int *has_escape)
{
    s->at++;
    while (s->at < s->end) {
        skip_plain(s);
        if (s->at == s->end)
            return 0;
        byte c = *s->at;
        if (plain[c]) {
            s->at++;
        } else if (c == '"') {
            s->at++;
            return 1;
        } else if (c == '\\') {
            *has_escape = 1;
            if (!read_escape(s))
                return 0;
        } else if (c < 0x80 || !read_multibyte(s)) {
            return 0;
        }
    }
    return 0;
}

static int read_digits(scanner *s)
{
    const byte *start = s->at;
    while (s->at < s->end && *s->at >= '0' && *s->at <= '9')
        s->at++;
    return s->at > start;
}

/* Numbers with an exponent, and long ones, are left to the full reader. */
static int read_number(scanner *s)
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

static int read_word(scanner *s, const char *word, Py_ssize_t size)
{
    if (s->end - s->at < size || memcmp(s->at, word, size))
        return 0;
    s->at += size;
    return 1;
}

static int read_value(scanner *s);

static int note_key(scanner *s, span found)
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

/* A tuple that owns both; NULL if one of them is. */
static PyObject *pair_of(PyObject *first, PyObject *second)
{
    PyObject *pair = first && second ? PyTuple_New(2) : NULL;
    if (!pair) {
        Py_XDECREF(first);
        Py_XDECREF(second);
        return NULL;
    }
    PyTuple_SET_ITEM(pair, 0, first);
    PyTuple_SET_ITEM(pair, 1, second);
    return pair;
}

static int note_member(scanner *s, span key, const byte *start)
{
    PyObject *name = PyUnicode_DecodeUTF8((const char *)key.start, key.size, NULL);
    PyObject *place = name ? pair_of(PyLong_FromSsize_t(start - s->text), PyLong_FromSsize_t(s->at - s->text)) : NULL;
    int failed = place ? PyDict_SetItem(s->members, name, place) : -1;
    Py_XDECREF(name);
    Py_XDECREF(place);
    return failed == 0;
}

static int read_member(scanner *s)
{
    span key = {s->at + 1, 0};
    int has_escape = 0;
    if (*s->at != '"' || !read_string(s, &has_escape) || has_escape)
        return 0;
    key.size = s->at - 1 - key.start;
    if (!note_key(s, key) || !skip_space(s) || *s->at++ != ':' || !skip_space(s))
        return 0;
    const byte *start = s->at;
    return read_value(s) && (s->depth > 1 || note_member(s, key, start));
}

/* The members of an object, or the values of an array, behind the bracket. */
static int read_entries(scanner *s, byte close, int (*read_entry)(scanner *))
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

static int read_value(scanner *s)
{
    int ignored = 0;
    switch (*s->at) {
    case '"':
        return read_string(s, &ignored);
    case '{':
        return read_entries(s, '}', read_member);
    case '[':
        return read_entries(s, ']', read_value);
    case 't':
        return read_word(s, "true", 4);
    case 'f':
        return read_word(s, "false", 5);
    case 'n':
        return read_word(s, "null", 4);
    default:
        return read_number(s);
    }
}

/* The sizes among the arguments of a function, from the place `first` on. Returns 0 after an exception. */
static int read_sizes(PyObject *const *args, Py_ssize_t given, Py_ssize_t first, Py_ssize_t expected, Py_ssize_t *sizes)
{
    if (given != expected) {
        PyErr_Format(PyExc_TypeError, "expected %zd arguments, not %zd", expected, given);
        return 0;
    }
    for (Py_ssize_t i = first; i < expected; i++)
        if ((sizes[i - first] = PyLong_AsSsize_t(args[i])) == -1 && PyErr_Occurred())
            return 0;
    return 1;
}

static PyObject *scan_object(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t given)
{
    Py_buffer body;
    Py_ssize_t max_values;
    if (!read_sizes(args, given, 1, 2, &max_values) || PyObject_GetBuffer(args[0], &body, PyBUF_SIMPLE))
        return NULL;
    scanner s;
    s.text = s.at = body.buf;
    s.end = s.text + body.len;
    s.depth = s.keys = 0;
    s.values = 1;
    s.max_values = max_values;
    s.members = PyDict_New();
    int is_read = s.members && skip_space(&s) && *s.at == '{' && read_value(&s) && !skip_space(&s);
    PyBuffer_Release(&body);
    if (!is_read)
        Py_CLEAR(s.members);
    if (PyErr_Occurred())
        return NULL;
    return s.members ? s.members : Py_NewRef(Py_None);
}

/* An event of a streamed chat completion that adds text to one choice, and nothing else */

typedef struct {
    Py_ssize_t index; /* of the choice; -1: none yet */
    span text, document;
    int has_escape; /* in the text */
} addition;

static int is_key(span key, const char *name)
{
    return key.size == (Py_ssize_t)strlen(name) && !memcmp(key.start, name, key.size);
}

static int is_one_of(span key, const char *const names[], int count)
{
    for (int i = 0; i < count; i++)
        if (is_key(key, names[i]))
            return 1;
    return 0;
}

/* The members of an object whose bracket is next. `take` reads the value of each. */
static int each_member(scanner *s, int (*take)(scanner *, span, addition *), addition *found)
{
    if (*s->at != '{' || s->depth == MAX_DEPTH)
        return 0;
    s->at++;
    s->first_key[++s->depth] = s->keys;
    do {
        span key = {s->at + 1, 0};
        int has_escape = 0;
        if (!skip_space(s) || *s->at != '"')
            return 0;
        key.start = s->at + 1;
        if (!read_string(s, &has_escape) || has_escape)
            return 0;
        key.size = s->at - 1 - key.start;
        if (!note_key(s, key) || !skip_space(s) || *s->at++ != ':' || !skip_space(s) || !take(s, key, found) ||
            !skip_space(s))
            return 0;
    } while (*s->at++ == ',');
    s->keys = s->first_key[s->depth--];
    return s->at[-1] == '}';
}

static int take_delta(scanner *s, span key, addition *found)
{
    static const char *const empty[] = {"refusal", "tool_calls"};
    static const char *const other[] = {"function_call", "reasoning_content", "reasoning", "audio"};
    if (is_key(key, "content")) {
        found->text.start = s->at + 1;
        if (*s->at != '"' || !read_string(s, &found->has_escape))
            return 0;
        found->text.size = s->at - 1 - found->text.start;
        return 1;
    }
    if (is_one_of(key, empty, 2))
        return read_word(s, "null", 4);
    return !is_one_of(key, other, 4) && read_value(s);
}

static int take_choice(scanner *s, span key, addition *found)
{
    if (is_key(key, "delta"))
        return each_member(s, take_delta, found);
    if (is_key(key, "index")) {
        const byte *digit = s->at;
        if (!read_number(s) || s->at - digit > 4)
            return 0;
        for (found->index = 0; digit < s->at; digit++) {
            if (*digit < '0' || *digit > '9')
                return 0;
            found->index = found->index * 10 + *digit - '0';
        }
        return 1;
    }
    if (is_key(key, "finish_reason"))
        return read_word(s, "null", 4);
    return !is_key(key, "message") && read_value(s);
}

static int take_completion(scanner *s, span key, addition *found)
{
    if (is_key(key, "choices")) {
        if (*s->at++ != '[' || !skip_space(s) || !each_member(s, take_choice, found) || !skip_space(s))
            return 0;
        return *s->at++ == ']';
    }
    if (is_key(key, "usage"))
        return read_word(s, "null", 4);
    return !is_key(key, "error") && read_value(s);
}

/* Whether these bytes are such an event, alone. */
static int read_addition(const byte *start, Py_ssize_t size, addition *found)
{
    static const char begin[] = "data: ", end[] = "\n\n";
    const Py_ssize_t before = sizeof begin - 1, behind = sizeof end - 1;
    scanner s;
    s.text = s.at = start + before;
    size -= before + behind;
    s.end = s.text + size;
    s.depth = s.keys = 0;
    s.values = 1;
    s.max_values = MAX_EVENT_VALUES;
    s.members = NULL;
    *found = (addition){-1, {NULL, 0}, {s.text, size}, 0};
    return size >= 2 && !memcmp(start, begin, before) && !memcmp(s.end, end, behind) && !memchr(s.text, '\n', size) &&
           !memchr(s.text, '\r', size) && each_member(&s, take_completion, found) && s.at == s.end &&
           found->index >= 0 && found->text.size;
}

static PyObject *read_text_event(PyObject *Py_UNUSED(module), PyObject *data)
{
    addition found;
    if (!PyBytes_Check(data)) {
        PyErr_SetString(PyExc_TypeError, "read_text_event() takes bytes");
        return NULL;
    }
    if (!read_addition((const byte *)PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), &found) || found.has_escape)
        Py_RETURN_NONE;
    return Py_BuildValue("(y#ns#)", found.document.start, found.document.size, found.index, found.text.start,
                         found.text.size);
}

/* HTTP/1.1 (RFC 9112) */

static byte token[256]; /* the lower case of what names of headers consist of; 0 for other characters */

/* One line that ends with CR LF, and the beginning of the next one; NULL if there is none. */
static const byte *line_end(const byte *at, const byte *end)
{
    const byte *found = memchr(at, '\n', end - at);
    return found && found > at && found[-1] == '\r' ? found - 1 : NULL;
}

/* Visible ASCII and blanks. */
static int is_text(const byte *at, const byte *end)
{
    for (; at < end; at++)
        if (*at < 0x20 || *at > 0x7E)
            return 0;
    return 1;
}

static PyObject *bytes_of(const byte *start, Py_ssize_t size)
{
    return PyBytes_FromStringAndSize((const char *)start, size);
}

static PyObject *read_header(const byte *at, const byte *end)
{
    const byte *colon = memchr(at, ':', end - at);
    byte name[64];
    if (!colon || colon == at || colon - at > (Py_ssize_t)sizeof name)
        return NULL;
    for (const byte *c = at; c < colon; c++)
        if (!(name[c - at] = token[*c]))
            return NULL;
    const byte *value = colon + 1;
    while (value < end && *value == ' ')
        value++;
    while (end > value && end[-1] == ' ')
        end--;
    if (!is_text(value, end))
        return NULL;
    return pair_of(bytes_of(name, colon - at), bytes_of(value, end - value));
}

static PyObject *read_headers(const byte **at, const byte *end)
{
    PyObject *headers = PyList_New(0);
    while (headers) {
        const byte *stop = line_end(*at, end);
        if (stop == *at) {
            *at += 2;
            return headers;
        }
        PyObject *header = stop && PyList_GET_SIZE(headers) < MAX_HEADERS ? read_header(*at, stop) : NULL;
        if (!header || PyList_Append(headers, header))
            Py_CLEAR(headers);
        else
            *at = stop + 2;
        Py_XDECREF(header);
    }
    return NULL;
}

/* A head that has been read: `listed` are its headers, `named` the same by name. */
typedef struct {
    const byte *start, *line_end, *body, *end; /* of the message */
    PyObject *listed, *named;
} head;

static void free_head(head *h)
{
    Py_CLEAR(h->listed);
    Py_CLEAR(h->named);
}

/* Read a head of at most so many bytes and headers, of which no two have the same name. */
static int read_head(head *h, PyObject *message, Py_ssize_t most_bytes, Py_ssize_t most_headers)
{
    h->start = (const byte *)PyBytes_AS_STRING(message);
    h->end = h->start + PyBytes_GET_SIZE(message);
    h->line_end = line_end(h->start, h->end);
    h->listed = h->named = NULL;
    if (!h->line_end || !is_text(h->start, h->line_end))
        return 0;
    h->body = h->line_end + 2;
    h->listed = read_headers(&h->body, h->end);
    if (!h->listed || h->body - h->start > most_bytes || PyList_GET_SIZE(h->listed) > most_headers)
        return 0;
    h->named = PyDict_New();
    for (Py_ssize_t i = 0; h->named && i < PyList_GET_SIZE(h->listed); i++) {
        PyObject *pair = PyList_GET_ITEM(h->listed, i);
        if (PyDict_SetItem(h->named, PyTuple_GET_ITEM(pair, 0), PyTuple_GET_ITEM(pair, 1)))
            Py_CLEAR(h->named);
    }
    return h->named && PyDict_GET_SIZE(h->named) == PyList_GET_SIZE(h->listed);
}

/* The value of a header; its start is NULL if there is none. */
static span value_of(const head *h, const char *name)
{
    Py_ssize_t size = (Py_ssize_t)strlen(name);
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(h->listed); i++) {
        PyObject *pair = PyList_GET_ITEM(h->listed, i), *key = PyTuple_GET_ITEM(pair, 0);
        if (PyBytes_GET_SIZE(key) == size && !memcmp(PyBytes_AS_STRING(key), name, size)) {
            PyObject *value = PyTuple_GET_ITEM(pair, 1);
            return (span){(const byte *)PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value)};
        }
    }
    return (span){NULL, 0};
}

static int has_any(const head *h, const char *const names[], int count)
{
    for (int i = 0; i < count; i++)
        if (value_of(h, names[i]).start)
            return 1;
    return 0;
}

static int keeps_alive(const head *h)
{
    static const char expected[] = "keep-alive";
    span given = value_of(h, "connection");
    if (!given.start)
        return 1;
    for (Py_ssize_t i = 0; i < given.size; i++)
        if (given.size != sizeof expected - 1 || token[given.start[i]] != (byte)expected[i])
            return 0;
    return given.size > 0;
}

/* Whether the length that a head gives is that of the rest of the message, written in the one usual way. */
static int is_length(span given, const head *h)
{
    byte digits[24], *first = digits + sizeof digits;
    Py_ssize_t rest = h->end - h->body;
    do
        *--first = (byte)('0' + rest % 10);
    while (rest /= 10);
    return given.size == digits + sizeof digits - first && !memcmp(given.start, first, given.size);
}

/* Sets an error only where memory is short. */
static PyObject *target_of(const head *h, PyObject *targets)
{
    PyObject *line = bytes_of(h->start, h->line_end - h->start);
    PyObject *target = line ? PyDict_GetItemWithError(targets, line) : NULL;
    Py_XDECREF(line);
    return target;
}

static int are_bytes(PyObject *message)
{
    if (!PyBytes_Check(message))
        PyErr_SetString(PyExc_TypeError, "a message must be bytes");
    return PyBytes_Check(message);
}

static PyObject *read_request(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t given)
{
    static const char *const uncommon[] = {"transfer-encoding", "expect", "upgrade", "proxy-connection", "trailer"};
    PyObject *target, *found = NULL;
    Py_ssize_t most[2]; /* bytes, headers */
    if (!read_sizes(args, given, 2, 4, most) || !are_bytes(args[0]))
        return NULL;
    if (!PyDict_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "targets must be a dict");
        return NULL;
    }
    head h;
    if (read_head(&h, args[0], most[0], most[1]) && (target = target_of(&h, args[1])) &&
        value_of(&h, "host").start && is_length(value_of(&h, "content-length"), &h) && !has_any(&h, uncommon, 5) &&
        keeps_alive(&h))
        found = Py_BuildValue("(OOOy#)", target, h.listed, h.named, h.body, h.end - h.body);
    free_head(&h);
    return found || PyErr_Occurred() ? found : Py_NewRef(Py_None);
}

/* Whether a header can be written as it is. The length and the connection are the writer's own. */
static int is_writable(span name, span value)
{
    static const char *const own[] = {"content-length", "connection", "transfer-encoding"};
    int others = 0;
    for (Py_ssize_t i = 0; i < name.size; i++)
        others |= !token[name.start[i]] | (token[name.start[i]] != name.start[i]);
    for (Py_ssize_t i = 0; i < value.size; i++)
        others |= (value.start[i] == '\r') | (value.start[i] == '\n') | !value.start[i];
    return !others && name.size > 0 && !is_one_of(name, own, 3);
}

static span span_of(PyObject *bytes)
{
    return (span){(const byte *)PyBytes_AS_STRING(bytes), PyBytes_GET_SIZE(bytes)};
}

/* The size of the lines of these headers; -1 for headers that are not written here. */
static Py_ssize_t size_of_lines(PyObject *headers)
{
    Py_ssize_t size = 0;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(headers); i++) {
        PyObject *pair = PyList_GET_ITEM(headers, i);
        if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2)
            return -1;
        PyObject *name = PyTuple_GET_ITEM(pair, 0), *value = PyTuple_GET_ITEM(pair, 1);
        if (!PyBytes_Check(name) || !PyBytes_Check(value) || !is_writable(span_of(name), span_of(value)))
            return -1;
        size += PyBytes_GET_SIZE(name) + PyBytes_GET_SIZE(value) + 4;
    }
    return size;
}

static char *write_span(char *at, span written)
{
    memcpy(at, written.start, written.size);
    return at + written.size;
}

static PyObject *header_lines(PyObject *Py_UNUSED(module), PyObject *headers)
{
    static const span colon = {(const byte *)": ", 2}, end = {(const byte *)"\r\n", 2};
    Py_ssize_t size = PyList_Check(headers) ? size_of_lines(headers) : -1;
    if (size < 0)
        Py_RETURN_NONE;
    PyObject *lines = PyBytes_FromStringAndSize(NULL, size);
    char *at = lines ? PyBytes_AS_STRING(lines) : NULL;
    for (Py_ssize_t i = 0; lines && i < PyList_GET_SIZE(headers); i++) {
        PyObject *pair = PyList_GET_ITEM(headers, i);
        at = write_span(at, span_of(PyTuple_GET_ITEM(pair, 0)));
        at = write_span(at, colon);
        at = write_span(at, span_of(PyTuple_GET_ITEM(pair, 1)));
        at = write_span(at, end);
    }
    return lines;
}

/* The size of a chunk without extensions, and CR LF; -1 for anything else. */
static Py_ssize_t read_size(const byte **at, const byte *end)
{
    Py_ssize_t size = 0;
    const byte *start = *at;
    while (*at < end && is_hex(**at) && *at - start < 7) {
        byte c = *(*at)++;
        size = size * 16 + (c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
    }
    if (*at == start || end - *at < 2 || (*at)[0] != '\r' || (*at)[1] != '\n')
        return -1;
    *at += 2;
    return size;
}

/* Where the data of the next whole chunk is; `at` moves behind it. Its size is 0 at the end of the body. */
static int read_chunk(const byte **at, const byte *end, span *chunk)
{
    chunk->size = read_size(at, end);
    chunk->start = *at;
    if (chunk->size < 0 || end - *at < chunk->size + 2)
        return 0;
    *at += chunk->size + 2;
    return (*at)[-2] == '\r' && (*at)[-1] == '\n';
}

/* Called twice: first `body` is NULL, and the size of all data together is found. */
static Py_ssize_t join_chunks(const byte *at, const byte *end, char *body, int *is_end)
{
    Py_ssize_t size = 0;
    span chunk;
    *is_end = 0;
    while (at < end) {
        if (*is_end || !read_chunk(&at, end, &chunk))
            return -1;
        if (body)
            memcpy(body + size, chunk.start, chunk.size);
        size += chunk.size;
        *is_end = chunk.size == 0;
    }
    return size;
}

/* The data of whole chunks, up to the end; None for anything else. */
static PyObject *joined_chunks(const byte *at, const byte *end, int *is_end)
{
    Py_ssize_t size = join_chunks(at, end, NULL, is_end);
    if (size < 0)
        Py_RETURN_NONE;
    PyObject *body = PyBytes_FromStringAndSize(NULL, size);
    if (body)
        join_chunks(at, end, PyBytes_AS_STRING(body), is_end);
    return body;
}

static PyObject *read_chunks(PyObject *Py_UNUSED(module), PyObject *data)
{
    int is_end;
    if (!PyBytes_Check(data)) {
        PyErr_SetString(PyExc_TypeError, "read_chunks() takes bytes");
        return NULL;
    }
    const byte *start = (const byte *)PyBytes_AS_STRING(data);
    PyObject *body = joined_chunks(start, start + PyBytes_GET_SIZE(data), &is_end);
    return !body || body == Py_None ? body : Py_BuildValue("(NN)", body, PyBool_FromLong(is_end));
}

/* The characters of a string that has been read. */
static Py_ssize_t count_characters(span text)
{
    Py_ssize_t count = 0;
    for (const byte *at = text.start; at < text.start + text.size; at++) {
        count += (*at & 0xC0) != 0x80;
        if (*at == '\\')
            at += at[1] == 'u' ? 5 : 1;
    }
    return count;
}

static PyObject *read_text_chunks(PyObject *Py_UNUSED(module), PyObject *data)
{
    if (!PyBytes_Check(data)) {
        PyErr_SetString(PyExc_TypeError, "read_text_chunks() takes bytes");
        return NULL;
    }
    const byte *at = (const byte *)PyBytes_AS_STRING(data), *end = at + PyBytes_GET_SIZE(data);
    Py_ssize_t index = -1, size = 0, characters = 0;
    span chunk;
    addition found;
    do {
        if (!read_chunk(&at, end, &chunk) || !read_addition(chunk.start, chunk.size, &found) ||
            (index >= 0 && index != found.index))
            Py_RETURN_NONE;
        index = found.index;
        size += chunk.size;
        characters += count_characters(found.text);
    } while (at < end);
    return Py_BuildValue("(nnn)", size, index, characters);
}

/* What has arrived of a body: all of it, or whole chunks; None for anything else. */
static PyObject *body_of(const head *h, int *is_end)
{
    span length = value_of(h, "content-length"), coding = value_of(h, "transfer-encoding");
    *is_end = 1;
    if (length.start && !coding.start && is_length(length, h))
        return bytes_of(h->body, h->end - h->body);
    if (length.start || coding.size != 7 || memcmp(coding.start, "chunked", 7))
        Py_RETURN_NONE;
    return joined_chunks(h->body, h->end, is_end);
}

static PyObject *read_response(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t given)
{
    static const char *const uncommon[] = {"upgrade", "proxy-connection", "trailer"};
    static const char ok[] = "HTTP/1.1 200 ";
    PyObject *body = NULL, *found = NULL;
    Py_ssize_t most[2]; /* bytes of the head, of the body */
    int is_end;
    if (!read_sizes(args, given, 1, 3, most) || !are_bytes(args[0]))
        return NULL;
    head h;
    if (read_head(&h, args[0], most[0], MAX_HEADERS) && h.line_end - h.start >= (Py_ssize_t)sizeof ok - 1 &&
        !memcmp(h.start, ok, sizeof ok - 1) && !has_any(&h, uncommon, 3) && keeps_alive(&h))
        body = body_of(&h, &is_end);
    if (body && body != Py_None && PyBytes_GET_SIZE(body) <= most[1])
        found = Py_BuildValue("(OON)", h.named, body, PyBool_FromLong(is_end));
    Py_XDECREF(body);
    free_head(&h);
    return found || PyErr_Occurred() ? found : Py_NewRef(Py_None);
}

/* Whether a read of this socket would return at once, with bytes, the end or an error. The interpreter is not released for
 * a question that does not wait. */
static PyObject *is_readable(PyObject *Py_UNUSED(module), PyObject *fileno)
{
    long number = PyLong_AsLong(fileno);
    if (number == -1 && PyErr_Occurred())
        return NULL;
    struct pollfd asked = {.fd = (int)number, .events = POLLIN};
    return PyBool_FromLong(poll(&asked, 1, 0) != 0);
}

static PyMethodDef methods[] = {
    {"scan_object", (PyCFunction)(void (*)(void))scan_object, METH_FASTCALL,
     "scan_object(body, max_values)\n--\n\nWhere the members of a JSON object are: beginning and end of each value, by name."},
    {"read_text_event", read_text_event, METH_O,
     "read_text_event(data)\n--\n\nThe JSON of an event that adds text to one choice, the index of the choice, the text."},
    {"read_request", (PyCFunction)(void (*)(void))read_request, METH_FASTCALL,
     "read_request(message, targets, most_bytes, most_headers)\n--\n\nA whole request for one of the targets, which are by"
     " the line of the request: target, headers with names in lower case, the same by name, body."},
    {"read_response", (PyCFunction)(void (*)(void))read_response, METH_FASTCALL,
     "read_response(message, most_bytes, most_body_bytes)\n--\n\nA response with status 200: headers by name in lower case,"
     " what has arrived of the body, and whether that is all of it."},
    {"header_lines", header_lines, METH_O,
     "header_lines(headers)\n--\n\nThe lines of these headers, with names in lower case."},
    {"read_chunks", read_chunks, METH_O,
     "read_chunks(data)\n--\n\nThe data of whole chunks, and whether the body ends with them."},
    {"read_text_chunks", read_text_chunks, METH_O,
     "read_text_chunks(data)\n--\n\nOf whole chunks, each of them an event that adds text to the same choice: the size of"
     " their data, the index of the choice, and the characters of the text."},
    {"is_readable", is_readable, METH_O,
     "is_readable(fileno)\n--\n\nWhether a read of this socket would return at once."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_native",
    .m_doc = "Quick readers of common input; see `compiled.py`.",
    .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__native(void)
{
    for (int c = 0; c < 256; c++)
        plain[c] = c >= 0x20 && c < 0x80 && c != '"' && c != '\\';
    for (int c = 0x21; c < 0x7F; c++)
        if (!strchr("\"(),/:;<=>?@[\\]{}", c))
            token[c] = (byte)(c >= 'A' && c <= 'Z' ? c + 32 : c);
    PyObject *module = PyModule_Create(&definition);
    if (module && PyModule_AddIntConstant(module, "VERSION", VERSION))
        Py_CLEAR(module);
    return module;
}
