/* SPDX-License-Identifier: Apache-2.0
 *
 * random.h - splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators",
 * 2014): repeatable numbers for sampling streams, dummy weights and workloads. Not for secrets. */
#ifndef AGL_BASE_RANDOM_H
#define AGL_BASE_RANDOM_H

#include <stdint.h>

#define AGL_RANDOM_STEP 0x9e3779b97f4a7c15u

/* The finaliser: a bijection whose output bits all depend on all input bits. */
static inline uint64_t agl_random_mix(uint64_t value)
{
    value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9u;
    value = (value ^ value >> 27) * 0x94d049bb133111ebu;
    return value ^ value >> 31;
}

/* The next number of the stream that `state` is at; any start will do. */
static inline uint64_t agl_random_next(uint64_t *state)
{
    return agl_random_mix(*state += AGL_RANDOM_STEP);
}

/* Uniform in [0, limit). */
static inline uint32_t agl_random_below(uint64_t *state, uint32_t limit)
{
    return (uint32_t)((agl_random_next(state) >> 32) * limit >> 32);
}

#endif
