/* The shortest way for a plain `skerry exec`, as start.py has it, for where there is a compiler.
 *
 * An interpreter that does nothing takes 7 to 10 ms to start and to end, half of the time of such a
 * command. This asks the same request and carries the same frames; whatever is not plain, and every
 * answer but the 101, is start.py's: it gets the connection with the answer unread, by the number in
 * $SKERRY_ASKED, so that nothing is asked twice.
 *
 * ORDINARY is the path of the launcher that runs start.py (contrib/install_launchers.py).
 */

#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { STDOUT = 1, STDERR = 2, END = 4 };
enum { BLOCK = 65536, HEADER = 8, LONGEST_CODE = 8, ESCAPED = 6, ROOM = 512 };
enum { FAILED = 1, INTERRUPTED = 130, NOBODY_READS = 141, NOT_FOUND = 127 };

static const char gone[] = "skerry: the engine went away before the command had ended\n";

static int plain(const char *name)
{
    if (!*name || *name == '-')
        return 0;
    for (; *name; name++)
        if (!isascii(*name) || !(isalnum(*name) || strchr("_.-", *name)))
            return 0;
    return 1;
}

/* Where the engine listens; NULL when that takes more to find out. */
static const char *socket_path(void)
{
    const char *host = getenv("SKERRY_HOST");

    if (host && !strncmp(host, "unix:///", 8)) {
        for (const char *each = host; *each; each++)
            if (!isascii(*each))
                return NULL;
        return host + 7;
    }
    if ((host && *host) || getenv("SKERRY_RUN_ROOT") || geteuid())
        return NULL;
    return "/run/skerry/skerry.sock";
}

/* A word as a JSON string, behind `to`; NULL for one that is not ASCII. */
static char *quoted(char *to, const char *word)
{
    *to++ = '"';
    for (; *word; word++) {
        if (!isascii(*word))
            return NULL;
        if (*word == '"' || *word == '\\')
            *to++ = '\\';
        if (*word < ' ')
            to += sprintf(to, "\\u%04x", *word);
        else
            *to++ = *word;
    }
    *to++ = '"';
    return to;
}

/* The request, to be freed, and its length; NULL when it is none for here. */
static char *request(const char *container, char **words, size_t *length)
{
    size_t room = ROOM;
    char *body, *at, *whole;
    int head;

    for (char **word = words; *word; word++)
        room += strlen(*word) * ESCAPED + 3;
    body = malloc(room);
    whole = malloc(room + ROOM + strlen(container));
    if (!body || !whole)
        return NULL;
    at = stpcpy(body, "{\"Cmd\":[");
    for (char **word = words; *word; word++) {
        if (word != words)
            *at++ = ',';
        at = quoted(at, *word);
        if (!at)
            return NULL;
    }
    at = stpcpy(at, "],\"AttachStdout\":true,\"AttachStderr\":true}");
    head = sprintf(whole,
                   "POST /skerry/containers/%s/exec HTTP/1.1\r\nHost: skerry\r\n"
                   "Content-Type: application/json\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
                   "Content-Length: %zu\r\n\r\n",
                   container, (size_t)(at - body));
    memcpy(whole + head, body, (size_t)(at - body));
    *length = (size_t)head + (size_t)(at - body);
    free(body);
    return whole;
}

/* A connection that has been asked; -1 when nobody was. */
static int ask(const char *path, const char *data, size_t length)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int sock;

    if (strlen(path) >= sizeof address.sun_path)
        return -1;
    strcpy(address.sun_path, path);
    sock = socket(AF_UNIX, SOCK_STREAM, 0);
    if (sock < 0)
        return -1;
    if (connect(sock, (struct sockaddr *)&address, sizeof address) == 0) {
        while (length) {
            ssize_t sent = send(sock, data, length, MSG_NOSIGNAL);
            if (sent < 0)
                break;
            data += sent;
            length -= (size_t)sent;
        }
        if (!length)
            return sock;
    }
    close(sock);
    return -1;
}

static void say(int fd, const char *data, size_t length)
{
    while (length) {
        ssize_t written = write(fd, data, length);
        if (written < 0) {
            struct pollfd room = {.fd = fd, .events = POLLOUT};
            if (errno == EPIPE)
                _exit(NOBODY_READS); /* `skerry exec c yes | head` */
            if (errno != EAGAIN)
                _exit(FAILED);
            poll(&room, 1, -1);
            continue;
        }
        data += written;
        length -= (size_t)written;
    }
}

static void interrupted(int number)
{
    (void)number;
    _exit(INTERRUPTED);
}

/* Output to its descriptors until the frame that says the exit code. */
static int carry(int sock)
{
    static char data[BLOCK];
    unsigned char head[HEADER];
    char code[LONGEST_CODE + 1] = "";
    size_t have = 0, said = 0, left = 0;

    for (;;) {
        ssize_t length = recv(sock, data, sizeof data, 0);
        if (length <= 0) {
            say(STDERR, gone, sizeof gone - 1);
            return FAILED;
        }
        for (ssize_t at = 0; at < length;) {
            size_t piece = (size_t)(length - at);
            if (!left) {
                head[have++] = (unsigned char)data[at++];
                if (have == HEADER) {
                    left = (size_t)head[4] << 24 | (size_t)head[5] << 16 | (size_t)head[6] << 8 | head[7];
                    have = 0;
                }
                continue;
            }
            if (piece > left)
                piece = left;
            left -= piece;
            if (head[0] == STDOUT || head[0] == STDERR) {
                say(head[0], data + at, piece);
            } else if (head[0] == END) {
                for (size_t each = 0; each < piece && said < LONGEST_CODE; each++)
                    code[said++] = data[at + (ssize_t)each];
                if (!left && said && strspn(code, "0123456789") == said)
                    return atoi(code) & 0xff;
            }
            at += (ssize_t)piece;
        }
    }
}

/* The exit code, or -1 for the ordinary way. */
static int quick_exec(char **words)
{
    const char *path = socket_path();
    static char answer[BLOCK];
    char *data, *end, number[16];
    size_t length = 0;
    ssize_t come;
    int sock;

    if (!path || !plain(words[0]))
        return -1;
    data = request(words[0], words + 1, &length);
    sock = data ? ask(path, data, length) : -1;
    if (sock < 0)
        return -1;
    come = recv(sock, answer, sizeof answer - 1, MSG_PEEK);
    end = come > 0 ? strstr(answer, "\r\n\r\n") : NULL;
    if (!end || strncmp(answer, "HTTP/1.1 101 ", 13)) {
        sprintf(number, "%d", sock);
        setenv("SKERRY_ASKED", number, 1);
        return -1;
    }
    recv(sock, answer, (size_t)(end + 4 - answer), 0);
    /* As the interpreter has them, also where a shell's `&` has SIGINT ignored. */
    signal(SIGINT, interrupted);
    signal(SIGPIPE, SIG_IGN);
    return carry(sock);
}

int main(int argc, char **argv)
{
    unsetenv("SKERRY_ASKED");
    if (argc > 3 && !strcmp(argv[1], "exec")) {
        int code = quick_exec(argv + 2);
        if (code >= 0)
            _exit(code);
    }
    execv(ORDINARY, argv);
    fprintf(stderr, "skerry: cannot run %s: %s\n", ORDINARY, strerror(errno));
    return NOT_FOUND;
}
