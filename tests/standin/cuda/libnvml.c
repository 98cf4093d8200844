/* A stand-in for NVML, NVIDIA's library for watching GPUs.
 *
 * STANDIN_XID  a file: once it is there, the GPU has failed with the Xid whose number it holds
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int Result;
typedef void *Handle;

enum { SUCCESS = 0, NOT_FOUND = 6, TIMEOUT = 10, XID = 8 };

/* nvmlEventData_t. */
struct event {
    Handle device;
    unsigned long long kind, data;
    unsigned gpu_instance, compute_instance;
};

Result nvmlInit_v2(void) { return SUCCESS; }
Result nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(Result error) { return error == SUCCESS ? "success" : "the stand-in has no such thing"; }

Result nvmlDeviceGetHandleByPciBusId_v2(const char *id, Handle *device) {
    unsigned domain, bus, slot;
    if (sscanf(id, "%x:%x:%x", &domain, &bus, &slot) != 3) return NOT_FOUND;
    *device = (Handle)(unsigned long)(bus + 1);
    return SUCCESS;
}
Result nvmlDeviceGetTotalEccErrors(Handle device, int kind, int counter, unsigned long long *count) {
    (void)device; (void)kind; (void)counter;
    *count = 0;
    return SUCCESS;
}

Result nvmlEventSetCreate(Handle *set) { *set = malloc(1); return SUCCESS; }
Result nvmlEventSetFree(Handle set) { free(set); return SUCCESS; }
Result nvmlDeviceRegisterEvents(Handle device, unsigned long long kinds, Handle set) {
    (void)device; (void)set;
    return kinds & XID ? SUCCESS : NOT_FOUND;
}
Result nvmlEventSetWait_v2(Handle set, struct event *event, unsigned milliseconds) {
    const char *path = getenv("STANDIN_XID");
    (void)set;
    for (unsigned waited = 0; waited < milliseconds; waited += 50) {
        FILE *file = path ? fopen(path, "r") : NULL;
        if (file) {
            memset(event, 0, sizeof *event);
            event->kind = XID;
            int read = fscanf(file, "%llu", &event->data);
            fclose(file);
            if (read == 1) return SUCCESS;
        }
        usleep(50000);
    }
    return TIMEOUT;
}
