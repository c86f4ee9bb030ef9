/* Ping-pong: every connection has one message of `size` bytes under way; the time until it is back is what a user waits. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "histogram.h"
#include "modes.h"

struct talk {
    int fd;
    uint64_t number, started;
    size_t sent, received;
    bool waiting_to_write, idle;
    uint8_t *message;
};

static struct histogram latencies;
static uint8_t scratch[64 * 1024];

static void push(int epoll, struct talk *t, const struct options *o)
{
    while (t->sent < o->size) {
        ssize_t n = send(t->fd, t->message + t->sent, o->size - t->sent, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN)
            die("send to %s: %s", o->to.text, strerror(errno));
        if (n < 0)
            break;
        t->sent += (size_t)n;
    }
    bool waiting = t->sent < o->size;
    if (waiting != t->waiting_to_write)
        change_in_epoll(epoll, t->fd, waiting ? EPOLLIN | EPOLLOUT : EPOLLIN, t);
    t->waiting_to_write = waiting;
}

static void say(int epoll, struct talk *t, const struct options *o)
{
    t->number++;
    t->sent = t->received = 0;
    memcpy(t->message, &t->number, o->size < sizeof t->number ? o->size : sizeof t->number);
    t->started = now_ns();
    push(epoll, t, o);
}

/* True when the whole message is back; dies if it is not the one sent. */
static bool hear(struct talk *t, const struct options *o)
{
    ssize_t n = recv(t->fd, scratch, o->size - t->received, 0);
    if (n < 0 && errno == EAGAIN)
        return false;
    if (n < 0)
        die("receive from %s: %s", o->to.text, strerror(errno));
    if (n == 0)
        die("%s closed the connection in message %" PRIu64, o->to.text, t->number);
    if (memcmp(scratch, t->message + t->received, (size_t)n) != 0)
        die("%s sent back other bytes than it got in message %" PRIu64, o->to.text, t->number);
    t->received += (size_t)n;
    return t->received == o->size;
}

int run_echo(const struct options *o)
{
    struct prologue first;
    make_prologue(o->service, o->hand_off, o->plain ? 0 : ROLE_ECHO, &first);
    struct talk *talks = calloc(o->connections, sizeof *talks);
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    if (talks == NULL || epoll < 0)
        die("cannot set up %u connections: %s", o->connections, strerror(errno));
    for (unsigned i = 0; i < o->connections; i++) {
        talks[i].fd = open_connection(&o->to, &first);
        talks[i].message = malloc(o->size);
        if (talks[i].message == NULL)
            die("out of memory");
        memset(talks[i].message, 'm', o->size);
        set_nonblocking(talks[i].fd, true);
        add_to_epoll(epoll, talks[i].fd, EPOLLIN, &talks[i]);
    }
    double cpu = cpu_seconds();
    uint64_t begin = now_ns(), measured_from = begin + (uint64_t)(o->warmup * 1e9);
    uint64_t until = measured_from + (uint64_t)(o->seconds * 1e9), now = begin;
    bool warm = false;
    unsigned talking = o->connections;
    for (unsigned i = 0; i < o->connections; i++)
        say(epoll, &talks[i], o);
    while (talking > 0) {
        struct epoll_event events[256];
        int n = epoll_wait(epoll, events, 256, SOCKET_TIMEOUT_SECONDS * 1000);
        if (n < 0 && errno != EINTR)
            die("epoll_wait: %s", strerror(errno));
        if (n == 0)
            die("%s: no answer within %d s on %u connections", o->to.text, SOCKET_TIMEOUT_SECONDS, talking);
        for (int i = 0; i < n; i++) {
            struct talk *t = events[i].data.ptr;
            if (t->waiting_to_write)
                push(epoll, t, o);
            if (!(events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP)) || !hear(t, o))
                continue;
            now = now_ns();
            if (!warm && now >= measured_from) {
                histogram_reset(&latencies); /* the warm-up is over */
                cpu = cpu_seconds();
                measured_from = now;
                until = now + (uint64_t)(o->seconds * 1e9);
                warm = true;
            } else if (now < until) {
                histogram_add(&latencies, now - t->started);
            }
            if (now < until)
                say(epoll, t, o);
            else
                talking--;
        }
    }
    double seconds = (double)(until - measured_from) / 1e9;
    printf("{\"mode\":\"echo\",\"connections\":%u,\"size\":%zu,\"seconds\":%.6f,\"messages\":%" PRIu64
           ",\"rate\":%.1f,\"load_cpu_seconds\":%.6f,\"latency_ns\":",
           o->connections, o->size, seconds, latencies.total, (double)latencies.total / seconds, cpu_seconds() - cpu);
    histogram_json(&latencies, stdout);
    puts("}");
    return 0;
}
