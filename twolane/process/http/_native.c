/* Quick readers of common input: an HTTP/1.1 message, the chunks of its body, and an event of a stream. Each accepts a
 * strict subset of what the full reader accepts (llhttp, the reader of answers), with the same result, and returns None
 * for everything else, which the full reader then accepts or refuses. So nothing here refuses input, and no error message
 * is made here. Headers are written likewise.
 *
 * The module is optional: where it is not built, the full readers read everything. Tests compare the two on random input.
 * All loops are bounded by the size of the input.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <poll.h>
#include <string.h>

#include "json_scanner.h"

#define VERSION 6
#define MAX_HEADERS 100
#define MAX_EVENT_VALUES 4096

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

/* An event of a streamed chat completion that adds text to one choice, and nothing else */

typedef struct {
    Py_ssize_t index; /* of the choice; -1: none yet */
    span document;
    string text;
} addition;

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
        span key;
        if (!skip_space(s) || !read_key(s, &key) || !take(s, key, found) || !skip_space(s))
            return 0;
    } while (*s->at++ == ',');
    s->keys = s->first_key[s->depth--];
    return s->at[-1] == '}';
}

static int take_delta(scanner *s, span key, addition *found)
{
    static const char *const empty[] = {"refusal", "tool_calls"};
    static const char *const other[] = {"function_call", "reasoning_content", "reasoning", "audio"};
    if (is_key(key, "content"))
        return *s->at == '"' && read_string(s, &found->text);
    if (is_one_of(key, empty, 2))
        return read_word(s, "null");
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
        return read_word(s, "null");
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
        return read_word(s, "null");
    return !is_key(key, "error") && read_value(s);
}

/* Whether these bytes are such an event, alone. */
static int read_addition(const byte *start, Py_ssize_t size, addition *found)
{
    static const char begin[] = "data: ", end[] = "\n\n";
    const Py_ssize_t before = sizeof begin - 1, behind = sizeof end - 1;
    scanner s;
    size -= before + behind;
    start_scan(&s, start + before, size, MAX_EVENT_VALUES);
    *found = (addition){-1, {s.text, size}, {{NULL, 0}, 0, 0, 0}};
    return size >= 2 && !memcmp(start, begin, before) && !memcmp(s.end, end, behind) && !memchr(s.text, '\n', size) &&
           !memchr(s.text, '\r', size) && each_member(&s, take_completion, found) && s.at == s.end &&
           found->index >= 0 && found->text.chars;
}

static PyObject *read_text_event(PyObject *Py_UNUSED(module), PyObject *data)
{
    addition found;
    if (!PyBytes_Check(data)) {
        PyErr_SetString(PyExc_TypeError, "read_text_event() takes bytes");
        return NULL;
    }
    if (!read_addition((const byte *)PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), &found) || found.text.has_escape)
        Py_RETURN_NONE;
    return Py_BuildValue("(y#ns#)", found.document.start, found.document.size, found.index,
                         found.text.written.start, found.text.written.size);
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
        characters += found.text.chars;
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
    for (int c = 0x21; c < 0x7F; c++)
        if (!strchr("\"(),/:;<=>?@[\\]{}", c))
            token[c] = (byte)(c >= 'A' && c <= 'Z' ? c + 32 : c);
    PyObject *module = PyModule_Create(&definition);
    if (module && PyModule_AddIntConstant(module, "VERSION", VERSION))
        Py_CLEAR(module);
    return module;
}
