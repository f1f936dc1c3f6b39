/* Loaded before a process (LD_PRELOAD): its n-th write, fsync or rename below a folder fails, or the clock goes back.

   FAULT_CALL   write | fsync | rename | clock
   FAULT_KIND   EIO | ENOSPC | short (half of what was asked for is written)
   FAULT_NTH    which call fails, from 1; from then on every one does for ENOSPC, as on a full disk
   FAULT_UNDER  the folder */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

static long seen, ticks;

static int named(const char *variable, const char *value) {
    const char *found = getenv(variable);
    return found && !strcmp(found, value);
}

static int below(const char *path) {
    const char *under = getenv("FAULT_UNDER");
    return under && path && !strncmp(path, under, strlen(under));
}

static int open_below(int descriptor) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return below(path);
}

static int due(const char *call) {
    if (!named("FAULT_CALL", call)) return 0;
    long nth = atol(getenv("FAULT_NTH"));
    long now = __atomic_add_fetch(&seen, 1, __ATOMIC_SEQ_CST);
    return now == nth || (now > nth && named("FAULT_KIND", "ENOSPC"));
}

static int fault(void) {
    errno = named("FAULT_KIND", "ENOSPC") ? ENOSPC : EIO;
    return -1;
}

ssize_t write(int descriptor, const void *data, size_t size) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = dlsym(RTLD_NEXT, "write");
    if (size && named("FAULT_CALL", "write") && open_below(descriptor) && due("write")) {
        if (!named("FAULT_KIND", "short")) return fault();
        return real(descriptor, data, size / 2 ? size / 2 : size);
    }
    return real(descriptor, data, size);
}

int fsync(int descriptor) {
    static int (*real)(int);
    if (!real) real = dlsym(RTLD_NEXT, "fsync");
    if (named("FAULT_CALL", "fsync") && open_below(descriptor) && due("fsync")) return fault();
    return real(descriptor);
}

int rename(const char *from, const char *to) {
    static int (*real)(const char *, const char *);
    if (!real) real = dlsym(RTLD_NEXT, "rename");
    if (named("FAULT_CALL", "rename") && below(to) && due("rename")) return fault();
    return real(from, to);
}

int clock_gettime(clockid_t which, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int status = real(which, now);
    if (!status && which == CLOCK_REALTIME && named("FAULT_CALL", "clock"))
        now->tv_sec -= 60 * __atomic_add_fetch(&ticks, 1, __ATOMIC_SEQ_CST);
    return status;
}
