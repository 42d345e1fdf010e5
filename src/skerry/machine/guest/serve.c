/* The guest's first program, and who answers while the agent stands still to be copied.
 *
 * Theory. An interpreter takes an emulated processor a second to start, and five thousand pieces of
 * code to answer in a fresh copy of a machine. So this, built twice from one source:
 *
 *   /init     (FIRST)  mounts, loads the port's modules, says `ready` and serves what it can. At the
 *                      first message that is not for it, it becomes the agent (execve), which gets
 *                      what was read in a memfd.
 *   serve.so           `stand`, which the agent calls (ctypes) when it was asked to hold its line.
 *
 * A message is for it when its body is a list of tasks that it knows and may do here; the head says
 * the same in JSON, which is never read here. Otherwise nothing is done, and the agent serves it.
 *
 *   body   = "tsk1" | uint32 seq | task ...          numbers are big endian
 *   task   = uint8 kind | uint8 0 | uint16 length | data
 *
 * The frames and the whole list are checked before the first task is done (skerry.machine.channel
 * has the frames, skerry.machine.tasks the lists). The host is trusted, its bytes are bounded all
 * the same. No library, no heap, no recursion; linux-libc-dev's headers alone.
 */

#include <asm/unistd.h>
#include <linux/reboot.h>
#include <stddef.h>
#include <stdint.h>

#ifndef __x86_64__
#error "only x86-64"
#endif

enum { END = 2, HEADER = 12, CHUNK = 32 * 1024, BUFFER = 96 * 1024, PREFIX = 8 };
enum task { CLOCK = 1, SEED, HOSTNAME, FILE_, CARDS, IOCTL, TOLD, MODULE, THAW, KINDS };
enum outcome { HANDED = 1, EVENT, SERVED };
enum { NOT_FOR_US = 1 }; /* Beside 0, and errors, which are negative. */
enum { EINTR = 4, EAGAIN = 11, EIO = 5, POLLIN = 1, POLLOUT = 4, CLOCK_REALTIME = 0 };
enum { O_RDONLY = 0, O_WRONLY = 1, O_RDWR = 2, O_NONBLOCK = 04000, O_CLOEXEC = 02000000 };
/* linux/random.h, linux/sockios.h, which are not made for programs without a library. */
enum { RNDADDENTROPY = 0x40085203, RNDRESEEDCRNG = 0x5207 };
enum { MOST_SEED = 512, MOST_NAME = 64, IFREQ = 40, RTENTRY = 120, MOST_TOLD = 64 };

struct known {
    int32_t random;       /* /dev/urandom for writing; -1: there is no SEED. */
    int32_t inet;         /* A socket for interface requests; -1: there is no IOCTL. */
    int32_t told, fresh;  /* identity.tell's folder and file; -1: TOLD writes nothing. */
    int32_t early;        /* Whether modules may be loaded. */
    int32_t freezer;      /* cgroup.freeze of a container that stands still; -1: none does. */
    uint32_t length[2];
    const uint8_t *files; /* uint32 descriptor | uint8 length | name, ... */
    const uint8_t *cards; /* What CARDS must say. */
};

struct view {
    const uint8_t *at;
    size_t left;
};

struct task_view {
    uint8_t kind;
    struct view data;
};

struct pollfd { int fd; short events, revents; };
struct timespec { int64_t seconds, nanoseconds; };

static inline long call(long number, long a, long b, long c, long d, long e)
{
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
                     : "rcx", "r11", "memory");
    return result;
}

#define CALL3(n, a, b, c) call(__NR_##n, (long)(a), (long)(b), (long)(c), 0, 0)
#define CALL5(n, a, b, c, d, e) call(__NR_##n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e))

/* What compilers call by themselves. */
void *memset(void *to, int byte, size_t count)
{
    void *at = to;
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(count) : "a"(byte) : "memory");
    return to;
}

void *memcpy(void *restrict to, const void *restrict from, size_t count)
{
    void *at = to;
    __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(count) : : "memory");
    return to;
}

static void copy(uint8_t *to, const uint8_t *from, size_t count)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
}

static int same(const uint8_t *a, const uint8_t *b, size_t count)
{
    while (count--)
        if (*a++ != *b++)
            return 0;
    return 1;
}

static uint32_t number(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static void put(uint8_t *at, uint32_t value)
{
    for (int byte = 0; byte < 4; byte++)
        at[byte] = (uint8_t)(value >> (24 - 8 * byte));
}

/* Reading, which touches nothing else */

/* The next of a list of tasks; 0 at its end or when it is malformed, which leaves `left`. */
static int next_task(struct view *list, struct task_view *task)
{
    if (list->left < 4 || list->at[1])
        return 0;
    size_t length = (size_t)list->at[2] << 8 | list->at[3];
    if (length > list->left - 4)
        return 0;
    *task = (struct task_view){list->at[0], {list->at + 4, length}};
    list->at += 4 + length;
    list->left -= 4 + length;
    return 1;
}

/* The first frame of what was read: its length, 0 for more to come, -1 when it is not for us. */
long frame(const uint8_t *read, size_t count)
{
    static const uint8_t head[] = {END, 0, 0, 0, 0, 0, 0, 0};
    size_t seen = count < sizeof head ? count : sizeof head;
    if (!same(read, head, seen))
        return -1;
    if (count < HEADER)
        return 0;
    uint32_t length = number(read + 8);
    if (length > CHUNK || length < 4)
        return -1;
    return count < HEADER + length ? 0 : (long)(HEADER + length);
}

/* The tasks of a whole frame; 0 when it has none. */
static int tasks_of(const uint8_t *whole, size_t length, uint32_t *seq, struct view *tasks)
{
    size_t payload = length - HEADER;
    uint32_t head = number(whole + HEADER);
    if (head > payload - 4 || payload - 4 - head < PREFIX)
        return 0;
    const uint8_t *body = whole + HEADER + 4 + head;
    if (!same(body, (const uint8_t *)"tsk1", 4))
        return 0;
    *seq = number(body + 4);
    *tasks = (struct view){body + PREFIX, payload - 4 - head - PREFIX};
    return 1;
}

static int plain_name(struct view name)
{
    if (!name.left || name.left > MOST_NAME || name.at[0] == '.')
        return 0;
    for (size_t at = 0; at < name.left; at++) {
        uint8_t c = name.at[at];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
              c == '_' || c == '-' || c == '.'))
            return 0;
    }
    return 1;
}

/* FILE_: uint8 length | name | contents. The descriptor that has the name, or -1. */
static int file_of(const struct known *known, struct view *data)
{
    if (!data->left || data->at[0] > data->left - 1)
        return -1;
    struct view name = {data->at + 1, data->at[0]};
    struct view table = {known->files, known->length[0]};
    data->at += 1 + name.left;
    data->left -= 1 + name.left;
    while (table.left >= 5 && table.at[4] <= table.left - 5) {
        size_t length = table.at[4];
        if (length == name.left && same(table.at + 5, name.at, length))
            return (int)number(table.at);
        table.at += 5 + length;
        table.left -= 5 + length;
    }
    return -1;
}

static int allowed(const struct known *known, struct task_view task)
{
    struct view data = task.data;
    switch (task.kind) {
    case CLOCK:
        return data.left == 8;
    case SEED:
        return known->random >= 0 && data.left && data.left <= MOST_SEED;
    case HOSTNAME:
        return known->random >= 0 && data.left && data.left <= MOST_NAME;
    case FILE_:
        return file_of(known, &data) >= 0;
    case CARDS:
        return data.left == known->length[1] && same(data.at, known->cards, data.left);
    case IOCTL:
        return known->inet >= 0 && (data.left == 4 + IFREQ || data.left == 4 + RTENTRY);
    case TOLD:
        return data.left && data.left <= MOST_TOLD && (known->told < 0 || known->fresh >= 0);
    case MODULE:
        return known->early && plain_name(data);
    case THAW:
        return !data.left;
    }
    return 0;
}

static int all_allowed(const struct known *known, struct view tasks)
{
    struct task_view task;
    while (next_task(&tasks, &task))
        if (!allowed(known, task))
            return 0;
    return !tasks.left;
}

/* Whether a whole frame is for us; `seq` and `tasks` are then set. */
int understood(const struct known *known, const uint8_t *whole, size_t length, uint32_t *seq,
               struct view *tasks)
{
    return tasks_of(whole, length, seq, tasks) && all_allowed(known, *tasks);
}

/* Doing */

static long write_all(int fd, struct view data, long from)
{
    for (long at = from; data.left;) {
        long done = call(__NR_pwrite64, fd, (long)data.at, (long)data.left, at, 0);
        if (done <= 0)
            return done ? done : -EIO;
        data.at += done;
        data.left -= (size_t)done;
        at += done;
    }
    return 0;
}

static long set_clock(struct view data)
{
    uint64_t all = (uint64_t)number(data.at) << 32 | number(data.at + 4);
    struct timespec now = {(int64_t)(all / 1000000000), (int64_t)(all % 1000000000)};
    return CALL3(clock_settime, CLOCK_REALTIME, &now, 0);
}

static long reseed(int random, struct view data)
{
    struct { int32_t bits, size; uint8_t seed[MOST_SEED]; } pool;
    pool.bits = (int32_t)data.left * 8;
    pool.size = (int32_t)data.left;
    copy(pool.seed, data.at, data.left);
    long result = CALL3(ioctl, random, RNDADDENTROPY, &pool);
    return result < 0 ? result : CALL3(ioctl, random, RNDRESEEDCRNG, 0);
}

static long request(int inet, struct view data)
{
    uint8_t words[RTENTRY] __attribute__((aligned(8)));
    copy(words, data.at + 4, data.left - 4);
    return CALL3(ioctl, inet, number(data.at), words);
}

static long tell(const struct known *known, struct view data)
{
    if (known->told < 0)
        return 0; /* The container has no place for it. */
    if (!write_all(known->fresh, data, 0))
        CALL5(renameat, known->told, ".generation", known->told, "generation", 0);
    CALL3(close, known->fresh, 0, 0);
    return 0; /* It may have filled the place. */
}

static long thaw(int freezer)
{
    return freezer < 0 ? 0 : write_all(freezer, (struct view){(const uint8_t *)"0", 1}, 0);
}

static long load_module(struct view name)
{
    static const char folder[] = "/modules/";
    char path[sizeof folder + MOST_NAME];
    copy((uint8_t *)path, (const uint8_t *)folder, sizeof folder - 1);
    copy((uint8_t *)path + sizeof folder - 1, name.at, name.left);
    path[sizeof folder - 1 + name.left] = 0;
    long fd = CALL3(open, path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return fd;
    long result = CALL3(finit_module, fd, "", 0);
    CALL3(close, fd, 0, 0);
    return result;
}

static long act(const struct known *known, struct task_view task)
{
    struct view data = task.data;
    switch (task.kind) {
    case CLOCK:
        return set_clock(data);
    case SEED:
        return reseed(known->random, data);
    case HOSTNAME:
        return CALL3(sethostname, data.at, data.left, 0);
    case FILE_: {
        int fd = file_of(known, &data);
        long result = CALL3(ftruncate, fd, 0, 0);
        return result < 0 ? result : write_all(fd, data, 0);
    }
    case IOCTL:
        return request(known->inet, data);
    case TOLD:
        return tell(known, data);
    case MODULE:
        return load_module(data);
    case THAW:
        return thaw(known->freezer);
    }
    return 0;
}

/* Answering */

struct text {
    uint8_t bytes[HEADER + 4 + 1024];
    size_t length;
};

static void add(struct text *text, const uint8_t *bytes, size_t count)
{
    if (count > sizeof text->bytes - text->length)
        count = sizeof text->bytes - text->length;
    copy(text->bytes + text->length, bytes, count);
    text->length += count;
}

#define ADD(text, literal) add(text, (const uint8_t *)(literal), sizeof(literal) - 1)

static void add_string(struct text *text, const char *string)
{
    size_t length = 0;
    while (string[length])
        length++;
    add(text, (const uint8_t *)string, length);
}

static void add_number(struct text *text, uint32_t value)
{
    uint8_t digits[10];
    size_t at = sizeof digits;
    do
        digits[--at] = (uint8_t)('0' + value % 10);
    while (value /= 10);
    add(text, digits + at, sizeof digits - at);
}

static long send_all(int port, const uint8_t *bytes, size_t count)
{
    while (count) {
        long done = CALL3(write, port, bytes, count);
        if (done == -EAGAIN || done == -EINTR) {
            struct pollfd ready = {port, POLLOUT, 0};
            CALL3(poll, &ready, 1, -1);
            continue;
        }
        if (done <= 0)
            return done ? done : -EIO;
        bytes += done;
        count -= (size_t)done;
    }
    return 0;
}

static long say(int port, struct text *text)
{
    size_t length = text->length - HEADER - 4;
    copy(text->bytes, (const uint8_t[]){END, 0, 0, 0, 0, 0, 0, 0}, 8);
    put(text->bytes + 8, (uint32_t)length + 4);
    put(text->bytes + HEADER, (uint32_t)length);
    return send_all(port, text->bytes, text->length);
}

static long answer(int port, uint32_t seq, long error, int kind)
{
    static const char *const names[KINDS] = {
        "", "set the clock", "seed the random numbers", "set the hostname", "write a file", "",
        "configure a network card", "", "load a module", "let the container go on",
    };
    struct text text = {.length = HEADER + 4};
    ADD(&text, "{\"reply\":");
    add_number(&text, seq);
    if (error) {
        ADD(&text, ",\"error\":{\"type\":\"KernelFault\",\"message\":\"\",\"hint\":\"\",\"action\":\"");
        add_string(&text, names[kind]);
        ADD(&text, "\",\"errno\":");
        add_number(&text, (uint32_t)-error);
        ADD(&text, "}");
    }
    ADD(&text, "}");
    return say(port, &text);
}

/* Serve a whole frame: 0, NOT_FOR_US, or the error of a line that is of no more use. The tasks after
 * one that fails are not done. */
static long serve(const struct known *known, int port, const uint8_t *whole, size_t length)
{
    uint32_t seq;
    struct view tasks;
    struct task_view task = {0, {NULL, 0}};
    long error = 0;
    if (!understood(known, whole, length, &seq, &tasks))
        return NOT_FOR_US;
    while (!error && next_task(&tasks, &task))
        error = act(known, task);
    return answer(port, seq, error < 0 ? error : 0, task.kind);
}

/* Read on; the bytes that are there by then, or an error. */
static long read_on(int port, uint8_t *buffer, size_t have, size_t capacity)
{
    long got = CALL3(read, port, buffer + have, capacity - have);
    if (got == -EAGAIN || got == -EINTR)
        return (long)have;
    return got <= 0 ? (got ? got : -EIO) : (long)have + got;
}

/* Send the frames `said`, then wait at the port and at the agent's own poll descriptor, and serve one message if it is for us.
 * `length` says how much of `buffer` is there, before and after.
 * HANDED, EVENT: the agent goes on, with those bytes first. SERVED: the first message in `buffer` was
 * served and answered, and there is something more to do, perhaps behind it. */
int stand(const struct known *known, int port, int events, const uint8_t *said, size_t count,
          uint8_t *buffer, size_t capacity, size_t *length)
{
    struct pollfd ready[2] = {{port, POLLIN, 0}, {events, POLLIN, 0}};
    if (send_all(port, said, count))
        return HANDED;
    for (;;) {
        long whole = *length ? frame(buffer, *length) : 0;
        if (whole < 0 || (!whole && *length == capacity))
            return HANDED;
        if (whole) {
            if (serve(known, port, buffer, (size_t)whole))
                return HANDED;
            if (*length == (size_t)whole)
                CALL3(poll, ready, 2, -1);
            return SERVED;
        }
        ready[0].revents = ready[1].revents = 0;
        if (CALL3(poll, ready, 2, -1) < 0 || !ready[0].revents)
            return *length ? HANDED : EVENT;
        long now = read_on(port, buffer, *length, capacity);
        if (now < 0)
            return HANDED;
        *length = (size_t)now;
    }
}

#ifdef FIRST

enum { MS_BIND = 4096, MS_MOVE = 8192, MS_REC = 16384, CLONE_FS = 0x200, PATIENCE = 10000 };

static uint8_t buffer[BUFFER];

static void fail(const char *what, long error)
{
    struct text text = {.length = 0};
    ADD(&text, "<0>skerry init cannot ");
    add_string(&text, what);
    ADD(&text, ": errno ");
    add_number(&text, (uint32_t)-error);
    long log = CALL3(open, "/dev/kmsg", O_WRONLY | O_CLOEXEC, 0);
    CALL3(write, log, text.bytes, text.length);
    call(__NR_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_POWER_OFF, 0, 0);
    CALL3(exit, 1, 0, 0);
    __builtin_unreachable();
}

static long check(long result, const char *what)
{
    if (result < 0)
        fail(what, result);
    return result;
}

/* As skerry.machine.guest.system.mount_basics, which says why. */
static void mount_basics(void)
{
    static const char *const mounts[][4] = {
        {"devtmpfs", "/dev", "devtmpfs", "mode=755"}, {"proc", "/proc", "proc", ""},
        {"sysfs", "/sys", "sysfs", ""},               {"tmpfs", "/run", "tmpfs", "mode=755"},
        {"tmpfs", "/tmp", "tmpfs", "mode=1777"},
    };
    for (size_t at = 0; at < sizeof mounts / sizeof mounts[0]; at++)
        check(CALL5(mount, mounts[at][0], mounts[at][1], mounts[at][2], 0, mounts[at][3]), "mount");
    check(CALL5(mount, "/", "/r", 0, MS_BIND | MS_REC, 0), "bind the root");
    check(CALL3(chdir, "/r", 0, 0), "enter the root");
    check(CALL5(mount, ".", "/", 0, MS_MOVE, 0), "move the root");
    check(CALL3(chroot, ".", 0, 0), "change the root");
    check(CALL3(chdir, "/", 0, 0), "enter the root");
    check(CALL3(unshare, CLONE_FS, 0, 0), "have a root of its own");
}

static void load_early(void)
{
    long fd = check(CALL3(open, "/modules/early", O_RDONLY | O_CLOEXEC, 0), "read the modules' names");
    long count = check(CALL3(read, fd, buffer, sizeof buffer), "read the modules' names");
    CALL3(close, fd, 0, 0);
    struct view name = {buffer, 0};
    for (long at = 0; at <= count; at++) {
        if (at < count && buffer[at] != '\n') {
            name.left++;
            continue;
        }
        if (plain_name(name))
            check(load_module(name), "load a module");
        name = (struct view){buffer + at + 1, 0};
    }
}

/* There is one port, of one device; its node is there a moment before it can be opened. */
static int open_port(void)
{
    for (int waited = 0;; waited++) {
        long fd = CALL3(open, "/dev/vport0p1", O_RDWR | O_NONBLOCK, 0);
        if (fd >= 0)
            return (int)fd;
        if (waited == PATIENCE)
            fail("open the port", fd);
        struct timespec moment = {0, 1000000};
        CALL3(nanosleep, &moment, 0, 0);
    }
}

/* Become the agent; what was read goes along. */
static void hand_over(int port, size_t length)
{
    char numbers[2][12];
    long rest = check(CALL3(memfd_create, "rest", 0, 0), "keep what was read");
    check(write_all((int)rest, (struct view){buffer, length}, 0), "keep what was read");
    int fds[2] = {port, (int)rest};
    for (int at = 0; at < 2; at++) {
        struct text text = {.length = 0};
        add_number(&text, (uint32_t)fds[at]);
        copy((uint8_t *)numbers[at], text.bytes, text.length);
        numbers[at][text.length] = 0;
    }
    static const char python[] = "/usr/bin/python3";
    const char *arguments[] = {python, "-ISE", "/agent", numbers[0], numbers[1], NULL};
    const char *environment[] = {NULL};
    fail("run the agent", CALL3(execve, python, arguments, environment));
}

void first(void)
{
    static const struct known known = {-1, -1, -1, -1, 1, -1, {0, 0}, NULL, NULL};
    mount_basics();
    load_early();
    int port = open_port();
    struct text ready = {.length = HEADER + 4};
    ADD(&ready, "{\"event\":\"ready\"}");
    check(say(port, &ready), "say that it is ready");
    for (size_t length = 0;;) {
        if (stand(&known, port, -1, NULL, 0, buffer, sizeof buffer, &length) != SERVED)
            hand_over(port, length);
        size_t served = (size_t)frame(buffer, length);
        length -= served;
        copy(buffer, buffer + served, length);
    }
}

__asm__(".globl _start\n_start: xor %ebp, %ebp\n and $-16, %rsp\n call first\n");

#endif
