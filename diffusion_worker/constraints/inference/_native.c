/* The step of a constrained row in C: logits to scores of token equivalence classes, and classes to the best path, the
 * marginals and a sample. `follow` infers from the few states that have a share in the result, `infer` from all states.
 *
 * Optional. The Python code beside it computes the same, defines what is computed, and is used where this module is not
 * built, or where logits are so far apart that probabilities leave the range of a double. Tests compare the two. A
 * change of results there is a change here, and a new VERSION in both.
 *
 * All three functions release the interpreter lock, so that rows of a step run side by side.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define VERSION 3
#define CHUNK 128  /* slots per chunk: `class_reduction.CHUNK` */
#define NONE (-1e30f)
#define FLOOR (-1e4)
#define LEAST 2.6e-261 /* e^-600: sets of less mass are left to the Python code */

/* Functions over vectors exist in versions for CPUs whose vectors are wider than a compiler may assume. */
#if defined(__x86_64__) && defined(__GNUC__)
#define HAS_WIDE 1
#define WIDE __attribute__((target("avx2,fma")))
#define WIDEST __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,fma")))
#else
#define HAS_WIDE 0
#endif
#define INLINE static inline __attribute__((always_inline))

/* ---- arrays ---- */

#define MOST_ARRAYS 24

typedef struct {
    Py_buffer held[MOST_ARRAYS];
    int count;
} Arrays;

static void *array(Arrays *arrays, PyObject *object, Py_ssize_t size, int is_written)
{
    Py_buffer *held = &arrays->held[arrays->count];
    if (PyObject_GetBuffer(object, held, is_written ? PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE : PyBUF_C_CONTIGUOUS) < 0)
        return NULL;
    arrays->count++;
    if (size >= 0 && held->len != size) {
        PyErr_Format(PyExc_ValueError, "argument %d has %zd bytes, not %zd", arrays->count, held->len, size);
        return NULL;
    }
    return held->buf;
}

static void release(Arrays *arrays)
{
    while (arrays->count > 0)
        PyBuffer_Release(&arrays->held[--arrays->count]);
}

static Py_ssize_t items(const Arrays *arrays, int at)
{
    return arrays->held[at].len / (Py_ssize_t)sizeof(int32_t);
}

/* Whether all values are in [low, high). */
static int are_within(const int32_t *values, Py_ssize_t count, Py_ssize_t low, Py_ssize_t high)
{
    for (Py_ssize_t at = 0; at < count; at++)
        if (values[at] < low || values[at] >= high)
            return 0;
    return 1;
}

/* Whether `first` [count + 1] rises from 0 to `end`: none of `count` parts is empty. */
static int are_offsets(const int32_t *first, Py_ssize_t count, Py_ssize_t end)
{
    if (count < 0 || first[0] != 0 || first[count] != end)
        return 0;
    for (Py_ssize_t at = 0; at < count; at++)
        if (first[at] >= first[at + 1])
            return 0;
    return 1;
}

/* ---- the reduction: scores of token equivalence classes ---- */

typedef float Sixteen __attribute__((vector_size(64)));
typedef int32_t SixteenBits __attribute__((vector_size(64)));

/* e to the power of x <= 0, within 2e-7; below -87 about 1e-38. */
INLINE void exp_sixteen(Sixteen *x_)
{
    Sixteen x = *x_, low = (Sixteen){0} - 87.0f;
    SixteenBits is_above = x > low;
    x = (Sixteen)(((SixteenBits)x & is_above) | ((SixteenBits)low & ~is_above));
    Sixteen k = x * 1.44269504f + 12582912.0f, n = k - 12582912.0f;
    Sixteen y = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    Sixteen p = y * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * y + 8.3334519073e-3f;
    p = p * y + 4.1665795894e-2f;
    p = p * y + 1.6666665459e-1f;
    p = p * y + 5.0000001201e-1f;
    p = p * (y * y) + y + 1.0f;
    *x_ = p * (Sixteen)(((SixteenBits)k + 127) << 23);
}

INLINE float sum_sixteen(const Sixteen *x)
{
    float part[16];
    memcpy(part, x, sizeof(part));
    for (int half = 8; half; half /= 2)
        for (int at = 0; at < half; at++)
            part[at] += part[at + half];
    return part[0];
}

INLINE float max_sixteen(const Sixteen *x)
{
    float part[16];
    memcpy(part, x, sizeof(part));
    for (int half = 8; half; half /= 2)
        for (int at = 0; at < half; at++)
            part[at] = part[at] > part[at + half] ? part[at] : part[at + half];
    return part[0];
}

typedef struct {
    Py_ssize_t vocab, singles, classes, chunks;
    const int32_t *single;      /* [singles] the token of each class of one token: the first classes */
    const int32_t *slots;       /* [chunks, CHUNK] the tokens of the other classes; -1: none */
    const uint16_t *bits;       /* [chunks, CHUNK / 16] which slots hold a token */
    const int32_t *first_chunk; /* [classes - singles + 1] */
    const int32_t *in_place;    /* [chunks] the first token of a chunk of consecutive ids; -1: gathered */
    Py_ssize_t gathered, others; /* the first so many chunks are gathered, from the tokens `other` in ascending order */
    const int32_t *other, *other_slot; /* [others] */
    float scale;                /* one over the temperature of the logits */
    float sampling;             /* one over the temperature of sampling; 0: it is 1 */
} Reduction;

/* Of each chunk relative to its largest logit `peak`: the sum of weights e^x, of e^x x, and of e^(x sampling). */
typedef struct {
    float *peak, *total, *weighted, *sampled;
} Chunks;

typedef struct {
    float *peak, *mass, *entropy, *sampled; /* [classes] */
} Classes;

INLINE void read_chunk(const float *values, const uint16_t *bits, float scale, float sampling, Chunks chunks,
                       Py_ssize_t to)
{
    const SixteenBits lanes = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768};
    Sixteen x[CHUNK / 16], top = (Sixteen){0} + NONE, total = {0}, weighted = {0}, sampled = {0};
    SixteenBits none = (SixteenBits)top;
    for (int at = 0; at < CHUNK / 16; at++) {
        SixteenBits is_token = (((SixteenBits){0} + bits[at]) & lanes) != 0;
        memcpy(&x[at], values + 16 * at, sizeof(Sixteen));
        x[at] *= scale;
        x[at] = (Sixteen)(((SixteenBits)x[at] & is_token) | (none & ~is_token));
        SixteenBits is_above = x[at] > top;
        top = (Sixteen)(((SixteenBits)x[at] & is_above) | ((SixteenBits)top & ~is_above));
    }
    float peak = max_sixteen(&top);
    for (int at = 0; at < CHUNK / 16; at++) {
        SixteenBits is_token = (((SixteenBits){0} + bits[at]) & lanes) != 0;
        Sixteen shifted = x[at] - peak, weight = shifted;
        exp_sixteen(&weight);
        weight = (Sixteen)((SixteenBits)weight & is_token);
        total += weight;
        weighted += weight * shifted;
        if (sampling > 0.0f) {
            shifted *= sampling;
            exp_sixteen(&shifted);
            sampled += (Sixteen)((SixteenBits)shifted & is_token);
        }
    }
    chunks.peak[to] = peak;
    chunks.total[to] = sum_sixteen(&total);
    chunks.weighted[to] = sum_sixteen(&weighted);
    if (sampling > 0.0f)
        chunks.sampled[to] = sum_sixteen(&sampled);
}

/* The class that owns `count` chunks from `first` on. Sums of many chunks are taken sixteen at a time. */
INLINE void join_chunks(Chunks chunks, Py_ssize_t first, Py_ssize_t count, float sampling, Classes out, Py_ssize_t to)
{
    float peak = chunks.peak[first];
    double total = chunks.total[first], weighted = chunks.weighted[first];
    double sampled = sampling > 0.0f ? chunks.sampled[first] : 0.0;
    if (count > 1) {
        for (Py_ssize_t at = first + 1; at < first + count; at++)
            peak = chunks.peak[at] > peak ? chunks.peak[at] : peak;
        total = weighted = sampled = 0.0;
        for (Py_ssize_t at = 0; at < count; at += 16) {
            size_t size = sizeof(float) * (size_t)(count - at < 16 ? count - at : 16);
            Sixteen shift = (Sixteen){0} + NONE, share, part = {0}, part_weighted = {0}, part_sampled = {0};
            memcpy(&shift, chunks.peak + first + at, size);
            memcpy(&part, chunks.total + first + at, size);
            memcpy(&part_weighted, chunks.weighted + first + at, size);
            shift -= peak;
            share = shift;
            exp_sixteen(&share);
            SixteenBits is_none = shift < -1e20f;
            shift = (Sixteen)((SixteenBits)shift & ~is_none);
            part_weighted = share * (part_weighted + shift * part);
            part *= share;
            total += sum_sixteen(&part);
            weighted += sum_sixteen(&part_weighted);
            if (sampling > 0.0f) {
                memcpy(&part_sampled, chunks.sampled + first + at, size);
                share = shift * sampling;
                exp_sixteen(&share);
                part_sampled *= share;
                sampled += sum_sixteen(&part_sampled);
            }
        }
    }
    out.peak[to] = peak;
    out.mass[to] = peak + (float)log(total);
    out.entropy[to] = (float)(log(total) - weighted / total);
    if (sampling > 0.0f)
        out.sampled[to] = peak * sampling + (float)log(sampled);
}

/* One position. Returns whether its logits are finite. */
#define DEFINE_READ_POSITION(name, attributes) \
attributes static int name(const Reduction *r, const float *logits, float *gathered, Chunks chunks, Classes out) \
{ \
    float padded[CHUNK] = {0}; \
    for (Py_ssize_t at = 0; at < r->singles; at++) { \
        out.peak[at] = out.mass[at] = logits[r->single[at]] * r->scale; \
        out.entropy[at] = 0.0f; \
        if (r->sampling > 0.0f) \
            out.sampled[at] = out.peak[at] * r->sampling; \
    } \
    Py_ssize_t other = 0; \
    for (Py_ssize_t chunk = r->gathered; chunk < r->chunks; chunk++) { /* a token of others is read while it is near */ \
        int32_t first = r->in_place[chunk]; \
        for (; other < r->others && r->other[other] < first + CHUNK; other++) \
            gathered[r->other_slot[other]] = logits[r->other[other]]; \
        const float *values = logits + first; \
        if (first + CHUNK > r->vocab) { \
            memcpy(padded, values, (size_t)(r->vocab - first) * sizeof(float)); \
            values = padded; \
        } \
        read_chunk(values, r->bits + chunk * (CHUNK / 16), r->scale, r->sampling, chunks, chunk); \
    } \
    for (; other < r->others; other++) \
        gathered[r->other_slot[other]] = logits[r->other[other]]; \
    for (Py_ssize_t chunk = 0; chunk < r->gathered; chunk++) \
        read_chunk(gathered + chunk * CHUNK, r->bits + chunk * (CHUNK / 16), r->scale, r->sampling, chunks, chunk); \
    for (Py_ssize_t at = r->singles; at < r->classes; at++) { \
        Py_ssize_t first = r->first_chunk[at - r->singles]; \
        join_chunks(chunks, first, r->first_chunk[at - r->singles + 1] - first, r->sampling, out, at); \
    } \
    int is_finite = 1; \
    for (Py_ssize_t at = 0; at < r->classes; at++) \
        is_finite &= fabsf(out.mass[at]) <= FLT_MAX && fabsf(out.entropy[at]) <= FLT_MAX; \
    return is_finite; \
}

DEFINE_READ_POSITION(read_position, )
#if HAS_WIDE
DEFINE_READ_POSITION(read_position_wide, WIDE)
DEFINE_READ_POSITION(read_position_widest, WIDEST)
#endif

#if HAS_WIDE
static int has_widest(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}

static int has_wide(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#endif

typedef int (*ReadPosition)(const Reduction *, const float *, float *, Chunks, Classes);

static ReadPosition position_reader(void)
{
#if HAS_WIDE
    if (has_widest())
        return read_position_widest;
    if (has_wide())
        return read_position_wide;
#endif
    return read_position;
}

typedef struct {
    Arrays arrays;
    Reduction reduction;
} Layout;

static void free_layout(PyObject *capsule)
{
    Layout *layout = PyCapsule_GetPointer(capsule, "layout");
    release(&layout->arrays);
    PyMem_Free(layout);
}

static int read_layout(Layout *l, PyObject *const *objects, Py_ssize_t vocab)
{
    const void *parts[7];
    for (int at = 0; at < 7; at++)
        if ((parts[at] = array(&l->arrays, objects[at], -1, 0)) == NULL)
            return -1;
    Reduction *r = &l->reduction;
    Py_ssize_t multiple = items(&l->arrays, 3) - 1;
    *r = (Reduction){.vocab = vocab, .singles = items(&l->arrays, 0), .chunks = items(&l->arrays, 4),
                     .classes = items(&l->arrays, 0) + multiple, .single = parts[0], .slots = parts[1],
                     .bits = parts[2], .first_chunk = parts[3], .in_place = parts[4], .other = parts[5],
                     .other_slot = parts[6], .others = items(&l->arrays, 5)};
    while (r->gathered < r->chunks && r->in_place[r->gathered] < 0)
        r->gathered++;
    int fits = vocab > 0 && items(&l->arrays, 1) == r->chunks * CHUNK &&
               l->arrays.held[2].len == r->chunks * (CHUNK / 8) && are_within(r->single, r->singles, 0, vocab) &&
               are_within(r->slots, r->chunks * CHUNK, -1, vocab) &&
               are_within(r->in_place + r->gathered, r->chunks - r->gathered, 0, vocab) &&
               items(&l->arrays, 6) == r->others && are_within(r->other, r->others, 0, vocab) &&
               are_within(r->other_slot, r->others, 0, r->gathered * CHUNK) && multiple >= 0 &&
               are_offsets(r->first_chunk, multiple, r->chunks);
    if (!fits)
        PyErr_SetString(PyExc_ValueError, "arrays that do not fit each other");
    return fits ? 0 : -1;
}

/* layout(single, slots, bits, first_chunk, in_place, other, other_slot, vocab): the checked arrays of a `ClassLayout`,
 * for `reduce`. */
static PyObject *layout(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *objects[7];
    Py_ssize_t vocab;
    if (!PyArg_ParseTuple(args, "OOOOOOOn", &objects[0], &objects[1], &objects[2], &objects[3], &objects[4], &objects[5],
                          &objects[6], &vocab))
        return NULL;
    Layout *l = PyMem_Calloc(1, sizeof(Layout));
    if (l == NULL)
        return PyErr_NoMemory();
    PyObject *capsule = read_layout(l, objects, vocab) < 0 ? NULL : PyCapsule_New(l, "layout", free_layout);
    if (capsule == NULL) {
        release(&l->arrays);
        PyMem_Free(l);
    }
    return capsule;
}

/* reduce(layout, logits, scale, sampling, peak, mass, entropy, sampled, chunk_peak, chunk_total): fills float [positions,
 * classes], and [positions, chunks] of the last two, from float [positions, vocab] times `scale`. If `sampling`, one over the
 * temperature of sampling, is not 0, `sampled` and `chunk_total` are those of logits times that; else the former is not
 * written. Returns whether all logits are finite. */
static PyObject *reduce(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *capsule, *logits_, *objects[6];
    float scale, sampling;
    if (!PyArg_ParseTuple(args, "OOffOOOOOO", &capsule, &logits_, &scale, &sampling, &objects[0], &objects[1], &objects[2],
                          &objects[3], &objects[4], &objects[5]))
        return NULL;
    Layout *l = PyCapsule_GetPointer(capsule, "layout");
    if (l == NULL)
        return NULL;
    Reduction r = l->reduction;
    r.scale = scale;
    r.sampling = sampling;
    Arrays arrays = {0};
    float *out[6] = {0}, *scratch = NULL;
    const float *logits = array(&arrays, logits_, -1, 0);
    Py_ssize_t row = r.vocab * (Py_ssize_t)sizeof(float), positions = logits == NULL ? 0 : arrays.held[0].len / row;
    int failed = logits == NULL, is_finite = 1;
    if (!failed && arrays.held[0].len % row) {
        PyErr_SetString(PyExc_ValueError, "logits of another vocabulary");
        failed = 1;
    }
    for (int at = 0; at < 6 && !failed; at++) {
        if (at == 3 && sampling <= 0.0f)
            continue;
        out[at] = array(&arrays, objects[at], positions * (at < 4 ? r.classes : r.chunks) * (Py_ssize_t)sizeof(float), 1);
        failed = out[at] == NULL;
    }
    if (!failed && (scratch = PyMem_Calloc((size_t)r.chunks * 2 + (size_t)r.gathered * CHUNK, sizeof(float))) == NULL) {
        PyErr_NoMemory();
        failed = 1;
    }
    if (!failed) {
        ReadPosition read = position_reader();
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t position = 0; position < positions; position++) {
            float *kept = out[5] + position * r.chunks, *other = scratch + r.gathered * CHUNK;
            Chunks chunks = {out[4] + position * r.chunks, sampling > 0.0f ? other : kept, other + r.chunks,
                             sampling > 0.0f ? kept : NULL};
            Classes classes = {out[0] + position * r.classes, out[1] + position * r.classes,
                               out[2] + position * r.classes, sampling > 0.0f ? out[3] + position * r.classes : NULL};
            is_finite &= read(&r, logits + position * r.vocab, scratch, chunks, classes);
        }
        Py_END_ALLOW_THREADS
    }
    PyMem_Free(scratch);
    release(&arrays);
    return failed ? NULL : PyBool_FromLong(is_finite);
}

/* ---- inference over a canvas ---- */

#define BASE 0x1p248
#define HALF_BASE 0x1p124 /* values are from one over it up to it: a float holds them */
#define LOWEST (-1000000) /* the exponent of 0 */

/* Of the completions of a node: the log probability of the best one, and the sum of all, which spans more than a double
 * does: `value` times BASE to the power of `exponent`. */
typedef struct {
    double best;
    float value;
    int32_t exponent;
} Completions;

/* Of a set at a position: the log probability of its most likely member, and the probability of all. */
typedef struct {
    double best, probability;
} Score;

typedef struct {
    Arrays arrays;
    Py_ssize_t classes, nodes, sets, states, edges, graph_nodes, kinds;
    /* token sets; see `TokenSets` */
    const int32_t *leaf_of, *class_at, *set_start, *set_node;
    /* the automaton; see `TokenAutomaton` and `TransitionGraph` */
    const int32_t *first_edge, *label, *target, *distance, *node_of, *target_node;
    /* the transitions of each node of the graph */
    const int32_t *first, *set, *to;
    /* states of one kind read the same sets: [states], and [kinds] one of the states */
    const int32_t *kind_of, *state_of_kind;
} Program;

static void free_program(PyObject *capsule)
{
    Program *program = PyCapsule_GetPointer(capsule, "program");
    release(&program->arrays);
    PyMem_Free(program);
}

#define PROGRAM_ARRAYS 15

static int read_program(Program *p, PyObject *const *objects)
{
    const int32_t *parts[PROGRAM_ARRAYS];
    for (int at = 0; at < PROGRAM_ARRAYS; at++)
        if ((parts[at] = array(&p->arrays, objects[at], -1, 0)) == NULL)
            return -1;
    Arrays *a = &p->arrays;
    p->leaf_of = parts[0], p->class_at = parts[1], p->set_start = parts[2], p->set_node = parts[3];
    p->first_edge = parts[4], p->label = parts[5], p->target = parts[6], p->distance = parts[7];
    p->node_of = parts[8], p->target_node = parts[9];
    p->first = parts[10], p->set = parts[11], p->to = parts[12];
    p->kind_of = parts[13], p->state_of_kind = parts[14];
    p->classes = items(a, 0), p->nodes = items(a, 1), p->sets = items(a, 2) - 1;
    p->states = items(a, 7), p->edges = items(a, 5), p->graph_nodes = items(a, 10) - 1, p->kinds = items(a, 14);
    int fits = p->nodes >= 2 && !(p->nodes & (p->nodes - 1)) && items(a, 4) == p->states + 1 &&
               items(a, 6) == p->edges && items(a, 8) == p->states && items(a, 9) == p->edges &&
               p->graph_nodes >= p->states && items(a, 12) == items(a, 11) && p->states > 0 &&
               are_within(p->leaf_of, p->classes, p->nodes / 2, p->nodes) &&
               are_within(p->class_at, p->nodes, -1, p->classes) &&
               are_offsets(p->set_start, p->sets, items(a, 3)) && are_within(p->set_node, items(a, 3), 1, p->nodes) &&
               are_offsets(p->first_edge, p->states, p->edges) && are_within(p->label, p->edges, 0, p->sets + 1) &&
               are_within(p->label, p->first_edge[p->states - 1], 0, p->sets) && /* only `done` reads any token */
               are_within(p->target, p->edges, 0, p->states) && are_within(p->node_of, p->states, 0, p->states) &&
               are_within(p->distance, p->states, 0, (Py_ssize_t)INT32_MAX + 1) &&
               are_within(p->target_node, p->edges, 0, p->states) &&
               are_offsets(p->first, p->graph_nodes, items(a, 11)) &&
               are_within(p->set, items(a, 11), 0, p->sets + 1) && are_within(p->to, items(a, 11), 0, p->graph_nodes) &&
               items(a, 13) == p->states && are_within(p->kind_of, p->states, 0, p->kinds) &&
               are_within(p->state_of_kind, p->kinds, 0, p->states);
    if (!fits)
        PyErr_SetString(PyExc_ValueError, "arrays that do not fit each other");
    return fits ? 0 : -1;
}

/* program(leaf_of, class_at, set_start, set_node, first_edge, label, target, distance, node_of, target_node, first, set,
 * to, kind_of, state_of_kind): the checked arrays of an automaton, for `infer`. */
static PyObject *program(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *o[PROGRAM_ARRAYS];
    if (!PyArg_ParseTuple(args, "OOOOOOOOOOOOOOO", &o[0], &o[1], &o[2], &o[3], &o[4], &o[5], &o[6], &o[7], &o[8], &o[9],
                          &o[10], &o[11], &o[12], &o[13], &o[14]))
        return NULL;
    Program *p = PyMem_Calloc(1, sizeof(Program));
    if (p == NULL)
        return PyErr_NoMemory();
    PyObject *capsule = read_program(p, o) < 0 ? NULL : PyCapsule_New(p, "program", free_program);
    if (capsule == NULL) {
        release(&p->arrays);
        PyMem_Free(p);
    }
    return capsule;
}

typedef struct {
    const Program *program;
    Py_ssize_t positions;
    int32_t state, tokens_left;
    const int32_t *depth;  /* [graph nodes] fewest tokens from the state to a node, or positions + 1 */
    float *node_best;      /* [positions, nodes] */
    double *share;         /* [positions, nodes] the probability of the tokens below a node */
    Score *scores;         /* [positions, sets + 1] */
    Completions *values;   /* [positions + 1, graph nodes] */
} Row;

typedef double Eight __attribute__((vector_size(64)));
typedef uint64_t EightBits __attribute__((vector_size(64)));

#define SPLIT_LN2_HIGH 0.6931471803691238
#define SPLIT_LN2_LOW 1.9082149292705877e-10

/* out = e to the power of each value minus `shift`, which is <= 0, within 4e-16; below -708, about 3e-308. Returns the
 * sum. The power is 2^n times a polynomial of the rest, |rest| <= ln(2) / 2. */
#define DEFINE_EXPS(name, attributes) \
attributes static double name(const float *values, double shift, double *out, Py_ssize_t count) \
{ \
    const double to_integer = 6755399441055744.0; \
    Eight total = {0}; \
    double sum[8]; \
    for (Py_ssize_t at = 0; at < count; at += 8) { \
        Py_ssize_t size = count - at < 8 ? count - at : 8; \
        double part[8] = {0}; \
        Eight x, lowest = (Eight){0} - 708.0; \
        for (Py_ssize_t each = 0; each < size; each++) \
            part[each] = values[at + each] - shift; \
        memcpy(&x, part, sizeof(x)); \
        EightBits is_above = (EightBits)(x > lowest); \
        x = (Eight)(((EightBits)x & is_above) | ((EightBits)lowest & ~is_above)); \
        Eight k = x * 1.4426950408889634 + to_integer, n = k - to_integer; \
        Eight y = (x - n * SPLIT_LN2_HIGH) - n * SPLIT_LN2_LOW; \
        Eight p = y * (1.0 / 479001600.0) + 1.0 / 39916800.0; \
        p = p * y + 1.0 / 3628800.0; \
        p = p * y + 1.0 / 362880.0; \
        p = p * y + 1.0 / 40320.0; \
        p = p * y + 1.0 / 5040.0; \
        p = p * y + 1.0 / 720.0; \
        p = p * y + 1.0 / 120.0; \
        p = p * y + 1.0 / 24.0; \
        p = p * y + 1.0 / 6.0; \
        p = p * y + 0.5; \
        p = p * y + 1.0; \
        p = p * y + 1.0; \
        x = p * (Eight)(((EightBits)k + 1023) << 52); \
        memcpy(part, &x, sizeof(x)); \
        for (Py_ssize_t each = size; each < 8; each++) \
            part[each] = 0.0; \
        memcpy(out + at, part, (size_t)size * sizeof(double)); \
        memcpy(&x, part, sizeof(x)); \
        total += x; \
    } \
    memcpy(sum, &total, sizeof(total)); \
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7])); \
}

DEFINE_EXPS(exps, )
#if HAS_WIDE
DEFINE_EXPS(exps_wide, WIDE)
DEFINE_EXPS(exps_widest, WIDEST)
#endif

/* Fills each inner node of a tree of doubles with the sum of its children. */
#define DEFINE_SUM_UP(name, attributes) \
attributes static void name(double *tree, Py_ssize_t nodes) \
{ \
    for (Py_ssize_t half = nodes / 4; half > 0; half /= 2) { \
        double *restrict above = tree + half; \
        const double *restrict below = tree + 2 * half; \
        for (Py_ssize_t at = 0; at < half; at++) \
            above[at] = below[2 * at] + below[2 * at + 1]; \
    } \
}

/* The same with the larger one of floats. */
#define DEFINE_BEST_UP(name, attributes) \
attributes static void name(float *tree, Py_ssize_t nodes) \
{ \
    for (Py_ssize_t half = nodes / 4; half > 0; half /= 2) { \
        float *restrict above = tree + half; \
        const float *restrict below = tree + 2 * half; \
        for (Py_ssize_t at = 0; at < half; at++) \
            above[at] = below[2 * at] > below[2 * at + 1] ? below[2 * at] : below[2 * at + 1]; \
    } \
}

DEFINE_SUM_UP(sum_up, )
DEFINE_BEST_UP(best_up, )
#if HAS_WIDE
DEFINE_SUM_UP(sum_up_wide, WIDE)
DEFINE_SUM_UP(sum_up_widest, WIDEST)
DEFINE_BEST_UP(best_up_wide, WIDE)
DEFINE_BEST_UP(best_up_widest, WIDEST)
#endif

typedef struct {
    double (*exps)(const float *, double, double *, Py_ssize_t);
    void (*sum_up)(double *, Py_ssize_t);
    void (*best_up)(float *, Py_ssize_t);
} Vectors;

static Vectors vectors_of_cpu(void)
{
#if HAS_WIDE
    if (has_widest())
        return (Vectors){exps_widest, sum_up_widest, best_up_widest};
    if (has_wide())
        return (Vectors){exps_wide, sum_up_wide, best_up_wide};
#endif
    return (Vectors){exps, sum_up, best_up};
}

/* Fills `share` from log masses [classes] of one position, with scratch [classes]. Returns the log of the mass of all
 * tokens. */
static double share_out(const Program *p, const float *mass, double *share, double *of_class, Vectors vectors)
{
    double shift = -INFINITY;
    for (Py_ssize_t at = 0; at < p->classes; at++)
        shift = mass[at] > shift ? mass[at] : shift;
    double total = vectors.exps(mass, shift, of_class, p->classes), scale = 1.0 / total;
    memset(share + p->nodes / 2, 0, (size_t)p->nodes / 2 * sizeof(double));
    for (Py_ssize_t at = 0; at < p->classes; at++)
        share[p->leaf_of[at]] = of_class[at] * scale;
    vectors.sum_up(share, p->nodes);
    return shift + log(total);
}

INLINE double probability_of(const Program *p, const double *share, int32_t set)
{
    if (set == p->sets)
        return 1.0;
    const int32_t *node = p->set_node + p->set_start[set], *end = p->set_node + p->set_start[set + 1];
    double one = 0.0, two = 0.0, three = 0.0; /* additions that need not wait for each other */
    for (; node + 2 < end; node += 3) {
        one += share[node[0]];
        two += share[node[1]];
        three += share[node[2]];
    }
    for (; node < end; node++)
        one += share[*node];
    return one + two + three;
}

/* Fills the probabilities of all sets of one position. Returns whether each has enough. */
static int weigh_sets(const Program *p, const double *share, Score *scores)
{
    int is_enough = 1;
    for (int32_t set = 0; set <= p->sets; set++) {
        scores[set].probability = probability_of(p, share, set);
        is_enough &= scores[set].probability > LEAST;
    }
    return is_enough;
}

/* Fills `node_best` from the largest logits [classes] of one position. */
static void take_best(const Program *p, const float *peak, float normaliser, float *node_best, Vectors vectors)
{
    for (Py_ssize_t node = 0; node < p->nodes; node++)
        node_best[node] = NONE;
    for (Py_ssize_t at = 0; at < p->classes; at++)
        node_best[p->leaf_of[at]] = peak[at] - normaliser > NONE ? peak[at] - normaliser : NONE;
    vectors.best_up(node_best, p->nodes);
}

/* The log probability of the most likely member of a set. */
INLINE double best_of(const Program *p, const float *node_best, int32_t set)
{
    if (set == p->sets)
        return 0.0;
    const int32_t *node = p->set_node + p->set_start[set], *end = p->set_node + p->set_start[set + 1];
    float most = FLOOR, other = FLOOR;
    for (; node + 1 < end; node += 2) {
        most = node_best[node[0]] > most ? node_best[node[0]] : most;
        other = node_best[node[1]] > other ? node_best[node[1]] : other;
    }
    if (node < end)
        most = node_best[*node] > most ? node_best[*node] : most;
    return most > other ? most : other;
}

static int32_t best_class(const Program *p, const float *best, int32_t set)
{
    int32_t node = p->set_node[p->set_start[set]];
    for (int32_t at = p->set_start[set]; at < p->set_start[set + 1]; at++)
        node = best[p->set_node[at]] > best[node] ? p->set_node[at] : node;
    while (2 * node < p->nodes)
        node = 2 * node + (best[2 * node + 1] > best[2 * node]);
    return p->class_at[node];
}

/* The fewest tokens from the state to each node of the graph; transitions into epsilon states read none. */
static int find_depths(const Program *p, int32_t state, int32_t most, int32_t *depth)
{
    Py_ssize_t low = 0, high = 1, nodes = p->graph_nodes;
    int32_t *queue = malloc((size_t)nodes * sizeof(int32_t) * 2), *next = queue + nodes;
    if (queue == NULL)
        return -1;
    for (Py_ssize_t node = 0; node < nodes; node++)
        depth[node] = most;
    queue[0] = p->node_of[state];
    depth[queue[0]] = 0;
    for (int32_t level = 0; high && level < most; level++) {
        Py_ssize_t found = 0;
        for (low = 0; low < high; low++) { /* epsilon states of this level are appended to it */
            int32_t node = queue[low];
            for (int32_t at = p->first[node]; at < p->first[node + 1]; at++) {
                int32_t to = p->to[at];
                if (depth[to] < most)
                    continue;
                if (to >= p->states) {
                    depth[to] = level;
                    queue[high++] = to;
                } else if (level + 1 < most) {
                    depth[to] = level + 1;
                    next[found++] = to;
                }
            }
        }
        int32_t *other = queue;
        queue = next;
        next = other;
        high = found;
    }
    free(queue < next ? queue : next);
    return 0;
}

/* ---- the backward recursion ---- */

/* `value` times BASE to the power of `by` <= 0. */
INLINE double scaled(double value, int32_t by)
{
    if (by < -4) /* the powers of a double end at -1074 */
        return 0.0;
    for (; by < 0; by++)
        value *= 1.0 / BASE;
    return value;
}

INLINE void keep_sum(Completions *out, double value, int32_t exponent)
{
    if (value == 0.0)
        exponent = LOWEST;
    else {
        for (; value < 1.0 / HALF_BASE; value *= BASE)
            exponent--;
        for (; value >= HALF_BASE; value *= 1.0 / BASE)
            exponent++;
    }
    out->value = (float)value;
    out->exponent = exponent;
}

/* Fills `out` for the nodes from `begin` to `end`, from the completions `after` their targets; the best ones only once. */
INLINE void recur(const Row *r, Py_ssize_t position, Py_ssize_t begin, Py_ssize_t end, const Completions *after,
                  Completions *out, int with_best)
{
    const Program *p = r->program;
    const Score *scores = r->scores + position * (p->sets + 1);
    for (Py_ssize_t node = begin; node < end; node++) {
        if (r->depth[node] > position)
            continue;
        int32_t at = p->first[node], stop = p->first[node + 1];
        const Completions *next = &after[p->to[at]];
        const Score *score = &scores[p->set[at]];
        int32_t exponent = next->exponent;
        double sum = score->probability * next->value, best = with_best ? score->best + next->best : 0.0;
        for (at++; at < stop; at++) {
            next = &after[p->to[at]];
            score = &scores[p->set[at]];
            double term = score->probability * next->value, other = score->best + next->best;
            if (with_best)
                best = other > best ? other : best;
            if (next->exponent == exponent)
                sum += term;
            else if (next->exponent < exponent)
                sum += scaled(term, next->exponent - exponent);
            else {
                sum = scaled(sum, exponent - next->exponent) + term;
                exponent = next->exponent;
            }
        }
        if (with_best)
            out[node].best = best;
        keep_sum(&out[node], sum, exponent);
    }
}

INLINE void recur_back(const Row *r, int with_best)
{
    const Program *p = r->program;
    Completions *last = r->values + r->positions * p->graph_nodes;
    for (Py_ssize_t node = 0; node < p->graph_nodes; node++)
        last[node] = (Completions){-INFINITY, 0.0f, LOWEST};
    for (Py_ssize_t state = 0; state < p->states; state++)
        if (p->distance[state] <= r->tokens_left - r->positions)
            last[p->node_of[state]] = (Completions){0.0, 1.0f, 0};
    for (Py_ssize_t position = r->positions - 1; position >= 0; position--) {
        Completions *later = r->values + (position + 1) * p->graph_nodes;
        recur(r, position, p->states, p->graph_nodes, later, later, with_best);
        recur(r, position, 0, p->states, later, later - p->graph_nodes, with_best);
    }
}

static void find_completions(const Row *r)
{
    recur_back(r, 1);
}

static void sum_completions(const Row *r)
{
    recur_back(r, 0);
}

/* ---- texts ---- */

/* The class of each position of the best path, and the state before it; returns its length. */
static Py_ssize_t best_path(const Row *r, int32_t *classes, int32_t *states)
{
    const Program *p = r->program;
    int32_t state = r->state, done = (int32_t)p->states - 1;
    Py_ssize_t length = 0;
    for (; length < r->positions && state != done; length++) {
        const Completions *after = r->values + (length + 1) * p->graph_nodes;
        const Score *score = r->scores + length * (p->sets + 1);
        const float *best = r->node_best + length * p->nodes;
        int32_t chosen = p->first_edge[state];
        double most = -INFINITY;
        for (int32_t edge = chosen; edge < p->first_edge[state + 1]; edge++) {
            double value = score[p->label[edge]].best + after[p->target_node[edge]].best;
            if (value > most) {
                most = value;
                chosen = edge;
            }
        }
        classes[length] = best_class(p, best, p->label[chosen]);
        states[length] = state;
        state = p->target[chosen];
    }
    return length;
}

#define BELOW_ONE (1.0 - 0x1p-53)

/* The class of a set in which `rest` of the set's probability lies, or -1; and what is left, as a number in [0, 1). */
static int32_t draw_class(const Program *p, const double *share, int32_t set, double rest, double *left)
{
    int32_t node = -1;
    for (int32_t at = p->set_start[set]; at < p->set_start[set + 1]; at++) {
        double weight = share[p->set_node[at]];
        if (weight <= 0.0)
            continue;
        node = p->set_node[at];
        if (rest < weight)
            break;
        rest -= weight;
    }
    if (node < 0)
        return -1;
    rest = rest < share[node] ? rest : share[node] * BELOW_ONE;
    while (2 * node < p->nodes) {
        double one = share[2 * node], two = share[2 * node + 1];
        int is_second = !(rest < one) && two > 0.0;
        rest = is_second ? rest - one : rest;
        node = 2 * node + is_second;
        rest = rest < share[node] ? rest : share[node] * BELOW_ONE;
    }
    rest /= share[node];
    *left = rest < BELOW_ONE ? rest : BELOW_ONE;
    return p->class_at[node];
}

/* The class of each position of a sample, and the rest of each uniform number; returns its length. See `sample.py`. */
static Py_ssize_t sample_path(const Row *r, const double *uniforms, double *terms, int32_t *classes, double *rests)
{
    const Program *p = r->program;
    int32_t state = r->state, done = (int32_t)p->states - 1;
    Py_ssize_t length = 0;
    for (; length < r->positions && state != done; length++) {
        const Completions *after = r->values + (length + 1) * p->graph_nodes;
        const double *share = r->share + length * p->nodes;
        const Score *scores = r->scores + length * (p->sets + 1);
        int32_t first = p->first_edge[state], stop = p->first_edge[state + 1], chosen = -1;
        int32_t exponent = LOWEST;
        for (int32_t edge = first; edge < stop; edge++)
            exponent = after[p->target_node[edge]].exponent > exponent ? after[p->target_node[edge]].exponent : exponent;
        double total = 0.0, rest, weight;
        for (int32_t edge = first; edge < stop; edge++) {
            Completions next = after[p->target_node[edge]];
            weight = scores[p->label[edge]].probability * next.value;
            total += terms[edge - first] = scaled(weight, next.exponent - exponent);
        }
        rest = uniforms[length] * total;
        for (int32_t edge = first; edge < stop; edge++) {
            weight = terms[edge - first];
            if (weight <= 0.0)
                continue;
            chosen = edge;
            if (rest < weight)
                break;
            rest -= weight;
        }
        if (chosen < 0)
            return -1;
        rest = rest / terms[chosen - first] < BELOW_ONE ? rest / terms[chosen - first] : BELOW_ONE;
        int32_t set = p->label[chosen];
        classes[length] = draw_class(p, share, set, rest * scores[set].probability, &rests[length]);
        if (classes[length] < 0)
            return -1;
        state = p->target[chosen];
    }
    return length;
}

#define NEGLIGIBLE 1e-12 /* as in `marginals.py` */

typedef struct {
    double *now, *then;     /* [states] the probability of each state before and after a position */
    int32_t *active, *next; /* [states] those with one */
    double *of_set;         /* [sets + 1] */
    double *of_node;        /* [nodes] */
} Forward;

static double minus_xlogx(double x)
{
    return x > 1e-300 ? -x * log(x) : 0.0;
}

/* The entropy of a position from the probabilities `of_set`, which are used up. */
static double entropy_of(const Program *p, const double *share, const Score *scores, const float *within,
                         Forward *f)
{
    double entropy = minus_xlogx(f->of_set[p->sets]);
    memset(f->of_node, 0, (size_t)p->nodes * sizeof(double));
    for (Py_ssize_t set = 0; set < p->sets; set++) {
        if (f->of_set[set] <= 0.0)
            continue;
        double scale = f->of_set[set] / scores[set].probability;
        for (int32_t at = p->set_start[set]; at < p->set_start[set + 1]; at++)
            f->of_node[p->set_node[at]] += scale * share[p->set_node[at]];
    }
    for (Py_ssize_t node = 1; node < p->nodes / 2; node++) {
        if (f->of_node[node] <= 0.0 || share[node] <= 0.0)
            continue;
        double scale = f->of_node[node] / share[node];
        f->of_node[2 * node] += scale * share[2 * node];
        f->of_node[2 * node + 1] += scale * share[2 * node + 1];
    }
    for (Py_ssize_t at = 0; at < p->classes; at++) {
        double of_class = f->of_node[p->leaf_of[at]];
        if (of_class > 0.0)
            entropy += of_class * within[at] + minus_xlogx(of_class);
    }
    memset(f->of_set, 0, (size_t)(p->sets + 1) * sizeof(double));
    return entropy > 0.0 ? entropy : 0.0;
}

/* The entropy of the marginal of each position: the forward pass. */
static void entropies(const Row *r, const float *within, Forward *f, double *out)
{
    const Program *p = r->program;
    Py_ssize_t count = 1;
    f->active[0] = r->state;
    f->now[r->state] = 1.0;
    for (Py_ssize_t position = 0; position < r->positions; position++) {
        const Completions *before = r->values + position * p->graph_nodes, *after = before + p->graph_nodes;
        const Score *scores = r->scores + position * (p->sets + 1);
        Py_ssize_t found = 0;
        for (Py_ssize_t at = 0; at < count; at++) {
            int32_t state = f->active[at];
            double mass = f->now[state];
            f->now[state] = 0.0;
            Completions from = before[p->node_of[state]];
            if (mass <= NEGLIGIBLE || from.value == 0.0f)
                continue;
            mass /= from.value;
            for (int32_t edge = p->first_edge[state]; edge < p->first_edge[state + 1]; edge++) {
                Completions next = after[p->target_node[edge]];
                double flow = scores[p->label[edge]].probability * next.value * mass;
                for (int32_t by = from.exponent; by < next.exponent; by++) /* the set is the less likely */
                    flow *= BASE;
                if (next.exponent < from.exponent)
                    flow = scaled(flow, next.exponent - from.exponent);
                if (flow <= 0.0)
                    continue;
                f->of_set[p->label[edge]] += flow;
                if (f->then[p->target[edge]] == 0.0)
                    f->next[found++] = p->target[edge];
                f->then[p->target[edge]] += flow;
            }
        }
        out[position] = entropy_of(p, r->share + position * p->nodes, scores, within + position * p->classes, f);
        double *mass = f->now;
        f->now = f->then;
        f->then = mass;
        int32_t *states = f->active;
        f->active = f->next;
        f->next = states;
        count = found;
    }
}

/* One allocation for all scratch of a row: its parts, or only the size if there is no memory yet. */
static size_t lay_out(Row *r, Forward *f, int32_t **depth, double **terms, double **of_class, char *memory)
{
    const Program *p = r->program;
    size_t positions = (size_t)r->positions, nodes = (size_t)p->nodes, sets = (size_t)p->sets + 1;
    size_t states = (size_t)p->states, graph = (size_t)p->graph_nodes, at = 0;
#define PART(pointer, count) \
    do { \
        if (memory != NULL) \
            (pointer) = (void *)(memory + at); \
        at += ((count) * sizeof(*(pointer)) + 63) / 64 * 64; \
    } while (0)
    PART(r->values, (positions + 1) * graph);
    PART(r->share, positions * nodes);
    PART(r->scores, positions * sets);
    PART(r->node_best, positions * nodes);
    PART(*depth, graph);
    PART(*terms, (size_t)p->edges + 1);
    PART(*of_class, (size_t)p->classes);
    PART(f->now, states);
    PART(f->then, states);
    PART(f->active, states);
    PART(f->next, states);
    PART(f->of_set, sets);
    PART(f->of_node, nodes);
#undef PART
    return at;
}

static size_t scratch_size(const Program *p, Py_ssize_t positions)
{
    Row row = {.program = p, .positions = positions};
    Forward forward = {0};
    int32_t *depth = NULL;
    double *terms = NULL, *of_class = NULL;
    return lay_out(&row, &forward, &depth, &terms, &of_class, NULL) + 64;
}

static PyObject *size_of(PyObject *args, size_t (*size)(const Program *, Py_ssize_t))
{
    PyObject *capsule;
    Py_ssize_t positions;
    if (!PyArg_ParseTuple(args, "On", &capsule, &positions))
        return NULL;
    const Program *p = PyCapsule_GetPointer(capsule, "program");
    return p == NULL ? NULL : PyLong_FromSize_t(size(p, positions < 0 ? 0 : positions));
}

/* scratch_size(program, positions): the bytes of scratch that `infer` needs. */
static PyObject *size_of_scratch(PyObject *self, PyObject *args)
{
    (void)self;
    return size_of(args, scratch_size);
}

typedef struct {
    const float *peak, *mass, *within, *sampled; /* [positions, classes] */
    const double *uniforms;                      /* [positions] */
    int32_t *best, *drawn, *states;              /* [positions] classes; the states before those of the best path */
    double *rests, *entropy;                     /* [positions] */
    Py_ssize_t best_length, drawn_length;        /* the latter -1: no sample */
} Answer;

/* Returns 0, or 1 where probabilities leave the range of a double, or -1 without memory. Where only those at the
 * temperature of sampling do, there is no sample. */
static int infer_row(Row *r, Answer *a, char *scratch)
{
    const Program *p = r->program;
    Forward f = {0};
    int32_t *depth = NULL;
    double *terms = NULL, *of_class = NULL;
    Vectors vectors = vectors_of_cpu();
    lay_out(r, &f, &depth, &terms, &of_class, scratch + (64 - (uintptr_t)scratch % 64) % 64);
    r->depth = depth;
    int failed = find_depths(p, r->state, (int32_t)r->positions + 1, depth), is_enough = 1;
    for (Py_ssize_t at = 0; at < r->positions && !failed; at++) {
        Score *scores = r->scores + at * (p->sets + 1);
        double *share = r->share + at * p->nodes;
        float normaliser = (float)share_out(p, a->mass + at * p->classes, share, of_class, vectors);
        is_enough &= weigh_sets(p, share, scores);
        take_best(p, a->peak + at * p->classes, normaliser, r->node_best + at * p->nodes, vectors);
        for (int32_t set = 0; set <= p->sets; set++)
            scores[set].best = best_of(p, r->node_best + at * p->nodes, set);
    }
    if (!failed && is_enough) {
        find_completions(r);
        a->best_length = best_path(r, a->best, a->states);
        memset(f.now, 0, (size_t)p->states * sizeof(double));
        memset(f.then, 0, (size_t)p->states * sizeof(double));
        memset(f.of_set, 0, (size_t)(p->sets + 1) * sizeof(double));
        entropies(r, a->within, &f, a->entropy);
        int can_sample = 1;
        for (Py_ssize_t at = 0; at < r->positions && a->sampled != NULL; at++) {
            double *share = r->share + at * p->nodes;
            share_out(p, a->sampled + at * p->classes, share, of_class, vectors);
            can_sample &= weigh_sets(p, share, r->scores + at * (p->sets + 1));
        }
        if (a->sampled != NULL && can_sample)
            sum_completions(r);
        a->drawn_length = can_sample ? sample_path(r, a->uniforms, terms, a->drawn, a->rests) : -1;
    }
    return failed ? -1 : !is_enough;
}

/* ---- inference from live states ----
 *
 * At a position, nearly all states are out of reach of any text that matters. So the sums are first taken over live states
 * alone: those that hold at least SLIGHT of the mass of all texts so far. Whatever follows, a text's mass cannot grow, so
 * the mass that is left out bounds the error; where it may be more than MOST_LOST of the result, a second attempt keeps
 * what the first one shows to be needed, and then `infer` answers from all states. The best path needs no tolerance: a
 * state is left out if no text through it can be as likely as the path that is found. */

#define SLIGHT 1e-15
#define MOST_LOST 1e-7
#define NEEDED 1e-13
#define GAP 50.0 /* nats that a state may be behind the best one in the first attempt */
#define UNSEEN (-1)
#define MOST_ROOM (32u << 20) /* bytes for what is live */
#define FEW_EDGES 2000 /* for which everything may be live; of others a quarter, as `infer` is no slower then */
#define MANY_EDGES 30000 /* below, `infer` is faster than a second attempt */
#define DECLINED 1

typedef struct {
    double mass, after; /* of all texts to the state, and of all from it on; then its probability */
    int32_t state, first; /* of its steps */
} Live;

typedef struct {
    double weight; /* the probability of the set */
    int32_t set, to;
} Step;

/* A state on the way of a best path, and the live state before it. */
typedef struct {
    double value;
    int32_t state, back, edge;
} Reached;

typedef struct {
    const Program *program;
    Vectors vectors;
    Py_ssize_t positions;
    int32_t state, tokens_left;
    double *share;      /* [positions, nodes] as in `Row` */
    float *node_best;   /* [positions, nodes] */
    double *normaliser; /* [positions] the log of the mass of all tokens */
    double *of_class;   /* [classes] */
    double *of_node;    /* [2, nodes] the ratio of a node itself; the sums of `entropy_below` */
    uint8_t *is_above;  /* [nodes] whether some node below has a ratio */
    int32_t *touched;   /* [2 nodes] */
    double *of_set;     /* [sets + 1] see `entropy_at` */
    int32_t *sets;      /* [sets + 1] those of a position */
    double *score;      /* [2, sets + 1] of the position `scored_at`: even and odd ones */
    int32_t *scored_at; /* [2, sets + 1] */
    double *open;       /* [kinds] the probability of all sets that a kind of states reads, of the position `opened_at` */
    int32_t *opened_at; /* [kinds] */
    int32_t *found;     /* [states] as a live state of the next position, or UNSEEN */
    double *total, *least, *ahead; /* [positions + 1] */
    Py_ssize_t *first_live; /* [positions + 2] */
    Live *live;
    Step *steps;
    Reached *reached;
    Py_ssize_t room_live, room_steps, room_reached;
} Beam;

static size_t lay_out_beam(Beam *b, char *memory)
{
    const Program *p = b->program;
    size_t positions = (size_t)b->positions, nodes = (size_t)p->nodes, sets = (size_t)p->sets + 1;
    size_t states = (size_t)p->states, at = 0, share = p->edges > FEW_EDGES ? 4 : 1;
    size_t live = (positions + 2) * (states + 2) / share, steps = (positions + 2) * ((size_t)p->edges + 2) / share;
    live = live < MOST_ROOM / 4 / sizeof(Live) ? live : MOST_ROOM / 4 / sizeof(Live);
    steps = steps < MOST_ROOM / 4 * 3 / sizeof(Step) ? steps : MOST_ROOM / 4 * 3 / sizeof(Step);
#define PART(pointer, count) \
    do { \
        if (memory != NULL) \
            (pointer) = (void *)(memory + at); \
        at += ((count) * sizeof(*(pointer)) + 63) / 64 * 64; \
    } while (0)
    PART(b->share, positions * nodes);
    PART(b->node_best, positions * nodes);
    PART(b->normaliser, positions);
    PART(b->of_class, (size_t)p->classes);
    PART(b->of_node, 2 * nodes);
    PART(b->is_above, nodes);
    PART(b->touched, 2 * nodes);
    PART(b->of_set, sets);
    PART(b->sets, sets);
    PART(b->score, 2 * sets);
    PART(b->scored_at, 2 * sets);
    PART(b->open, (size_t)p->kinds);
    PART(b->opened_at, (size_t)p->kinds);
    PART(b->found, states);
    PART(b->total, positions + 1);
    PART(b->least, positions + 1);
    PART(b->ahead, positions + 1);
    PART(b->first_live, positions + 2);
    size_t room = live * sizeof(Live) + steps * sizeof(Step);
    PART(b->live, live);
    b->room_live = (Py_ssize_t)live;
    PART(b->steps, steps);
    b->room_steps = (Py_ssize_t)steps;
    b->reached = (Reached *)b->live; /* once the sums are taken */
    b->room_reached = (Py_ssize_t)(room / sizeof(Reached));
#undef PART
    return at;
}

static size_t live_size(const Program *p, Py_ssize_t positions)
{
    Beam beam = {.program = p, .positions = positions};
    return lay_out_beam(&beam, NULL) + 64;
}

/* live_size(program, positions): the bytes of scratch that `follow` needs. */
static PyObject *size_of_live(PyObject *self, PyObject *args)
{
    (void)self;
    return size_of(args, live_size);
}

INLINE int can_close(const Beam *b, int32_t state, Py_ssize_t position)
{
    return b->program->distance[state] <= b->tokens_left - position;
}

INLINE double probability_at(Beam *b, int32_t position, int32_t set)
{
    Py_ssize_t at = set + (position & 1 ? b->program->sets + 1 : 0);
    if (b->scored_at[at] != position) {
        b->score[at] = probability_of(b->program, b->share + position * b->program->nodes, set);
        b->scored_at[at] = position;
    }
    return b->score[at];
}

INLINE double best_at(Beam *b, int32_t position, int32_t set)
{
    Py_ssize_t at = set + (position & 1 ? b->program->sets + 1 : 0);
    if (b->scored_at[at] != position) {
        b->score[at] = best_of(b->program, b->node_best + position * b->program->nodes, set);
        b->scored_at[at] = position;
    }
    return b->score[at];
}

static void forget_scores(Beam *b)
{
    for (Py_ssize_t set = 0; set < 2 * (b->program->sets + 1); set++)
        b->scored_at[set] = -1;
    for (Py_ssize_t kind = 0; kind < b->program->kinds; kind++)
        b->opened_at[kind] = -1;
}

/* The probability of all that a state can read at a position, and more than that of all texts from it. */
INLINE double open_at(Beam *b, int32_t position, int32_t state)
{
    const Program *p = b->program;
    int32_t kind = p->kind_of[state];
    if (position == b->positions)
        return 1.0;
    if (b->opened_at[kind] != position) {
        double sum = 0.0;
        int32_t of_kind = p->state_of_kind[kind];
        for (int32_t edge = p->first_edge[of_kind]; edge < p->first_edge[of_kind + 1]; edge++)
            sum += probability_at(b, position, p->label[edge]);
        b->open[kind] = sum;
        b->opened_at[kind] = position;
    }
    return b->open[kind];
}

/* What is known of a position while its live states are followed. */
typedef struct {
    Py_ssize_t begin, end, next; /* live states of the position, then those of the next one */
    Py_ssize_t steps;
    double total, open, dropped; /* the mass that is followed, the same after another token, and what is left out of that */
} Spread;

/* Follows the steps out of the live states of a position: fills those of the next one and what each can read, as `after`.
 * Leaves out steps with less than `least` of what is open so far. Returns whether there is room. */
static int spread_once(Beam *b, int32_t position, double least, Spread *of_position)
{
    const Program *p = b->program;
    Spread s = *of_position;
    int is_full = 0;
    s.next = s.end;
    s.total = s.open = s.dropped = 0.0;
    for (Py_ssize_t at = s.begin; at < s.end && !is_full; at++) {
        Live *from = &b->live[at];
        int32_t first = p->first_edge[from->state], stop = p->first_edge[from->state + 1];
        double mass = from->mass;
        from->first = (int32_t)s.steps;
        is_full = s.steps + stop - first > b->room_steps || s.next + stop - first >= b->room_live;
        for (int32_t edge = first; edge < stop && !is_full; edge++) {
            double weight = probability_at(b, position, p->label[edge]), flow = mass * weight;
            if (flow < least * s.open) {
                s.dropped += flow;
                continue;
            }
            int32_t target = p->target[edge], to = b->found[target];
            if (to == UNSEEN) {
                if (!can_close(b, target, position + 1))
                    continue;
                to = b->found[target] = (int32_t)s.next;
                b->live[s.next++] = (Live){.state = target, .after = open_at(b, position + 1, target)};
            }
            s.total += flow;
            s.open += flow * b->live[to].after;
            b->live[to].mass += flow;
            b->steps[s.steps++] = (Step){weight, p->label[edge], to};
        }
    }
    b->live[s.end].first = (int32_t)s.steps;
    for (Py_ssize_t at = s.end; at < s.next; at++)
        b->found[b->live[at].state] = UNSEEN;
    *of_position = s;
    return !is_full;
}

/* Exchanges the first live state of the next position for the one of the largest mass, so that `open` soon tells what to
 * leave out. Returns the place of the latter. */
static Py_ssize_t put_largest_first(Beam *b, const Spread *s)
{
    Py_ssize_t largest = s->end;
    for (Py_ssize_t at = s->end; at < s->next; at++)
        largest = b->live[at].mass > b->live[largest].mass ? at : largest;
    Live first = b->live[s->end];
    b->live[s->end].mass = b->live[largest].mass;
    b->live[s->end].after = b->live[largest].after;
    b->live[s->end].state = b->live[largest].state;
    b->live[largest].mass = first.mass;
    b->live[largest].after = first.after;
    b->live[largest].state = first.state;
    return largest;
}

/* Keeps the live states of the next position that have at least `least` of what is open, and the steps into them. The mass
 * of all becomes 1. */
static void keep_live(Beam *b, double least, Spread *s)
{
    Py_ssize_t largest = put_largest_first(b, s), kept = s->end, stop = s->steps;
    double scale = 1.0 / s->total;
    least *= s->open;
    for (Py_ssize_t at = s->end; at < s->next; at++) { /* from here on, `after` is where a state is kept */
        double open = b->live[at].mass * b->live[at].after;
        s->dropped += open < least ? open : 0.0;
        b->live[at].after = open < least ? -1.0 : (double)kept++;
    }
    s->steps = b->live[s->begin].first;
    for (Py_ssize_t at = s->begin; at < s->end; at++) {
        Py_ssize_t step = b->live[at].first, end = at + 1 < s->end ? b->live[at + 1].first : stop;
        b->live[at].first = (int32_t)s->steps;
        for (; step < end; step++) {
            Py_ssize_t to = b->steps[step].to == s->end ? largest : b->steps[step].to == largest ? s->end : b->steps[step].to;
            if (b->live[to].after >= 0.0)
                b->steps[s->steps++] = (Step){b->steps[step].weight * scale, b->steps[step].set, (int32_t)b->live[to].after};
        }
    }
    for (Py_ssize_t at = s->end; at < s->next; at++)
        if (b->live[at].after >= 0.0)
            b->live[(Py_ssize_t)b->live[at].after] = (Live){.mass = b->live[at].mass * scale, .state = b->live[at].state};
    s->begin = s->end;
    s->end = kept;
}

/* Fills the live states and steps of all positions from `share`. What has less than `least` of the mass of a position is
 * left out. Returns the share of the result that may be lost; above 1 if there is no room or no mass. */
static double spread(Beam *b)
{
    Spread s = {.end = 1};
    double lost = 0.0;
    forget_scores(b);
    b->live[0] = (Live){.mass = 1.0, .state = b->state};
    b->first_live[0] = 0;
    for (Py_ssize_t position = 0; position < b->positions; position++) {
        b->first_live[position + 1] = s.end;
        if (!spread_once(b, (int32_t)position, b->least[position + 1], &s) || !(s.open > 1e-240))
            return INFINITY;
        b->total[position] = s.total;
        keep_live(b, b->least[position + 1], &s);
        lost = (lost + s.dropped) / s.total; /* it can only grow */
        if (lost > MOST_LOST && b->program->edges > FEW_EDGES && b->program->edges < MANY_EDGES)
            return INFINITY;
    }
    b->first_live[b->positions + 1] = s.end;
    for (Py_ssize_t at = s.begin; at < s.end; at++)
        b->live[at].first = (int32_t)s.steps;
    return lost;
}

/* The live states and steps that the sums need, in one attempt or two, and the sums `after` each. */
static int find_live(Beam *b)
{
    for (Py_ssize_t at = 0; at <= b->positions; at++)
        b->least[at] = SLIGHT;
    double lost = spread(b);
    if (lost > MOST_LOST && lost < INFINITY) {
        double left = NEEDED;
        for (Py_ssize_t at = b->positions; at > 0; at--) {
            b->least[at] = left < SLIGHT ? left : SLIGHT;
            if (at < b->positions)
                left = left * b->total[at] > 1e-280 ? left * b->total[at] : 1e-280;
        }
        lost = spread(b);
    }
    if (!(lost <= MOST_LOST))
        return DECLINED;
    Py_ssize_t at = b->first_live[b->positions + 1] - 1;
    for (; at >= b->first_live[b->positions]; at--)
        b->live[at].after = 1.0;
    for (; at >= 0; at--) {
        double after = 0.0;
        for (int32_t step = b->live[at].first; step < b->live[at + 1].first; step++)
            after += b->steps[step].weight * b->live[b->steps[step].to].after;
        b->live[at].after = after;
    }
    return b->live[0].after > 0.0 ? 0 : DECLINED;
}

/* Fills of_node + nodes: the sum over the classes below a node of their share of a position times what their choice and
 * that of a token within them add to the entropy. */
static const double *entropy_below(Beam *b, Py_ssize_t position, const float *mass, const float *within)
{
    const Program *p = b->program;
    const double *share = b->share + position * p->nodes;
    double *below = b->of_node + p->nodes;
    for (Py_ssize_t at = 0; at < p->classes; at++)
        below[p->leaf_of[at]] = share[p->leaf_of[at]] * (within[at] + b->normaliser[position] - mass[at]);
    b->vectors.sum_up(below, p->nodes);
    return below;
}

/* Adds the ratios `of_set`, which are used up, to the nodes that cover each set, and marks what is above them. Returns how
 * many nodes were touched. */
static Py_ssize_t cover_sets(Beam *b, Py_ssize_t sets)
{
    const Program *p = b->program;
    Py_ssize_t touched = 0;
    for (Py_ssize_t each = 0; each < sets; each++) {
        int32_t set = b->sets[each];
        double ratio = b->of_set[set];
        b->of_set[set] = 0.0;
        for (int32_t at = p->set_start[set]; set < p->sets && at < p->set_start[set + 1]; at++) {
            int32_t node = p->set_node[at];
            if (b->of_node[node] == 0.0)
                b->touched[touched++] = node;
            b->of_node[node] += ratio;
            for (node /= 2; node && !b->is_above[node]; node /= 2) {
                b->is_above[node] = 1;
                b->touched[touched++] = node;
            }
        }
    }
    return touched;
}

/* The entropy of a position from `of_set`, the ratio of a set's probability here and its share of the position. A node
 * without sets below it is taken as a whole: all its classes have the same ratio. */
static double entropy_at(Beam *b, Py_ssize_t position, const double *below, Py_ssize_t sets)
{
    const Program *p = b->program;
    const double *share = b->share + position * p->nodes;
    double entropy = minus_xlogx(b->of_set[p->sets]);
    Py_ssize_t touched = cover_sets(b, sets);
    struct {
        int32_t node;
        double ratio;
    } stack[64] = {{1, 0.0}};
    int depth = 1;
    while (depth > 0) {
        int32_t node = stack[--depth].node;
        double ratio = stack[depth].ratio + b->of_node[node];
        if (b->is_above[node]) {
            stack[depth].node = 2 * node;
            stack[depth++].ratio = ratio;
            stack[depth].node = 2 * node + 1;
            stack[depth++].ratio = ratio;
        } else if (ratio > 0.0)
            entropy += ratio * (below[node] - share[node] * log(ratio));
    }
    for (Py_ssize_t at = 0; at < touched; at++) {
        b->of_node[b->touched[at]] = 0.0;
        b->is_above[b->touched[at]] = 0;
    }
    return entropy > 0.0 ? entropy : 0.0;
}

/* The entropy of the marginal of each position: `mass` becomes the probability of each live state. */
static void live_entropies(Beam *b, const Answer *a)
{
    const Program *p = b->program;
    Py_ssize_t count = b->first_live[b->positions + 1];
    for (Py_ssize_t at = 0; at < count; at++)
        b->live[at].mass = at == 0;
    for (Py_ssize_t position = 0; position < b->positions; position++) {
        Py_ssize_t sets = 0;
        for (Py_ssize_t at = b->first_live[position]; at < b->first_live[position + 1]; at++) {
            const Live *from = &b->live[at];
            if (from->mass <= NEGLIGIBLE || from->after <= 0.0)
                continue;
            double scale = from->mass / from->after;
            for (int32_t each = from->first; each < from[1].first; each++) {
                const Step *step = &b->steps[each];
                double ratio = scale * b->live[step->to].after;
                if (ratio <= 0.0)
                    continue;
                if (b->of_set[step->set] == 0.0)
                    b->sets[sets++] = step->set;
                b->of_set[step->set] += ratio / b->total[position]; /* weights are relative to it */
                b->live[step->to].mass += ratio * step->weight;
            }
        }
        const double *below = entropy_below(b, position, a->mass + position * p->classes, a->within + position * p->classes);
        a->entropy[position] = entropy_at(b, position, below, sets);
    }
}

/* As `sample_path`, over live states. */
static Py_ssize_t live_sample(const Beam *b, const double *uniforms, int32_t *classes, double *rests)
{
    const Program *p = b->program;
    int32_t done = (int32_t)p->states - 1;
    const Live *from = b->live;
    Py_ssize_t length = 0;
    for (; length < b->positions && from->state != done; length++) {
        const Step *chosen = NULL;
        const double *share = b->share + length * p->nodes;
        double rest = uniforms[length] * from->after, term = 0.0;
        for (int32_t each = from->first; each < from[1].first; each++) {
            double weight = b->steps[each].weight * b->live[b->steps[each].to].after;
            if (weight <= 0.0)
                continue;
            chosen = &b->steps[each];
            term = weight;
            if (rest < weight)
                break;
            rest -= weight;
        }
        if (chosen == NULL)
            return -1;
        rest = rest / term < BELOW_ONE ? rest / term : BELOW_ONE;
        classes[length] = draw_class(p, share, chosen->set, rest * probability_of(p, share, chosen->set), &rests[length]);
        if (classes[length] < 0)
            return -1;
        from = &b->live[chosen->to];
    }
    return length;
}

/* What a text from a state adds at most: the likeliest token at each position until it can be closed. */
INLINE double at_most(const Beam *b, int32_t state, Py_ssize_t position)
{
    Py_ssize_t until = position + b->program->distance[state];
    return b->ahead[until < b->positions ? until : b->positions] - b->ahead[position];
}

/* Follows the best way to each state of a position, from those of the last one. Returns the end of them, or -1. */
static Py_ssize_t reach_once(Beam *b, Py_ssize_t position, Py_ssize_t begin, Py_ssize_t end)
{
    const Program *p = b->program;
    Py_ssize_t next = end;
    int is_full = 0;
    for (Py_ssize_t at = begin; at < end && !is_full; at++) {
        const Reached *from = &b->reached[at];
        int32_t first = p->first_edge[from->state], stop = p->first_edge[from->state + 1];
        is_full = next + stop - first > b->room_reached;
        for (int32_t edge = first; edge < stop && !is_full; edge++) {
            int32_t target = p->target[edge], to = b->found[target];
            double value = from->value + best_at(b, (int32_t)position, p->label[edge]);
            if (to == UNSEEN) {
                if (!can_close(b, target, position + 1))
                    continue;
                b->found[target] = (int32_t)next;
                b->reached[next++] = (Reached){value, target, (int32_t)at, edge};
            } else if (value > b->reached[to].value)
                b->reached[to] = (Reached){value, target, (int32_t)at, edge};
        }
    }
    for (Py_ssize_t at = end; at < next; at++)
        b->found[b->reached[at].state] = UNSEEN;
    return is_full ? -1 : next;
}

/* Finds the best path among states that may be part of one of at least `needed`, or that are at most GAP behind. Returns
 * the last live state of it, or -1; `missed` is what a path through others may reach. */
static Py_ssize_t reach(Beam *b, double needed, double *missed)
{
    Py_ssize_t begin = 0, end = 1;
    forget_scores(b);
    b->reached[0] = (Reached){0.0, b->state, -1, -1};
    *missed = -INFINITY;
    for (Py_ssize_t position = 0; position < b->positions && end > begin; position++) {
        Py_ssize_t next = reach_once(b, position, begin, end), kept = end;
        if (next < 0)
            return -1;
        double most = -INFINITY;
        for (Py_ssize_t at = end; at < next; at++) {
            double bound = b->reached[at].value + at_most(b, b->reached[at].state, position + 1);
            most = bound > most ? bound : most;
        }
        double least = needed > -INFINITY ? needed : most - GAP;
        for (Py_ssize_t at = end; at < next; at++) {
            double bound = b->reached[at].value + at_most(b, b->reached[at].state, position + 1);
            if (bound >= least)
                b->reached[kept++] = b->reached[at];
            else
                *missed = bound > *missed ? bound : *missed;
        }
        begin = end;
        end = kept;
    }
    Py_ssize_t last = begin < end ? begin : -1;
    for (Py_ssize_t at = begin; at < end; at++)
        last = b->reached[at].value > b->reached[last].value ? at : last;
    return last;
}

/* The most likely path, as `best_path` has it. */
static int live_best(Beam *b, Answer *a)
{
    const Program *p = b->program;
    const double margin = 1e-3; /* above what is lost by rounding */
    double missed;
    b->ahead[0] = 0.0;
    for (Py_ssize_t at = 0; at < b->positions; at++) {
        float *best = b->node_best + at * p->nodes;
        take_best(p, a->peak + at * p->classes, (float)b->normaliser[at], best, b->vectors);
        b->ahead[at + 1] = b->ahead[at] + (best[1] < 0.0f ? best[1] : 0.0f);
    }
    Py_ssize_t last = reach(b, -INFINITY, &missed);
    if (last >= 0 && missed + margin > b->reached[last].value)
        last = reach(b, b->reached[last].value - margin, &missed);
    if (last < 0)
        return DECLINED;
    a->best_length = 0;
    for (Py_ssize_t at = b->positions - 1; at >= 0; at--) {
        Reached *to = &b->reached[last];
        int32_t state = b->reached[to->back].state;
        a->states[at] = state;
        if (state != p->states - 1) {
            a->best_length = a->best_length ? a->best_length : at + 1;
            a->best[at] = best_class(p, b->node_best + at * p->nodes, p->label[to->edge]);
        }
        last = to->back;
    }
    return 0;
}

static void share_out_all(Beam *b, const float *mass, double *normaliser)
{
    const Program *p = b->program;
    for (Py_ssize_t at = 0; at < b->positions; at++)
        normaliser[at] = share_out(p, mass + at * p->classes, b->share + at * p->nodes, b->of_class, b->vectors);
}

/* Returns 0, or DECLINED where `infer` must answer. */
static int follow_row(Row *r, Answer *a, char *scratch)
{
    Beam b = {.program = r->program, .vectors = vectors_of_cpu(), .positions = r->positions, .state = r->state, .tokens_left = r->tokens_left};
    const Program *p = b.program;
    lay_out_beam(&b, scratch + (64 - (uintptr_t)scratch % 64) % 64);
    for (Py_ssize_t state = 0; state < p->states; state++)
        b.found[state] = UNSEEN;
    memset(b.of_set, 0, (size_t)(p->sets + 1) * sizeof(double));
    memset(b.of_node, 0, (size_t)p->nodes * 2 * sizeof(double));
    memset(b.is_above, 0, (size_t)p->nodes);
    share_out_all(&b, a->mass, b.normaliser);
    if (find_live(&b))
        return DECLINED;
    live_entropies(&b, a);
    if (a->sampled != NULL) {
        share_out_all(&b, a->sampled, b.least);
        if (find_live(&b))
            return DECLINED;
    }
    a->drawn_length = live_sample(&b, a->uniforms, a->drawn, a->rests);
    return a->drawn_length < 0 ? DECLINED : live_best(&b, a);
}

/* Calls `run` with the arguments of `infer`. */
static PyObject *answered(PyObject *args, size_t (*size_of_row)(const Program *, Py_ssize_t),
                          int (*run)(Row *, Answer *, char *))
{
    PyObject *capsule, *in[5], *out[6];
    int state, tokens_left;
    if (!PyArg_ParseTuple(args, "OiiOOOOOOOOOOO", &capsule, &state, &tokens_left, &in[0], &in[1], &in[2], &in[3], &in[4],
                          &out[0], &out[1], &out[2], &out[3], &out[4], &out[5]))
        return NULL;
    const Program *p = PyCapsule_GetPointer(capsule, "program");
    if (p == NULL)
        return NULL;
    if (state < 0 || state >= p->states)
        return PyErr_Format(PyExc_ValueError, "no such state: %d", state);
    Arrays arrays = {0};
    Answer a = {0};
    a.uniforms = array(&arrays, in[4], -1, 0);
    Py_ssize_t positions = a.uniforms == NULL ? 0 : arrays.held[0].len / (Py_ssize_t)sizeof(double);
    Py_ssize_t size = positions * p->classes * (Py_ssize_t)sizeof(float), words = positions * (Py_ssize_t)sizeof(int32_t);
    Py_ssize_t doubles = positions * (Py_ssize_t)sizeof(double);
    char *scratch = NULL;
    int done = a.uniforms == NULL || (a.peak = array(&arrays, in[0], size, 0)) == NULL ||
                       (a.mass = array(&arrays, in[1], size, 0)) == NULL ||
                       (a.within = array(&arrays, in[2], size, 0)) == NULL ||
                       (in[3] != Py_None && (a.sampled = array(&arrays, in[3], size, 0)) == NULL) ||
                       (a.best = array(&arrays, out[0], words, 1)) == NULL ||
                       (a.states = array(&arrays, out[1], words, 1)) == NULL ||
                       (a.drawn = array(&arrays, out[2], words, 1)) == NULL ||
                       (a.rests = array(&arrays, out[3], doubles, 1)) == NULL ||
                       (a.entropy = array(&arrays, out[4], doubles, 1)) == NULL ||
                       (scratch = array(&arrays, out[5], -1, 1)) == NULL
                   ? -2
                   : 0;
    if (!done && (size_t)arrays.held[arrays.count - 1].len < size_of_row(p, positions)) {
        PyErr_SetString(PyExc_ValueError, "too little scratch");
        done = -2;
    }
    if (!done) {
        Row row = {.program = p, .positions = positions, .state = state, .tokens_left = tokens_left};
        Py_BEGIN_ALLOW_THREADS
        done = run(&row, &a, scratch);
        Py_END_ALLOW_THREADS
    }
    release(&arrays);
    if (done == -1)
        PyErr_NoMemory();
    if (done < 0)
        return NULL;
    return done ? Py_NewRef(Py_None) : Py_BuildValue("nn", a.best_length, a.drawn_length);
}

/* infer(program, state, tokens_left, peak, mass, entropy within classes, mass at the temperature of sampling or None,
 * uniforms, best, states, drawn, rests, entropy, scratch): fills int32 [positions] `best` and `drawn`, classes, and
 * `states`, those before `best`, and double [positions] `rests` and `entropy`. Returns the lengths of both texts, or None
 * where probabilities leave the range of a double. The length of the sample is -1 where only those at the temperature of
 * sampling do. */
static PyObject *infer(PyObject *self, PyObject *args)
{
    (void)self;
    return answered(args, scratch_size, infer_row);
}

/* follow(as for `infer`): the same from live states alone. Returns None, too, where these would be too many or leave out
 * too much. */
static PyObject *follow(PyObject *self, PyObject *args)
{
    (void)self;
    return answered(args, live_size, follow_row);
}

static PyMethodDef methods[] = {
    {"follow", follow, METH_VARARGS, "The same as `infer`, from live states alone."},
    {"live_size", size_of_live, METH_VARARGS, "The bytes of scratch that `follow` needs."},
    {"infer", infer, METH_VARARGS, "The best path, the entropies of the marginals and a sample, as classes."},
    {"layout", layout, METH_VARARGS, "The checked arrays of a `ClassLayout`, for `reduce`."},
    {"program", program, METH_VARARGS, "The checked arrays of an automaton, for `infer`."},
    {"scratch_size", size_of_scratch, METH_VARARGS, "The bytes of scratch that `infer` needs."},
    {"reduce", reduce, METH_VARARGS, "Scores of token equivalence classes from logits."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_native", "The step of a constrained row.", -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__native(void)
{
    PyObject *module = PyModule_Create(&definition);
    if (module != NULL && PyModule_AddIntConstant(module, "VERSION", VERSION) < 0)
        Py_CLEAR(module);
    return module;
}
