/* The inner loops of the constraint compiler in C: rows of edges, minimisation, and the walk of a vocabulary.
 *
 * Optional. `graph.py`, `minimise.py` and `tokens/compilation.py` compute the same in Python, define what is computed,
 * and are used where this module is not built. Tests compare the two. A change of results there is a change here, and a
 * new VERSION in both.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define VERSION 1
#define DEAD (-1)

typedef struct {
    int32_t first, last, target;
} Edge;

typedef struct {
    Edge *edges;
    Py_ssize_t count, room;
} Edges;

/* ---- rows ---- */

static int add_edge(Edges *into, int32_t first, int32_t last, int32_t target)
{
    if (into->count == into->room) {
        Py_ssize_t room = into->room ? 2 * into->room : 64;
        Edge *edges = PyMem_Realloc(into->edges, (size_t)room * sizeof(Edge));
        if (edges == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        into->edges = edges;
        into->room = room;
    }
    into->edges[into->count++] = (Edge){first, last, target};
    return 0;
}

static int read_row(PyObject *row, Edges *into)
{
    PyObject *fast = PySequence_Fast(row, "a row must be a sequence of edges");
    if (fast == NULL)
        return -1;
    Py_ssize_t count = PySequence_Fast_GET_SIZE(fast);
    PyObject **items = PySequence_Fast_ITEMS(fast);
    int failed = 0;
    for (Py_ssize_t at = 0; at < count && !failed; at++) {
        PyObject *edge = items[at];
        if (!PyTuple_Check(edge) || PyTuple_GET_SIZE(edge) != 3) {
            PyErr_SetString(PyExc_TypeError, "an edge must be a tuple of three integers");
            failed = 1;
            break;
        }
        long first = PyLong_AsLong(PyTuple_GET_ITEM(edge, 0));
        long last = PyLong_AsLong(PyTuple_GET_ITEM(edge, 1));
        long target = PyLong_AsLong(PyTuple_GET_ITEM(edge, 2));
        failed = (first == -1 || last == -1 || target == -1) && PyErr_Occurred();
        if (!failed)
            failed = add_edge(into, (int32_t)first, (int32_t)last, (int32_t)target) < 0;
    }
    Py_DECREF(fast);
    return failed ? -1 : 0;
}

static int by_label(const void *left, const void *right)
{
    const Edge *a = left, *b = right;
    if (a->first != b->first)
        return a->first < b->first ? -1 : 1;
    if (a->last != b->last)
        return a->last < b->last ? -1 : 1;
    return a->target < b->target ? -1 : a->target > b->target;
}

static void sort_edges(Edge *edges, Py_ssize_t count)
{
    int is_sorted = 1;
    for (Py_ssize_t at = 1; at < count && is_sorted; at++)
        is_sorted = by_label(&edges[at - 1], &edges[at]) <= 0;
    if (is_sorted)
        return;
    if (count > 24) {
        qsort(edges, (size_t)count, sizeof(Edge), by_label);
        return;
    }
    for (Py_ssize_t at = 1; at < count; at++) {
        Edge moved = edges[at];
        Py_ssize_t to = at;
        for (; to > 0 && by_label(&edges[to - 1], &moved) > 0; to--)
            edges[to] = edges[to - 1];
        edges[to] = moved;
    }
}

/* Merge adjacent ranges of one target in place; returns the new count. The edges must be sorted. */
static Py_ssize_t join_edges(Edge *edges, Py_ssize_t count)
{
    Py_ssize_t kept = 0;
    for (Py_ssize_t at = 0; at < count; at++) {
        if (kept && edges[kept - 1].target == edges[at].target && edges[kept - 1].last + 1 == edges[at].first)
            edges[kept - 1].last = edges[at].last;
        else
            edges[kept++] = edges[at];
    }
    return kept;
}

static PyObject *edge_tuple(int32_t first, int32_t last, PyObject *target)
{
    PyObject *tuple = target == NULL ? NULL : PyTuple_New(3);
    PyObject *low = PyLong_FromLong(first), *high = PyLong_FromLong(last);
    if (tuple == NULL || low == NULL || high == NULL) {
        Py_XDECREF(tuple);
        Py_XDECREF(low);
        Py_XDECREF(high);
        Py_XDECREF(target);
        return NULL;
    }
    PyTuple_SET_ITEM(tuple, 0, low);
    PyTuple_SET_ITEM(tuple, 1, high);
    PyTuple_SET_ITEM(tuple, 2, target);
    return tuple;
}

static PyObject *row_tuple(const Edge *edges, Py_ssize_t count)
{
    PyObject *row = PyTuple_New(count);
    for (Py_ssize_t at = 0; row != NULL && at < count; at++) {
        PyObject *edge = edge_tuple(edges[at].first, edges[at].last, PyLong_FromLong(edges[at].target));
        if (edge == NULL) {
            Py_CLEAR(row);
            break;
        }
        PyTuple_SET_ITEM(row, at, edge);
    }
    return row;
}

static PyObject *coalesce(PyObject *self, PyObject *edges)
{
    (void)self;
    Edges read = {0};
    PyObject *row = NULL;
    if (read_row(edges, &read) == 0) {
        sort_edges(read.edges, read.count);
        row = row_tuple(read.edges, join_edges(read.edges, read.count));
    }
    PyMem_Free(read.edges);
    return row;
}

static int by_value(const void *left, const void *right)
{
    int32_t a = *(const int32_t *)left, b = *(const int32_t *)right;
    return a < b ? -1 : a > b;
}

static Py_ssize_t sort_unique(int32_t *values, Py_ssize_t count)
{
    if (count > 1)
        qsort(values, (size_t)count, sizeof(int32_t), by_value);
    Py_ssize_t kept = 0;
    for (Py_ssize_t at = 0; at < count; at++)
        if (kept == 0 || values[kept - 1] != values[at])
            values[kept++] = values[at];
    return kept;
}

static int append_overlaid(PyObject *laid, int32_t first, int32_t last, const int32_t *targets, Py_ssize_t count)
{
    PyObject *all = PyTuple_New(count);
    for (Py_ssize_t at = 0; all != NULL && at < count; at++) {
        PyObject *target = PyLong_FromLong(targets[at]);
        if (target == NULL)
            Py_CLEAR(all);
        else
            PyTuple_SET_ITEM(all, at, target);
    }
    PyObject *tuple = all == NULL ? NULL : edge_tuple(first, last, all);
    int failed = tuple == NULL || PyList_Append(laid, tuple) < 0;
    Py_XDECREF(tuple);
    return failed ? -1 : 0;
}

/* The sweep over overlapping edges. `scratch` has room for 2 * count points and count targets. */
static int sweep(PyObject *laid, Edge *edges, Py_ssize_t count, int32_t *scratch)
{
    int32_t *points = scratch, *targets = scratch + 2 * count;
    for (Py_ssize_t at = 0; at < count; at++) {
        points[2 * at] = edges[at].first;
        points[2 * at + 1] = edges[at].last + 1;
    }
    Py_ssize_t borders = sort_unique(points, 2 * count), low = 0, high = 0;
    for (Py_ssize_t at = 0; at + 1 < borders; at++) {
        while (high < count && edges[high].first <= points[at])
            high++;
        Py_ssize_t found = 0, kept = low;
        for (Py_ssize_t each = low; each < high; each++) { /* drop what has ended, keep the order */
            if (edges[each].last < points[at])
                continue;
            targets[found++] = edges[each].target;
            edges[kept++] = edges[each];
        }
        Py_ssize_t alive = kept - low; /* move the living ones to the end of the window */
        memmove(&edges[high - alive], &edges[low], (size_t)alive * sizeof(Edge));
        low = high - alive;
        found = sort_unique(targets, found);
        if (found && append_overlaid(laid, points[at], points[at + 1] - 1, targets, found) < 0)
            return -1;
    }
    return 0;
}

static PyObject *overlay(PyObject *self, PyObject *rows)
{
    (void)self;
    PyObject *fast = PySequence_Fast(rows, "rows must be a sequence"), *laid = NULL;
    if (fast == NULL)
        return NULL;
    Edges read = {0};
    int32_t *scratch = NULL;
    int failed = 0;
    for (Py_ssize_t at = 0; at < PySequence_Fast_GET_SIZE(fast) && !failed; at++)
        failed = read_row(PySequence_Fast_GET_ITEM(fast, at), &read) < 0;
    Py_DECREF(fast);
    if (!failed && (laid = PyList_New(0)) != NULL) {
        sort_edges(read.edges, read.count);
        int is_disjoint = 1;
        for (Py_ssize_t at = 1; at < read.count && is_disjoint; at++)
            is_disjoint = read.edges[at - 1].last < read.edges[at].first;
        if (is_disjoint) {
            for (Py_ssize_t at = 0; at < read.count && !failed; at++)
                failed = append_overlaid(laid, read.edges[at].first, read.edges[at].last, &read.edges[at].target, 1) < 0;
        } else if ((scratch = PyMem_Malloc((size_t)read.count * 3 * sizeof(int32_t))) == NULL) {
            PyErr_NoMemory();
            failed = 1;
        } else {
            failed = sweep(laid, read.edges, read.count, scratch) < 0;
        }
        if (failed)
            Py_CLEAR(laid);
    }
    PyMem_Free(scratch);
    PyMem_Free(read.edges);
    return laid;
}

/* ---- states of a `Graph`: lists of rows and flags, and dictionaries of what is known ---- */

#define SELF (-2)

typedef struct {
    PyObject *rows, *accepting;
    Py_ssize_t max_states;
} States;

/* A new state without edges; -1 beyond the budget, without an exception, or with one. */
static Py_ssize_t reserve_state(const States *g)
{
    Py_ssize_t number = PyList_GET_SIZE(g->rows);
    if (number >= g->max_states)
        return -1;
    PyObject *row = PyTuple_New(0);
    int failed = row == NULL || PyList_Append(g->rows, row) < 0 || PyList_Append(g->accepting, Py_False) < 0;
    Py_XDECREF(row);
    return failed ? -1 : number;
}

static int fill_state(const States *g, Py_ssize_t number, Edges *edges, int accepting)
{
    for (Py_ssize_t at = 0; at < edges->count; at++)
        if (edges->edges[at].target == SELF)
            edges->edges[at].target = (int32_t)number;
    sort_edges(edges->edges, edges->count);
    PyObject *row = row_tuple(edges->edges, join_edges(edges->edges, edges->count));
    if (row == NULL)
        return -1;
    return PyList_SetItem(g->rows, number, row) < 0 ||
                   PyList_SetItem(g->accepting, number, PyBool_FromLong(accepting)) < 0
               ? -1
               : 0;
}

static int read_state(const States *g, Py_ssize_t number, Edges *into)
{
    if (number < 0 || number >= PyList_GET_SIZE(g->rows)) {
        PyErr_SetString(PyExc_IndexError, "no such state");
        return -1;
    }
    return read_row(PyList_GET_ITEM(g->rows, number), into);
}

/* The number that a dictionary holds under a key, or that of a new state, which is appended to `todo`; -1 as above. */
static Py_ssize_t known_state(const States *g, PyObject *known, PyObject *key, PyObject *todo)
{
    PyObject *found = PyDict_GetItemWithError(known, key);
    if (found != NULL)
        return PyLong_AsSsize_t(found);
    if (PyErr_Occurred())
        return -1;
    Py_ssize_t number = reserve_state(g);
    PyObject *value = number < 0 ? NULL : PyLong_FromSsize_t(number);
    int failed = value == NULL || PyDict_SetItem(known, key, value) < 0 || PyList_Append(todo, key) < 0;
    Py_XDECREF(value);
    return failed ? -1 : number;
}

/* -1 became an exception, or it means that there is no state left. */
static PyObject *number_or_full(Py_ssize_t number)
{
    return number < 0 && PyErr_Occurred() ? NULL : PyLong_FromSsize_t(number);
}

/* state(rows, accepting, max_states, known, edges, accepts) -> number, or -1 beyond the budget. */
static PyObject *state(PyObject *self, PyObject *args)
{
    (void)self;
    States g;
    PyObject *known, *edges;
    int accepts;
    if (!PyArg_ParseTuple(args, "O!O!nO!Op", &PyList_Type, &g.rows, &PyList_Type, &g.accepting, &g.max_states,
                          &PyDict_Type, &known, &edges, &accepts))
        return NULL;
    Edges read = {0};
    PyObject *row = NULL, *key = NULL, *value = NULL, *result = NULL;
    if (read_row(edges, &read) < 0)
        goto end;
    sort_edges(read.edges, read.count);
    read.count = join_edges(read.edges, read.count);
    row = row_tuple(read.edges, read.count);
    key = row == NULL ? NULL : PyTuple_Pack(2, accepts ? Py_True : Py_False, row);
    if (key == NULL)
        goto end;
    PyObject *found = PyDict_GetItemWithError(known, key);
    if (found != NULL || PyErr_Occurred()) {
        result = Py_XNewRef(found);
        goto end;
    }
    Py_ssize_t number = reserve_state(&g);
    if (number < 0) {
        result = number_or_full(number);
        goto end;
    }
    value = PyLong_FromSsize_t(number);
    if (value == NULL || PyDict_SetItem(known, key, value) < 0)
        goto end;
    int is_loop = 0;
    for (Py_ssize_t at = 0; at < read.count; at++)
        is_loop |= read.edges[at].target == SELF;
    int failed = is_loop ? fill_state(&g, number, &read, accepts) < 0
                         : PyList_SetItem(g.rows, number, Py_NewRef(row)) < 0 ||
                               PyList_SetItem(g.accepting, number, PyBool_FromLong(accepts)) < 0;
    result = failed ? NULL : Py_NewRef(value);
end:
    Py_XDECREF(row);
    Py_XDECREF(key);
    Py_XDECREF(value);
    PyMem_Free(read.edges);
    return result;
}

/* paste(rows, accepting, max_states, block, following) -> the first of the copied states, or -1 beyond the budget. A target
 * in a block is one of its states, or -1 for the state that follows. */
static PyObject *paste(PyObject *self, PyObject *args)
{
    (void)self;
    States g;
    PyObject *block;
    int following;
    if (!PyArg_ParseTuple(args, "O!O!nO!i", &PyList_Type, &g.rows, &PyList_Type, &g.accepting, &g.max_states,
                          &PyTuple_Type, &block, &following))
        return NULL;
    Py_ssize_t base = PyList_GET_SIZE(g.rows);
    if (base + PyTuple_GET_SIZE(block) > g.max_states)
        return PyLong_FromLong(-1);
    Edges read = {0};
    int failed = 0;
    for (Py_ssize_t number = 0; number < PyTuple_GET_SIZE(block) && !failed; number++) {
        read.count = 0;
        failed = read_row(PyTuple_GET_ITEM(block, number), &read) < 0;
        for (Py_ssize_t at = 0; at < read.count; at++)
            read.edges[at].target = read.edges[at].target < 0 ? following : read.edges[at].target + (int32_t)base;
        PyObject *row = failed ? NULL : row_tuple(read.edges, read.count);
        failed = row == NULL || PyList_Append(g.rows, row) < 0 || PyList_Append(g.accepting, Py_False) < 0;
        Py_XDECREF(row);
    }
    PyMem_Free(read.edges);
    return failed ? NULL : PyLong_FromSsize_t(base);
}

static PyObject *sorted_group(PyObject *states)
{
    PyObject *fast = PySequence_Fast(states, "states must be a sequence");
    if (fast == NULL)
        return NULL;
    Py_ssize_t count = PySequence_Fast_GET_SIZE(fast);
    int32_t *numbers = PyMem_Malloc((size_t)(count + 1) * sizeof(int32_t));
    PyObject *group = NULL;
    if (numbers == NULL) {
        PyErr_NoMemory();
    } else {
        for (Py_ssize_t at = 0; at < count; at++)
            numbers[at] = (int32_t)PyLong_AsLong(PySequence_Fast_GET_ITEM(fast, at));
        if (!PyErr_Occurred()) {
            count = sort_unique(numbers, count);
            group = PyTuple_New(count);
            for (Py_ssize_t at = 0; group != NULL && at < count; at++)
                PyTuple_SET_ITEM(group, at, PyLong_FromLong(numbers[at]));
        }
    }
    PyMem_Free(numbers);
    Py_DECREF(fast);
    return group;
}

/* The edges of a group of states, as ranges that lead to the state of each group of targets. */
static int joint_edges(const States *g, PyObject *unions, PyObject *todo, PyObject *laid, Edges *made)
{
    for (Py_ssize_t at = 0; at < PyList_GET_SIZE(laid); at++) {
        PyObject *piece = PyList_GET_ITEM(laid, at), *targets = PyTuple_GET_ITEM(piece, 2);
        Py_ssize_t target = PyTuple_GET_SIZE(targets) == 1 ? PyLong_AsSsize_t(PyTuple_GET_ITEM(targets, 0))
                                                           : known_state(g, unions, targets, todo);
        if (target < 0 || add_edge(made, (int32_t)PyLong_AsLong(PyTuple_GET_ITEM(piece, 0)),
                                   (int32_t)PyLong_AsLong(PyTuple_GET_ITEM(piece, 1)), (int32_t)target) < 0)
            return -1;
    }
    return 0;
}

static int fill_union(const States *g, PyObject *unions, PyObject *todo, PyObject *group)
{
    PyObject *rows = PyList_New(0), *laid = NULL;
    int failed = rows == NULL, accepts = 0;
    for (Py_ssize_t at = 0; !failed && at < PyTuple_GET_SIZE(group); at++) {
        Py_ssize_t number = PyLong_AsSsize_t(PyTuple_GET_ITEM(group, at));
        failed = number < 0 || number >= PyList_GET_SIZE(g->rows) ||
                 PyList_Append(rows, PyList_GET_ITEM(g->rows, number)) < 0;
        accepts |= !failed && PyList_GET_ITEM(g->accepting, number) == Py_True;
    }
    Edges made = {0};
    laid = failed ? NULL : overlay(NULL, rows);
    failed = laid == NULL || joint_edges(g, unions, todo, laid, &made) < 0 ||
             fill_state(g, PyLong_AsSsize_t(PyDict_GetItem(unions, group)), &made, accepts) < 0;
    PyMem_Free(made.edges);
    Py_XDECREF(rows);
    Py_XDECREF(laid);
    return failed ? -1 : 0;
}

/* union(rows, accepting, max_states, unions, states) -> number, or -1 beyond the budget. */
static PyObject *unite(PyObject *self, PyObject *args)
{
    (void)self;
    States g;
    PyObject *unions, *states, *result = NULL;
    if (!PyArg_ParseTuple(args, "O!O!nO!O", &PyList_Type, &g.rows, &PyList_Type, &g.accepting, &g.max_states,
                          &PyDict_Type, &unions, &states))
        return NULL;
    PyObject *start = sorted_group(states), *todo = PyList_New(0);
    if (start != NULL && todo != NULL && PyTuple_GET_SIZE(start) == 1) {
        result = Py_NewRef(PyTuple_GET_ITEM(start, 0));
    } else if (start != NULL && todo != NULL) {
        Py_ssize_t number = known_state(&g, unions, start, todo);
        int failed = number < 0;
        while (!failed && PyList_GET_SIZE(todo) > 0) {
            PyObject *group = Py_NewRef(PyList_GET_ITEM(todo, PyList_GET_SIZE(todo) - 1));
            failed = PyList_SetSlice(todo, PyList_GET_SIZE(todo) - 1, PyList_GET_SIZE(todo), NULL) < 0 ||
                     fill_union(&g, unions, todo, group) < 0;
            Py_DECREF(group);
        }
        result = number_or_full(failed ? -1 : number);
    }
    Py_XDECREF(start);
    Py_XDECREF(todo);
    return result;
}

static PyObject *pair_key(Py_ssize_t left, Py_ssize_t right)
{
    return Py_BuildValue("(nn)", left < right ? left : right, left < right ? right : left);
}

/* The state of a pair; -1 as above. */
static Py_ssize_t pair_state(const States *g, PyObject *pairs, PyObject *todo, Py_ssize_t left, Py_ssize_t right)
{
    if (left == right)
        return left;
    PyObject *key = pair_key(left, right);
    Py_ssize_t number = key == NULL ? -1 : known_state(g, pairs, key, todo);
    Py_XDECREF(key);
    return number;
}

static int fill_pair(const States *g, PyObject *pairs, PyObject *todo, PyObject *pair)
{
    Py_ssize_t left = PyLong_AsSsize_t(PyTuple_GET_ITEM(pair, 0)), right = PyLong_AsSsize_t(PyTuple_GET_ITEM(pair, 1));
    Edges ours = {0}, theirs = {0}, made = {0};
    int failed = read_state(g, left, &ours) < 0 || read_state(g, right, &theirs) < 0;
    for (Py_ssize_t a = 0; !failed && a < ours.count; a++)
        for (Py_ssize_t b = 0; !failed && b < theirs.count; b++) {
            const Edge *x = &ours.edges[a], *y = &theirs.edges[b];
            if (x->first > y->last || y->first > x->last)
                continue;
            Py_ssize_t target = pair_state(g, pairs, todo, x->target, y->target);
            failed = target < 0 || add_edge(&made, x->first > y->first ? x->first : y->first,
                                            x->last < y->last ? x->last : y->last, (int32_t)target) < 0;
        }
    int accepts = !failed && PyList_GET_ITEM(g->accepting, left) == Py_True &&
                  PyList_GET_ITEM(g->accepting, right) == Py_True;
    failed = failed || fill_state(g, PyLong_AsSsize_t(PyDict_GetItem(pairs, pair)), &made, accepts) < 0;
    PyMem_Free(ours.edges);
    PyMem_Free(theirs.edges);
    PyMem_Free(made.edges);
    return failed ? -1 : 0;
}

/* intersect(rows, accepting, max_states, pairs, left, right) -> number, or -1 beyond the budget. */
static PyObject *intersect(PyObject *self, PyObject *args)
{
    (void)self;
    States g;
    PyObject *pairs;
    Py_ssize_t left, right;
    if (!PyArg_ParseTuple(args, "O!O!nO!nn", &PyList_Type, &g.rows, &PyList_Type, &g.accepting, &g.max_states,
                          &PyDict_Type, &pairs, &left, &right))
        return NULL;
    PyObject *todo = PyList_New(0);
    if (todo == NULL)
        return NULL;
    Py_ssize_t number = pair_state(&g, pairs, todo, left, right);
    int failed = number < 0;
    while (!failed && PyList_GET_SIZE(todo) > 0) {
        PyObject *pair = Py_NewRef(PyList_GET_ITEM(todo, PyList_GET_SIZE(todo) - 1));
        failed = PyList_SetSlice(todo, PyList_GET_SIZE(todo) - 1, PyList_GET_SIZE(todo), NULL) < 0 ||
                 fill_pair(&g, pairs, todo, pair) < 0;
        Py_DECREF(pair);
    }
    Py_DECREF(todo);
    return number_or_full(failed ? -1 : number);
}

/* ---- minimisation ---- */

static uint64_t mixed(uint64_t value)
{
    value += 0x9E3779B97F4A7C15u; /* splitmix64 */
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9u;
    value = (value ^ (value >> 27)) * 0x94D049BB133111EBu;
    return value ^ (value >> 31);
}

typedef struct {
    Py_ssize_t states, blocks;
    Py_ssize_t *ends; /* [states + 1] of the edges of each state */
    Edges all;
    char *accepting;
    int32_t *order, *distance, *block, *table;
    Py_ssize_t *before_ends;
    int32_t *before;
    uint64_t *own, *colour, *next, *weight;
} Minimiser;

static void free_minimiser(Minimiser *m)
{
    PyMem_Free(m->ends);
    PyMem_Free(m->all.edges);
    PyMem_Free(m->accepting);
    PyMem_Free(m->order);
    PyMem_Free(m->distance);
    PyMem_Free(m->block);
    PyMem_Free(m->table);
    PyMem_Free(m->before_ends);
    PyMem_Free(m->before);
    PyMem_Free(m->own);
    PyMem_Free(m->colour);
    PyMem_Free(m->next);
    PyMem_Free(m->weight);
}

static int read_automaton(Minimiser *m, PyObject *rows, PyObject *accepting)
{
    PyObject *fast = PySequence_Fast(rows, "rows must be a sequence");
    PyObject *flags = fast == NULL ? NULL : PySequence_Fast(accepting, "accepting must be a sequence");
    int failed = flags == NULL;
    if (!failed) {
        m->states = PySequence_Fast_GET_SIZE(fast);
        if (PySequence_Fast_GET_SIZE(flags) != m->states) {
            PyErr_SetString(PyExc_ValueError, "as many flags as rows are needed");
            failed = 1;
        }
    }
    if (!failed) {
        m->ends = PyMem_Calloc((size_t)m->states + 1, sizeof(Py_ssize_t));
        m->accepting = PyMem_Calloc((size_t)m->states + 1, 1);
        failed = m->ends == NULL || m->accepting == NULL;
        if (failed)
            PyErr_NoMemory();
    }
    for (Py_ssize_t state = 0; !failed && state < m->states; state++) {
        failed = read_row(PySequence_Fast_GET_ITEM(fast, state), &m->all) < 0;
        m->ends[state + 1] = m->all.count;
        m->accepting[state] = (char)(PyObject_IsTrue(PySequence_Fast_GET_ITEM(flags, state)) == 1);
    }
    for (Py_ssize_t at = 0; !failed && at < m->all.count; at++)
        if (m->all.edges[at].target < 0 || m->all.edges[at].target >= m->states) {
            PyErr_SetString(PyExc_ValueError, "an edge leads to no state");
            failed = 1;
        }
    Py_XDECREF(fast);
    Py_XDECREF(flags);
    return failed ? -1 : 0;
}

static int allocate(Minimiser *m)
{
    size_t states = (size_t)m->states + 1, edges = (size_t)m->all.count + 1, slots = 2;
    while (slots < 2 * states)
        slots *= 2;
    m->order = PyMem_Malloc(states * sizeof(int32_t));
    m->distance = PyMem_Malloc(states * sizeof(int32_t));
    m->block = PyMem_Malloc(states * sizeof(int32_t));
    m->table = PyMem_Malloc(slots * sizeof(int32_t));
    m->before_ends = PyMem_Calloc(states + 1, sizeof(Py_ssize_t));
    m->before = PyMem_Malloc(edges * sizeof(int32_t));
    m->own = PyMem_Malloc(states * sizeof(uint64_t));
    m->colour = PyMem_Malloc(states * sizeof(uint64_t));
    m->next = PyMem_Malloc(states * sizeof(uint64_t));
    m->weight = PyMem_Malloc(edges * sizeof(uint64_t));
    if (m->order && m->distance && m->block && m->table && m->before_ends && m->before && m->own && m->colour &&
        m->next && m->weight)
        return 0;
    PyErr_NoMemory();
    return -1;
}

/* Order all states that are reachable from `start` and can accept by their distance to acceptance; returns how many. */
static Py_ssize_t trim(Minimiser *m, int32_t start)
{
    Py_ssize_t reached = 0, found = 0;
    int32_t *seen = m->block;
    memset(seen, 0, (size_t)m->states * sizeof(int32_t));
    m->order[reached++] = start;
    seen[start] = 1;
    for (Py_ssize_t at = 0; at < reached; at++)
        for (Py_ssize_t e = m->ends[m->order[at]]; e < m->ends[m->order[at] + 1]; e++) {
            int32_t target = m->all.edges[e].target;
            m->before_ends[target + 1]++;
            if (!seen[target]) {
                seen[target] = 1;
                m->order[reached++] = target;
            }
        }
    for (Py_ssize_t state = 0; state < m->states; state++)
        m->before_ends[state + 1] += m->before_ends[state];
    for (Py_ssize_t at = 0; at < reached; at++)
        for (Py_ssize_t e = m->ends[m->order[at]]; e < m->ends[m->order[at] + 1]; e++)
            m->before[m->before_ends[m->all.edges[e].target]++] = m->order[at];
    for (Py_ssize_t state = m->states; state > 0; state--) /* filling moved each beginning to its end */
        m->before_ends[state] = m->before_ends[state - 1];
    m->before_ends[0] = 0;
    for (Py_ssize_t state = 0; state < m->states; state++)
        m->distance[state] = -1;
    for (Py_ssize_t state = 0; state < m->states; state++)
        if (seen[state] && m->accepting[state]) {
            m->distance[state] = 0;
            m->order[found++] = (int32_t)state;
        }
    for (Py_ssize_t at = 0; at < found; at++) {
        int32_t state = m->order[at];
        for (Py_ssize_t e = m->before_ends[state]; e < m->before_ends[state + 1]; e++) {
            int32_t previous = m->before[e];
            if (m->distance[previous] < 0) {
                m->distance[previous] = m->distance[state] + 1;
                m->order[found++] = previous;
            }
        }
    }
    return found;
}

/* The hash of the first of the shortest words that a state accepts, as in `minimise.py`. */
static void colour_first(Minimiser *m, Py_ssize_t found)
{
    for (Py_ssize_t at = 0; at < found; at++) {
        int32_t state = m->order[at], label = INT32_MAX;
        uint64_t after = 0;
        for (Py_ssize_t e = m->ends[state]; e < m->ends[state + 1]; e++) {
            const Edge *edge = &m->all.edges[e];
            if (m->distance[edge->target] == m->distance[state] - 1 && edge->first < label && m->distance[state]) {
                label = edge->first;
                after = m->own[edge->target];
            }
        }
        m->own[state] = m->distance[state] ? mixed(after + mixed((uint64_t)label)) : 1;
    }
    for (Py_ssize_t at = 0; at < found; at++)
        m->own[m->order[at]] = mixed(m->own[m->order[at]] + (uint64_t)m->accepting[m->order[at]]);
    for (Py_ssize_t e = 0; e < m->all.count; e++)
        m->weight[e] = mixed((uint64_t)m->all.edges[e].last + 1) - mixed((uint64_t)m->all.edges[e].first);
}

static Py_ssize_t count_blocks(Minimiser *m, Py_ssize_t found)
{
    size_t slots = 2;
    while (slots < 2 * ((size_t)m->states + 1))
        slots *= 2;
    for (size_t slot = 0; slot < slots; slot++)
        m->table[slot] = -1;
    Py_ssize_t blocks = 0;
    for (Py_ssize_t at = 0; at < found; at++) {
        int32_t state = m->order[at];
        size_t slot = (size_t)m->colour[state] & (slots - 1);
        while (m->table[slot] >= 0 && m->colour[m->table[slot]] != m->colour[state])
            slot = (slot + 1) & (slots - 1);
        if (m->table[slot] < 0) {
            m->table[slot] = state;
            m->block[state] = (int32_t)blocks++;
        } else {
            m->block[state] = m->block[m->table[slot]];
        }
    }
    return blocks;
}

static void refine(Minimiser *m, Py_ssize_t found)
{
    memcpy(m->colour, m->own, (size_t)m->states * sizeof(uint64_t));
    m->blocks = count_blocks(m, found);
    for (Py_ssize_t before = 0; before != m->blocks;) {
        before = m->blocks;
        for (Py_ssize_t at = 0; at < found; at++) {
            int32_t state = m->order[at];
            uint64_t sum = m->own[state];
            for (Py_ssize_t e = m->ends[state]; e < m->ends[state + 1]; e++)
                if (m->distance[m->all.edges[e].target] >= 0)
                    sum += m->weight[e] * m->colour[m->all.edges[e].target];
            m->next[state] = mixed(sum);
        }
        uint64_t *swapped = m->colour;
        m->colour = m->next;
        m->next = swapped;
        m->blocks = count_blocks(m, found);
    }
}

/* The edges of a state between blocks, canonical, appended to `into`. */
static int block_row(Minimiser *m, int32_t state, Edges *into)
{
    Py_ssize_t begin = into->count;
    for (Py_ssize_t e = m->ends[state]; e < m->ends[state + 1]; e++) {
        const Edge *edge = &m->all.edges[e];
        if (m->distance[edge->target] >= 0 && add_edge(into, edge->first, edge->last, m->block[edge->target]) < 0)
            return -1;
    }
    sort_edges(into->edges + begin, into->count - begin);
    into->count = begin + join_edges(into->edges + begin, into->count - begin);
    return 0;
}

/* One row per block, from its first state; every other state must have the same row, or two hashes have collided. */
static int block_rows(Minimiser *m, Py_ssize_t found, Edges *rows, Py_ssize_t *first, Py_ssize_t *last, char *flags)
{
    Edges other = {0};
    int failed = 0;
    for (Py_ssize_t block = 0; block < m->blocks; block++)
        first[block] = -1;
    for (Py_ssize_t at = 0; at < found && !failed; at++) {
        int32_t state = m->order[at], block = m->block[state];
        if (first[block] < 0) {
            first[block] = rows->count;
            failed = block_row(m, state, rows) < 0;
            last[block] = rows->count;
            flags[block] = m->accepting[state];
            continue;
        }
        other.count = 0;
        failed = block_row(m, state, &other) < 0;
        if (!failed && (other.count != last[block] - first[block] || flags[block] != m->accepting[state] ||
                        memcmp(other.edges, rows->edges + first[block], (size_t)other.count * sizeof(Edge)) != 0)) {
            PyErr_SetString(PyExc_RuntimeError, "two different states have the same 64-bit hash");
            failed = 1;
        }
    }
    PyMem_Free(other.edges);
    return failed ? -1 : 0;
}

typedef struct {
    Edges rows;
    Py_ssize_t *first, *last; /* [blocks] of its row */
    char *flags;
    int32_t *number, *members; /* block -> number, number -> block, in breadth-first order from the start */
    Py_ssize_t count;
} Quotient;

static int quotient(Minimiser *m, Py_ssize_t found, int32_t start, Quotient *q)
{
    size_t blocks = (size_t)m->blocks + 1;
    q->first = PyMem_Malloc(blocks * sizeof(Py_ssize_t));
    q->last = PyMem_Malloc(blocks * sizeof(Py_ssize_t));
    q->flags = PyMem_Malloc(blocks);
    q->number = PyMem_Malloc(blocks * sizeof(int32_t));
    q->members = PyMem_Malloc(blocks * sizeof(int32_t));
    if (!q->first || !q->last || !q->flags || !q->number || !q->members) {
        PyErr_NoMemory();
        return -1;
    }
    if (block_rows(m, found, &q->rows, q->first, q->last, q->flags) < 0)
        return -1;
    for (Py_ssize_t block = 0; block < m->blocks; block++)
        q->number[block] = -1;
    q->number[m->block[start]] = 0;
    q->members[q->count++] = m->block[start];
    for (Py_ssize_t at = 0; at < q->count; at++)
        for (Py_ssize_t e = q->first[q->members[at]]; e < q->last[q->members[at]]; e++) {
            int32_t target = q->rows.edges[e].target;
            if (q->number[target] < 0) {
                q->number[target] = (int32_t)q->count;
                q->members[q->count++] = target;
            }
        }
    for (Py_ssize_t e = 0; e < q->rows.count; e++) {
        int32_t number = q->number[q->rows.edges[e].target];
        q->rows.edges[e].target = number;
    }
    return 0;
}

static PyObject *quotient_tuples(const Quotient *q)
{
    PyObject *rows = PyTuple_New(q->count), *flags = PyTuple_New(q->count);
    int failed = rows == NULL || flags == NULL;
    for (Py_ssize_t at = 0; at < q->count && !failed; at++) {
        int32_t block = q->members[at];
        PyObject *row = row_tuple(q->rows.edges + q->first[block], q->last[block] - q->first[block]);
        failed = row == NULL;
        if (!failed) {
            PyTuple_SET_ITEM(rows, at, row);
            PyTuple_SET_ITEM(flags, at, PyBool_FromLong(q->flags[block]));
        }
    }
    PyObject *both = failed ? NULL : PyTuple_Pack(2, rows, flags);
    Py_XDECREF(rows);
    Py_XDECREF(flags);
    return both;
}

/* Arrays: int32 [states + 1] where the edges of each state begin, int32 [edges, 3], bool [states]. */
static PyObject *quotient_arrays(const Quotient *q)
{
    Py_ssize_t edges = 0;
    for (Py_ssize_t at = 0; at < q->count; at++)
        edges += q->last[q->members[at]] - q->first[q->members[at]];
    PyObject *starts = PyBytes_FromStringAndSize(NULL, (q->count + 1) * (Py_ssize_t)sizeof(int32_t));
    PyObject *flat = PyBytes_FromStringAndSize(NULL, edges * (Py_ssize_t)sizeof(Edge));
    PyObject *flags = PyBytes_FromStringAndSize(NULL, q->count), *all = NULL;
    if (starts != NULL && flat != NULL && flags != NULL) {
        int32_t *start = (int32_t *)PyBytes_AS_STRING(starts), written = 0;
        Edge *edge = (Edge *)PyBytes_AS_STRING(flat);
        for (Py_ssize_t at = 0; at < q->count; at++) {
            int32_t block = q->members[at];
            Py_ssize_t count = q->last[block] - q->first[block];
            start[at] = written;
            memcpy(edge + written, q->rows.edges + q->first[block], (size_t)count * sizeof(Edge));
            written += (int32_t)count;
            PyBytes_AS_STRING(flags)[at] = q->flags[block];
        }
        start[q->count] = written;
        all = PyTuple_Pack(3, starts, flat, flags);
    }
    Py_XDECREF(starts);
    Py_XDECREF(flat);
    Py_XDECREF(flags);
    return all;
}

/* minimise(rows, accepting, start, as_arrays) -> None for the empty language. */
static PyObject *minimise(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *rows, *accepting, *result = NULL;
    int start, as_arrays;
    if (!PyArg_ParseTuple(args, "OOip", &rows, &accepting, &start, &as_arrays))
        return NULL;
    Minimiser m = {0};
    Quotient q = {0};
    if (read_automaton(&m, rows, accepting) == 0 && allocate(&m) == 0) {
        Py_ssize_t found = start >= 0 && start < m.states ? trim(&m, start) : 0;
        if (found == 0 || m.distance[start] < 0) {
            result = Py_NewRef(Py_None);
        } else {
            colour_first(&m, found);
            refine(&m, found);
            if (quotient(&m, found, start, &q) == 0)
                result = as_arrays ? quotient_arrays(&q) : quotient_tuples(&q);
        }
    }
    free_minimiser(&m);
    PyMem_Free(q.rows.edges);
    PyMem_Free(q.first);
    PyMem_Free(q.last);
    PyMem_Free(q.flags);
    PyMem_Free(q.number);
    PyMem_Free(q.members);
    return result;
}

/* ---- the walk of a vocabulary ---- */

/* What the last bytes of a text inside a JSON string still need: nothing (a whole number of characters); one or two
 * continuation bytes; the second byte after E0, ED or F0, whose ranges differ; or nothing that is known, as the text
 * begins inside a character; or the bytes are no text, which here includes the unassigned planes behind U+3FFFF. */
enum { WHOLE, ONE, TWO, AFTER_E0, AFTER_ED, AFTER_F0, PENDING, UNKNOWN = PENDING, NO_TEXT };

static uint8_t pending_after(uint8_t pending, uint8_t byte)
{
    int continues = byte >= 0x80 && byte <= 0xBF;
    switch (pending) {
    case WHOLE:
    case UNKNOWN:
        if (byte < 0x80)
            return WHOLE;
        if (continues)
            return pending == UNKNOWN ? UNKNOWN : NO_TEXT;
        if (byte < 0xC2 || byte > 0xF0)
            return NO_TEXT;
        if (byte < 0xE0)
            return ONE;
        return byte == 0xE0 ? AFTER_E0 : byte == 0xED ? AFTER_ED : byte == 0xF0 ? AFTER_F0 : TWO;
    case ONE:
        return continues ? WHOLE : NO_TEXT;
    case TWO:
        return continues ? ONE : NO_TEXT;
    case AFTER_E0:
        return continues && byte >= 0xA0 ? ONE : NO_TEXT;
    case AFTER_ED:
        return continues && byte < 0xA0 ? ONE : NO_TEXT;
    case AFTER_F0:
        return continues && byte >= 0x90 ? TWO : NO_TEXT;
    }
    return NO_TEXT;
}

static int is_plain(uint8_t byte)
{
    return byte >= 0x20 && byte != 0x22 && byte != 0x5C;
}

typedef struct {
    Py_buffer held[17];
    int count;
    /* the automaton */
    Py_ssize_t states, width;
    const int32_t *next, *onward;
    const uint8_t *classes;
    const uint64_t *loops, *steps;
    /* the trie */
    Py_ssize_t nodes, ranks;
    const uint8_t *byte;
    const int32_t *first_child, *children, *low, *high, *own, *height;
    const int32_t *length_first, *length_steps, *length_low, *length_high;
    const uint64_t *below;
    /* made here */
    uint8_t *pending, *is_text; /* [nodes] is_text: every token below continues the node as text of a string */
    uint8_t *is_path;           /* [nodes] the node itself is text of a string, from the beginning of its tokens */
    int32_t *text_before;       /* [PENDING, ranks + 1] the tokens that are text and end so, among the ranks below */
    int32_t text_first[PENDING + 1], text_base; /* where each kind of them begins in the order of text */
    uint8_t *rank_pending;      /* [ranks] of the token */
    int32_t *other_first, *other; /* [nodes + 1], and the children below which some token is not text */
    int32_t *run_end;           /* [ranks] the first rank behind it with another rank_pending */
    uint8_t *role;              /* [states] 1 + the pending bytes that a state of a free string stands for */
    int32_t *string_of;         /* [states] */
    int32_t *images;            /* [strings, PENDING] the states of a free string */
    Py_ssize_t strings;
    int32_t *stack; /* node, state, and whether its text is emitted, three each */
    Py_ssize_t stacked, stack_room;
    int32_t *found; /* source, target, low, high */
    Py_ssize_t count_found, found_room, last_rank;
} Walk;

static int32_t after(const Walk *w, int32_t state, int byte)
{
    return w->next[(size_t)state * (size_t)w->width + w->classes[byte]];
}

static int leads_all(const Walk *w, int32_t state, int first, int last, int32_t target)
{
    for (int byte = first; byte <= last; byte++)
        if (after(w, state, byte) != target)
            return 0;
    return target != DEAD;
}

/* Whether a state is the loop of a string that may hold any character, and the states inside its characters. */
static int is_free_string(const Walk *w, int32_t state, int32_t *image)
{
    if (!leads_all(w, state, 0x20, 0x21, state) || !leads_all(w, state, 0x23, 0x5B, state) ||
        !leads_all(w, state, 0x5D, 0x7F, state))
        return 0;
    image[WHOLE] = state;
    image[ONE] = after(w, state, 0xC2);
    image[AFTER_E0] = after(w, state, 0xE0);
    image[TWO] = after(w, state, 0xE1);
    image[AFTER_ED] = after(w, state, 0xED);
    image[AFTER_F0] = after(w, state, 0xF0);
    for (int pending = 0; pending < PENDING; pending++)
        if (image[pending] == DEAD)
            return 0;
    return leads_all(w, state, 0xC2, 0xDF, image[ONE]) && leads_all(w, state, 0xE1, 0xEC, image[TWO]) &&
           leads_all(w, state, 0xEE, 0xEF, image[TWO]) && leads_all(w, image[ONE], 0x80, 0xBF, state) &&
           leads_all(w, image[TWO], 0x80, 0xBF, image[ONE]) && leads_all(w, image[AFTER_E0], 0xA0, 0xBF, image[ONE]) &&
           leads_all(w, image[AFTER_ED], 0x80, 0x9F, image[ONE]) && leads_all(w, image[AFTER_F0], 0x90, 0xBF, image[TWO]);
}

static int find_free_strings(Walk *w)
{
    int32_t image[PENDING];
    for (int32_t state = 0; state < w->states; state++) {
        if (!is_free_string(w, state, image))
            continue;
        int32_t *images = PyMem_Realloc(w->images, (size_t)(w->strings + 1) * sizeof(image));
        if (images == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        w->images = images;
        memcpy(images + w->strings * PENDING, image, sizeof(image));
        for (int pending = 0; pending < PENDING; pending++) {
            w->role[image[pending]] = (uint8_t)(1 + pending);
            w->string_of[image[pending]] = (int32_t)w->strings;
        }
        w->strings++;
    }
    return 0;
}

static void find_text(Walk *w)
{
    w->pending[0] = WHOLE;
    w->is_path[0] = 1;
    for (Py_ssize_t node = 0; node < w->nodes; node++) {
        w->is_text[node] = 1;
        for (int32_t child = w->first_child[node]; child < w->first_child[node] + w->children[node]; child++) {
            uint8_t byte = w->byte[child];
            int begins_inside = node == 0 && byte >= 0x80 && byte <= 0xBF;
            w->pending[child] = begins_inside ? UNKNOWN : pending_after(w->pending[node], byte);
            w->is_path[child] = w->is_path[node] && is_plain(byte) && w->pending[child] < PENDING;
        }
    }
    for (Py_ssize_t node = w->nodes - 1; node >= 0; node--)
        for (int32_t child = w->first_child[node]; child < w->first_child[node] + w->children[node]; child++)
            if (!w->is_text[child] || !is_plain(w->byte[child]) || w->pending[child] >= PENDING)
                w->is_text[node] = 0;
    int32_t others = 0;
    for (Py_ssize_t node = 0; node < w->nodes; node++) {
        w->other_first[node] = others;
        for (int32_t child = w->first_child[node]; child < w->first_child[node] + w->children[node]; child++)
            if (!w->is_path[child] || !w->is_text[child])
                w->other[others++] = child;
    }
    w->other_first[w->nodes] = others;
    for (Py_ssize_t node = 0; node < w->nodes; node++)
        for (int32_t rank = w->low[node]; rank < w->low[node] + w->own[node]; rank++) {
            w->rank_pending[rank] = w->pending[node];
            if (w->is_path[node])
                w->text_before[(size_t)w->pending[node] * ((size_t)w->ranks + 1) + (size_t)rank + 1] = 1;
        }
    for (Py_ssize_t rank = w->ranks - 1; rank >= 0; rank--) {
        int goes_on = rank + 1 < w->ranks && w->rank_pending[rank + 1] == w->rank_pending[rank];
        w->run_end[rank] = goes_on ? w->run_end[rank + 1] : (int32_t)(rank + 1);
    }
    for (int pending = 0; pending < PENDING; pending++) {
        int32_t *before = w->text_before + (size_t)pending * ((size_t)w->ranks + 1);
        for (Py_ssize_t rank = 0; rank < w->ranks; rank++)
            before[rank + 1] += before[rank];
        w->text_first[pending + 1] = w->text_first[pending] + before[w->ranks];
    }
}

static int emit(Walk *w, int32_t source, int32_t target, int32_t low, int32_t high, int is_rank)
{
    if (low >= high)
        return 0;
    if (is_rank && w->last_rank >= 0) {
        int32_t *last = w->found + 4 * w->last_rank;
        if (last[0] == source && last[1] == target && last[3] == low) {
            last[3] = high;
            return 0;
        }
    }
    if (w->count_found == w->found_room) {
        Py_ssize_t room = w->found_room ? 2 * w->found_room : 4096;
        int32_t *found = PyMem_Realloc(w->found, (size_t)room * 4 * sizeof(int32_t));
        if (found == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        w->found = found;
        w->found_room = room;
    }
    int32_t *next = w->found + 4 * w->count_found;
    next[0] = source;
    next[1] = target;
    next[2] = low;
    next[3] = high;
    if (is_rank)
        w->last_rank = w->count_found;
    w->count_found++;
    return 0;
}

static int is_within(const uint64_t *set, const uint64_t *other)
{
    return !((set[0] & ~other[0]) | (set[1] & ~other[1]) | (set[2] & ~other[2]) | (set[3] & ~other[3]));
}

#define MAX_CHAIN 12

/* Whether every token below a node stays on the chain of the state. */
static int is_chain(const Walk *w, int32_t node, int32_t state)
{
    if (w->onward[state] == DEAD || w->height[node] > MAX_CHAIN)
        return 0;
    for (int32_t step = 0; step < w->height[node]; step++) {
        if (w->onward[state] == DEAD || !is_within(w->below + 4 * (size_t)node, w->steps + 4 * (size_t)state))
            return 0;
        state = w->onward[state];
    }
    return 1;
}

static int along_chain(Walk *w, int32_t origin, int32_t node, int32_t state)
{
    int32_t step = 0;
    for (int32_t at = w->length_first[node]; at < w->length_first[node + 1]; at++) {
        for (; step < w->length_steps[at]; step++)
            state = w->onward[state] == DEAD ? state : w->onward[state];
        if (emit(w, origin, state, w->length_low[at], w->length_high[at], 0) < 0)
            return -1;
    }
    return 0;
}

static int along_text(Walk *w, int32_t origin, int32_t node, int32_t string)
{
    for (int32_t rank = w->low[node]; rank < w->high[node];) {
        int32_t end = w->run_end[rank] < w->high[node] ? w->run_end[rank] : w->high[node];
        if (emit(w, origin, w->images[(size_t)string * PENDING + w->rank_pending[rank]], rank, end, 1) < 0)
            return -1;
        rank = end;
    }
    return 0;
}

/* All tokens at and below a node that are text from their beginning, as one range for each way of ending. */
static int emit_text(Walk *w, int32_t origin, int32_t node, int32_t string)
{
    for (int pending = 0; pending < PENDING; pending++) {
        const int32_t *before = w->text_before + (size_t)pending * ((size_t)w->ranks + 1);
        int32_t base = w->text_base + w->text_first[pending];
        if (emit(w, origin, w->images[(size_t)string * PENDING + pending], base + before[w->low[node]],
                 base + before[w->high[node]], 0) < 0)
            return -1;
    }
    return 0;
}

static int push_children(Walk *w, int32_t node, int32_t state, int is_emitted)
{
    Py_ssize_t needed = 3 * (w->stacked + w->children[node]);
    if (needed > w->stack_room) {
        int32_t *stack = PyMem_Realloc(w->stack, (size_t)(2 * needed) * sizeof(int32_t));
        if (stack == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        w->stack = stack;
        w->stack_room = 2 * needed;
    }
    int32_t count = is_emitted ? w->other_first[node + 1] - w->other_first[node] : w->children[node];
    while (count-- > 0) {
        int32_t child = is_emitted ? w->other[w->other_first[node] + count] : w->first_child[node] + count;
        int32_t next = after(w, state, w->byte[child]);
        if (next != DEAD) {
            w->stack[3 * w->stacked] = child;
            w->stack[3 * w->stacked + 1] = next;
            w->stack[3 * w->stacked + 2] = is_emitted && w->is_path[child];
            w->stacked++;
        }
    }
    return 0;
}

/* Whether a state is inside a string that may hold any character, at the same place in one as the node. */
static int is_in_text(const Walk *w, int32_t node, int32_t state)
{
    return w->role[state] == 1 + w->pending[node];
}

static int walk_node(Walk *w, int32_t origin, int32_t node, int32_t state)
{
    if (is_in_text(w, node, state) && w->is_path[node]) {
        if (emit_text(w, origin, node, w->string_of[state]) < 0)
            return -1;
        return w->is_text[node] ? 0 : push_children(w, node, state, 1);
    }
    if (is_in_text(w, node, state) && w->is_text[node])
        return along_text(w, origin, node, w->string_of[state]);
    if (emit(w, origin, state, w->low[node], w->low[node] + w->own[node], 1) < 0)
        return -1;
    return push_children(w, node, state, 0);
}

/* All tokens from one state. */
static int walk_from(Walk *w, int32_t origin)
{
    w->last_rank = -1;
    int failed = is_in_text(w, 0, origin) ? walk_node(w, origin, 0, origin) < 0 : push_children(w, 0, origin, 0) < 0;
    while (w->stacked && !failed) {
        w->stacked--;
        int32_t node = w->stack[3 * w->stacked], state = w->stack[3 * w->stacked + 1];
        if (w->stack[3 * w->stacked + 2])
            failed = push_children(w, node, state, 1) < 0;
        else if (is_within(w->below + 4 * (size_t)node, w->loops + 4 * (size_t)state))
            failed = emit(w, origin, state, w->low[node], w->high[node], 1) < 0;
        else if (is_chain(w, node, state))
            failed = along_chain(w, origin, node, state) < 0;
        else
            failed = walk_node(w, origin, node, state) < 0;
    }
    return failed ? -1 : 0;
}

typedef struct {
    int32_t source, target, low, high;
} Range;

static int by_target(const void *one, const void *two)
{
    const Range *a = one, *b = two;
    if (a->target != b->target)
        return a->target < b->target ? -1 : 1;
    return (a->low > b->low) - (a->low < b->low);
}

/* Sorts the ranges of one state, which are those from `first` on, by target and index, and merges adjacent ones. */
static void merge_found(Walk *w, Py_ssize_t first)
{
    Range *ranges = (Range *)w->found + first;
    Py_ssize_t count = w->count_found - first, kept = 0;
    int is_sorted = 1;
    for (Py_ssize_t at = 1; at < count && is_sorted; at++)
        is_sorted = by_target(&ranges[at - 1], &ranges[at]) < 0;
    if (!is_sorted)
        qsort(ranges, (size_t)count, sizeof(Range), by_target);
    for (Py_ssize_t at = 0; at < count; at++) {
        if (kept && ranges[kept - 1].target == ranges[at].target && ranges[kept - 1].high == ranges[at].low)
            ranges[kept - 1].high = ranges[at].high;
        else
            ranges[kept++] = ranges[at];
    }
    w->count_found = first + kept;
}

static int hold(Walk *w, PyObject *array, void *pointer)
{
    Py_buffer *held = &w->held[w->count];
    if (PyObject_GetBuffer(array, held, PyBUF_C_CONTIGUOUS) < 0)
        return -1;
    w->count++;
    memcpy(pointer, &held->buf, sizeof(held->buf));
    return 0;
}

static int hold_all(Walk *w, PyObject *automaton, PyObject *trie)
{
    PyObject *next, *classes, *onward, *loops, *steps;
    PyObject *byte, *first_child, *children, *low, *high, *own, *below, *height, *first, *lengths, *from, *to;
    if (!PyArg_ParseTuple(automaton, "OOOOO", &next, &classes, &onward, &loops, &steps) ||
        !PyArg_ParseTuple(trie, "OOOOOOOOOOOO", &byte, &first_child, &children, &low, &high, &own, &below, &height,
                          &first, &lengths, &from, &to))
        return -1;
    if (hold(w, next, &w->next) < 0 || hold(w, classes, &w->classes) < 0 || hold(w, onward, &w->onward) < 0 ||
        hold(w, loops, &w->loops) < 0 || hold(w, steps, &w->steps) < 0 || hold(w, byte, &w->byte) < 0 ||
        hold(w, first_child, &w->first_child) < 0 || hold(w, children, &w->children) < 0 || hold(w, low, &w->low) < 0 ||
        hold(w, high, &w->high) < 0 || hold(w, own, &w->own) < 0 || hold(w, below, &w->below) < 0 ||
        hold(w, height, &w->height) < 0 || hold(w, first, &w->length_first) < 0 ||
        hold(w, lengths, &w->length_steps) < 0 || hold(w, from, &w->length_low) < 0 || hold(w, to, &w->length_high) < 0)
        return -1;
    w->states = w->held[2].len / (Py_ssize_t)sizeof(int32_t);
    w->width = w->states ? w->held[0].len / (Py_ssize_t)sizeof(int32_t) / w->states : 0;
    w->nodes = w->held[5].len;
    w->ranks = w->high[0];
    return 0;
}

static int make_walk(Walk *w)
{
    size_t nodes = (size_t)w->nodes + 1, ranks = (size_t)w->ranks + 1, states = (size_t)w->states + 1;
    w->pending = PyMem_Calloc(nodes, 1);
    w->is_text = PyMem_Calloc(nodes, 1);
    w->is_path = PyMem_Calloc(nodes, 1);
    w->text_before = PyMem_Calloc(ranks * PENDING, sizeof(int32_t));
    w->rank_pending = PyMem_Calloc(ranks, 1);
    w->other_first = PyMem_Calloc(nodes, sizeof(int32_t));
    w->other = PyMem_Calloc(nodes, sizeof(int32_t));
    w->run_end = PyMem_Calloc(ranks, sizeof(int32_t));
    w->role = PyMem_Calloc(states, 1);
    w->string_of = PyMem_Calloc(states, sizeof(int32_t));
    if (!w->other_first || !w->other || !w->pending || !w->is_text || !w->is_path || !w->text_before || !w->rank_pending || !w->run_end || !w->role || !w->string_of) {
        PyErr_NoMemory();
        return -1;
    }
    find_text(w);
    return find_free_strings(w);
}

static void free_walk(Walk *w)
{
    for (int at = 0; at < w->count; at++)
        PyBuffer_Release(&w->held[at]);
    PyMem_Free(w->pending);
    PyMem_Free(w->is_text);
    PyMem_Free(w->is_path);
    PyMem_Free(w->text_before);
    PyMem_Free(w->rank_pending);
    PyMem_Free(w->other_first);
    PyMem_Free(w->other);
    PyMem_Free(w->run_end);
    PyMem_Free(w->role);
    PyMem_Free(w->string_of);
    PyMem_Free(w->images);
    PyMem_Free(w->stack);
    PyMem_Free(w->found);
}

/* walk(automaton, trie, text_base) -> int32 [transitions, 4] as bytes: source, target, low, high, in ascending order. Indices from `text_base`
 * on are those of tokens that are text of a string, by what their last character needs, then by rank. */
static PyObject *walk(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *automaton, *trie, *result = NULL;
    int text_base;
    if (!PyArg_ParseTuple(args, "O!O!i", &PyTuple_Type, &automaton, &PyTuple_Type, &trie, &text_base))
        return NULL;
    Walk w = {0};
    w.text_base = text_base;
    int failed = hold_all(&w, automaton, trie) < 0 || make_walk(&w) < 0;
    for (int32_t state = 0; !failed && state < w.states; state++) {
        Py_ssize_t first = w.count_found;
        failed = walk_from(&w, state) < 0;
        if (!failed)
            merge_found(&w, first);
    }
    if (!failed)
        result = PyBytes_FromStringAndSize((const char *)w.found, w.count_found * 4 * (Py_ssize_t)sizeof(int32_t));
    free_walk(&w);
    return result;
}

/* text_order(trie) -> int32 [tokens] as bytes: the ranks of tokens that are text of a string, in the order of `walk`. */
static PyObject *text_order(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *arrays[5], *order = NULL;
    Walk w = {0};
    if (!PyArg_ParseTuple(args, "(OOOOO)", &arrays[0], &arrays[1], &arrays[2], &arrays[3], &arrays[4]))
        return NULL;
    int failed = hold(&w, arrays[0], &w.byte) < 0 || hold(&w, arrays[1], &w.first_child) < 0 ||
                 hold(&w, arrays[2], &w.children) < 0 || hold(&w, arrays[3], &w.low) < 0 ||
                 hold(&w, arrays[4], &w.own) < 0;
    if (!failed) {
        w.nodes = w.held[0].len;
        for (Py_ssize_t node = 0; node < w.nodes; node++)
            if (w.low[node] + w.own[node] > w.ranks)
                w.ranks = w.low[node] + w.own[node];
        failed = make_walk(&w) < 0;
    }
    if (!failed && (order = PyBytes_FromStringAndSize(NULL, w.text_first[PENDING] * (Py_ssize_t)sizeof(int32_t)))) {
        int32_t *ranks = (int32_t *)PyBytes_AS_STRING(order);
        for (int pending = 0; pending < PENDING; pending++) {
            const int32_t *before = w.text_before + (size_t)pending * ((size_t)w.ranks + 1);
            for (int32_t rank = 0; rank < w.ranks; rank++)
                if (before[rank + 1] > before[rank])
                    *ranks++ = rank;
        }
    }
    free_walk(&w);
    return order;
}

/* ---- the backward recursion over a canvas ---- */

/* Functions over vectors exist in versions for CPUs whose vectors are wider than a compiler may assume. */
#if defined(__x86_64__) && defined(__GNUC__)
#define HAS_WIDE 1
#define WIDE __attribute__((target("avx2,fma")))
#define WIDEST __attribute__((target("avx512f,avx512dq")))
#else
#define HAS_WIDE 0
#endif

typedef struct {
    void (*add_exps)(double *, const double *, const double *, Py_ssize_t);
    void (*add_logs)(double *, const double *, Py_ssize_t);
} Vectors;

typedef struct {
    Py_ssize_t nodes, states;
    const int32_t *first, *label, *target; /* transitions of node n are first[n] to first[n + 1] */
    const int32_t *rank_label, *rank_target; /* those of states, then of epsilon states, each ordered by rank, then node */
    double *terms, *sums, *joined;         /* [transitions] and [nodes]: scratch, padded to a multiple of eight */
    Vectors vectors;
} Recursion;

/* out[n] = the largest of after[target] + score[label] over the transitions of the nodes from `begin` to `end`. */
static void best_of(const Recursion *r, const double *after_, const double *score, Py_ssize_t begin, Py_ssize_t end,
                    double *out)
{
    for (Py_ssize_t node = begin; node < end; node++) {
        int32_t at = r->first[node], stop = r->first[node + 1];
        double best = after_[r->target[at]] + score[r->label[at]], other = best;
        for (at++; at + 1 < stop; at += 2) {
            double one = after_[r->target[at]] + score[r->label[at]];
            double two = after_[r->target[at + 1]] + score[r->label[at + 1]];
            best = one > best ? one : best;
            other = two > other ? two : other;
        }
        if (at < stop) {
            double one = after_[r->target[at]] + score[r->label[at]];
            best = one > best ? one : best;
        }
        out[node] = best > other ? best : other;
    }
}

typedef double Eight __attribute__((vector_size(64)));
typedef uint64_t EightBits __attribute__((vector_size(64)));

#define SPLIT_LN2_HIGH 0.6931471803691238
#define SPLIT_LN2_LOW 1.9082149292705877e-10

/* Adds to each sum e to the power of its term minus its top, which is <= 0, within 4e-16; below -708, about 3e-308. The
 * power is 2^n times a polynomial of the rest, |rest| <= ln(2) / 2. */
#define DEFINE_ADD_EXPS(name, attributes) \
attributes static void name(double *sums, const double *terms, const double *tops, Py_ssize_t count) \
{ \
    const double shift = 6755399441055744.0; \
    for (Py_ssize_t at = 0; at < count; at += 8) { \
        Eight x = (Eight){0} - INFINITY, top = {0}, sum = {0}, lowest = (Eight){0} - 708.0; \
        size_t size = count - at < 8 ? (size_t)(count - at) * sizeof(double) : sizeof(Eight); \
        if (size == sizeof(Eight)) { \
            memcpy(&x, terms + at, sizeof(Eight)); \
            memcpy(&top, tops + at, sizeof(Eight)); \
            memcpy(&sum, sums + at, sizeof(Eight)); \
        } else { \
            memcpy(&x, terms + at, size); \
            memcpy(&top, tops + at, size); \
            memcpy(&sum, sums + at, size); \
        } \
        x -= top; \
        EightBits is_above = (EightBits)(x > lowest); \
        x = (Eight)(((EightBits)x & is_above) | ((EightBits)lowest & ~is_above)); \
        Eight k = x * 1.4426950408889634 + shift, n = k - shift; \
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
        sum += p * (Eight)(((EightBits)k + 1023) << 52); \
        if (size == sizeof(Eight)) \
            memcpy(sums + at, &sum, sizeof(Eight)); \
        else \
            memcpy(sums + at, &sum, size); \
    } \
}

DEFINE_ADD_EXPS(add_exps, )
#if HAS_WIDE
DEFINE_ADD_EXPS(add_exps_wide, WIDE)
DEFINE_ADD_EXPS(add_exps_widest, WIDEST)
#endif

/* Adds the natural logarithm of each sum >= 1, within 4e-16: of a power of two, and of a fraction near 1.
 * Reads and writes up to a multiple of eight. */
#define DEFINE_ADD_LOGS(name, attributes) \
attributes static void name(double *values, const double *sums, Py_ssize_t count) \
{ \
    for (Py_ssize_t at = 0; at < count; at += 8) { \
        Eight x, value; \
        memcpy(&x, sums + at, sizeof(x)); \
        memcpy(&value, values + at, sizeof(value)); \
        EightBits moved = (EightBits)x - 0x3FE6A09E667F3BCDu; \
        Eight n = (Eight)((moved >> 52) | 0x4330000000000000u) - 4503599627370496.0; \
        Eight f = (Eight)((EightBits)x - (moved & 0xFFF0000000000000u)); \
        Eight s = (f - 1.0) / (f + 1.0), z = s * s; \
        Eight p = z * (2.0 / 21.0) + 2.0 / 19.0; \
        p = p * z + 2.0 / 17.0; \
        p = p * z + 2.0 / 15.0; \
        p = p * z + 2.0 / 13.0; \
        p = p * z + 2.0 / 11.0; \
        p = p * z + 2.0 / 9.0; \
        p = p * z + 2.0 / 7.0; \
        p = p * z + 2.0 / 5.0; \
        p = p * z + 2.0 / 3.0; \
        p = p * z + 2.0; \
        value += n * SPLIT_LN2_HIGH + (n * SPLIT_LN2_LOW + s * p); \
        memcpy(values + at, &value, sizeof(value)); \
    } \
}

DEFINE_ADD_LOGS(add_logs, )
#if HAS_WIDE
DEFINE_ADD_LOGS(add_logs_wide, WIDE)
DEFINE_ADD_LOGS(add_logs_widest, WIDEST)
#endif

static Vectors vectors(void)
{
#if HAS_WIDE
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq"))
        return (Vectors){add_exps_widest, add_logs_widest};
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return (Vectors){add_exps_wide, add_logs_wide};
#endif
    return (Vectors){add_exps, add_logs};
}

/* How many nodes, of `count` from `begin` on, have more than `rank` transitions: they are ordered by that. */
static Py_ssize_t nodes_of_rank(const Recursion *r, Py_ssize_t begin, Py_ssize_t count, int32_t rank)
{
    while (count > 0 && r->first[begin + count] - r->first[begin + count - 1] <= rank)
        count--;
    return count;
}

/* out[n] = the logarithm of the sum of the exponentials of the same terms. They are taken rank by rank, the first
 * transition of each node, then the second ones, which puts those of different nodes side by side. */
static void sum_of(const Recursion *r, const double *after_, const double *score, Py_ssize_t begin, Py_ssize_t end,
                   double *out)
{
    Py_ssize_t nodes = end - begin, count = nodes;
    const int32_t *label = r->rank_label + r->first[begin], *target = r->rank_target + r->first[begin];
    double *terms = r->terms;
    for (Py_ssize_t node = 0; node < nodes; node++) {
        r->joined[node] = -1e300; /* below it, no text closes in time */
        r->sums[node] = 0.0;
    }
    for (int32_t rank = 0; (count = nodes_of_rank(r, begin, count, rank)) > 0; rank++) {
        for (Py_ssize_t node = 0; node < count; node++) {
            double term = after_[target[node]] + score[label[node]];
            term = term > -1e300 ? term : -1e300;
            terms[node] = term;
            r->joined[node] = term > r->joined[node] ? term : r->joined[node];
        }
        label += count;
        target += count;
        terms += count;
    }
    terms = r->terms;
    count = nodes;
    for (int32_t rank = 0; (count = nodes_of_rank(r, begin, count, rank)) > 0; rank++) {
        r->vectors.add_exps(r->sums, terms, r->joined, count);
        terms += count;
    }
    for (Py_ssize_t node = 0; node < nodes; node++)
        r->sums[node] = r->sums[node] > 1.0 ? r->sums[node] : 1.0; /* the largest term is 1 */
    r->vectors.add_logs(r->joined, r->sums, nodes);
    for (Py_ssize_t node = 0; node < nodes; node++)
        out[begin + node] = r->joined[node] > -1e299 ? r->joined[node] : -INFINITY;
}

static int is_recursion(const Recursion *r, const Py_buffer *held, Py_ssize_t positions, Py_ssize_t labels)
{
    Py_ssize_t transitions = held[3].len / (Py_ssize_t)sizeof(int32_t);
    if (r->states < 1 || r->nodes < r->states || positions < 0 || held[4].len != held[3].len ||
        held[5].len != held[3].len || held[6].len != held[3].len ||
        held[2].len != (r->nodes + 1) * (Py_ssize_t)sizeof(int32_t) ||
        held[0].len != (positions + 1) * r->nodes * (Py_ssize_t)sizeof(double) ||
        held[1].len != positions * labels * (Py_ssize_t)sizeof(double) || r->first[0] != 0 ||
        r->first[r->nodes] != transitions)
        return 0;
    for (Py_ssize_t node = 0; node < r->nodes; node++)
        if (r->first[node] >= r->first[node + 1] ||
            (node + 1 < r->nodes && node + 1 != r->states &&
             r->first[node + 2] - r->first[node + 1] > r->first[node + 1] - r->first[node]))
            return 0;
    for (Py_ssize_t at = 0; at < transitions; at++)
        if (r->label[at] < 0 || r->label[at] >= labels || r->target[at] < 0 || r->target[at] >= r->nodes ||
            r->rank_label[at] < 0 || r->rank_label[at] >= labels || r->rank_target[at] < 0 ||
            r->rank_target[at] >= r->nodes)
            return 0;
    return 1;
}

/* backward(values, scores, (first, label, target, rank_label, rank_target), states, labels, sums): fills double [positions + 1, nodes] `values`, of
 * which the states of the last row are given, from double [positions, labels] `scores`. */
static PyObject *backward(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *arrays[7];
    Py_ssize_t states, labels;
    int sums, held_count = 0;
    if (!PyArg_ParseTuple(args, "OO(OOOOO)nnp", &arrays[0], &arrays[1], &arrays[2], &arrays[3], &arrays[4], &arrays[5],
                          &arrays[6], &states, &labels, &sums))
        return NULL;
    Py_buffer held[7];
    Recursion r = {0};
    int failed = 0;
    for (; held_count < 7 && !failed; held_count++)
        failed = PyObject_GetBuffer(arrays[held_count], &held[held_count],
                                    held_count ? PyBUF_C_CONTIGUOUS : PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE) < 0;
    held_count -= failed;
    if (!failed && labels > 0) {
        r.first = held[2].buf;
        r.label = held[3].buf;
        r.target = held[4].buf;
        r.rank_label = held[5].buf;
        r.rank_target = held[6].buf;
        r.states = states;
        r.vectors = vectors();
        r.nodes = held[2].len / (Py_ssize_t)sizeof(int32_t) - 1;
        Py_ssize_t positions = held[1].len / (labels * (Py_ssize_t)sizeof(double));
        failed = !is_recursion(&r, held, positions, labels);
        if (failed)
            PyErr_SetString(PyExc_ValueError, "arrays that do not fit each other");
        r.terms = failed ? NULL : PyMem_Calloc((size_t)held[3].len / sizeof(int32_t) + 8, sizeof(double));
        r.sums = failed ? NULL : PyMem_Calloc((size_t)r.nodes + 8, sizeof(double));
        r.joined = failed ? NULL : PyMem_Calloc((size_t)r.nodes + 8, sizeof(double));
        if (!failed && (r.terms == NULL || r.sums == NULL || r.joined == NULL)) {
            PyErr_NoMemory();
            failed = 1;
        }
        if (!failed) {
            double *values = held[0].buf;
            const double *scores = held[1].buf;
            void (*step)(const Recursion *, const double *, const double *, Py_ssize_t, Py_ssize_t, double *) =
                sums ? sum_of : best_of;
            Py_BEGIN_ALLOW_THREADS
            for (Py_ssize_t position = positions - 1; position >= 0; position--) {
                double *later = values + (position + 1) * r.nodes;
                const double *score = scores + position * labels;
                if (r.nodes > r.states)
                    step(&r, later, score, r.states, r.nodes, later);
                step(&r, later, score, 0, r.states, later - r.nodes);
            }
            Py_END_ALLOW_THREADS
        }
    }
    PyMem_Free(r.terms);
    PyMem_Free(r.sums);
    PyMem_Free(r.joined);
    while (held_count > 0)
        PyBuffer_Release(&held[--held_count]);
    return failed ? NULL : Py_NewRef(Py_None);
}

static PyMethodDef methods[] = {
    {"backward", backward, METH_VARARGS, "The backward recursion of best paths, or of sums, over all positions."},
    {"coalesce", coalesce, METH_O, "The canonical row: sorted, with adjacent ranges of one target merged."},
    {"overlay", overlay, METH_O, "The edges of several states as disjoint ranges, each with all its targets."},
    {"state", state, METH_VARARGS, "`Graph.state`: its number, or -1 beyond the budget."},
    {"union", unite, METH_VARARGS, "`Graph.union`: its number, or -1 beyond the budget."},
    {"intersect", intersect, METH_VARARGS, "`Graph.intersect`: its number, or -1 beyond the budget."},
    {"paste", paste, METH_VARARGS, "`Graph.paste`: the first of the copied states, or -1 beyond the budget."},
    {"minimise", minimise, METH_VARARGS, "The minimal, trimmed automaton, as tuples or as arrays."},
    {"text_order", text_order, METH_VARARGS, "The ranks of tokens that are text of a string."},
    {"walk", walk, METH_VARARGS, "The tokens that lead from each state to another one, as ranges."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_native", "The inner loops of the constraint compiler.", -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__native(void)
{
    PyObject *module = PyModule_Create(&definition);
    if (module != NULL && PyModule_AddIntConstant(module, "VERSION", VERSION) < 0)
        Py_CLEAR(module);
    return module;
}
