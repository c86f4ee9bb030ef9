#include "histogram.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

static unsigned bucket_of(uint64_t value)
{
    if (value < HISTOGRAM_SUB)
        return (unsigned)value;
    unsigned top = 63u - (unsigned)__builtin_clzll(value);
    if (top >= HISTOGRAM_TOP_BIT)
        return HISTOGRAM_BUCKETS - 1;
    unsigned shift = top - HISTOGRAM_SUB_BITS;
    /* value >> shift lies in [SUB, 2*SUB): the leading one names the power of two, the rest the linear part */
    return (shift + 1) * HISTOGRAM_SUB + (unsigned)((value >> shift) - HISTOGRAM_SUB);
}

static uint64_t middle_of(unsigned bucket)
{
    if (bucket < HISTOGRAM_SUB)
        return bucket;
    unsigned shift = bucket / HISTOGRAM_SUB - 1;
    uint64_t low = ((uint64_t)(bucket % HISTOGRAM_SUB) + HISTOGRAM_SUB) << shift;
    return low + ((uint64_t)1 << shift) / 2;
}

void histogram_reset(struct histogram *h)
{
    memset(h, 0, sizeof *h);
}

void histogram_add(struct histogram *h, uint64_t value)
{
    h->count[bucket_of(value)]++;
    h->total++;
    h->sum += (double)value;
    if (value > h->max)
        h->max = value;
}

uint64_t histogram_quantile(const struct histogram *h, double share)
{
    if (h->total == 0)
        return 0;
    uint64_t rank = (uint64_t)ceil(share * (double)h->total);
    if (rank < 1)
        rank = 1;
    uint64_t seen = 0;
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += h->count[i];
        if (seen >= rank) {
            uint64_t middle = i == HISTOGRAM_BUCKETS - 1 ? h->max : middle_of(i);
            return middle < h->max ? middle : h->max;
        }
    }
    return h->max;
}

void histogram_json(const struct histogram *h, FILE *out)
{
    fprintf(out, "{\"count\":%" PRIu64 ",\"mean\":%.1f", h->total, h->total ? h->sum / (double)h->total : 0.0);
    fprintf(out, ",\"p50\":%" PRIu64 ",\"p90\":%" PRIu64, histogram_quantile(h, 0.50), histogram_quantile(h, 0.90));
    fprintf(out, ",\"p99\":%" PRIu64 ",\"p999\":%" PRIu64, histogram_quantile(h, 0.99), histogram_quantile(h, 0.999));
    fprintf(out, ",\"max\":%" PRIu64 "}", h->max);
}
