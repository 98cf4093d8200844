/* A stand-in for NVIDIA's run-time compiler: it compiles kernels for the host, with the C++ compiler that is there.
 *
 * What it gives for PTX is the name of a shared library, which the stand-in for the driver (libcuda.c) loads and really runs, unit
 * after unit. So a machine without a GPU computes what the generated kernels say, launched as they are launched, and tests can
 * compare. Of CUDA's language it knows what the kernels use; another intrinsic is an error of the compiler.
 *
 * STANDIN_HOST  the folder for sources and libraries (default: /tmp)
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, COMPILATION = 6 };

struct program { char *source, *log, *module; };

/* Before a kernel's source. */
static const char *const before =
    "typedef __SIZE_TYPE__ size_t;\n"
    "#define __global__\n#define __device__\n#define __launch_bounds__(...)\n#define __grid_constant__\n"
    "struct standin_index { unsigned x, y, z; };\n"
    "static standin_index threadIdx, blockIdx, blockDim, gridDim;\n"
    "alignas(128) static char standin_shared[1 << 18];\n"
    "static void (*standin_barrier)();\n"
    "static inline void __syncthreads() { auto own = threadIdx; standin_barrier(); threadIdx = own; }\n"
    "static inline unsigned __umulhi(unsigned a, unsigned b) { return ((unsigned long long)a * b) >> 32; }\n"
    "static inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }\n"
    "static inline float sqrt(float x) { return __builtin_sqrtf(x); }\n"
    "static inline float exp(float x) { return __builtin_expf(x); }\n"
    "static inline float max(float a, float b) { return __builtin_fmaxf(a, b); }\n"
    "static inline float min(float a, float b) { return __builtin_fminf(a, b); }\n";

/* After it, with the kernel's name. */
static const char *const after =
    "\ntemplate <class T> struct standin_plain { typedef T type; };\n"
    "template <class T> struct standin_plain<const T> { typedef T type; };\n"
    "template <int... I> struct standin_places {};\n"
    "template <int N, int... I> struct standin_count : standin_count<N - 1, N - 1, I...> {};\n"
    "template <int... I> struct standin_count<0, I...> { typedef standin_places<I...> type; };\n"
    "template <class... A, int... I> static void standin_call(void (*kernel)(A...), void **a, standin_places<I...>) {\n"
    "    kernel(*(typename standin_plain<A>::type *)a[I]...);\n}\n"
    "template <class... A> static void standin_enter(void (*kernel)(A...), void **a) {\n"
    "    standin_call(kernel, a, typename standin_count<sizeof...(A)>::type());\n}\n"
    "extern \"C\" void standin_block(const unsigned *block, const unsigned *dim, const unsigned *grid, void (*barrier)()) {\n"
    "    blockIdx = {block[0], block[1], block[2]};\n    blockDim = {dim[0], dim[1], dim[2]};\n"
    "    gridDim = {grid[0], grid[1], grid[2]};\n    standin_barrier = barrier;\n}\n"
    "extern \"C\" void standin_unit(unsigned x, unsigned y, unsigned z, void **a) {\n"
    "    threadIdx = {x, y, z};\n    standin_enter(%s, a);\n}\n"
    "extern \"C\" const int standin_barriers = %d;\n";

static char *text(const char *from, size_t length) {
    char *copy = malloc(length + 1);
    memcpy(copy, from, length);
    copy[length] = 0;
    return copy;
}

int nvrtcVersion(int *major, int *minor) { *major = 13; *minor = 0; return SUCCESS; }
const char *nvrtcGetErrorString(int error) { return error == SUCCESS ? "success" : "the stand-in cannot compile it"; }

int nvrtcCreateProgram(struct program **program, const char *source, const char *name, int headers, const char *const *h, const char *const *n) {
    (void)name; (void)headers; (void)h; (void)n;
    *program = calloc(1, sizeof **program);
    (*program)->source = text(source, strlen(source));
    return SUCCESS;
}

int nvrtcDestroyProgram(struct program **program) {
    free((*program)->source); free((*program)->log); free((*program)->module); free(*program);
    *program = NULL;
    return SUCCESS;
}

/* The kernel's source with shared memory as a pointer. */
static void write_source(FILE *file, const char *source, const char *name, int barriers) {
    static const char shared[] = "extern __shared__ ";
    const char *rest = source, *found;
    fputs(before, file);
    while ((found = strstr(rest, shared))) {
        const char *open = strchr(strstr(found, " char "), '['), *start = open;
        while (start[-1] != ' ') start--;
        fwrite(rest, 1, (size_t)(found - rest), file);
        fprintf(file, "char *%.*s = standin_shared", (int)(open - start), start);
        rest = strchr(open, ';');
    }
    fputs(rest, file);
    fprintf(file, after, name, barriers);
}

int nvrtcCompileProgram(struct program *program, int count, const char *const *options) {
    const char *folder = getenv("STANDIN_HOST"), *start = strstr(program->source, "__global__"), *end;
    static int number;
    char path[4000], command[12500], *name;
    (void)count; (void)options;
    if (!start || !(start = strstr(start, "kernel")) || !(end = strchr(start, '('))) start = end = "";
    while (start > program->source && start[-1] != ' ' && *start) start--;
    name = text(start, (size_t)(end - start));
    snprintf(path, sizeof path, "%s/standin-%d-%d", folder ? folder : "/tmp", (int)getpid(), __sync_fetch_and_add(&number, 1));
    snprintf(command, sizeof command, "%s.cpp", path);
    FILE *file = fopen(command, "w");
    if (file) {
        write_source(file, program->source, name, strstr(program->source, "__syncthreads") != NULL);
        fclose(file);
    }
    free(name);
    snprintf(command, sizeof command, "c++ -std=c++17 -O2 -w -ffp-contract=off -fno-strict-aliasing -shared -fPIC %s.cpp -o %s.so >%s.log 2>&1", path, path, path);
    int failed = !file || system(command);
    snprintf(command, sizeof command, "//host %s.so\n", path);
    program->module = text(command, strlen(command));
    snprintf(command, sizeof command, "see %s.log", path);
    program->log = text(command, strlen(command));
    return failed ? COMPILATION : SUCCESS;
}

int nvrtcGetPTXSize(struct program *program, size_t *size) { *size = strlen(program->module) + 1; return SUCCESS; }
int nvrtcGetPTX(struct program *program, char *ptx) { strcpy(ptx, program->module); return SUCCESS; }
int nvrtcGetProgramLogSize(struct program *program, size_t *size) { *size = strlen(program->log) + 1; return SUCCESS; }
int nvrtcGetProgramLog(struct program *program, char *log) { strcpy(log, program->log); return SUCCESS; }
