/* Latency histogram with bounded relative error, in the manner of HdrHistogram: buckets are linear inside each power of
 * two, so that one fixed table of integers holds nanoseconds to minutes and a percentile is off by less than 1/64. */
#ifndef LOAD_HISTOGRAM_H
#define LOAD_HISTOGRAM_H

#include <stdint.h>
#include <stdio.h>

enum {
    HISTOGRAM_SUB_BITS = 6,
    HISTOGRAM_SUB = 1 << HISTOGRAM_SUB_BITS,
    HISTOGRAM_TOP_BIT = 40, /* values from 2^40 ns (18 minutes) on share the last bucket; the maximum stays exact */
    HISTOGRAM_BUCKETS = (HISTOGRAM_TOP_BIT - HISTOGRAM_SUB_BITS + 1) * HISTOGRAM_SUB
};

struct histogram {
    uint64_t count[HISTOGRAM_BUCKETS];
    uint64_t total;
    uint64_t max;
    double sum;
};

void histogram_reset(struct histogram *h);
void histogram_add(struct histogram *h, uint64_t value);
/* The value below or at which `share` (0 to 1) of what was added lies; the middle of its bucket. 0 when empty. */
uint64_t histogram_quantile(const struct histogram *h, double share);
/* Writes {"count":..,"mean":..,"p50":..,"p90":..,"p99":..,"p999":..,"max":..}, in the unit of the values added. */
void histogram_json(const struct histogram *h, FILE *out);

#endif
