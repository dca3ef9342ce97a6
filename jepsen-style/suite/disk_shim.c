/* Stands between one node and the C library's writes to data.mdb, so that the suite can pull the plug.
 *
 * Every write that is not yet synced has a record in the undo file: where it went and what was there before. A sync
 * that succeeded empties the undo file, for then the writes are on the disk; a write through an O_DSYNC descriptor
 * takes its own record away. After a SIGKILL the suite reads the undo file and puts back old blocks, all or some: the
 * data file is then one that a power cut at that moment could have left. The record is written before the write and
 * taken away after the sync, so that dying between any two steps errs on the side of what was not promised to anybody.
 *
 * The control file (struct control) makes syncs slow, or fail as a broken disk does (EIO).
 *
 * Record: u64 offset, u64 length of the old bytes, u64 length of the write, then the old bytes. Where the file was
 * shorter there are fewer old bytes, and the rest of the write is undone as zeros.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct control {
    volatile uint32_t sync_delay_us;
    volatile uint32_t sync_fails; /* how many of the next syncs fail with EIO */
    volatile uint32_t syncs;      /* how many succeeded: for the suite to look at */
};

#define UNDO_BYTES_MAX (64u << 20) /* beyond it the kernel has written pages back by itself */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct control *control;
static int undo = -1;
static off_t undo_end;
static pid_t owner;

__attribute__((constructor)) static void prepare(void)
{
    const char *undo_name = getenv("LANYINGLOG_SUITE_UNDO"), *control_name = getenv("LANYINGLOG_SUITE_DISK");
    int fd;
    if (undo_name == NULL || control_name == NULL)
        return;
    fd = open(control_name, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return;
    control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (control == MAP_FAILED)
        abort();
    undo = open(undo_name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (undo < 0)
        abort();
    owner = getpid();
}

/* Whether the descriptor is the data file's; looked up each time, for descriptors are reused. */
static int is_data(int fd)
{
    char link[32], target[4096];
    ssize_t length;
    struct stat status;
    if (undo < 0 || owner != getpid() || fstat(fd, &status) != 0 || !S_ISREG(status.st_mode))
        return 0;
    char *at = link;
    memcpy(at, "/proc/self/fd/", 14);
    at += 14;
    char digits[12];
    int count = 0, rest = fd;
    do {
        digits[count++] = '0' + rest % 10;
        rest /= 10;
    } while (rest);
    while (count)
        *at++ = digits[--count];
    *at = 0;
    length = readlink(link, target, sizeof target - 1);
    return length >= 9 && memcmp(target + length - 9, "/data.mdb", 9) == 0;
}

static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);

static void load(void)
{
    if (real_pwrite == NULL)
        real_pwrite = (ssize_t(*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, "pwrite64");
}

static void forget(off_t end)
{
    undo_end = end;
    if (ftruncate(undo, end) != 0)
        abort();
}

static void remember(int fd, off_t offset, size_t size)
{
    uint64_t head[3] = {(uint64_t)offset, 0, size};
    char *old = malloc(size ? size : 1);
    size_t have = 0;
    if (old == NULL)
        abort();
    int reader = fd;
    char path[32];
    if ((fcntl(fd, F_GETFL) & O_ACCMODE) == O_WRONLY) { /* LMDB's descriptor for its meta pages can't read */
        extern int snprintf(char *, size_t, const char *, ...);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        /* a read-only descriptor of our own; closing it would drop LMDB's fcntl locks, which are on another file */
        reader = open(path, O_RDONLY | O_CLOEXEC);
        if (reader < 0)
            abort();
    }
    while (have < size) {
        ssize_t got = pread(reader, old + have, size - have, offset + (off_t)have);
        if (got <= 0)
            break;
        have += (size_t)got;
    }
    if (reader != fd)
        close(reader);
    head[1] = have;
    if (undo_end > (off_t)UNDO_BYTES_MAX)
        forget(0);
    if (real_pwrite(undo, old, have, undo_end + (off_t)sizeof head) != (ssize_t)have)
        abort();
    /* the head last: a record counts only once it is whole */
    if (real_pwrite(undo, head, sizeof head, undo_end) != (ssize_t)sizeof head)
        abort();
    undo_end += (off_t)(sizeof head + have);
    free(old);
}

static ssize_t guarded_pwrite(int fd, const void *bytes, size_t size, off_t offset)
{
    ssize_t written;
    off_t before;
    int saved;
    load();
    if (!is_data(fd))
        return real_pwrite(fd, bytes, size, offset);
    pthread_mutex_lock(&lock);
    before = undo_end;
    remember(fd, offset, size);
    written = real_pwrite(fd, bytes, size, offset);
    saved = errno;
    if (written < 0 || (fcntl(fd, F_GETFL) & O_DSYNC)) {
        if (undo_end > before)
            forget(before);
    }
    pthread_mutex_unlock(&lock);
    errno = saved;
    return written;
}

ssize_t pwrite(int fd, const void *bytes, size_t size, off_t offset) { return guarded_pwrite(fd, bytes, size, offset); }

ssize_t pwrite64(int fd, const void *bytes, size_t size, off_t offset)
{
    return guarded_pwrite(fd, bytes, size, offset);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    static ssize_t (*real)(int, const struct iovec *, int);
    ssize_t written;
    size_t size = 0;
    int saved, i;
    load();
    if (real == NULL)
        real = (ssize_t(*)(int, const struct iovec *, int))dlsym(RTLD_NEXT, "writev");
    if (!is_data(fd))
        return real(fd, parts, count);
    for (i = 0; i < count; i++)
        size += parts[i].iov_len;
    pthread_mutex_lock(&lock);
    remember(fd, lseek(fd, 0, SEEK_CUR), size);
    written = real(fd, parts, count);
    saved = errno;
    pthread_mutex_unlock(&lock);
    errno = saved;
    return written;
}

static int synced(int (*real)(int), int fd)
{
    int result, saved;
    if (!is_data(fd))
        return real(fd);
    if (control->sync_delay_us) {
        struct timespec pause = {control->sync_delay_us / 1000000, (long)(control->sync_delay_us % 1000000) * 1000};
        nanosleep(&pause, NULL);
    }
    if (control->sync_fails) {
        control->sync_fails--;
        errno = EIO;
        return -1;
    }
    pthread_mutex_lock(&lock);
    result = real(fd);
    saved = errno;
    if (result == 0) {
        forget(0);
        control->syncs++;
    }
    pthread_mutex_unlock(&lock);
    errno = saved;
    return result;
}

int fdatasync(int fd)
{
    static int (*real)(int);
    if (real == NULL)
        real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    return synced(real, fd);
}

int fsync(int fd)
{
    static int (*real)(int);
    if (real == NULL)
        real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    return synced(real, fd);
}
