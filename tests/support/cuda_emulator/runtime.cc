/* SPDX-License-Identifier: Apache-2.0
 *
 * runtime.cc - the CUDA runtime on one emulated device. Work is kept in its stream until the host
 * waits for it, as late as the rules of CUDA allow: what the host reads or overwrites too early
 * shows. Device memory belongs to the device: between kernels the host cannot touch it. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "emulator.h"

#define SHARED_BYTES_PLAIN ((size_t)48 << 10)
#define THREADS_MAX 1024
#define PROCESSORS_AT_START 4
#define MEMORY_POISON 0xff
#define MEMORY_CANARY 0xa5
/* Larger allocations are not filled, nor zeroed byte by byte: touched pages cost time whenever the
 * host's right to them changes. */
#define POISON_BYTES_MAX ((size_t)1 << 20)

typedef std::function<void()> work;

enum memory_kind { MEMORY_DEVICE, MEMORY_PINNED, MEMORY_REGISTERED };

struct allocation {
    memory_kind kind;
    size_t bytes;
    char *map;                  /* NULL: registered                                    */
    size_t map_bytes;
};

struct emu_graph { std::vector<work> nodes; };
struct emu_graph_exec { std::shared_ptr<std::vector<work>> nodes; };

struct emu_stream {
    std::deque<work> queue;
    uint64_t issued, done;      /* pieces of work                                      */
    bool blocking;              /* waits for the default stream, and it for this one   */
    bool destroyed;
    emu_graph *capture;         /* NULL: not recording                                 */
    cudaStreamCaptureMode mode;
    bool invalidated;
};

struct emu_event {
    emu_stream *stream;         /* NULL: never recorded                                */
    uint64_t position;          /* of the stream when it has happened                  */
    std::shared_ptr<double> seconds;
    bool timed;
};

static std::map<uintptr_t, allocation> &allocations = *new std::map<uintptr_t, allocation>;
static std::vector<emu_stream *> &streams = *new std::vector<emu_stream *>;
static std::map<const void *, int> &shared_allowed = *new std::map<const void *, int>;
static emu_stream default_stream = {{}, 0, 0, true, false, NULL, cudaStreamCaptureModeGlobal, false};
static pthread_mutex_t lock_mutex = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static int device_capability = 90, device_processors = PROCESSORS_AT_START;
static size_t memory_total = (size_t)8 << 30, memory_used;
static int event_count;
static int device_open;
static cudaError_t last_error;

struct locked {
    locked() { pthread_mutex_lock(&lock_mutex); }
    ~locked() { pthread_mutex_unlock(&lock_mutex); }
};

static cudaError_t result(cudaError_t error)
{
    if (error != cudaSuccess && error != cudaErrorNotReady) last_error = error;
    return error;
}

/* ---- device ---------------------------------------------------------------------- */

void emu_set_capability(int capability) { device_capability = capability; }
void emu_set_processors(int processors)
{
    device_processors = processors > 0 ? processors : PROCESSORS_AT_START;
}
void emu_set_memory_bytes(size_t bytes) { memory_total = bytes; }

const char *cudaGetErrorName(cudaError_t error)
{
    switch (error) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration: return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
    case cudaErrorInvalidResourceHandle: return "cudaErrorInvalidResourceHandle";
    case cudaErrorNotReady: return "cudaErrorNotReady";
    case cudaErrorLaunchOutOfResources: return "cudaErrorLaunchOutOfResources";
    case cudaErrorStreamCaptureUnsupported: return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated: return "cudaErrorStreamCaptureInvalidated";
    default: return "cudaErrorUnknown";
    }
}

const char *cudaGetErrorString(cudaError_t error)
{
    switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorInvalidResourceHandle: return "invalid resource handle";
    case cudaErrorNotReady: return "device not ready";
    case cudaErrorLaunchOutOfResources: return "too many resources requested for launch";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated: return "operation failed due to a previous error during capture";
    default: return "unknown error";
    }
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError(void) { return last_error; }

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    return result(device == 0 ? cudaSuccess : cudaErrorInvalidDevice);
}

cudaError_t cudaGetDevice(int *device)
{
    *device = 0;
    return cudaSuccess;
}

static size_t shared_bytes_optin(void)
{
    switch (device_capability) {
    case 80: return (size_t)163 << 10;
    case 86: case 89: case 120: return (size_t)99 << 10;
    default: return (size_t)227 << 10;
    }
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device)
{
    if (device != 0) return result(cudaErrorInvalidDevice);
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: *value = THREADS_MAX; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = (int)SHARED_BYTES_PLAIN; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = (int)shared_bytes_optin(); break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = (int)shared_bytes_optin() + 1024; break;
    case cudaDevAttrWarpSize: *value = 32; break;
    case cudaDevAttrMultiProcessorCount: *value = device_processors; break;
    case cudaDevAttrComputeCapabilityMajor: *value = device_capability / 10; break;
    case cudaDevAttrComputeCapabilityMinor: *value = device_capability % 10; break;
    case cudaDevAttrClockRate: case cudaDevAttrMemoryClockRate: *value = 1000000; break;
    case cudaDevAttrGlobalMemoryBusWidth: *value = 64; break;
    case cudaDevAttrL2CacheSize: *value = 1 << 20; break;
    case cudaDevAttrConcurrentKernels: *value = 1; break;
    case cudaDevAttrIntegrated: case cudaDevAttrMpsEnabled: *value = 0; break;
    default: emu_fail("device attribute %d is not emulated", (int)attribute);
    }
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device)
{
    if (device != 0) return result(cudaErrorInvalidDevice);
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "emulated device");
    p->totalGlobalMem = memory_total;
    p->sharedMemPerBlock = SHARED_BYTES_PLAIN;
    p->sharedMemPerBlockOptin = shared_bytes_optin();
    p->sharedMemPerMultiprocessor = shared_bytes_optin() + 1024;
    p->major = device_capability / 10;
    p->minor = device_capability % 10;
    p->multiProcessorCount = device_processors;
    p->cooperativeLaunch = device_processors == 1; /* blocks run one after the other */
    p->warpSize = 32;
    p->maxThreadsPerBlock = THREADS_MAX;
    p->l2CacheSize = 1 << 20;
    p->memoryBusWidth = 64;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

/* ---- streams ------------------------------------------------------------------------- */

static void device_protect(int protection)
{
    for (auto &entry : allocations) {
        if (entry.second.kind != MEMORY_DEVICE) continue;
        mprotect(entry.second.map, entry.second.map_bytes, protection);
    }
}

static void device_enter(void)
{
    if (device_open++ == 0) device_protect(PROT_READ | PROT_WRITE);
}

static void device_leave(void)
{
    if (--device_open > 0) return;
    device_protect(PROT_NONE);
    emu_catch_faults();
}

/* Run the first `upto` pieces of the stream's work. */
static void flush(emu_stream *stream, uint64_t upto)
{
    if (stream->done >= upto || stream->queue.empty()) return;
    device_enter();
    while (stream->done < upto && !stream->queue.empty()) {
        work next = std::move(stream->queue.front());
        stream->queue.pop_front();
        next();
        stream->done++;
    }
    device_leave();
}

static void flush_all(bool blocking_only)
{
    for (emu_stream *stream : streams) if (stream->blocking || !blocking_only) flush(stream, stream->issued);
    flush(&default_stream, default_stream.issued);
}

static emu_stream *stream_of(cudaStream_t stream)
{
    if (stream == NULL || stream == cudaStreamLegacy) return &default_stream;
    for (emu_stream *known : streams) {
        if (known != stream) continue;
        if (known->destroyed) emu_fail("a destroyed stream is used");
        return known;
    }
    emu_fail("%p is no stream", (void *)stream);
}

static void put(emu_stream *stream, work piece)
{
    stream->queue.push_back(std::move(piece));
    stream->issued++;
}

static cudaError_t enqueue(emu_stream *stream, work piece)
{
    if (stream->capture != NULL) {
        if (stream->invalidated) return cudaErrorStreamCaptureInvalidated;
        stream->capture->nodes.push_back(std::move(piece));
        return cudaSuccess;
    }
    if (stream == &default_stream) {
        for (emu_stream *other : streams) {
            uint64_t position = other->issued;
            if (other->blocking && !other->destroyed) put(stream, [=]() { flush(other, position); });
        }
    } else if (stream->blocking && !default_stream.queue.empty()) {
        uint64_t position = default_stream.issued;
        put(stream, [=]() { flush(&default_stream, position); });
    }
    put(stream, std::move(piece));
    return cudaSuccess;
}

/* What may not be called while a stream records; it ends the recording. */
static bool forbidden_in_capture(bool relaxed_too)
{
    bool found = false;
    for (emu_stream *stream : streams) {
        if (stream->capture == NULL || (stream->mode == cudaStreamCaptureModeRelaxed && !relaxed_too)) continue;
        stream->invalidated = true;
        found = true;
    }
    return found;
}

cudaError_t emu_enqueue(cudaStream_t stream, void (*run)(void *), const void *context, size_t bytes)
{
    locked guard;
    auto kept = std::make_shared<std::vector<unsigned char>>((const unsigned char *)context,
                                                             (const unsigned char *)context + bytes);
    return result(enqueue(stream_of(stream), [=]() { run(kept->data()); }));
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags)
{
    locked guard;
    if (forbidden_in_capture(false)) return result(cudaErrorStreamCaptureUnsupported);
    emu_stream *stream = new emu_stream();
    stream->blocking = !(flags & cudaStreamNonBlocking);
    streams.push_back(stream);
    *out = stream;
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *out)
{
    return cudaStreamCreateWithFlags(out, cudaStreamDefault);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *out, unsigned flags, int)
{
    return cudaStreamCreateWithFlags(out, flags);
}

cudaError_t cudaStreamDestroy(cudaStream_t handle)
{
    locked guard;
    emu_stream *stream = stream_of(handle);
    if (stream == &default_stream) return result(cudaErrorInvalidResourceHandle);
    if (stream->capture != NULL) emu_fail("a stream that records is destroyed");
    flush(stream, stream->issued);
    stream->destroyed = true; /* kept: events may still name it */
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle)
{
    locked guard;
    emu_stream *stream = stream_of(handle);
    if (stream->capture != NULL || forbidden_in_capture(false)) {
        stream->invalidated = true;
        return result(cudaErrorStreamCaptureUnsupported);
    }
    flush(stream, stream->issued);
    return cudaSuccess;
}

/* Each question brings the stream one step forward, so that asking in a loop ends. */
cudaError_t cudaStreamQuery(cudaStream_t handle)
{
    locked guard;
    emu_stream *stream = stream_of(handle);
    if (stream->capture != NULL) return result(cudaErrorStreamCaptureUnsupported);
    if (stream->queue.empty()) return cudaSuccess;
    flush(stream, stream->done + 1);
    return cudaErrorNotReady;
}

cudaError_t cudaDeviceSynchronize(void)
{
    locked guard;
    if (forbidden_in_capture(true)) return result(cudaErrorStreamCaptureUnsupported);
    flush_all(false);
    return cudaSuccess;
}

/* ---- events ------------------------------------------------------------------------------ */

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags)
{
    locked guard;
    *out = new emu_event();
    (*out)->timed = !(flags & cudaEventDisableTiming);
    event_count++;
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *out)
{
    return cudaEventCreateWithFlags(out, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    locked guard;
    if (event == NULL) return result(cudaErrorInvalidResourceHandle);
    delete event;
    event_count--;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t handle)
{
    locked guard;
    emu_stream *stream = stream_of(handle);
    if (event == NULL) return result(cudaErrorInvalidResourceHandle);
    if (stream->capture != NULL) emu_fail("an event in a recording is not emulated");
    auto seconds = std::make_shared<double>(0.0);
    enqueue(stream, [=]() { *seconds = now_s(); });
    event->stream = stream;
    event->position = stream->issued;
    event->seconds = seconds;
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    locked guard;
    if (event == NULL) return result(cudaErrorInvalidResourceHandle);
    if (forbidden_in_capture(false)) return result(cudaErrorStreamCaptureUnsupported);
    if (event->stream != NULL) flush(event->stream, event->position);
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    locked guard;
    if (event == NULL) return result(cudaErrorInvalidResourceHandle);
    if (event->stream == NULL || event->stream->done >= event->position) return cudaSuccess;
    flush(event->stream, event->stream->done + 1);
    return cudaErrorNotReady;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned)
{
    locked guard;
    emu_stream *stream = stream_of(handle), *other = event != NULL ? event->stream : NULL;
    if (event == NULL) return result(cudaErrorInvalidResourceHandle);
    if (stream->capture != NULL) emu_fail("an event in a recording is not emulated");
    if (other == NULL || other == stream) return cudaSuccess;
    uint64_t position = event->position;
    return result(enqueue(stream, [=]() { flush(other, position); }));
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end)
{
    locked guard;
    if (start == NULL || end == NULL || !start->timed || !end->timed || start->stream == NULL || end->stream == NULL) {
        return result(cudaErrorInvalidResourceHandle);
    }
    if (start->stream->done < start->position || end->stream->done < end->position) return cudaErrorNotReady;
    *milliseconds = (float)((*end->seconds - *start->seconds) * 1e3);
    return cudaSuccess;
}

/* ---- memory ------------------------------------------------------------------------------- */

/* The allocation that holds the address, or NULL. */
static const allocation *allocation_of(const void *memory, uintptr_t *first)
{
    auto after = allocations.upper_bound((uintptr_t)memory);
    if (after == allocations.begin()) return NULL;
    --after;
    if ((uintptr_t)memory >= after->first + (after->second.bytes > 0 ? after->second.bytes : 1)) return NULL;
    *first = after->first;
    return &after->second;
}

static bool is_device(const void *memory)
{
    uintptr_t first;
    const allocation *a = allocation_of(memory, &first);
    return a != NULL && a->kind == MEMORY_DEVICE;
}

static bool is_pinned(const void *memory)
{
    uintptr_t first;
    const allocation *a = allocation_of(memory, &first);
    return a != NULL && a->kind != MEMORY_DEVICE;
}

static bool fits(const void *memory, size_t bytes)
{
    uintptr_t first;
    const allocation *a = allocation_of(memory, &first);
    return a == NULL || (uintptr_t)memory + bytes <= first + a->bytes;
}

/* The last byte, but for the alignment of 256, lies before a page that cannot be touched. */
static cudaError_t take(void **out, size_t bytes, memory_kind kind)
{
    *out = NULL;
    if (forbidden_in_capture(false)) return result(cudaErrorStreamCaptureUnsupported);
    if (bytes == 0) return cudaSuccess;
    if (kind == MEMORY_DEVICE && bytes > memory_total - memory_used) return result(cudaErrorMemoryAllocation);
    size_t page = (size_t)sysconf(_SC_PAGESIZE), rounded = (bytes + 255) / 256 * 256;
    size_t room = (rounded + page - 1) / page * page;
    void *map = mmap(NULL, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) return result(cudaErrorMemoryAllocation);
    mprotect((char *)map + room, page, PROT_NONE);
    char *memory = (char *)map + room - rounded;
    if (bytes <= POISON_BYTES_MAX) memset(map, MEMORY_POISON, room);
    memset(memory + bytes, MEMORY_CANARY, rounded - bytes);
    allocations[(uintptr_t)memory] = {kind, bytes, (char *)map, room};
    if (kind == MEMORY_DEVICE) {
        memory_used += rounded;
        if (device_open == 0) mprotect(map, room, PROT_NONE);
    }
    *out = memory;
    return cudaSuccess;
}

static cudaError_t give(void *memory, memory_kind kind, const char *function)
{
    if (memory == NULL) return cudaSuccess;
    if (forbidden_in_capture(false)) return result(cudaErrorStreamCaptureUnsupported);
    auto found = allocations.find((uintptr_t)memory);
    if (found == allocations.end() || found->second.kind != kind) {
        emu_fail("%s(%p): not allocated, or freed before", function, memory);
    }
    flush_all(false);
    device_enter();
    allocation a = found->second;
    const unsigned char *bytes = (const unsigned char *)memory;
    size_t rounded = (a.bytes + 255) / 256 * 256;
    for (size_t i = a.bytes; i < rounded; i++) {
        if (bytes[i] != MEMORY_CANARY) emu_fail("byte %zu of an allocation of %zu was written", i, a.bytes);
    }
    allocations.erase(found);
    munmap(a.map, a.map_bytes + (size_t)sysconf(_SC_PAGESIZE));
    if (kind == MEMORY_DEVICE) memory_used -= rounded;
    device_leave();
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **out, size_t bytes)
{
    locked guard;
    return take(out, bytes, MEMORY_DEVICE);
}

cudaError_t cudaFree(void *memory)
{
    locked guard;
    return give(memory, MEMORY_DEVICE, "cudaFree");
}

cudaError_t cudaMallocHost(void **out, size_t bytes)
{
    locked guard;
    return take(out, bytes, MEMORY_PINNED);
}

cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned)
{
    return cudaMallocHost(out, bytes);
}

cudaError_t cudaFreeHost(void *memory)
{
    locked guard;
    return give(memory, MEMORY_PINNED, "cudaFreeHost");
}

cudaError_t cudaHostRegister(void *memory, size_t bytes, unsigned)
{
    locked guard;
    uintptr_t first;
    if (memory == NULL || bytes == 0) return result(cudaErrorInvalidValue);
    if (allocation_of(memory, &first) != NULL) return result(cudaErrorHostMemoryAlreadyRegistered);
    allocations[(uintptr_t)memory] = {MEMORY_REGISTERED, bytes, NULL, 0};
    return cudaSuccess;
}

cudaError_t cudaHostUnregister(void *memory)
{
    locked guard;
    auto found = allocations.find((uintptr_t)memory);
    if (found == allocations.end() || found->second.kind != MEMORY_REGISTERED) {
        return result(cudaErrorHostMemoryNotRegistered);
    }
    flush_all(false);
    allocations.erase(found);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    locked guard;
    *free_bytes = memory_total - memory_used;
    *total_bytes = memory_total;
    return cudaSuccess;
}

size_t emu_leak_count(void)
{
    locked guard;
    size_t count = 0;
    for (auto &entry : allocations) {
        static const char *const KINDS[] = {"device", "pinned", "registered"};
        fprintf(stderr, "cuda emulator: %zu bytes of %s memory were never freed\n", entry.second.bytes,
                KINDS[entry.second.kind]);
        count++;
    }
    for (emu_stream *stream : streams) {
        if (stream->destroyed) continue;
        fprintf(stderr, "cuda emulator: a stream was never destroyed\n");
        count++;
    }
    if (event_count > 0) fprintf(stderr, "cuda emulator: %d events were never destroyed\n", event_count);
    return count + (size_t)event_count;
}

__attribute__((destructor)) static void report_leaks(void)
{
    if (emu_leak_count() == 0) return;
    fflush(NULL);
    _exit(1);
}

static void copy_now(void *out, const void *in, size_t bytes)
{
    memmove(out, in, bytes);
}

static cudaError_t copy_check(void *out, const void *in, size_t bytes, cudaMemcpyKind kind)
{
    bool to_device = is_device(out), from_device = is_device(in);
    bool fine = kind == cudaMemcpyDefault
        || (kind == cudaMemcpyHostToDevice && to_device && !from_device)
        || (kind == cudaMemcpyDeviceToHost && !to_device && from_device)
        || (kind == cudaMemcpyDeviceToDevice && to_device && from_device)
        || (kind == cudaMemcpyHostToHost && !to_device && !from_device);
    return fine && fits(out, bytes) && fits(in, bytes) ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaMemcpyAsync(void *out, const void *in, size_t bytes, cudaMemcpyKind kind, cudaStream_t handle)
{
    locked guard;
    emu_stream *stream = stream_of(handle);
    if (bytes == 0) return cudaSuccess;
    cudaError_t error = copy_check(out, in, bytes, kind);
    if (error != cudaSuccess) return result(error);
    bool recorded = stream->capture != NULL;
    if (!recorded && !is_device(in) && !is_pinned(in)) {
        /* Pageable memory has been read when the call returns. */
        auto kept = std::make_shared<std::vector<char>>((const char *)in, (const char *)in + bytes);
        return result(enqueue(stream, [=]() { copy_now(out, kept->data(), bytes); }));
    }
    error = enqueue(stream, [=]() { copy_now(out, in, bytes); });
    /* Pageable memory has been written when the call returns. */
    if (!recorded && !is_device(out) && !is_pinned(out)) flush(stream, stream->issued);
    return result(error);
}

cudaError_t cudaMemcpy(void *out, const void *in, size_t bytes, cudaMemcpyKind kind)
{
    locked guard;
    if (forbidden_in_capture(false)) return result(cudaErrorStreamCaptureUnsupported);
    cudaError_t error = cudaMemcpyAsync(out, in, bytes, kind, NULL);
    if (error == cudaSuccess) flush(&default_stream, default_stream.issued);
    return error;
}

static void fill_now(void *out, int value, size_t bytes)
{
    /* Whole pages of zeros cost no memory. */
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *first = (char *)(((uintptr_t)out + page - 1) / page * page);
    char *last = (char *)(((uintptr_t)out + bytes) / page * page);
    if (value != 0 || bytes < POISON_BYTES_MAX || madvise(first, (size_t)(last - first), MADV_DONTNEED) != 0) {
        memset(out, value, bytes);
        return;
    }
    memset(out, 0, (size_t)(first - (char *)out));
    memset(last, 0, (size_t)((char *)out + bytes - last));
}

cudaError_t cudaMemsetAsync(void *out, int value, size_t bytes, cudaStream_t handle)
{
    locked guard;
    if (bytes == 0) return cudaSuccess;
    if (!is_device(out) || !fits(out, bytes)) return result(cudaErrorInvalidValue);
    return result(enqueue(stream_of(handle), [=]() { fill_now(out, value, bytes); }));
}

cudaError_t cudaMemset(void *out, int value, size_t bytes)
{
    return cudaMemsetAsync(out, value, bytes, NULL);
}

/* ---- graphs ---------------------------------------------------------------------------------- */

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode)
{
    locked guard;
    emu_stream *stream = stream_of(handle);
    if (stream == &default_stream || stream->capture != NULL) return result(cudaErrorStreamCaptureUnsupported);
    stream->capture = new emu_graph();
    stream->mode = mode;
    stream->invalidated = false;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t *out)
{
    locked guard;
    emu_stream *stream = stream_of(handle);
    *out = NULL;
    if (stream->capture == NULL) return result(cudaErrorInvalidValue);
    if (stream->invalidated) delete stream->capture;
    else *out = stream->capture;
    stream->capture = NULL;
    return result(*out != NULL ? cudaSuccess : cudaErrorStreamCaptureInvalidated);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus *status)
{
    locked guard;
    emu_stream *stream = stream_of(handle);
    *status = stream->capture == NULL ? cudaStreamCaptureStatusNone
        : stream->invalidated ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    locked guard;
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count)
{
    locked guard;
    if (nodes != NULL) emu_fail("the nodes of a graph are not emulated, only their count");
    *count = graph->nodes.size();
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long)
{
    locked guard;
    *out = new emu_graph_exec{std::make_shared<std::vector<work>>(graph->nodes)};
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long flags)
{
    return cudaGraphInstantiate(out, graph, flags);
}

cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t)
{
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t handle)
{
    locked guard;
    auto nodes = exec->nodes;
    return result(enqueue(stream_of(handle), [=]() { for (const work &node : *nodes) node(); }));
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    locked guard;
    delete exec;
    return cudaSuccess;
}

/* ---- kernels ----------------------------------------------------------------------------------- */

cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute attribute, int value)
{
    locked guard;
    if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) return cudaSuccess;
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) emu_fail("kernel attribute %d is not emulated", (int)attribute);
    if (value < 0 || (size_t)value > shared_bytes_optin()) return result(cudaErrorInvalidValue);
    shared_allowed[kernel] = value;
    return cudaSuccess;
}

cudaError_t emu_occupancy(int *blocks, int threads, size_t shared_bytes)
{
    size_t by_threads = 2048 / (size_t)threads;
    size_t by_shared = (shared_bytes_optin() + 1024) / (shared_bytes + 1024);
    size_t all = by_threads < by_shared ? by_threads : by_shared;
    *blocks = (int)(all < 2 ? all : 2);
    return cudaSuccess;
}

static bool is_mapped(uintptr_t address)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    unsigned char resident;
    return mincore((void *)(address / page * page), 1, &resident) == 0 || errno != ENOMEM;
}

void emu_check_pointer(const void *kernel, int index, const void *pointer)
{
    locked guard;
    uintptr_t first;
    if (pointer == NULL || allocation_of(pointer, &first) != NULL || !is_mapped((uintptr_t)pointer)) return;
    /* A pointer just behind an allocation may be passed, though not used. */
    if (allocation_of((const char *)pointer - 1, &first) != NULL) return;
    emu_fail("argument %d of kernel %p is the host address %p", index, kernel, pointer);
}

cudaError_t emu_launch(const cudaLaunchConfig_t *config, const void *kernel, const std::function<void()> &call)
{
    locked guard;
    emu_stream *stream = stream_of(config->stream);
    const dim3 &g = config->gridDim, &b = config->blockDim;
    if (g.x == 0 || g.y == 0 || g.z == 0 || g.x > 0x7fffffffu || g.y > 65535 || g.z > 65535 || b.x == 0 ||
        b.y == 0 || b.z == 0 || b.z > 64 || (uint64_t)b.x * b.y * b.z > THREADS_MAX) {
        return result(cudaErrorInvalidConfiguration);
    }
    auto allowed = shared_allowed.find(kernel);
    size_t shared_max = allowed != shared_allowed.end() ? (size_t)allowed->second : SHARED_BYTES_PLAIN;
    if (shared_max < SHARED_BYTES_PLAIN) shared_max = SHARED_BYTES_PLAIN;
    if (config->dynamicSmemBytes > shared_max) return result(cudaErrorInvalidValue);
    emu_grid grid = {kernel, g, b, config->dynamicSmemBytes, false};
    for (unsigned i = 0; i < config->numAttrs; i++) {
        const cudaLaunchAttribute *attribute = &config->attrs[i];
        if (attribute->id != cudaLaunchAttributeProgrammaticStreamSerialization) continue;
        if (device_capability < 90) return result(cudaErrorInvalidValue);
        grid.early = attribute->val.programmaticStreamSerializationAllowed != 0;
    }
    return result(enqueue(stream, [=]() { emu_run_grid(grid, call); }));
}
