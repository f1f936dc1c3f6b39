/* Loaded before a process (LD_PRELOAD): its n-th write, fsync, rename or unlink below a folder fails or kills it, or the
   clock goes back. The variables are read at each call, so a forked child may be given a fault of its own.

   FAULT_CALL   write | fsync | rename | unlink | clock
   FAULT_KIND   EIO | ENOSPC | short (half of what was asked for is written)
                before | half | after: the process is killed before the call, after half of a write, after the call
   FAULT_NTH    which call fails, from 1; from then on every one does for ENOSPC, as on a full disk
   FAULT_UNDER  the folder */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
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

/* How many such calls there were. */
long faults_seen(void) { return seen; }

static int is_error(void) { return named("FAULT_KIND", "EIO") || named("FAULT_KIND", "ENOSPC"); }

static int fault(void) {
    errno = named("FAULT_KIND", "ENOSPC") ? ENOSPC : EIO;
    return -1;
}

static void die_if(const char *kind) {
    if (named("FAULT_KIND", kind)) kill(getpid(), SIGKILL);
}

ssize_t write(int descriptor, const void *data, size_t size) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = dlsym(RTLD_NEXT, "write");
    if (!size || !named("FAULT_CALL", "write") || !open_below(descriptor) || !due("write"))
        return real(descriptor, data, size);
    if (is_error()) return fault();
    die_if("before");
    size_t part = named("FAULT_KIND", "after") ? size : size / 2 ? size / 2 : size;
    ssize_t written = real(descriptor, data, part);
    if (!named("FAULT_KIND", "short")) kill(getpid(), SIGKILL);
    return written;
}

#define BEFORE()                         \
    if (is_error()) return fault();      \
    die_if("before");
#define AFTER                            \
    die_if("half");                      \
    die_if("after");                     \
    return status;

int fsync(int descriptor) {
    static int (*real)(int);
    if (!real) real = dlsym(RTLD_NEXT, "fsync");
    if (!named("FAULT_CALL", "fsync") || !open_below(descriptor) || !due("fsync")) return real(descriptor);
    BEFORE()
    int status = real(descriptor);
    AFTER
}

int rename(const char *from, const char *to) {
    static int (*real)(const char *, const char *);
    if (!real) real = dlsym(RTLD_NEXT, "rename");
    if (!named("FAULT_CALL", "rename") || !below(to) || !due("rename")) return real(from, to);
    BEFORE()
    int status = real(from, to);
    AFTER
}

int unlink(const char *path) {
    static int (*real)(const char *);
    if (!real) real = dlsym(RTLD_NEXT, "unlink");
    if (!named("FAULT_CALL", "unlink") || !below(path) || !due("unlink")) return real(path);
    BEFORE()
    int status = real(path);
    AFTER
}

int clock_gettime(clockid_t which, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int status = real(which, now);
    if (!status && which == CLOCK_REALTIME && named("FAULT_CALL", "clock"))
        now->tv_sec -= 60 * __atomic_add_fetch(&ticks, 1, __ATOMIC_SEQ_CST);
    return status;
}
