/* SPDX-License-Identifier: Apache-2.0 */
#include "tokenizer/bpe.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Up to here a scan for the lowest rank beats the heap. */
#define SHORT_BYTES 48u

#define NO_MERGE UINT32_MAX
#define RANK_MASK ((UINT64_C(1) << AGL_BPE_RANK_BITS) - 1)

struct agl_bpe_symbol {
    int32_t id;             /* -1: merged into a neighbour */
    uint32_t previous, next;/* indices; NO_MERGE at the ends */
};

struct agl_bpe_candidate {
    uint32_t rank, left;    /* rank of the pair that starts at symbol `left` */
};

typedef struct agl_bpe_symbol symbol;
typedef struct agl_bpe_candidate candidate;

static uint64_t pair_key(int32_t left, int32_t right)
{
    return ((uint64_t)(uint32_t)left << AGL_VOCAB_ID_BITS | (uint64_t)(uint32_t)right)
           << AGL_BPE_RANK_BITS;
}

static uint32_t pair_hash(uint64_t key)
{
    uint64_t hash = (key >> AGL_BPE_RANK_BITS) * 0x9e3779b97f4a7c15u;
    return (uint32_t)(hash >> 32);
}

agl_status agl_bpe_init(agl_bpe *bpe, const agl_vocab *vocab, size_t merges, agl_error *err)
{
    *bpe = (agl_bpe){.vocab = vocab};
    if (merges > AGL_BPE_RANK_MAX) {
        return agl_fail(err, AGL_ERR_LIMIT, "%zu merges, at most %u are supported", merges,
                        AGL_BPE_RANK_MAX);
    }
    size_t slots = 16;
    while (slots < 2 * merges) slots *= 2;
    bpe->slots = malloc(slots * sizeof *bpe->slots);
    bpe->merged = malloc((merges + 1) * sizeof *bpe->merged);
    if (bpe->slots == NULL || bpe->merged == NULL) {
        agl_bpe_deinit(bpe);
        return agl_fail(err, AGL_ERR_MEMORY, "no memory for %zu merges", merges);
    }
    memset(bpe->slots, 0xff, slots * sizeof *bpe->slots);
    bpe->slot_mask = (uint32_t)(slots - 1);
    return AGL_OK;
}

void agl_bpe_deinit(agl_bpe *bpe)
{
    free(bpe->slots);
    free(bpe->merged);
    *bpe = (agl_bpe){0};
}

void agl_bpe_insert(agl_bpe *bpe, int32_t left, int32_t right, int32_t merged)
{
    uint64_t key = pair_key(left, right);
    uint32_t slot = pair_hash(key) & bpe->slot_mask;
    while (bpe->slots[slot] != UINT64_MAX && (bpe->slots[slot] & ~RANK_MASK) != key) {
        slot = (slot + 1) & bpe->slot_mask;
    }
    bpe->merged[bpe->merge_count] = merged;
    bpe->slots[slot] = key | bpe->merge_count;
    bpe->merge_count++;
}

static uint32_t rank_of(const agl_bpe *bpe, int32_t left, int32_t right)
{
    uint64_t key = pair_key(left, right);
    uint32_t slot = pair_hash(key) & bpe->slot_mask;
    while (bpe->slots[slot] != UINT64_MAX) {
        if ((bpe->slots[slot] & ~RANK_MASK) == key) return (uint32_t)(bpe->slots[slot] & RANK_MASK);
        slot = (slot + 1) & bpe->slot_mask;
    }
    return NO_MERGE;
}

/* Few symbols: two dense arrays, the lowest rank found by a scan. */
static agl_status encode_short(agl_tokens *out, const agl_bpe *bpe, const char *text, size_t bytes,
                               agl_error *err)
{
    int32_t ids[SHORT_BYTES];
    uint32_t ranks[SHORT_BYTES]; /* ranks[i] is the rank of ids[i], ids[i + 1] */
    size_t count = 0;
    for (size_t i = 0; i < bytes; i++) {
        int32_t id = bpe->vocab->byte_id[(unsigned char)text[i]];
        if (id >= 0) ids[count++] = id;
    }
    for (size_t i = 0; i + 1 < count; i++) ranks[i] = rank_of(bpe, ids[i], ids[i + 1]);

    while (count > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < count; i++) {
            if (ranks[i] < ranks[best]) best = i;
        }
        if (ranks[best] == NO_MERGE) break;
        ids[best] = bpe->merged[ranks[best]];
        memmove(ids + best + 1, ids + best + 2, (count - best - 2) * sizeof *ids);
        if (best + 2 < count) {
            memmove(ranks + best + 1, ranks + best + 2, (count - best - 3) * sizeof *ranks);
        }
        count--;
        if (best > 0) ranks[best - 1] = rank_of(bpe, ids[best - 1], ids[best]);
        if (best + 1 < count) ranks[best] = rank_of(bpe, ids[best], ids[best + 1]);
    }
    for (size_t i = 0; i < count; i++) AGL_TRY(agl_tokens_append(out, ids[i], 1, err));
    return AGL_OK;
}

static bool before(candidate a, candidate b)
{
    return a.rank != b.rank ? a.rank < b.rank : a.left < b.left;
}

static void heap_push(candidate *heap, size_t *count, candidate item)
{
    size_t at = (*count)++;
    while (at > 0 && before(item, heap[(at - 1) / 2])) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = item;
}

static candidate heap_pop(candidate *heap, size_t *count)
{
    candidate top = heap[0], last = heap[--*count];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < *count; at = child) {
        if (child + 1 < *count && before(heap[child + 1], heap[child])) child++;
        if (!before(heap[child], last)) break;
        heap[at] = heap[child];
    }
    heap[at] = last;
    return top;
}

static agl_status scratch_reserve(agl_bpe_scratch *scratch, size_t symbols, agl_error *err)
{
    if (symbols <= scratch->symbol_capacity) return AGL_OK;
    agl_bpe_scratch_deinit(scratch);
    /* n - 1 first candidates, and each of at most n - 1 merges takes one and pushes two. */
    scratch->symbols = malloc(symbols * sizeof *scratch->symbols);
    scratch->heap = malloc(2 * symbols * sizeof *scratch->heap);
    if (scratch->symbols == NULL || scratch->heap == NULL) {
        agl_bpe_scratch_deinit(scratch);
        return agl_fail(err, AGL_ERR_MEMORY, "no memory to tokenise a word of %zu bytes", symbols);
    }
    scratch->symbol_capacity = symbols;
    return AGL_OK;
}

void agl_bpe_scratch_deinit(agl_bpe_scratch *scratch)
{
    free(scratch->symbols);
    free(scratch->heap);
    *scratch = (agl_bpe_scratch){0};
}

static void pair_push(const agl_bpe *bpe, const symbol *symbols, candidate *heap, size_t *heap_count,
                      uint32_t left)
{
    uint32_t right = symbols[left].next;
    uint32_t rank = rank_of(bpe, symbols[left].id, symbols[right].id);
    if (rank != NO_MERGE) heap_push(heap, heap_count, (candidate){.rank = rank, .left = left});
}

/* Many symbols: a linked list, and a heap of candidate pairs. A candidate is stale when its
 * pair no longer has that rank; it is skipped when it comes up. */
static agl_status encode_long(agl_tokens *out, const agl_bpe *bpe, agl_bpe_scratch *scratch,
                              const char *text, size_t bytes, agl_error *err)
{
    AGL_TRY(scratch_reserve(scratch, bytes, err));
    symbol *symbols = scratch->symbols;
    candidate *heap = scratch->heap;
    size_t count = 0, heap_count = 0;
    for (size_t i = 0; i < bytes; i++) {
        int32_t id = bpe->vocab->byte_id[(unsigned char)text[i]];
        if (id < 0) continue;
        symbols[count] =
            (symbol){.id = id, .previous = (uint32_t)count - 1, .next = (uint32_t)count + 1};
        count++;
    }
    if (count == 0) return AGL_OK;
    symbols[count - 1].next = NO_MERGE;
    for (uint32_t i = 0; i + 1 < count; i++) pair_push(bpe, symbols, heap, &heap_count, i);

    while (heap_count > 0) {
        candidate top = heap_pop(heap, &heap_count);
        symbol *left = &symbols[top.left];
        if (left->id < 0 || left->next == NO_MERGE) continue;
        symbol *right = &symbols[left->next];
        if (rank_of(bpe, left->id, right->id) != top.rank) continue;
        left->id = bpe->merged[top.rank];
        left->next = right->next;
        right->id = -1;
        if (left->next != NO_MERGE) {
            symbols[left->next].previous = top.left;
            pair_push(bpe, symbols, heap, &heap_count, top.left);
        }
        if (top.left != 0) pair_push(bpe, symbols, heap, &heap_count, left->previous);
    }
    for (uint32_t i = 0; i != NO_MERGE; i = symbols[i].next) {
        AGL_TRY(agl_tokens_append(out, symbols[i].id, 1, err));
    }
    return AGL_OK;
}

agl_status agl_bpe_encode(agl_tokens *out, const agl_bpe *bpe, agl_bpe_scratch *scratch,
                          const char *text, size_t bytes, agl_error *err)
{
    assert(bytes < UINT32_MAX);
    if (bpe->ignore_merges) {
        int32_t id = agl_vocab_find(bpe->vocab, text, bytes);
        if (id >= 0) return agl_tokens_append(out, id, 1, err);
    }
    return bytes <= SHORT_BYTES ? encode_short(out, bpe, text, bytes, err)
                                : encode_long(out, bpe, scratch, text, bytes, err);
}
