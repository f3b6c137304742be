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
#include <stddef.h>
#include <string.h>
#include <structmember.h>

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
#define EARLY_CHARS 200
#define NOWHERE (2 * FLAG_CHARS + 1)
#define SHORT_CHARS 80
#define CONSIDERED 12
#define NAMED 3
#define KNOWN_SHARE 0.3
#define MIN_TRUST 0.1
#define STRUCTURED_WORDS 8.0
#define SHORT_TOKENS 40
#define SHORT_WORD 12    /* characters */
#define PLACE_BITS 20    /* of a slot: the place of its word plus one */
#define CACHE_LINE 64

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
    uint32_t hash;
} Span;

/* All that a token needs of its word is in one line of the processor's cache: a request finds few of them there. */
typedef struct {
    int8_t row[WIDTH];
    Py_UCS4 *all; /* the characters of a word that does not fit into `chars`; otherwise NULL */
    uint32_t hash, concept;
    int id;
    uint16_t size; /* 0: no word */
    uint8_t flags;
    Py_UCS2 chars[SHORT_WORD];
} Word;

/* A hash table with open addressing. A slot is 0 or the place of a word plus one, with some bits of its hash above it. */
typedef struct {
    uint32_t *slots, last_slot; /* their number is a power of two */
    Word *words;
    size_t count;
    void *allocated;
} Words;

typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    struct Request *request; /* of the call in progress: calls hold the interpreter's lock */
    Words vocabulary, pairs, open_words;
    int names, breaks, first_sign, first_word, structured;
    int special[SPECIAL];
    uint32_t salts[3 * CONTEXTS];
    double scales[WIDTH];
    double sharpness;
    Py_UCS4 open_signs[SET_CHARS], open_chars[SET_CHARS], closing[SET_CHARS]; /* end with 0 */
    int ascii_ids[0x80]; /* the numbers of tokens of one character */
    int8_t *table;       /* [hashed rows + UNIT_FLAGS + REQUEST_FLAGS, WIDTH] */
    void *allocated;     /* the memory of the table */
} Scorer;

/* Rows and words are at random places: they are fetched for many tokens at a time, before the first one is used. */
#ifdef __GNUC__
#define PREFETCH(address) __builtin_prefetch(address)
#else
#define PREFETCH(address) ((void)(address))
#endif

/* -- Characters: the classes of the regular expression in tokens.py -- */

enum { LETTER = 1, INNER = 2, DIGIT = 4, STOP = 8, MARK = 16 }; /* INNER: of a word, behind its first letter */
static uint8_t kinds[0x80];                                     /* of ASCII characters */

static void fill_kinds(void)
{
    for (int c = 'a'; c <= 'z'; c++)
        kinds[c] |= LETTER | INNER;
    for (int c = '0'; c <= '9'; c++)
        kinds[c] |= DIGIT | INNER;
    for (const char *c = "_'"; *c; c++)
        kinds[(int)*c] |= INNER;
    for (const char *c = ".!?;:"; *c; c++)
        kinds[(int)*c] |= STOP;
    for (const char *c = "\n@<>|_{}()"; *c; c++)
        kinds[(int)*c] |= MARK;
}

static int is_kind(Py_UCS4 c, int kind)
{
    return c < 0x80 && (kinds[c] & kind);
}

static int is_decimal(Py_UCS4 c)
{
    return c < 0x80 ? kinds[c] & DIGIT : Py_UNICODE_ISDECIMAL(c);
}

static int is_alpha(Py_UCS4 c)
{
    return c < 0x80 ? (c | 0x20) >= 'a' && (c | 0x20) <= 'z' : Py_UNICODE_ISALPHA(c);
}

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
        return kinds[c] & LETTER;
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
    return is_kind(c, STOP);
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
        while (end < size && (text[end] < 0x80 ? kinds[text[end]] & INNER : is_letter(text[end])))
            end++;
        return end;
    }
    if (is_spaceless(c))
        return end;
    if (is_decimal(c)) {
        while (end < size && is_decimal(text[end]))
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

/* -- The vocabulary -- */

/* FNV-1a, by characters: its start, a step, its end. */
#define FNV 2166136261u
#define FNV_STEP(hash, c) (((hash) ^ (c)) * 16777619u)
#define FNV_END(hash) ((hash) ^ ((hash) >> 15))

static uint32_t hash_of(const Py_UCS4 *chars, int size)
{
    uint32_t hash = FNV;
    for (int at = 0; at < size; at++)
        hash = FNV_STEP(hash, chars[at]);
    return FNV_END(hash);
}

static int is_word(const Word *word, const Py_UCS4 *chars, int size)
{
    if (word->size != size)
        return 0;
    if (word->all)
        return !memcmp(word->all, chars, sizeof(Py_UCS4) * (size_t)size);
    for (int at = 0; at < size; at++)
        if (word->chars[at] != chars[at])
            return 0;
    return 1;
}

/* The slot of a word, or the empty one where it would be. */
static uint32_t *slot_of(const Words *words, const Py_UCS4 *chars, int size, uint32_t hash)
{
    const uint32_t places = (1u << PLACE_BITS) - 1;
    for (uint32_t at = hash & words->last_slot;; at = (at + 1) & words->last_slot) {
        uint32_t slot = words->slots[at];
        if (!slot || (!((slot ^ hash) & ~places) && is_word(words->words + (slot & places) - 1, chars, size)))
            return words->slots + at;
    }
}

static int id_in(const Words *words, uint32_t slot)
{
    return slot ? words->words[(slot & ((1u << PLACE_BITS) - 1)) - 1].id : -1;
}

/* The number of a word, or -1. */
static int find_word(const Words *words, const Py_UCS4 *chars, int size)
{
    return id_in(words, *slot_of(words, chars, size, hash_of(chars, size)));
}

static int split(const Scorer *self, const Py_UCS4 *text, int size, Span *found, int most)
{
    int at = 0, count = 0;
    while (at < size && count < most) {
        int end = at;
        uint32_t hash = FNV;
        if (is_kind(text[at], LETTER)) /* most tokens are words in ASCII: these are read once */
            for (; end < size && is_kind(text[end], INNER); end++)
                hash = FNV_STEP(hash, text[end]);
        if (end == at || (end < size && text[end] >= 0x80)) {
            end = token_end(text, size, at);
            if (end == at) {
                at++;
                continue;
            }
            hash = FNV;
            for (int each = at; each < end; each++)
                hash = FNV_STEP(hash, text[each]);
        }
        Span token = {text + at, end - at, 0, FNV_END(hash)};
        PREFETCH(self->vocabulary.slots + (token.hash & self->vocabulary.last_slot));
        found[count++] = token;
        for (at = end; at < size && text[at] == ' '; at++)
            ;
    }
    return count;
}

/* Two characters that are a word of the vocabulary become one token. Returns the new count. */
static int merge_pairs(const Scorer *self, Span *tokens, int count)
{
    int kept = 0;
    for (int at = 0; at < count; at++) {
        int place = at;
        if (tokens[at].size == 1 && is_spaceless(*tokens[at].chars) && at + 1 < count && tokens[at + 1].size == 1) {
            Py_UCS4 pair[2] = {*tokens[at].chars, *tokens[at + 1].chars};
            if (find_word(&self->pairs, pair, 2) >= 0)
                tokens[at++].second = pair[1];
        }
        if (kept != place)
            tokens[kept] = tokens[place];
        kept++;
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
        digits += is_decimal(chars[at]) != 0;
        quotes += chars[at] == '\'';
        underscores += chars[at] == '_';
        lines += chars[at] == '\n';
    }
    if (is_alpha(first) && !digits && !quotes && !underscores)
        return stem_or_shape(self, chars, size);
    if (first == '\n')
        return self->special[lines > 1 ? PARAGRAPH_ID : LINE_ID];
    if (Py_UNICODE_ISDIGIT(first))
        return self->special[DIGIT_ID + (size < 4 ? size : 4) - 1];
    if (is_stop(first))
        return find_word(&self->vocabulary, chars, 1);
    if (!is_alpha(first))
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
    if (token.size == 1 && token.chars[0] < 0x80)
        return self->ascii_ids[token.chars[0]];
    int found = id_in(&self->vocabulary, *slot_of(&self->vocabulary, token.chars, token.size, token.hash));
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
        at -= char_at(text, at) == '\n' ? 1 : 2;
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
    Py_UCS4 any = 0;
    for (int at = 0; at < size; at++)
        any |= out[at];
    if (any < 0x80) {
        for (int at = 0; at < size; at++)
            out[at] += (Py_UCS4)(out[at] - 'A' < 26) << 5;
        return size;
    }
    for (int at = 0; at < size; at++) {
        bytes += out[at] < 0x80 ? 1 : out[at] < 0x800 ? 2 : out[at] < 0x10000 ? 3 : 4;
        spaceless |= is_spaceless(out[at]);
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
    uint32_t rows[MAX_TOKENS][HASHED], past_rows[MAX_TOKENS + MAX_PAST]; /* of the table */
    int16_t each[MAX_TOKENS][WIDTH];
    int units;
    int firsts[MAX_TOKENS], sizes[MAX_TOKENS], places[MAX_TOKENS];
    int32_t known[MAX_TOKENS][2]; /* by unit: known words, and those that count */
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
    while (at < size) {
        int stop = size - at < 64 ? size : at + 64, found = 0;
        for (int each = at; each < stop; each++) /* compilers do this in vector registers */
            found |= text[each] == '`';
        for (; found && at < stop; at++)
            if (is_fence(text, size, at))
                return at;
        at = stop;
    }
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

/* The tokens of a text, in both arrays [TEXT_CHARS]. Returns their number, or -1 after an exception. */
static int read_tokens(const Scorer *self, const Text *text, int head, int tail, Py_UCS4 *chars, Span *tokens, int most)
{
    int size = lowered(text, head, tail, chars);
    return size < 0 ? -1 : merge_pairs(self, tokens, split(self, chars, size, tokens, most));
}

/* The tokens of the answer. Returns -1 after an exception. */
static int read_answer(Request *request, const Text *answer)
{
    Py_UCS4 chars[TEXT_CHARS];
    Span tokens[TEXT_CHARS];
    request->answered_count = 0;
    if (!request->has_answer)
        return 0;
    int count = read_tokens(request->self, answer, 100, 60, chars, tokens, MAX_PAST);
    for (int at = 0; at < count; at++)
        request->answered[request->answered_count++] = id_of(request->self, tokens[at]);
    return count < 0 ? -1 : 0;
}

/* Adds the tokens of a text. Returns their number, or -1 after an exception. */
static int add_text(Request *request, const Text *text, int head, int tail, int is_own)
{
    Py_UCS4 chars[TEXT_CHARS];
    Span tokens[TEXT_CHARS];
    const Scorer *self = request->self;
    int count = read_tokens(self, text, head, tail, chars, tokens, TEXT_CHARS), found = 0;
    for (int at = 0; at < count; at++) {
        if (is_own && count > HEAD_TOKENS + TAIL_TOKENS && at == HEAD_TOKENS) {
            add_token(request, self->special[PARAGRAPH_ID]);
            found++;
            at = count - TAIL_TOKENS;
        }
        add_token(request, id_of(self, tokens[at]));
        found++;
    }
    return count < 0 ? -1 : found;
}

static int flags_of(const Request *request, int at)
{
    return request->self->vocabulary.words[request->ids[at]].flags;
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
        request->hashes[at] = self->vocabulary.words[request->ids[at]].hash;
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

/* What occurs in a text; of three signs, before which character the first one is. */
typedef struct {
    int not_ascii, line, paragraph, indent, hunk, blocks, blank, less, more, bar, braces, brackets;
} Signs;

static Signs signs_of(const Py_UCS4 *text, int size)
{
    Signs found = {.less = NOWHERE, .more = NOWHERE, .bar = NOWHERE};
    for (int at = 0; at < size; at++) {
        if (text[at] < 0x80 && !(kinds[text[at]] & MARK))
            continue;
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
            found.less = found.less < at + 1 ? found.less : at + 1;
            found.blocks |= next == '<' && third == '<';
            break;
        case '>':
            found.more = found.more < at + 1 ? found.more : at + 1;
            break;
        case '|':
            found.bar = found.bar < at + 1 ? found.bar : at + 1;
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
            found.not_ascii = 1;
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
    int start_size = piece_of(user, 0, ends, head), end_size = piece_of(user, user->size - ends, user->size, tail);
    while (start_size && is_space(*start))
        start++, start_size--;
    while (end_size && is_space(tail[end_size - 1]))
        end_size--;
    int size = start_size, early = start_size < EARLY_CHARS ? start_size : EARLY_CHARS;
    memcpy(whole, start, sizeof(Py_UCS4) * (size_t)start_size);
    if (cut) {
        memcpy(whole + size, tail, sizeof(Py_UCS4) * (size_t)end_size);
        size += end_size;
    }
    while (!cut && size && is_space(whole[size - 1]))
        size--;
    Py_UCS4 last = end_size ? tail[end_size - 1] : 0, first = start_size ? *start : 0;
    Signs signs = signs_of(whole, size);
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
        signs.less <= early && signs.more <= early,
        signs.bar <= early,
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

static uint32_t hashed_row(uint32_t hash)
{
    return hash >> (32 - HASH_BITS);
}

static const int8_t *row_at(const Scorer *self, uint32_t row)
{
    return self->table + (size_t)row * WIDTH;
}

/* The row of a flag: those of units are followed by those of requests. */
static const int8_t *flag_row(const Scorer *self, int flag)
{
    return row_at(self, (1u << HASH_BITS) + (uint32_t)flag);
}

static uint32_t fetched_row(const Scorer *self, uint32_t hash)
{
    uint32_t row = hashed_row(hash);
    PREFETCH(row_at(self, row));
    return row;
}

/* The rows of every token besides that of its word; see `features`. A row that a token lacks is that of the hash 0. */
static void find_rows(Request *request)
{
    const Scorer *self = request->self;
    const uint32_t *hashes = request->hashes;
    uint32_t near_before = 0, concept_before = 0;
    int unit = 0, named_unit = -1, role = 0, named = 0;
    for (int at = 0; at < request->count; at++) {
        int id = request->ids[at];
        uint32_t concept = self->vocabulary.words[id].concept, near = id < self->first_word ? hashes[at] : concept, pair = 0;
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
        uint32_t *rows = request->rows[at];
        rows[0] = fetched_row(self, hashes[at] * self->salts[role * CONTEXTS + request->context]);
        rows[1] = fetched_row(self, at ? hashes[at - 1] * PAIR + hashes[at] : 0);
        rows[2] = fetched_row(self, at ? near_before * CLASS_PAIR + near : 0);
        rows[3] = fetched_row(self, pair);
        near_before = near;
    }
}

/* The rows of a follow-up's past. Returns their number. */
static int find_past_rows(Request *request)
{
    const Scorer *self = request->self;
    const int start = request->borders[0], earlier = request->borders[1] - 1 - start;
    int size = 0;
    if (!request->answered_count)
        return 0;
    for (int at = 0; at < earlier; at++)
        request->past_rows[size++] = fetched_row(self, self->vocabulary.words[request->ids[start + at]].hash * PAST_EARLIER);
    for (int at = 0; at < request->answered_count; at++)
        request->past_rows[size++] =
            fetched_row(self, self->vocabulary.words[request->answered[at]].hash * PAST_ANSWER);
    return size;
}

/* The sum of rows of one token. */
static void add_rows(const Scorer *self, int id, const uint32_t *rows, int16_t *to)
{
    int16_t sums[WIDTH];
    const int8_t *own = self->vocabulary.words[id].row;
    for (int column = 0; column < WIDTH; column++)
        sums[column] = own[column];
    for (int each = 0; each < HASHED; each++) {
        const int8_t *from = row_at(self, rows[each]);
        for (int column = 0; column < WIDTH; column++)
            sums[column] = (int16_t)(sums[column] + from[column]);
    }
    memcpy(to, sums, sizeof sums);
}

/* The row of the first word of a unit, if it has one, with the unit's place. */
static const int8_t *lead_of(const Request *request, int unit)
{
    const Scorer *self = request->self;
    uint32_t hash = 0;
    for (int at = request->firsts[unit]; at < request->firsts[unit] + request->sizes[unit]; at++) {
        if (!(flags_of(request, at) & LEADS))
            continue;
        uint32_t concept = self->vocabulary.words[request->ids[at]].concept;
        hash = concept ? concept : request->hashes[at];
        break;
    }
    return row_at(self, hashed_row(hash + (uint32_t)request->places[unit] * PLACE));
}

static void score_units(Request *request)
{
    static const int lengths[] = {2, 3, 5, 8, 13, 21, 41};
    const Scorer *self = request->self;
    for (int unit = 0; unit < request->units; unit++) {
        int32_t sums[WIDTH] = {0};
        int size = request->sizes[unit], first = request->firsts[unit], length = 0;
        const int8_t *lead = lead_of(request, unit), *place = flag_row(self, request->places[unit]);
        for (int at = first; at < first + size; at++) {
            add_rows(self, request->ids[at], request->rows[at], request->each[at]);
            for (int column = 0; column < WIDTH; column++)
                sums[column] += request->each[at][column];
        }
        while (length < 7 && size >= lengths[length])
            length++;
        double share = 1.0 / sqrt((double)(size < 511 ? size : 511));
        const int8_t *by_length = flag_row(self, 48 + length);
        for (int column = 0; column < COLUMNS; column++) {
            int flags = lead[column] + place[column] + by_length[column];
            request->scores[unit][column] = self->scales[column] * (sums[column] * share + flags * FLAG_WEIGHT);
        }
        memcpy(request->known[unit], sums + KNOWN, sizeof request->known[unit]);
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
        known += shares[unit] * request->known[unit][0];
        total += shares[unit] * request->known[unit][1];
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

static void add_row(int32_t *sums, const int8_t *row)
{
    for (int column = 0; column < WIDTH; column++)
        sums[column] += row[column];
}

/* Adds the rows of a follow-up's past to the scores; they have no part in the weighing of units. */
static void add_past(const Request *request, int size, double *scores)
{
    const Scorer *self = request->self;
    int32_t sums[WIDTH] = {0};
    for (int at = 0; at < size; at++)
        add_row(sums, row_at(self, request->past_rows[at]));
    double share = 1.0 / sqrt((double)(size < 511 ? size : 511));
    for (int task = 0; size && task < TASKS; task++)
        scores[task] += sums[task] * self->scales[task] * FLAG_WEIGHT * share;
}

static void probabilities_of(const Request *request, const double *shares, int past, double *odds)
{
    const Scorer *self = request->self;
    int32_t flags[WIDTH] = {0};
    double top = -INFINITY, sum = 0.0;
    for (int at = 0; at < request->request_count; at++)
        add_row(flags, flag_row(self, UNIT_FLAGS + request->request[at]));
    for (int task = 0; task < TASKS; task++)
        odds[task] = 0.0;
    for (int unit = 0; unit < request->units; unit++)
        for (int task = 0; task < TASKS; task++)
            odds[task] += shares[unit] * request->scores[unit][task];
    for (int task = 0; task < TASKS; task++)
        odds[task] += flags[task] * self->scales[task] * FLAG_WEIGHT;
    add_past(request, past, odds);
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

/* The numbers of the strongest words for a task in the unit that says most for it, the strongest first, each once. */
static PyObject *evidence_of(const Request *request, const double *shares, int task)
{
    int strongest[CONSIDERED], named[CONSIDERED], count = 0, names = 0, best = 0;
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
    for (int n = 0; n < count; n++) {
        int id = request->ids[strongest[n]], seen = 0;
        if (request->each[strongest[n]][task] <= 0 || id < request->self->first_word)
            continue;
        while (seen < names && named[seen] != id)
            seen++;
        named[seen] = id;
        names += seen == names;
    }
    PyObject *found = PyList_New(names);
    for (int n = 0; found && n < names; n++) {
        PyObject *number = PyLong_FromLong(named[n]);
        if (number)
            PyList_SET_ITEM(found, n, number);
        else
            Py_CLEAR(found);
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
    find_rows(request);
    int past = find_past_rows(request);
    request_flags(request, answer);
    score_units(request);
    weigh_units(request, shares);
    probabilities_of(request, shares, past, odds);
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

static PyObject *scorer_call(PyObject *scorer, PyObject *const *texts, size_t given, PyObject *keywords)
{
    Scorer *self = (Scorer *)scorer;
    PyObject *found = NULL;
    int are_texts = PyVectorcall_NARGS(given) == 4 && (!keywords || !PyTuple_GET_SIZE(keywords));
    for (int each = 0; are_texts && each < 4; each++)
        are_texts = PyUnicode_Check(texts[each]);
    if (!are_texts) {
        PyErr_SetString(PyExc_TypeError, "expected four texts, and no keywords");
        return NULL;
    }
    PyObject *system = texts[0], *user = texts[1], *earlier = texts[2], *answer = texts[3];
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

/* Memory that begins with a line of the processor's cache, filled with zeros; `allocated` is what is freed. */
static void *aligned(size_t bytes, void **allocated)
{
    *allocated = PyMem_Calloc(1, bytes + CACHE_LINE);
    if (!*allocated)
        return PyErr_NoMemory();
    return (char *)*allocated + (CACHE_LINE - (uintptr_t)*allocated % CACHE_LINE);
}

static int set_chars(Word *word, PyObject *chars)
{
    Py_ssize_t size = PyUnicode_GET_LENGTH(chars);
    if (!size || size > UINT16_MAX) {
        PyErr_SetString(PyExc_ValueError, "a word is empty or too long");
        return -1;
    }
    word->size = (uint16_t)size;
    if (size > SHORT_WORD || PyUnicode_MAX_CHAR_VALUE(chars) > UINT16_MAX)
        return (word->all = PyUnicode_AsUCS4Copy(chars)) ? 0 : -1;
    for (Py_ssize_t at = 0; at < size; at++)
        word->chars[at] = (Py_UCS2)PyUnicode_READ_CHAR(chars, at);
    return 0;
}

/* Fills a table. The first `names` words are at the places of their numbers; others, some with the same number, follow. */
static int fill_words(Words *words, PyObject *numbers, size_t names)
{
    PyObject *chars, *number;
    Py_ssize_t next = 0;
    size_t slots = 64, most = names + (size_t)PyDict_GET_SIZE(numbers), count = names;
    while (slots < 2 * (size_t)PyDict_GET_SIZE(numbers))
        slots *= 2;
    if (most >= 1u << PLACE_BITS) {
        PyErr_SetString(PyExc_ValueError, "too many words");
        return -1;
    }
    words->last_slot = (uint32_t)slots - 1;
    if (!(words->slots = PyMem_Calloc(slots, sizeof *words->slots))) {
        PyErr_NoMemory();
        return -1;
    }
    if (!(words->words = aligned((most + 1) * sizeof(Word), &words->allocated)))
        return -1;
    while (PyDict_Next(numbers, &next, &chars, &number)) {
        Py_UCS4 *copy = PyUnicode_Check(chars) ? PyUnicode_AsUCS4Copy(chars) : NULL;
        long id = PyLong_AsLong(number);
        if (!copy || (id == -1 && PyErr_Occurred())) {
            PyMem_Free(copy);
            if (!PyErr_Occurred())
                PyErr_SetString(PyExc_TypeError, "words must be text");
            return -1;
        }
        int size = (int)PyUnicode_GET_LENGTH(chars);
        uint32_t hash = hash_of(copy, size), *slot = slot_of(words, copy, size, hash);
        PyMem_Free(copy);
        size_t place = id >= 0 && (size_t)id < names && !words->words[id].size ? (size_t)id : count++;
        if (set_chars(words->words + place, chars))
            return -1;
        words->words[place].id = (int)id;
        *slot = (hash & ~((1u << PLACE_BITS) - 1)) | (uint32_t)(place + 1);
    }
    words->count = count;
    return 0;
}

static void free_words(Words *words)
{
    for (size_t at = 0; at < words->count; at++)
        PyMem_Free(words->words[at].all);
    PyMem_Free(words->allocated);
    PyMem_Free(words->slots);
}

static void scorer_dealloc(Scorer *self)
{
    PyMem_Free(self->allocated);
    PyMem_Free(self->request);
    free_words(&self->vocabulary);
    free_words(&self->pairs);
    free_words(&self->open_words);
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* The bytes of an item of `parts`, which must be this many. */
static const void *part_of(PyObject *parts, const char *name, size_t bytes)
{
    PyObject *given = PyDict_GetItemString(parts, name);
    if (!given || !PyBytes_Check(given) || (size_t)PyBytes_GET_SIZE(given) != bytes) {
        PyErr_Format(PyExc_ValueError, "%s: expected %zu bytes", name, bytes);
        return NULL;
    }
    return PyBytes_AS_STRING(given);
}

static int copy_into(PyObject *parts, const char *name, void *to, size_t bytes)
{
    const void *part = part_of(parts, name, bytes);
    return part && memcpy(to, part, bytes) ? 0 : -1;
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

/* Copies what is known by name into the words, and the other rows into the table. */
static int copy_arrays(Scorer *self, PyObject *parts)
{
    size_t names = (size_t)self->names, others = ((size_t)1 << HASH_BITS) + UNIT_FLAGS + REQUEST_FLAGS;
    const uint32_t *hashes = part_of(parts, "hashes", names * sizeof *hashes);
    const uint32_t *concepts = hashes ? part_of(parts, "classes", names * sizeof *concepts) : NULL;
    const uint8_t *flags = concepts ? part_of(parts, "flags", names) : NULL;
    const int8_t *rows = flags ? part_of(parts, "table", (names + others) * WIDTH) : NULL;
    if (!rows || !(self->table = aligned(others * WIDTH, &self->allocated)))
        return -1;
    memcpy(self->table, rows + names * WIDTH, others * WIDTH);
    for (size_t at = 0; at < names; at++) {
        Word *word = self->vocabulary.words + at;
        memcpy(word->row, rows + at * WIDTH, WIDTH);
        word->hash = hashes[at];
        word->concept = concepts[at];
        word->flags = flags[at];
    }
    return 0;
}

static int check_numbers(const Scorer *self)
{
    int is_valid = self->structured >= 0 && self->structured < TASKS;
    for (int at = 0; at < SPECIAL; at++)
        is_valid = is_valid && self->special[at] >= 0 && self->special[at] < self->names;
    for (size_t at = 0; at < self->vocabulary.count; at++) {
        const Word *word = self->vocabulary.words + at;
        is_valid = is_valid && word->id >= 0 && word->id < self->names;
    }
    if (!is_valid)
        PyErr_SetString(PyExc_ValueError, "numbers of tokens or tasks are out of range");
    return is_valid ? 0 : -1;
}

static int fill_vocabularies(Scorer *self, PyObject *words, PyObject *pairs, PyObject *open_words)
{
    if (self->names <= 0) {
        PyErr_SetString(PyExc_ValueError, "there must be names");
        return -1;
    }
    return fill_words(&self->vocabulary, words, (size_t)self->names) || fill_words(&self->pairs, pairs, 0)
        || fill_words(&self->open_words, open_words, 0) || check_numbers(self);
}

static int prepare_request(Scorer *self)
{
    if (!(self->request = PyMem_Malloc(sizeof *self->request))) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_UCS4 c = 0; c < 0x80; c++) {
        int found = find_word(&self->vocabulary, &c, 1);
        self->ascii_ids[c] = found >= 0 ? found : unknown_id(self, &c, 1);
    }
    return 0;
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
        || copy_chars(parts, "closing", self->closing) || fill_vocabularies(self, words, pairs, open_words)
        || copy_arrays(self, parts) || prepare_request(self)) {
        Py_DECREF(self);
        return NULL;
    }
    self->call = scorer_call;
    return (PyObject *)self;
}

static PyMemberDef scorer_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Scorer, call), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};
static PyType_Slot scorer_slots[] = {
    {Py_tp_doc, "Scores requests; see `gateway.classifier.compiled`."},
    {Py_tp_new, scorer_new},
    {Py_tp_dealloc, scorer_dealloc},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_members, scorer_members},
    {0, NULL},
};
static PyType_Spec scorer_spec = {
    "gateway.classifier._native.Scorer", sizeof(Scorer), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL, scorer_slots};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_native", "The task model in C.", -1, NULL, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__native(void)
{
    fill_kinds();
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
