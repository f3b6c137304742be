/* The task model in C: tokens, features and scores of one request. It is optional; `features.py`, `tokens.py` and
 * `model.py` compute the same in Python, define what is computed, and are used where this module is not built.
 *
 * A change of the features there is a change here and a new VERSION in both. A test compares the two on thousands of
 * texts. All input is bounded: each text is read at both ends only.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define VERSION 6
#define HASHED 4
#define HASH_BITS 18
#define UNIT_FLAGS 64
#define REQUEST_FLAGS 64
#define SET_CHARS 64
#define TASKS 10
#define COLUMNS (TASKS + 1)
#define KNOWN COLUMNS /* column: whether a token is a known word; the next: whether it counts */
#define WIDTH 16 /* of a row, padded so that compilers add it in vector registers */
#define FLAG_WEIGHT 0.5

#define READ_CHARS 2048
#define TEXT_CHARS 2048   /* bound of one text after shortening and lower case, which lengthens some letters */
#define HEAD_TOKENS 76
#define TAIL_TOKENS 56
#define MAX_TOKENS 1024   /* of a request; its three texts have at most 820 */
#define FLAG_CHARS 400
#define SHORT_CHARS 80
#define CONSIDERED 12
#define NAMED 3
#define KNOWN_SHARE 0.3
#define MIN_TRUST 0.1
#define STRUCTURED_WORDS 8.0
#define SHORT_TOKENS 40

#define NOT 0x2545F491u
#define PAIR 0x85EBCA6Bu
#define CLASS_PAIR 0x7FEB352Du
#define CONCEPT_PAIR 0x27D4EB2Fu
#define PLACE (0x165667B1u * 0x9E3779B1u)
#define CONTEXTS 8
#define LAST_PARAGRAPH 4
#define MAX_PAST 1024 /* tokens of a follow-up's past */
#define PAST_EARLIER 0x9E3779B9u
#define PAST_ANSWER 0xC2B2AE35u

/* Flags of words, as `Scorer` receives them. */
enum { DENIES = 1, DENIES_BEFORE = 2, CANCELS = 4, THAN = 8, RATHER = 16, LEADS = 32 };
/* Numbers of tokens that stand for others, in the order in which `Scorer` receives them. */
enum { GAP_ID, LINE_ID, PARAGRAPH_ID, NEGATED_ID, UNKNOWN_ID, FOREIGN_ID, NAME_LIKE_ID, SIGN_ID, DIGIT_ID, SPECIAL = DIGIT_ID + 4 };

typedef struct {
    const Py_UCS4 *chars;
    int size;
    Py_UCS4 second; /* the second character, if two tokens of one character were merged; otherwise 0 */
} Span;

typedef struct {
    Py_UCS4 *chars; /* NULL: an empty slot */
    int size;
    int id;
} Entry;

/* A hash table with open addressing; the number of slots is a power of two. */
typedef struct {
    Entry *entries;
    uint32_t slots;
} Words;

typedef struct {
    PyObject_HEAD
    struct Request *request; /* of the call in progress: calls hold the interpreter's lock */
    Words vocabulary, pairs, open_words;
    int names, breaks, first_sign, first_word, structured;
    int special[SPECIAL];
    uint32_t salts[3 * CONTEXTS];
    double scales[WIDTH];
    double sharpness;
    Py_UCS4 open_signs[SET_CHARS], open_chars[SET_CHARS], closing[SET_CHARS]; /* end with 0 */
    uint32_t *hashes, *classes; /* by name */
    uint8_t *flags;             /* by name */
    int8_t *table;              /* [names + hashed rows + UNIT_FLAGS + REQUEST_FLAGS, WIDTH] */
} Scorer;

/* -- Characters: the classes of the regular expression in tokens.py -- */

static int is_in(Py_UCS4 c, const Py_UCS4 *set)
{
    for (; *set; set++)
        if (*set == c)
            return 1;
    return 0;
}

static int is_spaceless(Py_UCS4 c)
{
    return c >= 0x0E00 && (c <= 0x0E7F || (c >= 0x1000 && c <= 0x109F) || (c >= 0x1780 && c <= 0x17FF)
        || (c >= 0x3005 && c <= 0x30FF) || (c >= 0x3400 && c <= 0x9FFF) || (c >= 0xAC00 && c <= 0xD7A3)
        || (c >= 0xF900 && c <= 0xFAFF));
}

static int is_letter(Py_UCS4 c)
{
    if (c < 0x80)
        return c >= 'a' && c <= 'z';
    if (c == 0x60C || c == 0x61B || c == 0x61F || c == 0x6D4 || c == 0x964 || c == 0x965) /* punctuation */
        return 0;
    return c == 0xAA || c == 0xB5 || c == 0xBA || (c >= 0xDF && c <= 0xF6) || (c >= 0xF8 && c <= 0xDFF)
        || (c >= 0xE80 && c <= 0xEFF) || (c >= 0x10A0 && c <= 0x1FFF);
}

static int is_quote(Py_UCS4 c)
{
    switch (c) {
    case '"': case 0x201C: case 0x201D: case 0x201E: case 0xAB: case 0xBB: case 0x300C: case 0x300D: case 0x300E:
    case 0x300F: case '`': case 0: case 1:
        return 1;
    }
    return 0;
}

static int is_stop(Py_UCS4 c)
{
    return c == '.' || c == '!' || c == '?' || c == ';' || c == ':';
}

static int is_wide_stop(Py_UCS4 c)
{
    return c == 0x3002 || c == 0xFF01 || c == 0xFF1F || c == 0xFF1B || c == 0xFF1A || c == 0x964 || c == 0x965 || c == 0x6D4
        || c == 0x61F || c == 0x61B;
}

static int is_space(Py_UCS4 c)
{
    return Py_UNICODE_ISSPACE(c);
}

/* The end of the token that starts at `at`; `at` itself if none does. */
static int token_end(const Py_UCS4 *text, int size, int at)
{
    Py_UCS4 c = text[at];
    int end = at + 1;
    if (is_letter(c)) {
        while (end < size && (is_letter(text[end]) || (text[end] >= '0' && text[end] <= '9') || text[end] == '_'
                || text[end] == '\''))
            end++;
        return end;
    }
    if (is_spaceless(c))
        return end;
    if (Py_UNICODE_ISDECIMAL(c)) {
        while (end < size && Py_UNICODE_ISDECIMAL(text[end]))
            end++;
        return end;
    }
    if (is_stop(c)) {
        while (end < size && is_stop(text[end]))
            end++;
        return end == size || is_space(text[end]) ? end : at;
    }
    if (c == '\n') {
        while (end < size && is_space(text[end]))
            end++;
        return end;
    }
    if (is_wide_stop(c) || is_quote(c))
        return end;
    return is_space(c) ? at : end; /* a sign, or a character of a word in another script */
}

static int split(const Py_UCS4 *text, int size, Span *found, int most)
{
    int at = 0, count = 0;
    while (at < size && count < most) {
        int end = token_end(text, size, at);
        if (end == at) {
            at++;
            continue;
        }
        Span token = {text + at, end - at, 0};
        found[count++] = token;
        for (at = end; at < size && text[at] == ' '; at++)
            ;
    }
    return count;
}

/* -- The vocabulary -- */

static uint32_t hash_of(const Py_UCS4 *chars, int size)
{
    uint32_t hash = 2166136261u;
    for (int at = 0; at < size; at++)
        hash = (hash ^ chars[at]) * 16777619u;
    return hash ^ (hash >> 15);
}

static Entry *slot_of(const Words *words, const Py_UCS4 *chars, int size)
{
    uint32_t at = hash_of(chars, size) & (words->slots - 1);
    for (;; at = (at + 1) & (words->slots - 1)) {
        Entry *entry = words->entries + at;
        if (!entry->chars || (entry->size == size && !memcmp(entry->chars, chars, sizeof(Py_UCS4) * (size_t)size)))
            return entry;
    }
}

/* The number of a word, or -1. */
static int find_word(const Words *words, const Py_UCS4 *chars, int size)
{
    const Entry *entry = slot_of(words, chars, size);
    return entry->chars ? entry->id : -1;
}

/* Two characters that are a word of the vocabulary become one token. Returns the new count. */
static int merge_pairs(const Scorer *self, Span *tokens, int count)
{
    int kept = 0;
    for (int at = 0; at < count; at++) {
        Span token = tokens[at];
        if (token.size == 1 && at + 1 < count && tokens[at + 1].size == 1) {
            Py_UCS4 pair[2] = {token.chars[0], tokens[at + 1].chars[0]};
            if (is_spaceless(pair[0]) && find_word(&self->pairs, pair, 2) >= 0) {
                token.second = pair[1];
                at++;
            }
        }
        tokens[kept++] = token;
    }
    return kept;
}

static int stem_or_shape(const Scorer *self, const Py_UCS4 *chars, int size)
{
    static const int sizes[] = {6, 4};
    int is_ascii = 1;
    for (int n = 0; n < 2; n++) {
        if (size > sizes[n]) {
            Py_UCS4 stem[8];
            memcpy(stem, chars, sizeof(Py_UCS4) * (size_t)sizes[n]);
            stem[sizes[n]] = '~';
            int found = find_word(&self->vocabulary, stem, sizes[n] + 1);
            if (found >= 0)
                return found;
        }
    }
    for (int at = 0; at < size; at++)
        is_ascii &= chars[at] < 0x80;
    return self->special[is_ascii ? UNKNOWN_ID : FOREIGN_ID];
}

static int unknown_id(const Scorer *self, const Py_UCS4 *chars, int size)
{
    int digits = 0, quotes = 0, underscores = 0, lines = 0;
    Py_UCS4 first = chars[0];
    for (int at = 0; at < size; at++) {
        digits += Py_UNICODE_ISDECIMAL(chars[at]);
        quotes += chars[at] == '\'';
        underscores += chars[at] == '_';
        lines += chars[at] == '\n';
    }
    if (Py_UNICODE_ISALPHA(first) && !digits && !quotes && !underscores)
        return stem_or_shape(self, chars, size);
    if (first == '\n')
        return self->special[lines > 1 ? PARAGRAPH_ID : LINE_ID];
    if (Py_UNICODE_ISDIGIT(first))
        return self->special[DIGIT_ID + (size < 4 ? size : 4) - 1];
    if (is_stop(first))
        return find_word(&self->vocabulary, chars, 1);
    if (!Py_UNICODE_ISALPHA(first))
        return self->special[SIGN_ID];
    if (quotes && !underscores) {
        Py_UCS4 bare[TEXT_CHARS];
        int kept = 0;
        for (int at = 0; at < size && kept < TEXT_CHARS; at++)
            if (chars[at] != '\'')
                bare[kept++] = chars[at];
        return unknown_id(self, bare, kept);
    }
    return self->special[NAME_LIKE_ID];
}

static int id_of(const Scorer *self, Span token)
{
    if (token.second) {
        Py_UCS4 pair[2] = {token.chars[0], token.second};
        return find_word(&self->vocabulary, pair, 2);
    }
    int found = find_word(&self->vocabulary, token.chars, token.size);
    return found >= 0 ? found : unknown_id(self, token.chars, token.size);
}

/* -- Texts -- */

typedef struct {
    int kind;
    const void *data;
    Py_ssize_t size;
} Text;

static Text text_of(PyObject *given)
{
    Text text = {PyUnicode_KIND(given), PyUnicode_DATA(given), PyUnicode_GET_LENGTH(given)};
    return text;
}

static Py_UCS4 char_at(const Text *text, Py_ssize_t at)
{
    return PyUnicode_READ(text->kind, text->data, at);
}

static int piece_of(const Text *text, Py_ssize_t from, Py_ssize_t to, Py_UCS4 *out)
{
    Py_ssize_t size = to - from;
    if (text->kind == PyUnicode_4BYTE_KIND)
        memcpy(out, (const Py_UCS4 *)text->data + from, sizeof(Py_UCS4) * (size_t)size);
    else if (text->kind == PyUnicode_2BYTE_KIND)
        for (Py_ssize_t at = 0; at < size; at++)
            out[at] = ((const Py_UCS2 *)text->data)[from + at];
    else
        for (Py_ssize_t at = 0; at < size; at++)
            out[at] = ((const Py_UCS1 *)text->data)[from + at];
    return (int)size;
}

/* Both ends of a text with a line end between them, or the whole text if it is short. */
static int both_ends(const Text *text, Py_ssize_t head, Py_ssize_t tail, Py_UCS4 *out)
{
    if (text->size <= head + tail)
        return piece_of(text, 0, text->size, out);
    int count = piece_of(text, 0, head, out);
    out[count++] = '\n';
    return count + piece_of(text, text->size - tail, text->size, out + count);
}

/* As `both_ends`, but of a longer last paragraph the beginning, too. */
static int shown_ends(const Text *text, Py_ssize_t head, Py_ssize_t tail, Py_UCS4 *out)
{
    Py_ssize_t first = text->size - LAST_PARAGRAPH * tail, at = text->size - tail - 2, half = tail / 2;
    if (first < head)
        first = head;
    while (at >= first && !(char_at(text, at) == '\n' && char_at(text, at + 1) == '\n'))
        at--;
    if (text->size <= head + tail || at < first)
        return both_ends(text, head, tail, out);
    int count = piece_of(text, 0, head, out);
    out[count++] = '\n';
    count += piece_of(text, at + 2, at + 2 + half, out + count);
    out[count++] = '\n';
    return count + piece_of(text, text->size - half, text->size, out + count);
}

/* Both ends of a text in lower case, in `out` [TEXT_CHARS]. Returns the size, or -1 after an exception. */
static int lowered(const Text *text, int head, int tail, Py_UCS4 *out)
{
    int size = shown_ends(text, head, tail, out), bytes = 0, spaceless = 0;
    for (int at = 0; at < size; at++) {
        bytes += out[at] < 0x80 ? 1 : out[at] < 0x800 ? 2 : out[at] < 0x10000 ? 3 : 4;
        spaceless |= is_spaceless(out[at]);
    }
    if (bytes == size) {
        for (int at = 0; at < size; at++)
            if (out[at] >= 'A' && out[at] <= 'Z')
                out[at] += 'a' - 'A';
        return size;
    }
    if (spaceless && bytes > 2 * size)
        size = shown_ends(text, head / 3, tail / 3, out);
    PyObject *given = PyUnicode_FromKindAndData(PyUnicode_4BYTE_KIND, out, size);
    PyObject *lower = given ? PyObject_CallMethod(given, "lower", NULL) : NULL;
    Py_XDECREF(given);
    if (!lower)
        return -1;
    Text found = text_of(lower);
    size = 0;
    for (Py_ssize_t at = 0; at < found.size && size < TEXT_CHARS; at++) {
        Py_UCS4 c = char_at(&found, at);
        if (c != 0x640 && (c < 0x64B || c > 0x652)) /* vowel signs of Arabic */
            out[size++] = c == 0x2019 ? '\'' : c;
    }
    Py_DECREF(lower);
    return size;
}

/* -- A request -- */

typedef struct Request {
    const Scorer *self;
    Text user, asked;
    int fences, has_system, has_earlier, has_answer, own_tokens, context;
    int count; /* of tokens */
    int borders[3];
    int ids[MAX_TOKENS];
    uint32_t hashes[MAX_TOKENS];
    int16_t each[MAX_TOKENS][WIDTH];
    int units;
    int firsts[MAX_TOKENS], sizes[MAX_TOKENS], places[MAX_TOKENS];
    double scores[MAX_TOKENS][COLUMNS];
    int request[REQUEST_FLAGS], request_count;
    int answered[MAX_PAST], answered_count;
    Py_UCS4 opened[2 * READ_CHARS + 8], outside[2 * READ_CHARS + 8];
} Request;

static int is_fence(const Py_UCS4 *text, int size, int at)
{
    return at + 3 <= size && text[at] == '`' && text[at + 1] == '`' && text[at + 2] == '`';
}

/* The place of the next fence; `size` if there is none. */
static int next_fence(const Py_UCS4 *text, int size, int at)
{
    for (; at < size; at++)
        if (text[at] == '`' && is_fence(text, size, at))
            return at;
    return size;
}

static int is_blank(const Py_UCS4 *text, int size)
{
    for (int at = 0; at < size; at++)
        if (!is_space(text[at]))
            return 0;
    return 1;
}

/* The text without white space at its ends. */
static Text stripped(Text text)
{
    while (text.size && is_space(char_at(&text, text.size - 1)))
        text.size--;
    while (text.size && is_space(char_at(&text, 0))) {
        text.data = (const char *)text.data + text.kind;
        text.size--;
    }
    return text;
}

/* Whether what is read of the last user message has a backtick. */
static int has_backtick(const Request *request, PyObject *user)
{
    Py_ssize_t size = request->user.size;
    if (size <= 2 * READ_CHARS)
        return PyUnicode_FindChar(user, '`', 0, size, 1) >= 0;
    return PyUnicode_FindChar(user, '`', 0, READ_CHARS, 1) >= 0
        || PyUnicode_FindChar(user, '`', size - READ_CHARS, size, 1) >= 0;
}

/* Puts the parts of a text outside of fences in place of `asked`. A text that is one block is taken as it is. */
static void cut_fences(Request *request, const Py_UCS4 *text, int size)
{
    Py_UCS4 *out = request->outside;
    int fences = 0, is_bare = 0, kept = 0;
    for (int at = 0, end; (end = next_fence(text, size, at)) < size || at < size; at = end + 3) {
        is_bare |= !(fences & 1) && !is_blank(text + at, end - at);
        fences += end < size;
    }
    for (int at = 0, seen = 0, end; seen <= fences; seen++, at = end + 3) {
        end = next_fence(text, size, at);
        if (is_bare && (seen & 1))
            continue;
        if (is_bare && seen) {
            memcpy(out + kept, (const Py_UCS4[]){'\n', 1, '\n'}, 3 * sizeof(Py_UCS4));
            kept += 3;
        }
        if (at < end)
            memcpy(out + kept, text + at, sizeof(Py_UCS4) * (size_t)(end - at));
        kept += at < end ? end - at : 0;
    }
    request->fences = is_bare ? (fences + 1) / 2 : 1;
    request->asked = (Text){PyUnicode_4BYTE_KIND, out, kept};
}

/* The last user message outside of fences. */
static void leave_out_fences(Request *request, PyObject *user)
{
    int has_fences = has_backtick(request, user), is_long = request->user.size > 2 * READ_CHARS;
    request->fences = 0;
    request->asked = request->user;
    if (is_long || has_fences)
        request->asked = (Text){
            PyUnicode_4BYTE_KIND, request->opened, both_ends(&request->user, READ_CHARS, READ_CHARS, request->opened)};
    request->asked = stripped(request->asked);
    const Py_UCS4 *text = request->asked.data;
    int size = (int)request->asked.size;
    if (has_fences && next_fence(text, size, 0) < size)
        cut_fences(request, text, size);
}

static void add_token(Request *request, int id)
{
    if (request->count < MAX_TOKENS)
        request->ids[request->count++] = id;
}

/* The tokens of the answer. Returns -1 after an exception. */
static int read_answer(Request *request, const Text *answer)
{
    Py_UCS4 chars[TEXT_CHARS];
    Span tokens[TEXT_CHARS];
    const Scorer *self = request->self;
    request->answered_count = 0;
    if (!request->has_answer)
        return 0;
    int size = lowered(answer, 100, 60, chars);
    if (size < 0)
        return -1;
    int count = merge_pairs(self, tokens, split(chars, size, tokens, MAX_PAST));
    for (int at = 0; at < count; at++)
        request->answered[request->answered_count++] = id_of(self, tokens[at]);
    return 0;
}

/* Adds the tokens of a text. Returns their number, or -1 after an exception. */
static int add_text(Request *request, const Text *text, int head, int tail, int is_own)
{
    Py_UCS4 chars[TEXT_CHARS];
    Span tokens[TEXT_CHARS];
    const Scorer *self = request->self;
    int size = lowered(text, head, tail, chars);
    if (size < 0)
        return -1;
    int count = merge_pairs(self, tokens, split(chars, size, tokens, TEXT_CHARS)), found = 0;
    for (int at = 0; at < count; at++) {
        if (is_own && count > HEAD_TOKENS + TAIL_TOKENS && at == HEAD_TOKENS) {
            add_token(request, self->special[PARAGRAPH_ID]);
            found++;
            at = count - TAIL_TOKENS;
        }
        add_token(request, id_of(self, tokens[at]));
        found++;
    }
    return found;
}

static int flags_of(const Request *request, int at)
{
    return request->self->flags[request->ids[at]];
}

/* Marks what the word at `at` negates; see `Vocabulary._scope`. */
static void mark_negated(const Request *request, int at, uint8_t *negated)
{
    const int *ids = request->ids, first_word = request->self->first_word;
    int flags = flags_of(request, at);
    if ((flags & DENIES_BEFORE) && at && ids[at - 1] >= first_word) {
        for (int each = at - 1; each >= 0 && each > at - 4 && ids[each] >= first_word; each--)
            negated[each] = 1;
        return;
    }
    if (at + 1 < request->count && (flags_of(request, at + 1) & CANCELS))
        return;
    if ((flags & THAN) && (!at || !(flags_of(request, at - 1) & RATHER)))
        return;
    for (int each = at + 1; each < request->count && each < at + 4 && ids[each] >= first_word; each++)
        negated[each] = 1;
}

static void find_negated(Request *request)
{
    uint8_t negated[MAX_TOKENS] = {0};
    const Scorer *self = request->self;
    for (int at = 0; at < request->count; at++)
        if (flags_of(request, at) & DENIES)
            mark_negated(request, at, negated);
    for (int at = 0; at < request->count; at++) {
        request->hashes[at] = self->hashes[request->ids[at]];
        if (negated[at]) {
            request->ids[at] = self->special[NEGATED_ID];
            request->hashes[at] *= NOT;
        }
    }
}

static int answer_has(const Text *answer, Py_UCS4 sought, int times)
{
    int run = 0;
    Py_ssize_t first = 0;
    if (answer->kind == PyUnicode_1BYTE_KIND) {
        const char *found = memchr(answer->data, (int)sought, (size_t)answer->size);
        first = found ? found - (const char *)answer->data : answer->size;
    }
    for (Py_ssize_t at = first; at < answer->size && run < times; at++)
        run = char_at(answer, at) == sought ? run + 1 : 0;
    return run == times;
}

/* Whether an answer looks like code or data. */
static int is_code(const Request *request, const Text *answer)
{
    int signs = 0;
    for (int at = 0; at < request->answered_count; at++)
        signs += request->answered[at] >= request->self->first_sign && request->answered[at] < request->self->first_word;
    return signs * 5 > request->answered_count || answer_has(answer, '`', 3);
}

static int context_of(const Request *request, const Text *answer)
{
    int signs = 0, lines = 0, start = request->borders[1], size = request->count - start;
    if (request->fences)
        return 1;
    for (int at = start; at < request->count; at++)
        signs += request->ids[at] >= request->self->first_sign && request->ids[at] < request->self->first_word;
    if (size > 20 && signs * 4 > size)
        return 2;
    if (request->asked.size > 360)
        return 3;
    if (request->has_answer)
        return char_at(answer, answer->size - 1) == '?' ? 7 : is_code(request, answer) ? 6 : 4;
    for (Py_ssize_t at = 0; at < request->asked.size; at++)
        lines |= char_at(&request->asked, at) == '\n';
    return lines ? 5 : 0;
}

static void find_units(Request *request)
{
    int role = 0, first = 0, role_start = 0;
    for (int at = 0; at < request->count; at++) {
        if (request->ids[at] >= request->self->breaks)
            continue;
        request->firsts[request->units] = first;
        request->sizes[request->units++] = at + 1 - first;
        first = at + 1;
        if (first != request->borders[role])
            continue;
        for (int unit = role_start; unit < request->units; unit++) {
            int before = unit - role_start, after = request->units - 1 - unit;
            request->places[unit] = role * 16 + (before < 3 ? before : 3) * 4 + (after < 3 ? after : 3);
        }
        role_start = request->units;
        role++;
    }
}

/* -- Flags of a request -- */

/* What occurs in a text. */
typedef struct {
    int not_ascii, line, paragraph, indent, hunk, blocks, blank, less, more, bar, braces, brackets;
} Signs;

static Signs signs_of(const Py_UCS4 *text, int size)
{
    Signs found = {0};
    for (int at = 0; at < size; at++) {
        Py_UCS4 next = at + 1 < size ? text[at + 1] : 0, third = at + 2 < size ? text[at + 2] : 0;
        switch (text[at]) {
        case '\n':
            found.line = 1;
            found.paragraph |= next == '\n';
            found.indent |= next == '\t' || (next == ' ' && third == ' ');
            break;
        case '@':
            found.hunk |= next == '@';
            break;
        case '<':
            found.less = 1;
            found.blocks |= next == '<' && third == '<';
            break;
        case '>':
            found.more = 1;
            break;
        case '|':
            found.bar = 1;
            break;
        case '_':
            found.blank |= next == '_';
            break;
        case '{':
            found.braces++;
            break;
        case '}':
            found.braces--;
            break;
        case '(':
            found.brackets++;
            break;
        case ')':
            found.brackets--;
            break;
        default:
            found.not_ascii |= text[at] >= 0x80;
        }
    }
    return found;
}

static int ends_open(const Scorer *self, const Py_UCS4 *end, int size)
{
    int start = size;
    Py_UCS4 word[8];
    while (start && end[start - 1] != ' ')
        start--;
    if (size - start > 8 || size == start)
        return 0;
    for (int at = start; at < size; at++) {
        if (end[at] == 0x130) /* its lower case is two characters */
            return 0;
        word[at - start] = Py_UNICODE_TOLOWER(end[at]);
    }
    return find_word(&self->open_words, word, size - start) >= 0;
}

static void request_flags(Request *request, const Text *answer)
{
    const Text *user = &request->user;
    Py_UCS4 head[FLAG_CHARS], tail[FLAG_CHARS], whole[2 * FLAG_CHARS], *start = head;
    int cut = user->size > FLAG_CHARS, ends = cut ? FLAG_CHARS : (int)user->size;
    int start_size = ends, end_size = ends, size = 0;
    for (int at = 0; at < ends; at++) {
        head[at] = char_at(user, at);
        tail[at] = char_at(user, user->size - ends + at);
    }
    while (start_size && is_space(*start))
        start++, start_size--;
    while (end_size && is_space(tail[end_size - 1]))
        end_size--;
    for (int at = 0; at < start_size; at++)
        whole[size++] = start[at];
    for (int at = 0; cut && at < end_size; at++)
        whole[size++] = tail[at];
    while (!cut && size && is_space(whole[size - 1]))
        size--;
    Py_UCS4 last = end_size ? tail[end_size - 1] : 0, first = start_size ? *start : 0;
    Signs signs = signs_of(whole, size), early = signs_of(start, start_size < 200 ? start_size : 200);
    int ended = end_size && is_in(last, request->self->closing);
    int is_asked = request->has_system || request->has_answer || user->size < SHORT_CHARS;
    const int present[] = {
        1,
        request->has_system,
        last == '?',
        request->fences == 1,
        request->fences > 1,
        end_size >= 3 && is_fence(tail, end_size, end_size - 3),
        is_fence(start, start_size, 0),
        first == '{' || first == '[',
        last == '}' || last == ']',
        signs.not_ascii,
        signs.line,
        signs.paragraph,
        user->size < 40,
        user->size < 160,
        user->size > 600,
        !request->own_tokens,
        last == ':' || last == '>',
        last == ';' || last == '(' || last == '{' || last == '=' || last == ',',
        signs.indent,
        request->has_earlier,
        request->has_answer,
        answer_has(answer, '`', 3),
        signs.hunk,
        early.less && early.more,
        early.bar,
        size && Py_UNICODE_ISALNUM(whole[size - 1]),
        signs.blocks,
        signs.blank,
        user->size && is_space(char_at(user, user->size - 1)),
        end_size && is_in(last, request->self->open_signs),
        ends_open(request->self, tail, end_size),
        end_size && is_in(last, request->self->open_chars),
        signs.braces > 0 || signs.brackets > 0,
        ended,
        !is_asked && !ended,
        answer->size && (char_at(answer, 0) == '{' || char_at(answer, 0) == '['),
        answer->size && answer->size < 60,
        answer->size > 300,
        answer->size && char_at(answer, answer->size - 1) == '?',
        answer_has(answer, '\n', 1),
    };
    for (int number = 0; number < (int)(sizeof present / sizeof *present); number++)
        if (present[number])
            request->request[request->request_count++] = number;
    request->request[request->request_count++] = 40 + request->context;
    request->request[request->request_count++] = 48 + (request->own_tokens / 8 < 8 ? request->own_tokens / 8 : 8);
}

/* -- Scores -- */

/* The sum of rows of one token. */
static void add_rows(const Scorer *self, const uint32_t *rows, int16_t *to)
{
    int16_t sums[WIDTH] = {0};
    for (int each = 0; each <= HASHED; each++) {
        const int8_t *from = self->table + (size_t)rows[each] * WIDTH;
        for (int column = 0; column < WIDTH; column++)
            sums[column] = (int16_t)(sums[column] + from[column]);
    }
    memcpy(to, sums, sizeof sums);
}

static uint32_t hashed_row(const Scorer *self, uint32_t hash)
{
    return (uint32_t)self->names + (hash >> (32 - HASH_BITS));
}

/* The rows of every token; see `features`. A row that a token lacks is that of the hash 0. */
static void score_tokens(Request *request)
{
    const Scorer *self = request->self;
    const int *ids = request->ids;
    const uint32_t *hashes = request->hashes;
    uint32_t near_before = 0, concept_before = 0;
    int unit = 0, named_unit = -1, role = 0, named = 0;
    for (int at = 0; at < request->count; at++) {
        uint32_t concept = self->classes[ids[at]], near = ids[at] < self->first_word ? hashes[at] : concept, pair = 0;
        while (at >= request->borders[role])
            role++;
        while (at >= request->firsts[unit] + request->sizes[unit])
            unit++;
        if (concept) {
            if (named++ && named_unit == unit)
                pair = concept_before * CONCEPT_PAIR + concept;
            concept_before = concept;
            named_unit = unit;
        }
        const uint32_t rows[HASHED + 1] = {
            (uint32_t)ids[at],
            hashed_row(self, hashes[at] * self->salts[role * CONTEXTS + request->context]),
            hashed_row(self, at ? hashes[at - 1] * PAIR + hashes[at] : 0),
            hashed_row(self, at ? near_before * CLASS_PAIR + near : 0),
            hashed_row(self, pair),
        };
        add_rows(self, rows, request->each[at]);
        near_before = near;
    }
}

/* The row of the first word of a unit, if it has one, with the unit's place. */
static const int8_t *lead_of(const Request *request, int unit)
{
    const Scorer *self = request->self;
    uint32_t hash = 0;
    for (int at = request->firsts[unit]; at < request->firsts[unit] + request->sizes[unit]; at++) {
        if (!(flags_of(request, at) & LEADS))
            continue;
        uint32_t concept = self->classes[request->ids[at]];
        hash = concept ? concept : request->hashes[at];
        break;
    }
    return self->table + (size_t)hashed_row(self, hash + (uint32_t)request->places[unit] * PLACE) * WIDTH;
}

/* The row of a flag: those of units are followed by those of requests. */
static const int8_t *flag_row(const Scorer *self, int flag)
{
    return self->table + ((size_t)self->names + ((size_t)1 << HASH_BITS) + (size_t)flag) * WIDTH;
}

static void score_units(Request *request)
{
    static const int lengths[] = {2, 3, 5, 8, 13, 21, 41};
    const Scorer *self = request->self;
    for (int unit = 0; unit < request->units; unit++) {
        int32_t sums[WIDTH] = {0};
        int size = request->sizes[unit], first = request->firsts[unit], length = 0;
        for (int at = first; at < first + size; at++)
            for (int column = 0; column < WIDTH; column++)
                sums[column] += request->each[at][column];
        while (length < 7 && size >= lengths[length])
            length++;
        double share = 1.0 / sqrt((double)(size < 511 ? size : 511));
        const int8_t *lead = lead_of(request, unit), *place = flag_row(self, request->places[unit]);
        const int8_t *by_length = flag_row(self, 48 + length);
        for (int column = 0; column < COLUMNS; column++) {
            int flags = lead[column] + place[column] + by_length[column];
            request->scores[unit][column] = self->scales[column] * (sums[column] * share + flags * FLAG_WEIGHT);
        }
    }
}

/* Weighs the units by a softmax of their last column, into `shares`. */
static void weigh_units(const Request *request, double *shares)
{
    double top = request->scores[0][TASKS], sum = 0.0;
    for (int unit = 1; unit < request->units; unit++)
        if (request->scores[unit][TASKS] > top)
            top = request->scores[unit][TASKS];
    for (int unit = 0; unit < request->units; unit++)
        sum += shares[unit] = exp(request->scores[unit][TASKS] - top);
    for (int unit = 0; unit < request->units; unit++)
        shares[unit] /= sum;
}

static double trust_of(const Request *request, const double *shares)
{
    double known = 0.0, total = 0.0;
    for (int unit = 0; unit < request->units; unit++) {
        double words[2] = {0.0, 0.0};
        for (int at = request->firsts[unit]; at < request->firsts[unit] + request->sizes[unit]; at++) {
            words[0] += request->each[at][KNOWN];
            words[1] += request->each[at][KNOWN + 1];
        }
        known += shares[unit] * words[0];
        total += shares[unit] * words[1];
    }
    if (total == 0.0)
        return MIN_TRUST;
    double trust = sqrt(known / (KNOWN_SHARE * total));
    return trust > 1.0 ? 1.0 : trust < MIN_TRUST ? MIN_TRUST : trust;
}

/* The number of words of the last user message: signs, numbers and breaks do not count. */
static int own_words(const Request *request)
{
    const Scorer *self = request->self;
    int words = 0;
    for (int at = request->borders[1]; at < request->count; at++) {
        int id = request->ids[at];
        words += id >= self->first_word || (id >= self->special[NEGATED_ID] && id < self->special[DIGIT_ID]);
    }
    return words;
}

/* Adds the rows of a follow-up's past to the scores; they have no part in the weighing of units. */
static void add_past(const Request *request, double *scores)
{
    const Scorer *self = request->self;
    const int start = request->borders[0], earlier = request->borders[1] - 1 - start;
    const int size = earlier + request->answered_count;
    int32_t sums[WIDTH] = {0};
    if (!request->answered_count)
        return;
    for (int at = 0; at < size; at++) {
        uint32_t hash = at < earlier ? self->hashes[request->ids[start + at]] * PAST_EARLIER
                                     : self->hashes[request->answered[at - earlier]] * PAST_ANSWER;
        const int8_t *row = self->table + (size_t)hashed_row(self, hash) * WIDTH;
        for (int column = 0; column < WIDTH; column++)
            sums[column] += row[column];
    }
    double share = 1.0 / sqrt((double)(size < 511 ? size : 511));
    for (int task = 0; task < TASKS; task++)
        scores[task] += sums[task] * self->scales[task] * FLAG_WEIGHT * share;
}

static void probabilities_of(const Request *request, const double *shares, double *odds)
{
    const Scorer *self = request->self;
    double top = -INFINITY, sum = 0.0;
    for (int task = 0; task < TASKS; task++) {
        int flags = 0;
        double score = 0.0;
        for (int unit = 0; unit < request->units; unit++)
            score += shares[unit] * request->scores[unit][task];
        for (int at = 0; at < request->request_count; at++)
            flags += flag_row(self, UNIT_FLAGS + request->request[at])[task];
        odds[task] = score + flags * self->scales[task] * FLAG_WEIGHT;
    }
    add_past(request, odds);
    for (int task = 0; task < TASKS; task++)
        if (odds[task] > top)
            top = odds[task];
    for (int task = 0; task < TASKS; task++)
        sum += odds[task] = exp((odds[task] - top) * self->sharpness);
    double share = trust_of(request, shares) / sum;
    for (int task = 0; task < TASKS; task++)
        odds[task] *= share;
    if (!request->has_answer && !request->has_system && request->own_tokens < SHORT_TOKENS) {
        int words = own_words(request);
        odds[self->structured] *= words < STRUCTURED_WORDS ? words / STRUCTURED_WORDS : 1.0;
    }
}

/* The numbers of the strongest words for a task in the unit that says most for it, the strongest first. */
static PyObject *evidence_of(const Request *request, const double *shares, int task)
{
    int strongest[CONSIDERED], count = 0, best = 0;
    for (int unit = 1; unit < request->units; unit++)
        if (shares[unit] * request->scores[unit][task] > shares[best] * request->scores[best][task])
            best = unit;
    for (int at = request->firsts[best]; at < request->firsts[best] + request->sizes[best]; at++) {
        int place = count;
        while (place && request->each[strongest[place - 1]][task] < request->each[at][task])
            place--;
        if (place == CONSIDERED)
            continue;
        if (count < CONSIDERED)
            count++;
        memmove(strongest + place + 1, strongest + place, sizeof(int) * (size_t)(count - 1 - place));
        strongest[place] = at;
    }
    PyObject *found = PyList_New(0);
    for (int n = 0; found && n < count; n++) {
        int id = request->ids[strongest[n]];
        if (request->each[strongest[n]][task] <= 0 || id < request->self->first_word)
            continue;
        PyObject *number = PyLong_FromLong(id);
        if (!number || PyList_Append(found, number))
            Py_CLEAR(found);
        Py_XDECREF(number);
    }
    return found;
}

/* -- The Python type -- */

static int read_request(Request *request, PyObject *system, PyObject *user, PyObject *earlier, const Text *answer)
{
    const Scorer *self = request->self;
    Text above = text_of(system), before = text_of(earlier);
    request->user = text_of(user);
    leave_out_fences(request, user);
    if (request->has_system && add_text(request, &above, 320, 160, 0) < 0)
        return -1;
    add_token(request, self->special[GAP_ID]);
    request->borders[0] = request->count;
    if (request->has_earlier && add_text(request, &before, 120, 80, 0) < 0)
        return -1;
    add_token(request, self->special[GAP_ID]);
    request->borders[1] = request->count;
    request->own_tokens = add_text(request, &request->asked, 340, 260, 1);
    if (request->own_tokens < 0 || read_answer(request, answer) < 0)
        return -1;
    add_token(request, self->special[GAP_ID]);
    request->borders[2] = request->count;
    return 0;
}

static PyObject *classify(Request *request, const Text *answer)
{
    double shares[MAX_TOKENS], odds[TASKS];
    int best = 0;
    find_negated(request);
    request->context = context_of(request, answer);
    find_units(request);
    request_flags(request, answer);
    score_tokens(request);
    score_units(request);
    weigh_units(request, shares);
    probabilities_of(request, shares, odds);
    for (int task = 1; task < TASKS; task++)
        if (odds[task] > odds[best])
            best = task;
    PyObject *evidence = evidence_of(request, shares, best), *probabilities = PyTuple_New(TASKS);
    for (int task = 0; probabilities && task < TASKS; task++) {
        PyObject *value = PyFloat_FromDouble(odds[task]);
        if (value)
            PyTuple_SET_ITEM(probabilities, task, value);
        else
            Py_CLEAR(probabilities);
    }
    if (!evidence || !probabilities) {
        Py_XDECREF(evidence);
        Py_XDECREF(probabilities);
        return NULL;
    }
    return Py_BuildValue("(iNN)", best, probabilities, evidence);
}

static PyObject *scorer_call(Scorer *self, PyObject *args, PyObject *kwargs)
{
    PyObject *system, *user, *earlier, *answer, *found = NULL;
    if (kwargs && PyDict_GET_SIZE(kwargs)) {
        PyErr_SetString(PyExc_TypeError, "keyword arguments are not supported");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "UUUU", &system, &user, &earlier, &answer))
        return NULL;
    Request *request = self->request;
    Text answered = text_of(answer);
    request->self = self;
    request->has_system = PyUnicode_GET_LENGTH(system) > 0;
    request->has_earlier = PyUnicode_GET_LENGTH(earlier) > 0;
    request->has_answer = answered.size > 0;
    request->count = request->units = request->request_count = 0;
    if (!read_request(request, system, user, earlier, &answered))
        found = request->own_tokens ? classify(request, &answered) : Py_NewRef(Py_None);
    return found;
}

static int fill_words(Words *words, PyObject *numbers)
{
    PyObject *word, *number;
    Py_ssize_t place = 0;
    for (words->slots = 64; words->slots < 3 * (uint32_t)PyDict_GET_SIZE(numbers); words->slots *= 2)
        ;
    words->entries = PyMem_Calloc(words->slots, sizeof(Entry));
    if (!words->entries) {
        PyErr_NoMemory();
        return -1;
    }
    while (PyDict_Next(numbers, &place, &word, &number)) {
        Py_UCS4 *chars = PyUnicode_Check(word) ? PyUnicode_AsUCS4Copy(word) : NULL;
        long id = PyLong_AsLong(number);
        if (!chars || (id == -1 && PyErr_Occurred())) {
            PyMem_Free(chars);
            if (!PyErr_Occurred())
                PyErr_SetString(PyExc_TypeError, "words must be text");
            return -1;
        }
        Entry *entry = slot_of(words, chars, (int)PyUnicode_GET_LENGTH(word));
        PyMem_Free(entry->chars);
        entry->chars = chars;
        entry->size = (int)PyUnicode_GET_LENGTH(word);
        entry->id = (int)id;
    }
    return 0;
}

static void free_words(Words *words)
{
    for (uint32_t at = 0; words->entries && at < words->slots; at++)
        PyMem_Free(words->entries[at].chars);
    PyMem_Free(words->entries);
}

static void scorer_dealloc(Scorer *self)
{
    void *owned[] = {self->hashes, self->classes, self->flags, self->table, self->request};
    for (size_t at = 0; at < sizeof owned / sizeof *owned; at++)
        PyMem_Free(owned[at]);
    free_words(&self->vocabulary);
    free_words(&self->pairs);
    free_words(&self->open_words);
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* A copy of an item of `parts`, which must have this many bytes. */
static void *copied(PyObject *parts, const char *name, size_t bytes)
{
    PyObject *given = PyDict_GetItemString(parts, name);
    if (!given || !PyBytes_Check(given) || (size_t)PyBytes_GET_SIZE(given) != bytes) {
        PyErr_Format(PyExc_ValueError, "%s: expected %zu bytes", name, bytes);
        return NULL;
    }
    void *copy = PyMem_Malloc(bytes ? bytes : 1);
    if (!copy)
        return PyErr_NoMemory();
    return memcpy(copy, PyBytes_AS_STRING(given), bytes);
}

static int copy_into(PyObject *parts, const char *name, void *to, size_t bytes)
{
    void *copy = copied(parts, name, bytes);
    if (!copy)
        return -1;
    memcpy(to, copy, bytes);
    PyMem_Free(copy);
    return 0;
}

static int copy_chars(PyObject *parts, const char *name, Py_UCS4 *to)
{
    PyObject *given = PyDict_GetItemString(parts, name);
    if (!given || !PyUnicode_Check(given) || PyUnicode_GET_LENGTH(given) >= SET_CHARS) {
        PyErr_Format(PyExc_ValueError, "%s: expected text of fewer than %d characters", name, SET_CHARS);
        return -1;
    }
    return PyUnicode_AsUCS4(given, to, SET_CHARS, 1) ? 0 : -1;
}

static int copy_arrays(Scorer *self, PyObject *parts)
{
    if (!(self->request = PyMem_Malloc(sizeof *self->request))) {
        PyErr_NoMemory();
        return -1;
    }
    size_t names = (size_t)self->names, rows = names + ((size_t)1 << HASH_BITS) + UNIT_FLAGS + REQUEST_FLAGS;
    return (self->hashes = copied(parts, "hashes", names * 4)) && (self->classes = copied(parts, "classes", names * 4))
            && (self->flags = copied(parts, "flags", names)) && (self->table = copied(parts, "table", rows * WIDTH))
        ? 0
        : -1;
}

static int check_numbers(const Scorer *self)
{
    int is_valid = self->names > 0 && self->structured >= 0 && self->structured < TASKS;
    for (int at = 0; at < SPECIAL; at++)
        is_valid = is_valid && self->special[at] >= 0 && self->special[at] < self->names;
    for (uint32_t at = 0; at < self->vocabulary.slots; at++) {
        const Entry *entry = self->vocabulary.entries + at;
        is_valid = is_valid && (!entry->chars || (entry->id >= 0 && entry->id < self->names));
    }
    if (!is_valid)
        PyErr_SetString(PyExc_ValueError, "numbers of tokens or tasks are out of range");
    return is_valid ? 0 : -1;
}

static PyObject *scorer_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"words", "pairs", "open_words", "numbers", "sharpness", "parts", NULL};
    PyObject *words, *pairs, *open_words, *parts;
    Scorer *self = (Scorer *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!O!O!(iiiii)dO!", names, &PyDict_Type, &words, &PyDict_Type,
            &pairs, &PyDict_Type, &open_words, &self->names, &self->breaks, &self->first_sign, &self->first_word,
            &self->structured, &self->sharpness, &PyDict_Type, &parts)
        || copy_into(parts, "special", self->special, sizeof self->special)
        || copy_into(parts, "salts", self->salts, sizeof self->salts)
        || copy_into(parts, "scales", self->scales, sizeof self->scales)
        || copy_chars(parts, "open_signs", self->open_signs) || copy_chars(parts, "open_chars", self->open_chars)
        || copy_chars(parts, "closing", self->closing) || fill_words(&self->vocabulary, words)
        || fill_words(&self->pairs, pairs) || fill_words(&self->open_words, open_words) || check_numbers(self)
        || copy_arrays(self, parts)) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static PyType_Slot scorer_slots[] = {
    {Py_tp_doc, "Scores requests; see `gateway.classifier.compiled`."},
    {Py_tp_new, scorer_new},
    {Py_tp_dealloc, scorer_dealloc},
    {Py_tp_call, scorer_call},
    {0, NULL},
};
static PyType_Spec scorer_spec = {"gateway.classifier._native.Scorer", sizeof(Scorer), 0, Py_TPFLAGS_DEFAULT, scorer_slots};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_native", "The task model in C.", -1, NULL, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__native(void)
{
    PyObject *module = PyModule_Create(&definition), *type = module ? PyType_FromSpec(&scorer_spec) : NULL;
    if (!type || PyModule_AddObjectRef(module, "Scorer", type) || PyModule_AddIntConstant(module, "VERSION", VERSION)
        || PyModule_AddIntConstant(module, "HASH_BITS", HASH_BITS)) {
        Py_XDECREF(type);
        Py_XDECREF(module);
        return NULL;
    }
    Py_DECREF(type);
    return module;
}
