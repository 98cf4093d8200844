/* A stand-in for NVIDIA's driver: one GPU whose memory is the host's.
 *
 * With it a program for GPUs starts on a machine without one, allocates, copies, generates its kernels and has them compiled.
 * Kernels that the real NVRTC compiled do nothing, and what the program then computes is garbage. Those that its stand-in
 * compiled for the host (libnvrtc.c) are run, unit after unit. No time of either means anything.
 *
 * STANDIN_CAPABILITY  compute capability of the GPU: 90 (default), 80, ...
 * STANDIN_PTX         a folder: every module that is loaded is written there, as PROCESS-NUMBER.ptx
 * STANDIN_MEMORY      bytes that the GPU has (default: 8 GiB); what is allocated beyond that is refused
 * STANDIN_COUNT       GPUs that the driver sees (default: 1)
 * STANDIN_DRIVER      the CUDA that it knows (default: 13020, which is 13.2)
 *
 * Compile it as libcuda.so, the first name that the program looks for. NVRTC itself loads libcuda.so.1 and needs the real one,
 * or none.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

typedef int Result;
typedef uint64_t Pointer;
typedef void *Handle;

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101 };

static long setting(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text ? atol(text) : otherwise;
}

static size_t memory(void) { return (size_t)setting("STANDIN_MEMORY", 8L << 30); }
static int count(void) { return (int)setting("STANDIN_COUNT", 1); }

/* --- the driver and its GPUs --- */

Result cuInit(unsigned flags) { (void)flags; return SUCCESS; }
Result cuDriverGetVersion(int *version) { *version = (int)setting("STANDIN_DRIVER", 13020); return SUCCESS; }
Result cuDeviceGetCount(int *found) { *found = count(); return SUCCESS; }
Result cuDeviceGet(int *device, int ordinal) {
    if (ordinal < 0 || ordinal >= count()) return INVALID_DEVICE;
    *device = ordinal;
    return SUCCESS;
}
Result cuDeviceGetName(char *name, int size, int device) {
    (void)device;
    snprintf(name, (size_t)size, "stand-in, not a GPU");
    return SUCCESS;
}
Result cuDeviceGetPCIBusId(char *id, int size, int device) {
    snprintf(id, (size_t)size, "0000:%02x:00.0", device + 1);
    return SUCCESS;
}
Result cuDeviceGetUuid_v2(char *uuid, int device) { memset(uuid, device + 1, 16); return SUCCESS; }
Result cuDeviceTotalMem_v2(size_t *bytes, int device) { (void)device; *bytes = memory(); return SUCCESS; }
Result cuDeviceGetAttribute(int *value, int attribute, int device) {
    long capability = setting("STANDIN_CAPABILITY", 90);
    (void)device;
    switch (attribute) {
    case 1: case 2: case 3: *value = 1024; break;      /* threads of a block; its x and y */
    case 4: *value = 64; break;                        /* its z */
    case 5: *value = 2147483647; break;                /* x of a grid */
    case 6: case 7: *value = 65535; break;             /* its y and z */
    case 8: *value = 49152; break;                     /* shared memory of a block */
    case 10: *value = 32; break;                       /* threads of a warp */
    case 16: *value = 132; break;                      /* multiprocessors */
    case 75: *value = (int)(capability / 10); break;
    case 76: *value = (int)(capability % 10); break;
    case 97: *value = 166912; break;                   /* shared memory of a block that asks for it */
    case 115: *value = 1; break;                       /* pools of memory */
    default: *value = 0;
    }
    return SUCCESS;
}
Result cuGetErrorName(int error, const char **name) {
    *name = error == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_OF_THE_STAND_IN";
    return SUCCESS;
}
Result cuGetErrorString(int error, const char **text) { return cuGetErrorName(error, text); }

/* --- contexts, streams and events: everything is done at once --- */

static Handle something(void) { return malloc(8); }

Result cuDevicePrimaryCtxRetain(Handle *context, int device) { *context = (Handle)(uintptr_t)(0x1000 + device); return SUCCESS; }
Result cuDevicePrimaryCtxRelease_v2(int device) { (void)device; return SUCCESS; }
Result cuCtxSetCurrent(Handle context) { (void)context; return SUCCESS; }
Result cuCtxGetCurrent(Handle *context) { *context = (Handle)0x1000; return SUCCESS; }
Result cuCtxSynchronize(void) { return SUCCESS; }
Result cuCtxGetStreamPriorityRange(int *least, int *greatest) { *least = 0; *greatest = -5; return SUCCESS; }
Result cuStreamCreate(Handle *stream, unsigned flags) { (void)flags; *stream = something(); return SUCCESS; }
Result cuStreamCreateWithPriority(Handle *stream, unsigned flags, int priority) { (void)priority; return cuStreamCreate(stream, flags); }
Result cuStreamDestroy_v2(Handle stream) { free(stream); return SUCCESS; }
Result cuStreamSynchronize(Handle stream) { (void)stream; return SUCCESS; }
Result cuStreamQuery(Handle stream) { (void)stream; return SUCCESS; }
Result cuStreamWaitEvent(Handle stream, Handle event, unsigned flags) { (void)stream; (void)event; (void)flags; return SUCCESS; }
Result cuEventCreate(Handle *event, unsigned flags) { (void)flags; *event = something(); return SUCCESS; }
Result cuEventDestroy_v2(Handle event) { free(event); return SUCCESS; }
Result cuEventRecord(Handle event, Handle stream) { (void)event; (void)stream; return SUCCESS; }
Result cuEventQuery(Handle event) { (void)event; return SUCCESS; }
Result cuEventSynchronize(Handle event) { (void)event; return SUCCESS; }
Result cuEventElapsedTime_v2(float *milliseconds, Handle start, Handle end) { (void)start; (void)end; *milliseconds = 1.0f; return SUCCESS; }

/* --- memory: a header before each block says how large it is --- */

enum { HEADER = 512 };
static size_t used;

Result cuMemAlloc_v2(Pointer *pointer, size_t bytes) {
    size_t whole = HEADER + (bytes + HEADER - 1) / HEADER * HEADER;
    char *block;
    if (__sync_add_and_fetch(&used, bytes) > memory() || !(block = aligned_alloc(HEADER, whole))) {
        __sync_sub_and_fetch(&used, bytes);
        return OUT_OF_MEMORY;
    }
    memset(block, 0, whole);
    *(size_t *)block = bytes;
    *pointer = (Pointer)(uintptr_t)(block + HEADER);
    return SUCCESS;
}
Result cuMemFree_v2(Pointer pointer) {
    char *block = (char *)(uintptr_t)pointer - HEADER;
    if (!pointer) return SUCCESS;
    __sync_sub_and_fetch(&used, *(size_t *)block);
    free(block);
    return SUCCESS;
}
Result cuMemAllocAsync(Pointer *pointer, size_t bytes, Handle stream) { (void)stream; return cuMemAlloc_v2(pointer, bytes); }
Result cuMemFreeAsync(Pointer pointer, Handle stream) { (void)stream; return cuMemFree_v2(pointer); }
Result cuMemAllocHost_v2(void **pointer, size_t bytes) {
    *pointer = aligned_alloc(512, (bytes + 511) / 512 * 512);
    return *pointer ? SUCCESS : OUT_OF_MEMORY;
}
Result cuMemHostAlloc(void **pointer, size_t bytes, unsigned flags) { (void)flags; return cuMemAllocHost_v2(pointer, bytes); }
Result cuMemFreeHost(void *pointer) { free(pointer); return SUCCESS; }
Result cuMemGetInfo_v2(size_t *free_bytes, size_t *total) { *total = memory(); *free_bytes = memory() - used; return SUCCESS; }

static Result copy(void *to, const void *from, size_t bytes) { memmove(to, from, bytes); return SUCCESS; }
static void *at(Pointer pointer) { return (void *)(uintptr_t)pointer; }

Result cuMemcpyHtoD_v2(Pointer to, const void *from, size_t bytes) { return copy(at(to), from, bytes); }
Result cuMemcpyDtoH_v2(void *to, Pointer from, size_t bytes) { return copy(to, at(from), bytes); }
Result cuMemcpyHtoDAsync_v2(Pointer to, const void *from, size_t bytes, Handle stream) { (void)stream; return copy(at(to), from, bytes); }
Result cuMemcpyDtoHAsync_v2(void *to, Pointer from, size_t bytes, Handle stream) { (void)stream; return copy(to, at(from), bytes); }
Result cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t bytes, Handle stream) { (void)stream; return copy(at(to), at(from), bytes); }
Result cuMemsetD8_v2(Pointer to, unsigned char value, size_t bytes) { memset(at(to), value, bytes); return SUCCESS; }
Result cuMemsetD8Async(Pointer to, unsigned char value, size_t bytes, Handle stream) { (void)stream; return cuMemsetD8_v2(to, value, bytes); }

/* CUDA_MEMCPY2D_v2. */
struct Copy2D {
    size_t from_x, from_y;
    unsigned from_kind;
    const void *from_host;
    Pointer from_device;
    Handle from_array;
    size_t from_pitch, to_x, to_y;
    unsigned to_kind;
    void *to_host;
    Pointer to_device;
    Handle to_array;
    size_t to_pitch, width, height;
};
Result cuMemcpy2DAsync_v2(const struct Copy2D *c, Handle stream) {
    const char *from = c->from_kind == 1 ? c->from_host : at(c->from_device);
    char *to = c->to_kind == 1 ? c->to_host : at(c->to_device);
    (void)stream;
    if (c->from_kind < 1 || c->from_kind > 2 || c->to_kind < 1 || c->to_kind > 2) return INVALID_VALUE;
    for (size_t row = 0; row < c->height; row++)
        memcpy(to + (c->to_y + row) * c->to_pitch + c->to_x, from + (c->from_y + row) * c->from_pitch + c->from_x, c->width);
    return SUCCESS;
}

/* --- modules and kernels --- */

/* The one kernel that the program has in PTX, the addition of sums over NCCL, is known by its name and computed here. */
static char addition;

static void add(float *left, const float *right, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) left[i] += right[i];
}

Result cuModuleLoadData(Handle *module, const void *ptx) {
    static int loaded;
    const char *folder = getenv("STANDIN_PTX");
    int number = __sync_fetch_and_add(&loaded, 1);
    if (folder) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%d-%04d.ptx", folder, (int)getpid(), number);
        FILE *file = fopen(path, "w");
        if (!file || fputs(ptx, file) < 0 || fclose(file)) {
            fprintf(stderr, "the stand-in for CUDA cannot write %s\n", path);
            abort();
        }
    }
    *module = strstr(ptx, ".entry perennial_add(") ? &addition : NULL;
    if (!strncmp(ptx, "//host ", 7)) {
        char *path = strdup((const char *)ptx + 7);
        path[strcspn(path, "\n")] = 0;
        *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (!*module) fprintf(stderr, "the stand-in for CUDA cannot load %s\n", path);
        free(path);
        return *module ? SUCCESS : INVALID_VALUE;
    }
    return SUCCESS;
}
Result cuModuleGetFunction(Handle *function, Handle module, const char *name) { (void)name; *function = module; return SUCCESS; }
Result cuModuleUnload(Handle module) { (void)module; return SUCCESS; }
Result cuFuncSetAttribute(Handle function, int attribute, int value) { (void)function; (void)attribute; (void)value; return SUCCESS; }
Result cuFuncGetAttribute(int *value, int attribute, Handle function) { (void)attribute; (void)function; *value = 0; return SUCCESS; }

/* --- a kernel on the host: its blocks one after the other. Units that meet at barriers take turns, each on its own stack --- */

enum { UNITS = 1024, STACK = 64 << 10 };

static void (*run_unit)(unsigned, unsigned, unsigned, void **);
static void **run_arguments;
static unsigned run_dim[3];
static char *stacks[UNITS], done[UNITS];
static unsigned turn;
/* Where the caller and each unit go on. Unlike a context, a jump saves no signals, which would take longer than the work. */
static jmp_buf caller, turns[UNITS];
static ucontext_t first;

static void run(unsigned unit) {
    run_unit(unit % run_dim[0], unit / run_dim[0] % run_dim[1], unit / run_dim[0] / run_dim[1], run_arguments);
}
static void run_turn(void) {
    run(turn);
    done[turn] = 1;
    _longjmp(caller, 1);
}
static void barrier(void) {
    if (!_setjmp(turns[turn])) _longjmp(caller, 1);
}
static void go_on(int begins) {
    if (_setjmp(caller)) return;
    if (!begins) _longjmp(turns[turn], 1);
    if (!stacks[turn]) stacks[turn] = malloc(STACK);
    getcontext(&first);
    first.uc_stack.ss_sp = stacks[turn];
    first.uc_stack.ss_size = STACK;
    makecontext(&first, run_turn, 0);
    setcontext(&first);
}

static void run_block(unsigned units, int has_barriers) {
    if (!has_barriers) {
        for (unsigned unit = 0; unit < units; unit++) run(unit);
        return;
    }
    memset(done, 0, units);
    for (int begins = 1, running = 1; running; begins = 0) {
        running = 0;
        for (turn = 0; turn < units; turn++)
            if (!done[turn]) {
                go_on(begins);
                running |= !done[turn];
            }
    }
}

static Result run_on_host(Handle module, const unsigned *grid, const unsigned *dim, void **arguments) {
    static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
    void (*enter)(const unsigned *, const unsigned *, const unsigned *, void (*)(void));
    const int *has_barriers = dlsym(module, "standin_barriers");
    *(void **)&enter = dlsym(module, "standin_block");
    pthread_mutex_lock(&one_at_a_time);
    *(void **)&run_unit = dlsym(module, "standin_unit");
    run_arguments = arguments;
    memcpy(run_dim, dim, sizeof run_dim);
    for (unsigned z = 0; z < grid[2]; z++)
        for (unsigned y = 0; y < grid[1]; y++)
            for (unsigned x = 0; x < grid[0]; x++) {
                unsigned block[3] = {x, y, z};
                enter(block, dim, grid, barrier);
                run_block(dim[0] * dim[1] * dim[2], *has_barriers);
            }
    pthread_mutex_unlock(&one_at_a_time);
    return SUCCESS;
}

Result cuLaunchKernel(Handle function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                      unsigned shared, Handle stream, void **arguments, void **extra) {
    unsigned grid[3] = {gx, gy, gz}, dim[3] = {bx, by, bz};
    (void)shared; (void)stream; (void)extra;
    /* What a real GPU refuses. */
    if (!gx || !gy || !gz || !bx || !by || !bz || gy > 65535 || gz > 65535 || (uint64_t)bx * by * bz > UNITS) return INVALID_VALUE;
    if (function == &addition) {
        add(*(float **)arguments[0], *(float **)arguments[1], *(uint64_t *)arguments[2]);
        return SUCCESS;
    }
    return function ? run_on_host(function, grid, dim, arguments) : SUCCESS;
}
Result cuLaunchKernelEx(const void *config, Handle function, void **arguments, void **extra) {
    const unsigned *c = config;
    return cuLaunchKernel(function, c[0], c[1], c[2], c[3], c[4], c[5], c[6], 0, arguments, extra);
}
