#include "net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

double cpu_seconds(void)
{
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    return (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
           (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e6;
}

void die(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

void parse_address(const char *text, struct address *out)
{
    memset(out, 0, sizeof *out);
    out->text = text;
    if (strncmp(text, "unix:", 5) == 0) {
        struct sockaddr_un *un = (struct sockaddr_un *)&out->at;
        const char *path = text + 5;
        if (*path == '\0' || strlen(path) >= sizeof un->sun_path)
            die("address %s: the path must have 1 to %zu bytes", text, sizeof un->sun_path - 1);
        un->sun_family = AF_UNIX;
        strcpy(un->sun_path, path);
        out->size = sizeof *un;
        return;
    }
    if (strncmp(text, "tcp:", 4) == 0) {
        struct sockaddr_in *in = (struct sockaddr_in *)&out->at;
        char host[INET_ADDRSTRLEN];
        const char *colon = strrchr(text + 4, ':');
        if (colon != NULL && (size_t)(colon - text - 4) < sizeof host) {
            memcpy(host, text + 4, (size_t)(colon - text - 4));
            host[colon - text - 4] = '\0';
            char *end;
            unsigned long port = strtoul(colon + 1, &end, 10);
            if (inet_pton(AF_INET, host, &in->sin_addr) == 1 && *end == '\0' && port > 0 && port < 65536) {
                in->sin_family = AF_INET;
                in->sin_port = htons((uint16_t)port);
                out->size = sizeof *in;
                return;
            }
        }
    }
    die("address %s: write unix:/path or tcp:127.0.0.1:port", text);
}

int listen_at(const struct address *a)
{
    int fd = socket(a->at.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int on = 1;
    if (fd < 0)
        die("socket: %s", strerror(errno));
    if (a->at.ss_family == AF_INET)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (const struct sockaddr *)&a->at, a->size) < 0)
        die("listen at %s: %s", a->text, strerror(errno));
    /* every proxy runs as whom it likes: the socket is open to all, its directory decides who reaches it */
    if (a->at.ss_family == AF_UNIX && chmod(((const struct sockaddr_un *)&a->at)->sun_path, 0666) < 0)
        die("chmod of %s: %s", a->text, strerror(errno));
    if (listen(fd, 4096) < 0)
        die("listen at %s: %s", a->text, strerror(errno));
    return fd;
}

void set_nonblocking(int fd, bool on)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK) < 0)
        die("fcntl: %s", strerror(errno));
}

void set_nodelay(int fd, const struct address *a)
{
    int on = 1;
    if (a->at.ss_family == AF_INET)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static void epoll_set(int epoll, int op, int fd, uint32_t events, void *data)
{
    struct epoll_event event = {.events = events, .data.ptr = data};
    if (epoll_ctl(epoll, op, fd, &event) < 0)
        die("epoll_ctl: %s", strerror(errno));
}

void add_to_epoll(int epoll, int fd, uint32_t events, void *data)
{
    epoll_set(epoll, EPOLL_CTL_ADD, fd, events, data);
}

void change_in_epoll(int epoll, int fd, uint32_t events, void *data)
{
    epoll_set(epoll, EPOLL_CTL_MOD, fd, events, data);
}

static void send_whole(int fd, const uint8_t *bytes, size_t size, const struct address *to)
{
    while (size > 0) {
        ssize_t n = send(fd, bytes, size, MSG_NOSIGNAL);
        if (n < 0)
            die("send to %s: %s", to->text, strerror(errno));
        bytes += n;
        size -= (size_t)n;
    }
}

int open_connection(const struct address *to, const struct prologue *first)
{
    struct timeval limit = {.tv_sec = SOCKET_TIMEOUT_SECONDS};
    int fd = socket(to->at.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        die("socket: %s", strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (connect(fd, (const struct sockaddr *)&to->at, to->size) < 0)
        die("connect to %s: %s", to->text, strerror(errno));
    set_nodelay(fd, to);
    send_whole(fd, first->bytes, first->handshake, to);
    if (first->handshake > 0) {
        struct reply reply;
        reply_begin(&reply);
        errno = 0;
        switch (reply_read(fd, first, &reply)) {
        case REPLY_OK: break;
        case REPLY_REFUSED:
            die("handshake with %s: refused with version %u, code %u (%s)", to->text, reply.bytes[0], reply.bytes[1],
                reply_name(reply.bytes[1]));
        case REPLY_RELAYED: die("handshake with %s: the agent relays instead of handing over", to->text);
        default:
            if (errno != 0)
                die("handshake with %s: %s", to->text, errno == EAGAIN ? "no complete reply in time" : strerror(errno));
            die("handshake with %s: closed after %zu reply bytes, or no reply", to->text, reply.have);
        }
        if (reply.descriptor >= 0) {
            fd = reply.descriptor;
            set_nonblocking(fd, false);
            setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
            setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        }
    }
    send_whole(fd, first->bytes + first->handshake, first->size - first->handshake, to);
    return fd;
}
