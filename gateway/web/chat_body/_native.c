/* A quick reader of common chat requests: where the fields of the body are, and what routing needs of the conversation,
 * in one pass. It accepts a strict subset of what the full readers accept (`json_body.read_json`, the types of
 * `request_schema`, `Conversation`), with the same result, and refuses nothing: for everything else it returns None, and
 * for an object that is no common chat, only where the fields are. The full readers then accept or refuse it.
 *
 * The types of fields come from `request_schema`, as rules; see `compiled.py`. Tests compare both ways on random input.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "../../../twolane/process/http/json_scanner.h"

#define VERSION 1
#define FEW_MESSAGES 32 /* have their place on the stack */
#define FOLLOW_UP 3 /* messages that a conversation with a follow-up has at least */

enum role { SYSTEM, DEVELOPER, USER, ASSISTANT, TOOL, FUNCTION, ROLES, NO_ROLE = ROLES };
static const char *const role_names[ROLES] = {"system", "developer", "user", "assistant", "tool", "function"};

typedef struct {
    enum role role;
    int has_content;
    string content;
    PyObject *text; /* the content, once it is needed */
} message;

typedef struct {
    scanner s; /* first: the functions of the scanner pass it on */
    PyObject *rules; /* of the fields that have a type, by name */
    PyObject *spans;
    int is_common, is_stream, has_usage, has_model, has_messages;
    Py_ssize_t choices;
    string model;
    message *messages, few[FEW_MESSAGES];
    Py_ssize_t count, room, max_messages;
} chat;

static int read_uncommon(chat *c)
{
    c->is_common = 0;
    return read_value(&c->s);
}

/* Messages */

static int read_role(chat *c, message *current)
{
    string role;
    if (*c->s.at != '"')
        return read_uncommon(c);
    if (!read_string(&c->s, &role))
        return 0;
    for (int i = 0; i < ROLES; i++)
        if (is_key(role.written, role_names[i]))
            current->role = (enum role)i;
    return 1;
}

static int read_message_field(scanner *s)
{
    chat *c = (chat *)s;
    message *current = &c->messages[c->count];
    span key;
    if (!read_key(s, &key))
        return 0;
    if (is_key(key, "role"))
        return read_role(c, current);
    if (!is_key(key, "content") || *s->at != '"')
        return read_uncommon(c);
    current->has_content = 1;
    return read_string(s, &current->content);
}

static int make_room(chat *c)
{
    if (c->count < c->room)
        return 1;
    Py_ssize_t room = 2 * c->room;
    message *more = PyMem_Realloc(c->room == FEW_MESSAGES ? NULL : c->messages, room * sizeof *more);
    if (!more) {
        PyErr_NoMemory();
        return 0;
    }
    if (c->room == FEW_MESSAGES)
        memcpy(more, c->few, sizeof c->few);
    c->messages = more;
    c->room = room;
    return 1;
}

static int read_message(scanner *s)
{
    chat *c = (chat *)s;
    if (*s->at != '{' || !c->is_common || c->count == c->max_messages)
        return read_uncommon(c);
    if (!make_room(c))
        return 0;
    message *current = &c->messages[c->count];
    current->role = NO_ROLE;
    current->has_content = 0;
    current->text = NULL;
    if (!read_entries(s, '}', read_message_field))
        return 0;
    c->is_common &= current->role != NO_ROLE && current->has_content;
    c->count++;
    return 1;
}

/* Other fields */

/* Whether a number is within limits. Without its point it has at most 17 digits, or 16 and a power of ten that a double
 * holds exactly, so rounding changes no comparison with a small integer. */
static int is_within(span written, double low, double high, int is_integer, int64_t *value)
{
    int64_t digits = 0;
    double scale = 1, signed_digits;
    int is_fraction = 0;
    for (Py_ssize_t i = 0; i < written.size; i++) {
        byte c = written.start[i];
        if (c == '.')
            is_fraction = 1;
        else if (c != '-') {
            digits = digits * 10 + c - '0';
            scale *= is_fraction ? 10 : 1;
        }
    }
    *value = *written.start == '-' ? -digits : digits;
    signed_digits = (double)*value;
    return !(is_integer && is_fraction) && signed_digits >= low * scale && signed_digits <= high * scale;
}

/* The value of a field with this rule: type, least and greatest value or length, and whether it may be null. */
static int read_typed(chat *c, PyObject *rule, span key)
{
    PyTypeObject *type = (PyTypeObject *)PyTuple_GET_ITEM(rule, 0);
    double low = PyFloat_AS_DOUBLE(PyTuple_GET_ITEM(rule, 1)), high = PyFloat_AS_DOUBLE(PyTuple_GET_ITEM(rule, 2));
    span written = {c->s.at, 0};
    byte first = *written.start;
    string text;
    int64_t number = 0;
    if (first == '"') {
        if (!read_string(&c->s, &text))
            return 0;
        c->is_common &= type == &PyUnicode_Type && (double)text.chars >= low && (double)text.chars <= high;
        if (is_key(key, "model")) {
            c->model = text;
            c->has_model = 1;
        }
        return 1;
    }
    if (first == '{' || first == '[')
        return read_uncommon(c);
    if (!read_value(&c->s))
        return 0;
    written.size = c->s.at - written.start;
    if (first == 'n') {
        c->is_common &= PyTuple_GET_ITEM(rule, 3) == Py_True;
    } else if (first == 't' || first == 'f') {
        c->is_common &= type == &PyBool_Type;
        if (is_key(key, "stream"))
            c->is_stream = first == 't';
    } else {
        c->is_common &= (type == &PyLong_Type || type == &PyFloat_Type) &&
                        is_within(written, low, high, type == &PyLong_Type, &number);
        if (is_key(key, "n") && c->is_common)
            c->choices = (Py_ssize_t)number;
    }
    return 1;
}

static int read_option(scanner *s)
{
    chat *c = (chat *)s;
    span key;
    if (!read_key(s, &key))
        return 0;
    if (!is_key(key, "include_usage"))
        return read_value(s);
    byte first = *s->at;
    c->has_usage = first == 't';
    return first == 't' || first == 'f' || first == 'n' ? read_value(s) : read_uncommon(c);
}

static int read_field_value(chat *c, span key, PyObject *name)
{
    byte first = *c->s.at;
    if (is_key(key, "messages")) {
        c->has_messages = first == '[';
        return c->has_messages ? read_entries(&c->s, ']', read_message) : read_uncommon(c);
    }
    if (is_key(key, "stream_options") && first == '{')
        return read_entries(&c->s, '}', read_option);
    PyObject *rule = PyDict_GetItemWithError(c->rules, name);
    if (PyErr_Occurred())
        return 0;
    if (!rule)
        return read_value(&c->s);
    return rule == Py_None ? read_uncommon(c) : read_typed(c, rule, key);
}

static int note_span(chat *c, PyObject *name, const byte *start)
{
    PyObject *place = PyTuple_New(2);
    PyObject *begin = PyLong_FromSsize_t(start - c->s.text), *end = PyLong_FromSsize_t(c->s.at - c->s.text);
    int is_noted = place && begin && end;
    if (is_noted) {
        PyTuple_SET_ITEM(place, 0, begin);
        PyTuple_SET_ITEM(place, 1, end);
        is_noted = !PyDict_SetItem(c->spans, name, place);
    } else {
        Py_XDECREF(begin);
        Py_XDECREF(end);
    }
    Py_XDECREF(place);
    return is_noted;
}

static int read_field(scanner *s)
{
    chat *c = (chat *)s;
    span key;
    if (!read_key(s, &key))
        return 0;
    const byte *start = s->at;
    PyObject *name = PyUnicode_DecodeUTF8((const char *)key.start, key.size, NULL);
    int is_read = name && read_field_value(c, key, name) && note_span(c, name, start);
    Py_XDECREF(name);
    return is_read;
}

/* Texts */

/* The character that an escape means; `at` moves behind it. Escapes have been checked. */
static inline Py_UCS4 read_meaning(const byte **at, const byte *end)
{
    byte c = (*at)[1];
    Py_UCS4 point;
    if (c != 'u') {
        *at += 2;
        return c == 'n' ? '\n' : c == 't' ? '\t' : c == 'r' ? '\r' : c == 'b' ? '\b' : c == 'f' ? '\f' : c;
    }
    point = (Py_UCS4)read_unit(*at, end);
    *at += 6;
    if ((point & 0xFC00) == 0xD800) {
        point = 0x10000 + ((point & 0x3FF) << 10) + ((Py_UCS4)read_unit(*at, end) & 0x3FF);
        *at += 6;
    }
    return point;
}

/* A character of more than one byte, which has been checked. */
static inline Py_UCS4 read_point(const byte **at)
{
    byte lead = *(*at)++;
    int more = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : 1;
    Py_UCS4 point = lead & (0x3F >> more);
    while (more--)
        point = point << 6 | (*(*at)++ & 0x3F);
    return point;
}

/* Write what a string means. Called with a constant `kind`, so that there is one loop for each. */
static Py_ALWAYS_INLINE inline void write_chars(const string *found, int kind, void *data)
{
    const byte *at = found->written.start, *end = at + found->written.size;
    Py_ssize_t i = 0;
    while (at < end) {
#ifdef IN_VECTORS
        while (kind == PyUnicode_1BYTE_KIND && end - at >= 16 && found->chars - i >= 16) {
            __m128i chars = _mm_loadu_si128((const __m128i *)at);
            _mm_storeu_si128((__m128i *)((byte *)data + i), chars);
            int mask = _mm_movemask_epi8(_mm_or_si128(chars, _mm_cmpeq_epi8(chars, _mm_set1_epi8('\\'))));
            int size = mask ? __builtin_ctz(mask) : 16;
            at += size;
            i += size;
            if (mask)
                break;
        }
        if (at == end)
            break;
#endif
        Py_UCS4 point = *at == '\\' ? read_meaning(&at, end) : *at < 0x80 ? *at++ : read_point(&at);
        PyUnicode_WRITE(kind, data, i++, point);
    }
}

static PyObject *text_of(const string *found)
{
    PyObject *text = PyUnicode_New(found->chars, (Py_UCS4)found->widest);
    if (!text || !found->chars)
        return text;
    if (found->widest < 0x80 && !found->has_escape)
        memcpy(PyUnicode_1BYTE_DATA(text), found->written.start, found->written.size);
    else if (found->widest < 0x100)
        write_chars(found, PyUnicode_1BYTE_KIND, PyUnicode_DATA(text));
    else if (found->widest < 0x10000)
        write_chars(found, PyUnicode_2BYTE_KIND, PyUnicode_DATA(text));
    else
        write_chars(found, PyUnicode_4BYTE_KIND, PyUnicode_DATA(text));
    return text;
}

/* The content of a message, a borrowed reference; the empty string if `at` is -1; NULL with an error set. */
static PyObject *content_of(chat *c, Py_ssize_t at, PyObject *empty)
{
    if (at < 0)
        return empty;
    message *found = &c->messages[at];
    if (!found->text)
        found->text = text_of(&found->content);
    return found->text;
}

/* The last message of a role before another; -1 if there is none. */
static Py_ssize_t last_of(const chat *c, enum role role, Py_ssize_t before)
{
    do
        before--;
    while (before >= 0 && c->messages[before].role != role);
    return before;
}

/* The texts of the system, in lines. */
static PyObject *system_text(chat *c, PyObject *empty)
{
    PyObject *texts = PyList_New(0), *line_end = NULL, *joined = NULL;
    for (Py_ssize_t i = 0; texts && i < c->count; i++) {
        if (c->messages[i].role > DEVELOPER)
            continue;
        PyObject *text = content_of(c, i, empty);
        if (!text || PyList_Append(texts, text))
            Py_CLEAR(texts);
    }
    if (texts && PyList_GET_SIZE(texts) == 0)
        joined = Py_NewRef(empty);
    else if (texts && (line_end = PyUnicode_FromString("\n")))
        joined = PyUnicode_Join(line_end, texts);
    Py_XDECREF(line_end);
    Py_XDECREF(texts);
    return joined;
}

/* The beginning of the first two contents together. */
static PyObject *prefix_text(chat *c, Py_ssize_t chars, PyObject *empty)
{
    PyObject *first = content_of(c, 0, empty);
    PyObject *second = content_of(c, c->count > 1 && c->messages[0].content.chars < chars ? 1 : -1, empty);
    PyObject *both = first && second ? PyUnicode_Concat(first, second) : NULL;
    PyObject *prefix = both ? PyUnicode_Substring(both, 0, chars) : NULL;
    Py_XDECREF(both);
    return prefix;
}

/* What routing needs, in the order of `Chat`. */
static PyObject *chat_of(chat *c, Py_ssize_t prefix_chars)
{
    Py_ssize_t user = last_of(c, USER, c->count), earlier = -1, answer = -1, chars = 0;
    if (user >= 0 && c->count >= FOLLOW_UP) {
        earlier = last_of(c, USER, user);
        answer = last_of(c, ASSISTANT, user);
    }
    for (Py_ssize_t i = 0; i < c->count; i++)
        chars += c->messages[i].content.chars;
    PyObject *empty = PyUnicode_New(0, 0), *found = empty ? PyTuple_New(11) : NULL;
    if (found) {
        PyTuple_SET_ITEM(found, 0, text_of(&c->model));
        PyTuple_SET_ITEM(found, 1, PyLong_FromSsize_t(c->count));
        PyTuple_SET_ITEM(found, 2, PyBool_FromLong(c->is_stream));
        PyTuple_SET_ITEM(found, 3, PyBool_FromLong(c->has_usage));
        PyTuple_SET_ITEM(found, 4, PyLong_FromSsize_t(c->choices));
        PyTuple_SET_ITEM(found, 5, system_text(c, empty));
        PyTuple_SET_ITEM(found, 6, Py_XNewRef(content_of(c, user, empty)));
        PyTuple_SET_ITEM(found, 7, Py_XNewRef(content_of(c, earlier, empty)));
        PyTuple_SET_ITEM(found, 8, Py_XNewRef(content_of(c, answer, empty)));
        PyTuple_SET_ITEM(found, 9, PyLong_FromSsize_t(chars));
        PyTuple_SET_ITEM(found, 10, prefix_text(c, prefix_chars, empty));
        if (PyErr_Occurred()) /* one of them is NULL */
            Py_CLEAR(found);
    }
    Py_XDECREF(empty);
    return found;
}

static PyObject *result_of(chat *c, Py_ssize_t prefix_chars)
{
    if (!c->is_common || !c->has_model || !c->has_messages || !c->count)
        return Py_BuildValue("(OO)", c->spans, Py_None);
    PyObject *needed = chat_of(c, prefix_chars);
    return needed ? Py_BuildValue("(ON)", c->spans, needed) : NULL;
}

static PyObject *read_chat(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t given)
{
    PyObject *found = NULL;
    if (given != 5 || !PyBytes_Check(args[0]) || !PyDict_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "read_chat() takes bytes, a dict, and three numbers");
        return NULL;
    }
    Py_ssize_t max_values = PyLong_AsSsize_t(args[2]), max_messages = PyLong_AsSsize_t(args[3]);
    Py_ssize_t prefix_chars = PyLong_AsSsize_t(args[4]);
    if (PyErr_Occurred())
        return NULL;
    chat c;
    start_scan(&c.s, (const byte *)PyBytes_AS_STRING(args[0]), PyBytes_GET_SIZE(args[0]), max_values);
    c.rules = args[1];
    c.is_common = c.choices = 1;
    c.is_stream = c.has_usage = c.has_model = c.has_messages = 0;
    c.messages = c.few;
    c.count = 0;
    c.room = FEW_MESSAGES;
    c.max_messages = max_messages;
    c.spans = PyDict_New();
    if (c.spans && skip_space(&c.s) && *c.s.at == '{' && read_entries(&c.s, '}', read_field) && !skip_space(&c.s))
        found = result_of(&c, prefix_chars);
    for (Py_ssize_t i = 0; i < c.count; i++)
        Py_XDECREF(c.messages[i].text);
    if (c.messages != c.few)
        PyMem_Free(c.messages);
    Py_XDECREF(c.spans);
    return found || PyErr_Occurred() ? found : Py_NewRef(Py_None);
}

static PyMethodDef methods[] = {
    {"read_chat", (PyCFunction)(void (*)(void))read_chat, METH_FASTCALL,
     "read_chat(body, rules, max_values, max_messages, prefix_chars)\n--\n\nWhere the fields of a JSON object are, and"
     " what routing needs of it if it is a common chat."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_native",
    .m_doc = "A quick reader of common chat requests; see `compiled.py`.",
    .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__native(void)
{
    PyObject *module = PyModule_Create(&definition);
    if (module && PyModule_AddIntConstant(module, "VERSION", VERSION))
        Py_CLEAR(module);
    return module;
}
