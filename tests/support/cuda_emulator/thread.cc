/* SPDX-License-Identifier: Apache-2.0
 *
 * thread.cc - runs the blocks of a grid: every thread is a fiber, which goes on until it ends or
 * must wait for others; then the next one of its warp runs, then the next warp. */
#include <elf.h>
#include <link.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <vector>

#include "backend/cuda/ptx.cuh"
#include "emulator.h"
#include "fiber.h"

#define LANES 32
#define THREADS_MAX 1024
#define WARPS_MAX (THREADS_MAX / LANES)
#define NAMED_BARRIERS 16
#define SHARED_BYTES_MAX ((size_t)227 << 10)
#define POISON 0xff             /* as a F32, F16 or BF16: NaN */
#define CANARY 0xa5

enum thread_state { READY, ASLEEP, AT_BARRIER, AT_NAMED_BARRIER, AT_WARP, ENDED };

/* What a lane brings to a warp function, and where the answer goes. */
struct warp_call {
    emu_warp_kind kind;
    unsigned mask;
    void *out;
    const void *in;
    size_t bytes;
    int argument, width;
};

struct copy16 {
    void *shared;
    const void *global;
    bool valid;
    unsigned group;
};

struct thread {
    emu_fiber fiber;
    thread_state state;
    uint3 index;
    int warp, lane;
    warp_call call;
    emu_barrier_kind barrier;
    int barrier_id, barrier_value;
    unsigned groups;            /* of asynchronous copies, closed                     */
    std::vector<copy16> copies; /* not performed yet                                  */
};

struct named_barrier { int waiting, expected; };

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

static thread threads[THREADS_MAX];
static emu_fiber scheduler;
static thread *running;                      /* NULL between threads                   */
static const emu_grid *running_grid;
static const std::function<void()> *running_call;
static int thread_count, live_count;
static int barrier_waiting;
static named_barrier named_barriers[NAMED_BARRIERS];
static unsigned warp_live[WARPS_MAX], warp_waiting[WARPS_MAX];
static unsigned warp_common[WARPS_MAX];      /* lanes at one call                       */
static unsigned warp_ready[WARPS_MAX];       /* places in the order whose lane can go on */
static unsigned warp_asleep[WARPS_MAX];      /* the same, after the other warps          */
static int lane_at[LANES], place_of[LANES];  /* the order of lanes, for this block      */
static bool previous_waited;                 /* some thread of the grid waited          */
static uint32_t order_seed;

/* ---- failure -------------------------------------------------------------------- */

/* "name (address)" by the debugging information of the program, if a reader is installed. */
static void print_kernel(const void *kernel)
{
    char command[160], line[256] = "";
    uintptr_t address = (uintptr_t)kernel;
    FILE *maps = fopen("/proc/self/maps", "r");
    unsigned long long first = 0;
    if (maps != NULL) {
        if (fscanf(maps, "%llx", &first) != 1) first = 0;
        fclose(maps);
    }
    snprintf(command, sizeof command, "addr2line -f -C -e /proc/%d/exe %#llx 2>/dev/null", (int)getpid(),
             address > first ? (unsigned long long)address - first : (unsigned long long)address);
    FILE *pipe = popen(command, "r");
    if (pipe != NULL) {
        if (fgets(line, sizeof line, pipe) == NULL) line[0] = '\0';
        pclose(pipe);
    }
    line[strcspn(line, "\n")] = '\0';
    fprintf(stderr, "%s (%p)", line[0] != '\0' ? line : "kernel", kernel);
}

static void print_place(void)
{
    if (running_grid == NULL) return;
    fprintf(stderr, "  in ");
    print_kernel(running_grid->kernel);
    fprintf(stderr, ", grid %u x %u x %u, block %u x %u x %u, order %u\n  block (%u, %u, %u)",
            gridDim.x, gridDim.y, gridDim.z, blockDim.x, blockDim.y, blockDim.z, order_seed,
            blockIdx.x, blockIdx.y, blockIdx.z);
    if (running != NULL) {
        fprintf(stderr, ", thread (%u, %u, %u): warp %d, lane %d", running->index.x, running->index.y,
                running->index.z, running->warp, running->lane);
    }
    fprintf(stderr, "\n");
}

void emu_fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "cuda emulator: ");
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    va_end(args);
    print_place();
    fflush(NULL);
    abort();
}

#ifndef EMU_ASAN /* which has a better report of its own */
/* Memory that cannot be touched: behind an allocation, below a stack, or the device's for the host. */
static void on_fault(int signal, siginfo_t *info, void *)
{
    struct sigaction plain;
    memset(&plain, 0, sizeof plain);
    plain.sa_handler = SIG_DFL;
    sigaction(signal, &plain, NULL);
    fprintf(stderr, "cuda emulator: %s touched %p, which it may not\n",
            running_grid != NULL ? "a kernel" : "the host", info->si_addr);
    print_place();
    fflush(NULL);
}
#endif

void emu_catch_faults(void)
{
#ifndef EMU_ASAN
    static char handler_stack[64 << 10];
    stack_t stack = {};
    stack.ss_sp = handler_stack;
    stack.ss_size = sizeof handler_stack;
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    if (sigaltstack(&stack, NULL) == 0) sigaction(SIGSEGV, &action, NULL);
#endif
}

void __trap(void)
{
    emu_fail("trap");
}

/* ---- order -------------------------------------------------------------------------- */

static uint32_t order_state;

static void order_fill(int *order, int count)
{
    for (int i = 0; i < count; i++) order[i] = order_seed == 1 ? count - 1 - i : i;
    if (order_seed < 2) return;
    for (int i = count - 1; i > 0; i--) {
        order_state = order_state * 1664525u + 1013904223u;
        int j = (int)((uint64_t)(order_state) * (uint64_t)(i + 1) >> 32);
        int swap = order[i];
        order[i] = order[j], order[j] = swap;
    }
}

/* CUDA_EMULATOR_ORDER in the environment is the order at start. */
__attribute__((constructor)) static void order_from_environment(void)
{
    const char *order = getenv("CUDA_EMULATOR_ORDER");
    if (order != NULL) emu_set_order((uint32_t)strtoul(order, NULL, 10));
}

void emu_set_order(uint32_t order)
{
    order_seed = order;
    order_state = order * 2654435761u;
}

/* ---- switching ------------------------------------------------------------------------ */

static void set_ready(thread *t)
{
    t->state = READY;
    warp_ready[t->warp] |= 1u << place_of[t->lane];
}

/* The next lane of the warp in turn, or the scheduler if none can go on. */
static void leave(thread *self, bool ends)
{
    int place = place_of[self->lane];
    unsigned ready = warp_ready[self->warp], later = place < LANES - 1 ? ready >> (place + 1) << (place + 1) : 0;
    emu_fiber *to = &scheduler;
    running = NULL;
    if (ready != 0) {
        running = &threads[self->warp * LANES + lane_at[__builtin_ctz(later != 0 ? later : ready)]];
        to = &running->fiber;
        threadIdx = running->index;
        if (running == self) return;
    }
    emu_fiber_switch(&self->fiber, to, ends);
}

static void wait_here(thread_state state)
{
    thread *self = running;
    self->state = state;
    if (state == READY) warp_ready[self->warp] |= 1u << place_of[self->lane];
    else warp_ready[self->warp] &= ~(1u << place_of[self->lane]);
    leave(self, false);
}

static void release_barrier_if_complete(void);

static void thread_entry(void)
{
    emu_fiber_entered(&scheduler);
    (*running_call)();
    thread *self = running;
    self->state = ENDED;
    live_count--;
    warp_live[self->warp] &= ~(1u << self->lane);
    warp_ready[self->warp] &= ~(1u << place_of[self->lane]);
    release_barrier_if_complete();
    leave(self, true);
    abort();
}

/* In a loop that waits for another warp: let that one run first. */
void __nanosleep(unsigned nanoseconds)
{
    (void)nanoseconds;
    warp_asleep[running->warp] |= 1u << place_of[running->lane];
    wait_here(ASLEEP);
}

unsigned __activemask(void)
{
    return warp_live[running->warp];
}

long long clock64(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (long long)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* ---- barriers --------------------------------------------------------------------------- */

static const char *const BARRIER_NAMES[] = {"__syncthreads", "__syncthreads_or", "__syncthreads_and",
                                            "__syncthreads_count"};

static void release_barrier_if_complete(void)
{
    if (barrier_waiting == 0 || barrier_waiting < live_count) return;
    int count = 0;
    emu_barrier_kind kind = EMU_BARRIER_PLAIN;
    bool first = true;
    for (int i = 0; i < thread_count; i++) {
        thread *t = &threads[i];
        if (t->state != AT_BARRIER) continue;
        if (first) kind = t->barrier;
        else if (t->barrier != kind) {
            emu_fail("thread %d is at %s while others are at %s", i, BARRIER_NAMES[t->barrier], BARRIER_NAMES[kind]);
        }
        first = false;
        count += t->barrier_value;
    }
    int result = kind == EMU_BARRIER_COUNT ? count
        : kind == EMU_BARRIER_OR ? count > 0 : kind == EMU_BARRIER_AND ? count == barrier_waiting : 0;
    for (int i = 0; i < thread_count; i++) {
        if (threads[i].state != AT_BARRIER) continue;
        threads[i].barrier_value = result;
        set_ready(&threads[i]);
    }
    barrier_waiting = 0;
}

int emu_barrier(emu_barrier_kind kind, int predicate)
{
    thread *self = running;
    if (self == NULL) emu_fail("%s outside of a kernel", BARRIER_NAMES[kind]);
    self->barrier = kind;
    self->barrier_value = predicate != 0;
    self->state = AT_BARRIER;
    barrier_waiting++;
    release_barrier_if_complete();
    wait_here(self->state);
    return self->barrier_value;
}

void emu_named_barrier(int id, int count, bool wait)
{
    if (id < 0 || id >= NAMED_BARRIERS) emu_fail("barrier %d does not exist", id);
    if (count <= 0 || count % LANES != 0) emu_fail("barrier %d for %d threads, not a multiple of a warp", id, count);
    named_barrier *barrier = &named_barriers[id];
    if (barrier->waiting > 0 && barrier->expected != count) {
        emu_fail("barrier %d for %d threads, for others %d", id, count, barrier->expected);
    }
    barrier->expected = count;
    running->barrier_id = id;
    if (wait) running->state = AT_NAMED_BARRIER;
    if (++barrier->waiting == count) {
        for (int i = 0; i < thread_count; i++) {
            if (threads[i].state == AT_NAMED_BARRIER && threads[i].barrier_id == id) set_ready(&threads[i]);
        }
        barrier->waiting = 0;
    }
    if (wait) wait_here(running->state);
}

/* ---- warp functions ------------------------------------------------------------------------ */

static const char *const WARP_NAMES[] = {
    "__syncwarp", "__shfl_sync", "__shfl_up_sync", "__shfl_down_sync", "__shfl_xor_sync", "__ballot_sync",
    "__any_sync", "__all_sync", "__reduce_add_sync", "__reduce_min_sync", "__reduce_max_sync",
    "__reduce_min_sync", "__reduce_max_sync", "__reduce_and_sync", "__reduce_or_sync",
    "__reduce_xor_sync", "__match_any_sync", "ldmatrix", "ldmatrix.trans", "mma (bf16)", "mma (f16)",
};

static uint32_t word_of(const warp_call *call)
{
    uint32_t v = 0;
    memcpy(&v, call->in, call->bytes < sizeof v ? call->bytes : sizeof v);
    return v;
}

static void finish_shuffle(thread *lanes, unsigned mask)
{
    unsigned char values[LANES][8];
    for (int i = 0; i < LANES; i++) if (mask >> i & 1u) memcpy(values[i], lanes[i].call.in, lanes[i].call.bytes);
    for (int i = 0; i < LANES; i++) {
        if (!(mask >> i & 1u)) continue;
        const warp_call *call = &lanes[i].call;
        int width = call->width, first = i & ~(width - 1), last = first + width - 1, from = i;
        switch (call->kind) {
        case EMU_SHFL: from = first + (call->argument & (width - 1)); break;
        case EMU_SHFL_UP: from = i - call->argument < first ? i : i - call->argument; break;
        case EMU_SHFL_DOWN: from = i + call->argument > last ? i : i + call->argument; break;
        default: from = (i ^ call->argument) > last ? i : i ^ call->argument; break;
        }
        if (!(mask >> from & 1u)) {
            emu_fail("%s: lane %d reads lane %d, which is not in the mask %#x", WARP_NAMES[call->kind], i, from, mask);
        }
        memcpy(call->out, values[from], call->bytes);
    }
}

static void finish_vote(thread *lanes, unsigned mask)
{
    emu_warp_kind kind = EMU_SYNCWARP;
    uint32_t values[LANES] = {0}, all = 0;
    bool first = true;
    for (int i = 0; i < LANES; i++) {
        if (!(mask >> i & 1u)) continue;
        kind = lanes[i].call.kind;
        uint32_t v = values[i] = word_of(&lanes[i].call);
        if (first) all = kind == EMU_BALLOT ? (v != 0) << i : v;
        else switch (kind) {
        case EMU_BALLOT: all |= (uint32_t)(v != 0) << i; break;
        case EMU_ANY: case EMU_REDUCE_OR: all |= v; break;
        case EMU_ALL: case EMU_REDUCE_AND: all &= v; break;
        case EMU_REDUCE_XOR: all ^= v; break;
        case EMU_REDUCE_ADD: all += v; break;
        case EMU_REDUCE_MIN: all = v < all ? v : all; break;
        case EMU_REDUCE_MAX: all = v > all ? v : all; break;
        case EMU_REDUCE_MIN_SIGNED: all = (int32_t)v < (int32_t)all ? v : all; break;
        case EMU_REDUCE_MAX_SIGNED: all = (int32_t)v > (int32_t)all ? v : all; break;
        default: break;
        }
        first = false;
    }
    for (int i = 0; i < LANES; i++) {
        if (!(mask >> i & 1u)) continue;
        uint32_t result = all;
        if (kind == EMU_MATCH_ANY) {
            result = 0;
            for (int j = 0; j < LANES; j++) if ((mask >> j & 1u) && values[j] == values[i]) result |= 1u << j;
        }
        memcpy(lanes[i].call.out, &result, sizeof result);
    }
}

static void finish_ldmatrix(thread *lanes, bool transposed)
{
    uint16_t matrices[4][8][8];
    for (int i = 0; i < LANES; i++) {
        const void *row;
        memcpy(&row, lanes[i].call.in, sizeof row);
        if ((uintptr_t)row % 16 != 0) emu_fail("ldmatrix: row of lane %d at %p is not 16-byte aligned", i, row);
        __cvta_generic_to_shared(row);
        memcpy(matrices[i / 8][i % 8], row, 16);
    }
    for (int i = 0; i < LANES; i++) {
        uint32_t r[4];
        int row = i / 4, column = 2 * (i % 4);
        for (int m = 0; m < 4; m++) {
            uint16_t low = transposed ? matrices[m][column][row] : matrices[m][row][column];
            uint16_t high = transposed ? matrices[m][column + 1][row] : matrices[m][row][column + 1];
            r[m] = (uint32_t)high << 16 | low;
        }
        memcpy(lanes[i].call.out, r, sizeof r);
    }
}

static void unpack(float *out, uint32_t pair, bool f16)
{
    for (int i = 0; i < 2; i++) {
        uint16_t bits = (uint16_t)(pair >> (16 * i));
        out[i] = f16 ? __half2float(__ushort_as_half(bits)) : __bfloat162float(__ushort_as_bfloat16(bits));
    }
}

/* Products of 16-bit values are exact in F32; they are summed in F64 and rounded once. */
static void finish_mma(thread *lanes, bool f16)
{
    float a[16][16], b[16][8];
    for (int i = 0; i < LANES; i++) {
        const emu_mma_operands *in = (const emu_mma_operands *)lanes[i].call.in;
        int g = i / 4, t = i % 4;
        float pair[2];
        unpack(&a[g][2 * t], in->a[0], f16);
        unpack(&a[g + 8][2 * t], in->a[1], f16);
        unpack(&a[g][2 * t + 8], in->a[2], f16);
        unpack(&a[g + 8][2 * t + 8], in->a[3], f16);
        unpack(pair, in->b[0], f16);
        b[2 * t][g] = pair[0], b[2 * t + 1][g] = pair[1];
        unpack(pair, in->b[1], f16);
        b[2 * t + 8][g] = pair[0], b[2 * t + 9][g] = pair[1];
    }
    double d[16][8];
    for (int m = 0; m < 16; m++) {
        double sum[8] = {0};
        for (int k = 0; k < 16; k++) {
            for (int n = 0; n < 8; n++) sum[n] += (double)(a[m][k] * b[k][n]);
        }
        memcpy(d[m], sum, sizeof sum);
    }
    for (int i = 0; i < LANES; i++) {
        const emu_mma_operands *in = (const emu_mma_operands *)lanes[i].call.in;
        int g = i / 4, t = i % 4;
        float out[4];
        for (int j = 0; j < 4; j++) out[j] = (float)((double)in->d[j] + d[g + j / 2 * 8][2 * t + j % 2]);
        memcpy(lanes[i].call.out, out, sizeof out);
    }
}

static void finish_warp(int warp, unsigned mask, emu_warp_kind kind)
{
    thread *lanes = &threads[warp * LANES];
    switch (kind) {
    case EMU_SYNCWARP: break;
    case EMU_SHFL: case EMU_SHFL_UP: case EMU_SHFL_DOWN: case EMU_SHFL_XOR: finish_shuffle(lanes, mask); break;
    case EMU_LDMATRIX: finish_ldmatrix(lanes, false); break;
    case EMU_LDMATRIX_TRANS: finish_ldmatrix(lanes, true); break;
    case EMU_MMA_BF16: finish_mma(lanes, false); break;
    case EMU_MMA_F16: finish_mma(lanes, true); break;
    default: finish_vote(lanes, mask); break;
    }
}

static bool same_call(const warp_call &a, const warp_call &b)
{
    return a.kind == b.kind && a.mask == b.mask && a.bytes == b.bytes;
}

/* The lanes that are at this call, with the one that comes now. */
static unsigned arrive(int warp, int lane, const warp_call &call)
{
    thread *lanes = &threads[warp * LANES];
    unsigned bit = 1u << lane;
    /* Nearly always all lanes that wait are at the same call. */
    if (warp_waiting[warp] == warp_common[warp] &&
        (warp_common[warp] == 0 || same_call(lanes[__builtin_ctz(warp_common[warp])].call, call))) {
        return warp_common[warp] |= bit;
    }
    unsigned here = bit;
    for (unsigned others = warp_waiting[warp] & call.mask; others != 0; others &= others - 1) {
        int i = __builtin_ctz(others);
        const warp_call &other = lanes[i].call;
        /* A lane may first meet others, without this one. */
        if (!(other.mask & bit)) continue;
        if (!same_call(other, call)) {
            emu_fail("this lane is at %s with mask %#x while lane %d is at %s with mask %#x", WARP_NAMES[call.kind],
                     call.mask, i, WARP_NAMES[other.kind], other.mask);
        }
        here |= 1u << i;
    }
    return here;
}

void emu_warp(emu_warp_kind kind, unsigned mask, void *out, const void *in, size_t bytes, int argument, int width)
{
    thread *self = running;
    const char *name = WARP_NAMES[kind];
    if (self == NULL) emu_fail("%s outside of a kernel", name);
    int warp = self->warp;
    unsigned bit = 1u << self->lane;
    if (!(mask & bit)) emu_fail("%s: the calling lane is not in the mask %#x", name, mask);
    if (mask & ~warp_live[warp]) {
        emu_fail("%s: mask %#x names lanes %#x, which have ended or do not exist", name, mask,
                 mask & ~warp_live[warp]);
    }
    if (width < 1 || width > 32 || (width & (width - 1)) != 0) emu_fail("%s: width %d", name, width);
    thread *lanes = &threads[warp * LANES];
    warp_call call = {kind, mask, out, in, bytes, argument, width};
    unsigned here = arrive(warp, self->lane, call);
    self->call = call;
    warp_waiting[warp] |= bit;
    if (here != mask) {
        wait_here(AT_WARP);
        return;
    }
    finish_warp(warp, mask, kind);
    warp_waiting[warp] &= ~mask;
    warp_common[warp] &= ~mask;
    for (unsigned left = mask & ~bit; left != 0; left &= left - 1) set_ready(&lanes[__builtin_ctz(left)]);
}

/* ---- shared memory --------------------------------------------------------------------------- */

static unsigned char *shared_end;            /* the page from here on cannot be touched */
static unsigned char *shared_base;
static size_t shared_bytes;
static unsigned char *fixed_base;            /* the __shared__ variables                */
static size_t fixed_bytes;

static size_t round_up(size_t v, size_t to)
{
    return (v + to - 1) / to * to;
}

/* Its last byte (but for alignment) lies before a page that cannot be touched. */
static void shared_prepare(size_t bytes)
{
    if (shared_end == NULL) {
        size_t page = (size_t)sysconf(_SC_PAGESIZE), room = round_up(SHARED_BYTES_MAX + page, page);
        void *memory = mmap(NULL, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED || mprotect((char *)memory + room, page, PROT_NONE) != 0) {
            emu_fail("no memory for shared memory");
        }
        shared_end = (unsigned char *)memory + room;
    }
    shared_bytes = bytes;
    shared_base = shared_end - round_up(bytes, 128);
}

static int tls_segment(struct dl_phdr_info *info, size_t, void *out)
{
    struct segment { unsigned char *data; size_t bytes, initialised; } *segment = (struct segment *)out;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *header = &info->dlpi_phdr[i];
        if (header->p_type != PT_TLS) continue;
        segment->data = (unsigned char *)info->dlpi_tls_data;
        segment->bytes = header->p_memsz;
        segment->initialised = header->p_filesz;
    }
    return 1; /* the first is the program itself */
}

/* The program's thread-local variables are the __shared__ ones and nothing else. */
static void fixed_find(void)
{
    struct { unsigned char *data; size_t bytes, initialised; } segment = {NULL, 0, 0};
    dl_iterate_phdr(tls_segment, &segment);
    if (segment.initialised != 0) emu_fail("the program has thread-local variables that are no __shared__ ones");
    fixed_base = segment.data;
    fixed_bytes = segment.data != NULL ? segment.bytes : 0;
}

static void shared_poison(void)
{
    if (fixed_bytes > 0) memset(fixed_base, POISON, fixed_bytes);
    memset(shared_base, POISON, shared_bytes);
    memset(shared_base + shared_bytes, CANARY, (size_t)(shared_end - shared_base) - shared_bytes);
    memset(shared_base - 256, CANARY, 256);
}

static void shared_check(void)
{
    for (int i = 1; i <= 256; i++) {
        if (shared_base[-i] != CANARY) emu_fail("byte %d before dynamic shared memory was written", i);
    }
    for (unsigned char *p = shared_base + shared_bytes; p < shared_end; p++) {
        if (*p == CANARY) continue;
        emu_fail("byte %zu of %zu of dynamic shared memory was written", (size_t)(p - shared_base), shared_bytes);
    }
}

unsigned char *emu_dynamic_shared(void)
{
    return shared_base;
}

static bool is_shared(const void *address)
{
    const unsigned char *p = (const unsigned char *)address;
    return (p >= shared_base && p < shared_end) || (p >= fixed_base && p < fixed_base + fixed_bytes);
}

size_t __cvta_generic_to_shared(const void *shared)
{
    if (!is_shared(shared)) emu_fail("%p is no address in shared memory", shared);
    return (size_t)shared & 0xffffffffu;
}

/* ---- asynchronous copies ------------------------------------------------------------------------ */

void emu_cp_async16(void *shared, const void *global, bool valid)
{
    if ((uintptr_t)shared % 16 != 0 || (uintptr_t)global % 16 != 0) {
        emu_fail("cp.async from %p to %p: not 16-byte aligned", global, shared);
    }
    __cvta_generic_to_shared(shared);
    if (is_shared(global)) emu_fail("cp.async from shared memory");
    memset(shared, POISON, 16);
    running->copies.push_back({shared, global, valid, running->groups});
}

void emu_cp_async_commit(void)
{
    running->groups++;
}

void emu_cp_async_wait(int pending)
{
    thread *self = running;
    size_t kept = 0;
    for (const copy16 &copy : self->copies) {
        if (copy.group + (unsigned)pending >= self->groups) self->copies[kept++] = copy;
        else if (copy.valid) memcpy(copy.shared, copy.global, 16);
        else memset(copy.shared, 0, 16);
    }
    self->copies.resize(kept);
}

void emu_wait_for_previous(void)
{
    previous_waited = true;
}

/* ---- blocks and grids ------------------------------------------------------------------------------ */

static void block_init(const emu_grid &grid)
{
    live_count = thread_count;
    barrier_waiting = 0;
    memset(named_barriers, 0, sizeof named_barriers);
    memset(warp_live, 0, sizeof warp_live);
    memset(warp_waiting, 0, sizeof warp_waiting);
    memset(warp_common, 0, sizeof warp_common);
    memset(warp_ready, 0, sizeof warp_ready);
    memset(warp_asleep, 0, sizeof warp_asleep);
    for (int i = 0; i < thread_count; i++) {
        thread *t = &threads[i];
        unsigned u = (unsigned)i;
        t->index = {u % grid.block.x, u / grid.block.x % grid.block.y, u / grid.block.x / grid.block.y};
        t->warp = i / LANES;
        t->lane = i % LANES;
        set_ready(t);
        t->groups = 0;
        t->copies.clear();
        warp_live[t->warp] |= 1u << t->lane;
        emu_fiber_prepare(&t->fiber, thread_entry, u);
    }
}

static void report_stuck(void)
{
    fprintf(stderr, "cuda emulator: no thread of the block can go on\n");
    for (int warp = 0; warp * LANES < thread_count; warp++) {
        unsigned by_state[6] = {0};
        for (int lane = 0; lane < LANES && warp * LANES + lane < thread_count; lane++) {
            by_state[threads[warp * LANES + lane].state] |= 1u << lane;
        }
        fprintf(stderr, "  warp %d: ended %08x, at a barrier %08x, at a named barrier %08x, at a warp function %08x", warp,
                by_state[ENDED], by_state[AT_BARRIER], by_state[AT_NAMED_BARRIER], by_state[AT_WARP]);
        if (by_state[AT_WARP] != 0) {
            const warp_call *call = &threads[warp * LANES + __builtin_ctz(by_state[AT_WARP])].call;
            fprintf(stderr, " (%s, mask %08x)", WARP_NAMES[call->kind], call->mask);
        }
        fprintf(stderr, "\n");
    }
    emu_fail("a barrier or a warp function was not reached by all its threads");
}

/* Run the lanes of a warp until none can go on. */
static bool run_warp(int warp)
{
    warp_ready[warp] |= warp_asleep[warp];
    warp_asleep[warp] = 0;
    if (warp_ready[warp] == 0) return false;
    while (warp_ready[warp] != 0) {
        running = &threads[warp * LANES + lane_at[__builtin_ctz(warp_ready[warp])]];
        threadIdx = running->index;
        emu_fiber_switch(&scheduler, &running->fiber, false);
    }
    return true;
}

static void run_block(const emu_grid &grid)
{
    int warp_order[WARPS_MAX], warps = (thread_count + LANES - 1) / LANES;
    order_fill(lane_at, LANES);
    for (int i = 0; i < LANES; i++) place_of[lane_at[i]] = i;
    order_fill(warp_order, warps);
    shared_poison();
    block_init(grid);
    while (live_count > 0) {
        bool progress = false;
        for (int i = 0; i < warps; i++) progress |= run_warp(warp_order[i]);
        if (!progress) report_stuck();
    }
    shared_check();
}

void emu_run_grid(const emu_grid &grid, const std::function<void()> &call)
{
    if (running_grid != NULL) emu_fail("a kernel was launched from a kernel");
    fixed_find();
    emu_catch_faults();
    scheduler.stack = NULL; /* perhaps another OS thread than last time */
    running_grid = &grid;
    running_call = &call;
    gridDim = grid.grid;
    blockDim = grid.block;
    thread_count = (int)(grid.block.x * grid.block.y * grid.block.z);
    previous_waited = false;
    shared_prepare(grid.shared_bytes);
    uint64_t blocks = (uint64_t)grid.grid.x * grid.grid.y * grid.grid.z;
    uint64_t step = 1, at = 0;
    if (order_seed == 1) at = blocks - 1, step = blocks - 1;
    if (order_seed >= 2) {
        /* A step that has no divisor in common with the count visits every block once. */
        at = order_seed % blocks;
        step = (uint64_t)order_seed * 7919 % blocks;
        for (bool common = true; common;) {
            uint64_t a = blocks, b = ++step;
            while (b != 0) { uint64_t rest = a % b; a = b, b = rest; }
            common = a != 1;
        }
    }
    for (uint64_t i = 0; i < blocks; i++) {
        blockIdx = {(unsigned)(at % grid.grid.x), (unsigned)(at / grid.grid.x % grid.grid.y),
                    (unsigned)(at / grid.grid.x / grid.grid.y)};
        run_block(grid);
        at = (at + step) % blocks;
    }
    if (grid.early && !previous_waited) {
        emu_fail("launched early, but no thread waited for the kernel before");
    }
    running_grid = NULL;
}
