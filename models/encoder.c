/* One BERT encoder, one core: vectors of positions in, one embedding a customer out.
 *
 * A customer is computed alone, from the first layer to the pooled vector, so everything between two layers stays in the
 * core's second-level cache, there is no padding beyond a vector's width, and the result does not depend on who else is
 * in the batch: not even in its last bit.
 *
 * Activations lie feature-major: a row per feature, tokens side by side in the lanes of a vector. Layer norms and the
 * softmax then never add across lanes, and a product's result is laid out as the next product's right operand.
 *
 * The unit of a product is a 32-bit *cell*: with STEP 2 two bfloat16 neighbours along the summed dimension, with STEP 1
 * one float. Sums, residuals, norms and the softmax are float in both. Compiled once for each STEP (models/native.py).
 *
 * Sources of the ideas: Dao et al., "FlashAttention" (2022), for keeping scores in fast memory; Goto and van de Geijn,
 * "Anatomy of high-performance matrix multiplication" (2008), for the register tiles.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifndef STEP
#define STEP 1
#endif
/* BLOCK: vectors of tokens that pass through a layer, or ask for attention, together. ACCUMULATORS / BLOCK is even. */
#if defined(__AVX512F__)
#include <immintrin.h>
#define LANES 16
#define BLOCK 4
#define ACCUMULATORS 24
#else
#if defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#define BLOCK 2
#define ACCUMULATORS 12
#endif

#define SPAN (BLOCK * LANES)
#define MOST_ROWS 12
#define INLINE static inline __attribute__((always_inline))

typedef float vf __attribute__((vector_size(LANES * 4)));
typedef int32_t vi __attribute__((vector_size(LANES * 4)));
typedef float vfu __attribute__((vector_size(LANES * 4), aligned(4)));
typedef uint32_t cell;

/* In the order in which models/native.py writes them; its Shape has the same fields. */
typedef struct {
    int64_t hidden, layers, heads, intermediate, positions;
    float eps;
} shape;

INLINE vf splat(float x) {
#if defined(__AVX512F__)
    return (vf)_mm512_set1_ps(x);
#else
    return x - (vf){0};
#endif
}

INLINE vf larger(vf a, vf b) {
#if defined(__AVX512F__)
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#else
    vi mask = a > b;
    return (vf)((mask & (vi)a) | (~mask & (vi)b));
#endif
}

INLINE vf fused(vf a, vf b, vf c) { return a * b + c; } /* contracted to one instruction where there is one */

INLINE vf dot(vf sum, cell a, vi b) {
    vi spread = (vi){0} + (int32_t)a;
#if STEP == 2
    return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)spread, (__m512bh)b);
#else
    return fused((vf)spread, (vf)b, sum);
#endif
}

/* STEP rows of floats -> one row of cells. */
INLINE void pack(cell *to, const vf *rows) {
#if STEP == 2
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                           5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)rows[1], (__m512)rows[0]);
    *(vi *)to = (vi)_mm512_permutexvar_epi16(order, both);
#else
    *(vf *)to = rows[0];
#endif
}

/* A row of floats as the left operand whose summed dimension is the lane: STEP neighbours a cell. */
INLINE void pack_along(cell *to, vf row) {
#if STEP == 2
    *(__m256i *)to = (__m256i)_mm512_cvtneps_pbh((__m512)row);
#else
    *(vf *)to = row;
#endif
}

/* 2^x for x <= 0, relative error 1e-4 with STEP 2 (results are rounded to 8 bits), 1e-7 with STEP 1. */
INLINE vf exp2_of(vf x) {
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds, and leaves the integer in the low bits */
    x = larger(x, splat(-126.0f));
    vf shifted = x + splat(magic);
    vf f = x - (shifted - splat(magic)); /* in [-0.5, 0.5] */
#if STEP == 2
    vf p = fused(splat(0.05517164617776871f), f, splat(0.2426111251115799f));
    p = fused(p, f, splat(0.6932609677314758f));
    p = fused(p, f, splat(0.9999280571937561f));
#else
    vf p = fused(splat(0.0013276468962430954f), f, splat(0.009675540961325169f));
    p = fused(p, f, splat(0.05550713464617729f));
    p = fused(p, f, splat(0.24022120237350464f));
    p = fused(p, f, splat(0.6931469440460205f));
    p = fused(p, f, splat(1.0000001192092896f));
#endif
    return (vf)((vi)p + ((vi)shifted << 23));
}

/* x Phi(x) = max(x, 0) - |x| Phi(-|x|), and log2 Phi(-y) is a smooth function of y: absolute error 6e-6 and 5e-8. */
INLINE vf gelu(vf x) {
    vf size = larger(x, -x);
    vf y = -larger(-size, splat(-5.5f));
#if STEP == 2
    vf p = fused(splat(0.003866244573146105f), y, splat(-0.04407922178506851f));
    p = fused(p, y, splat(-0.46801483631134033f));
    p = fused(p, y, splat(-1.1473723649978638f));
    p = fused(p, y, splat(-1.0004795789718628f));
#else
    vf p = fused(splat(3.309428575448692e-05f), y, splat(-0.0007692310027778149f));
    p = fused(p, y, splat(0.008080748841166496f));
    p = fused(p, y, splat(-0.053412146866321564f));
    p = fused(p, y, splat(-0.4587709307670593f));
    p = fused(p, y, splat(-1.1512017250061035f));
    p = fused(p, y, splat(-0.999993085861206f));
#endif
    return larger(x, (vf){0}) - size * exp2_of(p);
}

/* A product and what becomes of it. Rows of the result are features (or keys), its columns are tokens.
 *
 * left: cell (row, k) at left[row * left_row + k * left_k]; right: row k at right + k * right_k, `vectors` of it. */
typedef struct {
    const cell *left;
    int64_t left_row, left_k;
    const cell *right;
    int64_t right_k, depth, rows;
    const float *bias; /* one a row, or none */
    cell *cells;       /* CELLS, GELU, SCALED: (rows / STEP, ld); ALONG: (rows, ld / STEP) */
    float *floats;     /* ADD, SCORES: (rows, ld) */
    int64_t ld;
    const vf *scale; /* SCALED: one vector a column */
    vf *peak;        /* SCORES: largest score of each query so far */
    int64_t counted; /* SCORES: keys from here on are beyond the sequence */
} product;

enum kind { CELLS, GELU, SCALED, ALONG, ADD, SCORES };

/* ROWS x COLUMNS vectors of the result, summed in registers; all of R, C and kind are constants where it is called. */
INLINE void tile(const product *p, int64_t row, const int R, const int C, const enum kind kind) {
    vf sum[MOST_ROWS][BLOCK];
    const cell *left = p->left + row * p->left_row, *right = p->right;
    const int64_t left_row = p->left_row, left_k = p->left_k, right_k = p->right_k;
#pragma GCC unroll 12
    for (int i = 0; i < R; i++)
#pragma GCC unroll 4
        for (int j = 0; j < C; j++) sum[i][j] = p->bias ? splat(p->bias[row + i]) : (vf){0};
    for (int64_t k = p->depth; k > 0; k--) {
#pragma GCC unroll 12
        for (int i = 0; i < R; i++) {
            const cell one = left[i * left_row];
#pragma GCC unroll 4
            for (int j = 0; j < C; j++) sum[i][j] = dot(sum[i][j], one, *(const vi *)(right + j * LANES));
        }
        left += left_k, right += right_k;
    }
    if (kind == SCORES) {
#pragma GCC unroll 4
        for (int j = 0; j < C; j++) {
            vf peak = p->peak[j];
#pragma GCC unroll 12
            for (int i = 0; i < R; i++) {
                *(vf *)(p->floats + (row + i) * p->ld + j * LANES) = sum[i][j];
                if (row + i < p->counted) peak = larger(peak, sum[i][j]);
            }
            p->peak[j] = peak;
        }
        return;
    }
#pragma GCC unroll 12
    for (int i = 0; i < R; i += kind == ALONG || kind == ADD ? 1 : STEP)
#pragma GCC unroll 4
        for (int j = 0; j < C; j++) {
            if (kind == ADD) {
                *(vf *)(p->floats + (row + i) * p->ld + j * LANES) += sum[i][j];
            } else if (kind == ALONG) {
                pack_along(p->cells + ((row + i) * p->ld + j * LANES) / STEP, sum[i][j]);
            } else {
                vf two[2] = {sum[i][j], sum[i + STEP - 1][j]};
#pragma GCC unroll 2
                for (int s = 0; s < STEP; s++) {
                    if (kind == GELU) two[s] = gelu(two[s]);
                    if (kind == SCALED) two[s] *= p->scale[j];
                }
                pack(p->cells + (row + i) / STEP * p->ld + j * LANES, two);
            }
        }
}

/* All rows of a product, `vectors` of tokens wide. Tiles are as high as there are registers for. */
INLINE void multiply(const product *p, int vectors, const enum kind kind) {
    int64_t row = 0;
    switch (vectors) {
#if BLOCK == 4
    case 4:
        for (; row + ACCUMULATORS / 4 <= p->rows; row += ACCUMULATORS / 4) tile(p, row, ACCUMULATORS / 4, 4, kind);
        for (; row < p->rows; row += 2) tile(p, row, 2, 4, kind);
        break;
    case 3:
        for (; row + ACCUMULATORS / 3 <= p->rows; row += ACCUMULATORS / 3) tile(p, row, ACCUMULATORS / 3, 3, kind);
        for (; row < p->rows; row += 2) tile(p, row, 2, 3, kind);
        break;
#endif
    case 2:
        for (; row + ACCUMULATORS / 2 <= p->rows; row += ACCUMULATORS / 2) tile(p, row, ACCUMULATORS / 2, 2, kind);
        for (; row < p->rows; row += 2) tile(p, row, 2, 2, kind);
        break;
    default:
        for (; row + MOST_ROWS <= p->rows; row += MOST_ROWS) tile(p, row, MOST_ROWS, 1, kind);
        for (; row < p->rows; row += 2) tile(p, row, 2, 1, kind);
    }
}

static __attribute__((noinline)) void to_cells(const product *p, int vectors) { multiply(p, vectors, CELLS); }
static __attribute__((noinline)) void to_gelu(const product *p, int vectors) { multiply(p, vectors, GELU); }
static __attribute__((noinline)) void to_scaled(const product *p, int vectors) { multiply(p, vectors, SCALED); }
static __attribute__((noinline)) void to_along(const product *p, int vectors) { multiply(p, vectors, ALONG); }
static __attribute__((noinline)) void add(const product *p, int vectors) { multiply(p, vectors, ADD); }
static __attribute__((noinline)) void scores(const product *p, int vectors) { multiply(p, vectors, SCORES); }

/* Layer norm over the features of `vectors` tokens: x in place, and as cells for the next product. */
static void norm(float *x, int64_t ld, int vectors, int64_t hidden, float eps, const float *gain, const float *shift,
                 cell *cells) {
    for (int j = 0; j < vectors; j++) {
        float *column = x + j * LANES;
        vf mean = {0}, square = {0};
        for (int64_t h = 0; h < hidden; h++) mean += *(vf *)(column + h * ld);
        mean /= splat((float)hidden);
        for (int64_t h = 0; h < hidden; h++) {
            vf d = *(vf *)(column + h * ld) - mean;
            square = fused(d, d, square);
        }
        float root[LANES];
        for (int l = 0; l < LANES; l++) root[l] = 1.0f / sqrtf(square[l] / (float)hidden + eps);
        const vf scale = *(vfu *)root;
        for (int64_t h = 0; h < hidden; h += STEP) {
            vf two[2];
            for (int s = 0; s < STEP; s++) {
                vf *at = (vf *)(column + (h + s) * ld);
                two[s] = *at = fused((*at - mean) * scale, splat(gain[h + s]), splat(shift[h + s]));
            }
            pack(cells + h / STEP * ld + j * LANES, two);
        }
    }
}

/* Where the arrays of a layer lie in the weights. */
typedef struct {
    const cell *qkv, *out, *up, *down;
    const float *qkv_bias, *out_bias, *norm1_gain, *norm1_shift, *up_bias, *down_bias, *norm2_gain, *norm2_shift;
} layer;

INLINE const void *part(const cell **at, int64_t cells) {
    const cell *found = *at;
    *at += cells;
    return found;
}

static layer next_layer(const cell **at, const shape *s) {
    const int64_t H = s->hidden, M = s->intermediate;
    layer l;
    l.qkv = part(at, 3 * H * H / STEP), l.qkv_bias = part(at, 3 * H);
    l.out = part(at, H * H / STEP), l.out_bias = part(at, H);
    l.norm1_gain = part(at, H), l.norm1_shift = part(at, H);
    l.up = part(at, M * H / STEP), l.up_bias = part(at, M);
    l.down = part(at, H * M / STEP), l.down_bias = part(at, H);
    l.norm2_gain = part(at, H), l.norm2_shift = part(at, H);
    return l;
}

/* What one sequence needs between its ids and its embedding; T is its length rounded up to whole vectors, and S the
 * distance of rows: one vector more, or all rows of a long sequence would fall into the same few lines of the cache. */
typedef struct {
    float *x;     /* (hidden, S): the residual stream */
    cell *cells;  /* (hidden / STEP, S): x for products */
    cell *query;  /* (hidden / STEP, S) */
    cell *key;    /* (hidden / STEP, S) */
    cell *value;  /* (hidden, S / STEP) */
    cell *mixed;  /* (hidden / STEP, S): what attention found */
    cell *middle; /* (intermediate / STEP, SPAN) */
    float *score; /* (T + MOST_ROWS, SPAN) */
    cell *chance; /* (T / STEP + 1, SPAN) */
} room;

/* Cells of all of them, at the longest sequence. Keys are read up to a tile's height past their end. */
int64_t pulsegraph_room(const shape *s) {
    const int64_t T = (s->positions + LANES - 1) / LANES * LANES, H = s->hidden, W = SPAN;
    return H * (T + LANES) + 5 * (H * (T + LANES) + SPAN) + s->intermediate * SPAN + (T + MOST_ROWS) * W + (T + 2) * W;
}

static room rooms(cell *at, const shape *s, int64_t T) {
    const int64_t H = s->hidden, S = T + LANES, W = SPAN;
    room r;
    r.x = (float *)at, at += H * S;
    r.cells = at, at += H * S / STEP;
    r.query = at, at += H * S / STEP;
    r.key = at, at += H * S / STEP + SPAN;
    r.value = at, at += H * S / STEP;
    r.mixed = at, at += H * S / STEP;
    r.middle = at, at += s->intermediate * SPAN / STEP;
    r.score = (float *)at, at += (T + MOST_ROWS) * W;
    r.chance = at;
    return r;
}

/* Positions and their places, feature-major. */
static void embed(const shape *s, const float *vectors, const float *places, int64_t length, int64_t T, int64_t S,
                  float *x) {
    const int64_t H = s->hidden;
    for (int64_t first = 0; first < T; first += LANES) {
        const float *vector[LANES], *place[LANES];
        for (int l = 0; l < LANES; l++) {
            int64_t at = first + l < length ? first + l : 0; /* what lies past the end is computed and not looked at */
            vector[l] = vectors + at * H;
            place[l] = places + at * H;
        }
        for (int64_t h = 0; h < H; h++) {
            float row[LANES];
            for (int l = 0; l < LANES; l++) row[l] = vector[l][h] + place[l][h];
            *(vf *)(x + h * S + first) = *(vfu *)row;
        }
    }
}

/* softmax(Q K') V of one head for `vectors` of queries. Scores are in powers of two: the query's weights say so. */
static void attend(const room *r, int64_t feature, int64_t width, int64_t first, int vectors, int64_t length, int64_t S) {
    const int64_t W = SPAN, cells = width / STEP;
    vf peak[BLOCK], scale[BLOCK];
    for (int j = 0; j < vectors; j++) peak[j] = splat(-INFINITY);
    const product of_keys = {.left = r->key + feature / STEP * S,
                             .left_row = 1,
                             .left_k = S,
                             .right = r->query + feature / STEP * S + first,
                             .right_k = S,
                             .depth = cells,
                             .rows = length,
                             .floats = r->score,
                             .ld = W,
                             .peak = peak,
                             .counted = length};
    scores(&of_keys, vectors);
    const int64_t pairs = (length + STEP - 1) / STEP;
    for (int j = 0; j < vectors; j++) {
        vf total = {0};
        const float *score = r->score + j * LANES;
        const vf most = peak[j];
        for (int64_t i = 0; i < pairs; i++) {
            vf two[2];
            for (int s = 0; s < STEP; s++) {
                const int64_t key = i * STEP + s;
                two[s] = key < length ? exp2_of(*(const vf *)(score + key * W) - most) : (vf){0};
                total += two[s];
            }
            pack(r->chance + i * W + j * LANES, two);
        }
        scale[j] = splat(1.0f) / total;
    }
    const product of_values = {.left = r->value + feature * (S / STEP),
                               .left_row = S / STEP,
                               .left_k = 1,
                               .right = r->chance,
                               .right_k = W,
                               .depth = pairs,
                               .rows = width,
                               .cells = r->mixed + feature / STEP * S + first,
                               .ld = S,
                               .scale = scale};
    to_scaled(&of_values, vectors);
}

INLINE product dense(const cell *weights, const float *bias, int64_t rows, int64_t depth, const cell *right, int64_t right_k) {
    return (product){.left = weights,
                     .left_row = depth / STEP,
                     .left_k = 1,
                     .right = right,
                     .right_k = right_k,
                     .depth = depth / STEP,
                     .rows = rows,
                     .bias = bias};
}

static void run_layer(const shape *s, const layer *l, const room *r, int64_t length, int64_t T) {
    const int64_t H = s->hidden, M = s->intermediate, width = H / s->heads, S = T + LANES;
    for (int64_t at = 0; at < T; at += SPAN) {
        const int vectors = (int)((T - at < SPAN ? T - at : SPAN) / LANES);
        product query = dense(l->qkv, l->qkv_bias, H, H, r->cells + at, S);
        query.cells = r->query + at, query.ld = S;
        to_cells(&query, vectors);
        product key = dense(l->qkv + H * H / STEP, l->qkv_bias + H, H, H, r->cells + at, S);
        key.cells = r->key + at, key.ld = S;
        to_cells(&key, vectors);
        product value = dense(l->qkv + 2 * H * H / STEP, l->qkv_bias + 2 * H, H, H, r->cells + at, S);
        value.cells = r->value + at / STEP, value.ld = S;
        to_along(&value, vectors);
    }
    for (int64_t head = 0; head < s->heads; head++)
        for (int64_t at = 0; at < T; at += SPAN) {
            const int vectors = (int)((T - at < SPAN ? T - at : SPAN) / LANES);
            attend(r, head * width, width, at, vectors, length, S);
        }
    for (int64_t at = 0; at < T; at += SPAN) {
        const int vectors = (int)((T - at < SPAN ? T - at : SPAN) / LANES);
        product out = dense(l->out, l->out_bias, H, H, r->mixed + at, S);
        out.floats = r->x + at, out.ld = S;
        add(&out, vectors);
        norm(r->x + at, S, vectors, H, s->eps, l->norm1_gain, l->norm1_shift, r->cells + at);
        product up = dense(l->up, l->up_bias, M, H, r->cells + at, S);
        up.cells = r->middle, up.ld = SPAN;
        to_gelu(&up, vectors);
        product down = dense(l->down, l->down_bias, H, M, r->middle, SPAN);
        down.floats = r->x + at, down.ld = S;
        add(&down, vectors);
        norm(r->x + at, S, vectors, H, s->eps, l->norm2_gain, l->norm2_shift, r->cells + at);
    }
}

/* Mean over positions plus the first one, scaled to length sqrt(hidden), as models/encoder.py's pool. */
static void pool(const float *x, int64_t S, int64_t length, int64_t hidden, float *out) {
    double square = 0;
    for (int64_t h = 0; h < hidden; h++) {
        const float *row = x + h * S;
        vf total = {0};
        int64_t at = 0;
        for (; at + LANES <= length; at += LANES) total += *(const vf *)(row + at);
        float sum = 0;
        for (int l = 0; l < LANES; l++) sum += total[l];
        for (; at < length; at++) sum += row[at];
        out[h] = sum / (float)length + row[0];
        square += (double)out[h] * out[h];
    }
    const double norm = sqrt(square);
    const float scale = (float)(sqrt((double)hidden) / (norm > 1e-12 ? norm : 1e-12));
    for (int64_t h = 0; h < hidden; h++) out[h] *= scale;
}

/* Embeddings (count, hidden) of sequences.
 *
 * weights: as models/native.py writes them, aligned to 64 bytes. vectors: (T, hidden), the positions of all sequences one
 * after the other; sequence i is vectors[ends[i - 1] .. ends[i]], the first begins at 0, none is empty or longer than
 * positions. room: pulsegraph_room() cells, aligned to 64 bytes, of this call alone. */
void pulsegraph_encode(const shape *s, const cell *weights, const float *vectors, const int64_t *ends, int64_t count,
                       cell *space, float *out) {
    const int64_t H = s->hidden;
    for (int64_t i = 0; i < count; i++) {
        const int64_t begin = i ? ends[i - 1] : 0, length = ends[i] - begin;
        const int64_t T = (length + LANES - 1) / LANES * LANES, S = T + LANES;
        const cell *at = weights;
        const float *places = part(&at, s->positions * H);
        const float *gain = part(&at, H), *shift = part(&at, H);
        const room r = rooms(space, s, T);
        embed(s, vectors + begin * H, places, length, T, S, r.x);
        for (int64_t block = 0; block < T; block += SPAN) {
            const int vectors = (int)((T - block < SPAN ? T - block : SPAN) / LANES);
            norm(r.x + block, S, vectors, H, s->eps, gain, shift, r.cells + block);
        }
        for (int64_t n = 0; n < s->layers; n++) {
            const layer l = next_layer(&at, s);
            run_layer(s, &l, &r, length, T);
        }
        pool(r.x, S, length, H, out + i * H);
    }
}
