/* The mixer as plain loops, in the ABI of docs/artefact.md: what the tests of the ops run where no compiler is built, and
   an implementation that shares nothing with it. One (batch, head) a block, sums in double.

   Compiled once with each of TYPE_F32, TYPE_BF16 and TYPE_F16. D and M are read off z, which is contiguous [B, H, M, D]. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef TYPE_F32
typedef float element;
static double load(element e) { return e; }
static element store(double x) { return (float)x; }
#elif defined(TYPE_F16)
typedef _Float16 element;
static double load(element e) { return (double)e; }
static element store(double x) { return (_Float16)x; }
#else
typedef uint16_t element;
static double load(element e) {
  uint32_t bits = (uint32_t)e << 16;
  float f;
  memcpy(&f, &bits, 4);
  return f;
}
static element store(double x) {
  float f = (float)x;
  uint32_t bits;
  memcpy(&bits, &f, 4);
  if (f != f)
    return 0x7fc0;
  return (element)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
#endif

typedef struct {
  char *data;
  int64_t b, h, row;
} tensor;

static tensor get(const uint64_t *slots, int index) {
  tensor t = {(char *)slots[4 * index], (int64_t)slots[4 * index + 1],
              (int64_t)slots[4 * index + 2], (int64_t)slots[4 * index + 3]};
  return t;
}

static element *row(tensor t, int64_t b, int64_t h, int64_t r) {
  return (element *)t.data + b * t.b + h * t.h + r * t.row;
}
static float *wide(tensor t, int64_t b, int64_t h, int64_t r) {
  return (float *)t.data + b * t.b + h * t.h + r * t.row;
}

static double dot(const element *x, const element *y, int64_t d) {
  double sum = 0;
  for (int64_t i = 0; i < d; ++i)
    sum += load(x[i]) * load(y[i]);
  return sum;
}

typedef struct {
  int64_t B, H, N, BQ, D, M, b, h;
  double scale;
} sizes;

static sizes parse(const uint64_t *slots, int tensors, tensor z,
                   int64_t block) {
  const uint64_t *p = slots + 4 * tensors;
  sizes s = {(int64_t)p[0], (int64_t)p[1], (int64_t)p[2], (int64_t)p[3]};
  float scale;
  memcpy(&scale, p + 4, 4); /* no sweeps */
  s.scale = scale;
  s.D = z.row;
  s.M = z.h / z.row;
  s.b = block / s.H;
  s.h = block % s.H;
  return s;
}

/* Log of the sum of exponentials of x[i * stride]. */
static double logSumExp(const double *x, int64_t count, int64_t stride) {
  double max = -INFINITY, sum = 0;
  for (int64_t i = 0; i < count; ++i)
    max = fmax(max, x[i * stride]);
  for (int64_t i = 0; i < count; ++i)
    sum += exp(x[i * stride] - max);
  return max + log(sum);
}

/* scale q k^T of a (batch, head), [M, N], rounded as the log-sum-exps are: where one score is all, they cancel exactly. */
static double *scores(sizes s, tensor q, tensor k) {
  double *x = malloc(sizeof(double) * (size_t)(s.M * s.N));
  for (int64_t m = 0; m < s.M; ++m)
    for (int64_t n = 0; n < s.N; ++n)
      x[m * s.N + n] = (float)(s.scale * dot(row(q, s.b, s.h, m), row(k, s.b, s.h, n), s.D));
  return x;
}

/* q k v | y z lse_encode lse_decode */
void forward(const uint64_t *slots, int64_t block, void *scratch) {
  (void)scratch;
  tensor q = get(slots, 0), k = get(slots, 1), v = get(slots, 2);
  tensor y = get(slots, 3), z = get(slots, 4), le = get(slots, 5), ld = get(slots, 6);
  sizes s = parse(slots, 7, z, block);
  double *x = scores(s, q, k);
  for (int64_t m = 0; m < s.M; ++m) {
    double l = logSumExp(x + m * s.N, s.N, 1);
    *wide(le, s.b, s.h, m) = (float)l;
    for (int64_t d = 0; d < s.D; ++d) {
      double sum = 0;
      for (int64_t n = 0; n < s.N; ++n)
        sum += exp(x[m * s.N + n] - l) * load(row(v, s.b, s.h, n)[d]);
      wide(z, s.b, s.h, m)[d] = (float)sum;
    }
  }
  for (int64_t n = 0; n < s.N; ++n) {
    double l = logSumExp(x + n, s.M, s.N);
    *wide(ld, s.b, s.h, n) = (float)l;
    for (int64_t d = 0; d < s.D; ++d) {
      double sum = 0;
      for (int64_t m = 0; m < s.M; ++m)
        sum += exp(x[m * s.N + n] - l) * wide(z, s.b, s.h, m)[d];
      row(y, s.b, s.h, n)[d] = store(sum);
    }
  }
  free(x);
}

/* grad_y q k v y z lse_encode lse_decode | grad_q grad_k grad_v (those wanted) | grad_q of each batch, f32 */
static void backward(const uint64_t *slots, int64_t block, int gq, int gk, int gv) {
  tensor g = get(slots, 0), q = get(slots, 1), k = get(slots, 2), v = get(slots, 3);
  tensor y = get(slots, 4), z = get(slots, 5), le = get(slots, 6), ld = get(slots, 7);
  int at = 8 + gq;
  tensor dk = {0}, dv = {0}, dq = {0};
  if (gk)
    dk = get(slots, at++);
  if (gv)
    dv = get(slots, at++);
  if (gq)
    dq = get(slots, at++);
  sizes s = parse(slots, at, z, block);
  double *x = scores(s, q, k);
  double *dz = calloc((size_t)(s.M * s.D), sizeof(double));
  double *sq = calloc((size_t)(s.M * s.D), sizeof(double));
  for (int64_t n = 0; n < s.N; ++n)
    for (int64_t m = 0; m < s.M; ++m)
      for (int64_t d = 0; d < s.D; ++d)
        dz[m * s.D + d] += exp(x[m * s.N + n] - *wide(ld, s.b, s.h, n)) * load(row(g, s.b, s.h, n)[d]);
  for (int64_t n = 0; n < s.N; ++n) {
    double sumK[128] = {0}, sumV[128] = {0}; /* the largest head dim */
    double delta = dot(row(g, s.b, s.h, n), row(y, s.b, s.h, n), s.D);
    for (int64_t m = 0; m < s.M; ++m) {
      double encode = exp(x[m * s.N + n] - *wide(le, s.b, s.h, m));
      double decode = exp(x[m * s.N + n] - *wide(ld, s.b, s.h, n));
      double gz = 0, dzv = 0, dzz = 0;
      for (int64_t d = 0; d < s.D; ++d) {
        gz += load(row(g, s.b, s.h, n)[d]) * wide(z, s.b, s.h, m)[d];
        dzv += dz[m * s.D + d] * load(row(v, s.b, s.h, n)[d]);
        dzz += dz[m * s.D + d] * wide(z, s.b, s.h, m)[d];
        sumV[d] += encode * dz[m * s.D + d];
      }
      double ds = s.scale * (decode * (gz - delta) + encode * (dzv - dzz));
      for (int64_t d = 0; d < s.D; ++d) {
        sumK[d] += ds * load(row(q, s.b, s.h, m)[d]);
        sq[m * s.D + d] += ds * load(row(k, s.b, s.h, n)[d]);
      }
    }
    for (int64_t d = 0; d < s.D; ++d) {
      if (gk)
        row(dk, s.b, s.h, n)[d] = store(sumK[d]);
      if (gv)
        row(dv, s.b, s.h, n)[d] = store(sumV[d]);
    }
  }
  if (gq)
    for (int64_t m = 0; m < s.M; ++m)
      for (int64_t d = 0; d < s.D; ++d)
        wide(dq, s.b, s.h, m)[d] = (float)sq[m * s.D + d];
  free(x);
  free(dz);
  free(sq);
}

/* Sums grad_q over batches that share the latents. */
static void reduce(const uint64_t *slots, int64_t block, int gk, int gv) {
  tensor z = get(slots, 5), out = get(slots, 8), dq = get(slots, 9 + gk + gv);
  sizes s = parse(slots, 10 + gk + gv, z, block);
  if (s.BQ == 1 && s.b > 0)
    return;
  int64_t end = s.BQ == 1 ? s.B : s.b + 1;
  for (int64_t m = 0; m < s.M; ++m)
    for (int64_t d = 0; d < s.D; ++d) {
      double sum = 0;
      for (int64_t b = s.b; b < end; ++b)
        sum += wide(dq, b, s.h, m)[d];
      row(out, s.b, s.h, m)[d] = store(sum);
    }
}

#define BACKWARD(name, gq, gk, gv)                                                                                            \
  void backward_##name(const uint64_t *slots, int64_t block, void *scratch) {                                                 \
    (void)scratch;                                                                                                            \
    backward(slots, block, gq, gk, gv);                                                                                       \
  }
#define REDUCE(name, gk, gv)                                                                                                  \
  void reduce_##name(const uint64_t *slots, int64_t block, void *scratch) {                                                   \
    (void)scratch;                                                                                                            \
    reduce(slots, block, gk, gv);                                                                                             \
  }
BACKWARD(q, 1, 0, 0)
BACKWARD(k, 0, 1, 0)
BACKWARD(v, 0, 0, 1)
BACKWARD(qk, 1, 1, 0)
BACKWARD(qv, 1, 0, 1)
BACKWARD(kv, 0, 1, 1)
BACKWARD(qkv, 1, 1, 1)
REDUCE(q, 0, 0)
REDUCE(qk, 1, 0)
REDUCE(qv, 0, 1)
REDUCE(qkv, 1, 1)
