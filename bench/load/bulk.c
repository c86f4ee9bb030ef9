/* Bytes per second, one way or both ways at once. Time ends when the far side has told what it received: bytes that only
 * sit in a buffer do not count. Exit status 1 if the two sides disagree about the count or (with verify) the content. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "frames.h"
#include "modes.h"

struct lane {
    int fd;
    struct sender out;
    struct receiver in;
    uint32_t events;
    bool finished;
};

static uint8_t scratch[READ_BYTES];

static void push(int epoll, struct lane *l, const struct options *o)
{
    enum pushed result = sender_push(&l->out, l->fd);
    if (result == PUSH_FAILED)
        die("send to %s: %s", o->to.text, strerror(errno));
    uint32_t events = result == PUSH_DONE ? EPOLLIN : EPOLLIN | EPOLLOUT;
    if (events != l->events)
        change_in_epoll(epoll, l->fd, l->events = events, l);
}

static void pull(struct lane *l, const struct options *o)
{
    ssize_t n = recv(l->fd, scratch, sizeof scratch, 0);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n < 0)
        die("receive from %s: %s", o->to.text, strerror(errno));
    if (n == 0)
        die("%s closed the connection after %" PRIu64 " bytes, before its report", o->to.text, l->in.payload);
    if (!receiver_feed(&l->in, scratch, (size_t)n))
        die("%s: the stream is broken after %" PRIu64 " bytes", o->to.text, l->in.payload);
    l->finished = l->in.reported;
}

static int conclude(const struct lane *lanes, const struct options *o, double seconds, double cpu)
{
    uint64_t sent = 0, received = 0, corrupt = 0, lost = 0;
    for (unsigned i = 0; i < o->connections; i++) {
        const struct report *far = &lanes[i].in.report;
        sent += lanes[i].out.payload;
        received += lanes[i].in.payload;
        corrupt += far->corrupt + lanes[i].in.corrupt;
        lost += (far->received != lanes[i].out.payload) + (far->sent != lanes[i].in.payload);
    }
    printf("{\"mode\":\"bulk\",\"direction\":\"%s\",\"connections\":%u,\"seconds\":%.6f,\"sent\":%" PRIu64
           ",\"received\":%" PRIu64 ",\"rate\":%.1f,\"verified\":%s,\"corrupt\":%" PRIu64 ",\"miscounted\":%" PRIu64
           ",\"load_cpu_seconds\":%.6f}\n",
           o->direction, o->connections, seconds, sent, received, (double)(sent + received) / seconds,
           o->verify ? "true" : "false", corrupt, lost, cpu);
    if (lost > 0)
        fprintf(stderr, "load: %s: the two sides counted different bytes in %" PRIu64 " streams\n", o->to.text, lost);
    if (corrupt > 0)
        fprintf(stderr, "load: %s: %" PRIu64 " pieces arrived with other bytes than were sent\n", o->to.text, corrupt);
    return lost > 0 || corrupt > 0;
}

int run_bulk(const struct options *o)
{
    bool sends = strcmp(o->direction, "receive") != 0, receives = strcmp(o->direction, "send") != 0;
    char role = receives ? (o->verify ? ROLE_SOURCE_VERIFY : ROLE_SOURCE) : (o->verify ? ROLE_SINK_VERIFY : ROLE_SINK);
    struct prologue first;
    make_prologue(o->service, o->hand_off, role, &first);
    struct lane *lanes = calloc(o->connections, sizeof *lanes);
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    if (lanes == NULL || epoll < 0)
        die("cannot set up %u connections: %s", o->connections, strerror(errno));
    for (unsigned i = 0; i < o->connections; i++) {
        lanes[i].fd = open_connection(&o->to, &first);
        lanes[i].in.verify = o->verify;
        lanes[i].in.want_report = true;
        lanes[i].events = sends ? EPOLLIN | EPOLLOUT : EPOLLIN;
        set_nonblocking(lanes[i].fd, true);
        add_to_epoll(epoll, lanes[i].fd, lanes[i].events, &lanes[i]);
    }
    double cpu = cpu_seconds();
    uint64_t begin = now_ns(), until = begin + (uint64_t)(o->seconds * 1e9);
    uint64_t give_up = until + (uint64_t)SOCKET_TIMEOUT_SECONDS * 1000000000u;
    unsigned running = o->connections;
    bool ending = false;
    while (running > 0) {
        struct epoll_event events[256];
        int n = epoll_wait(epoll, events, 256, 10);
        uint64_t now = now_ns();
        if (n < 0 && errno != EINTR)
            die("epoll_wait: %s", strerror(errno));
        if (now > give_up)
            die("%s: %u of %u streams did not end within %d s", o->to.text, running, o->connections,
                SOCKET_TIMEOUT_SECONDS);
        if (now >= until && !ending) {
            ending = true;
            for (unsigned i = 0; i < o->connections; i++) {
                sender_end(&lanes[i].out, NULL);
                push(epoll, &lanes[i], o);
            }
        }
        for (int i = 0; i < n; i++) {
            struct lane *l = events[i].data.ptr;
            if (l->finished)
                continue;
            if (events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP))
                pull(l, o);
            if (events[i].events & EPOLLOUT && !l->finished)
                push(epoll, l, o);
            if (l->finished) {
                change_in_epoll(epoll, l->fd, 0, l);
                running--;
            }
        }
    }
    return conclude(lanes, o, (double)(now_ns() - begin) / 1e9, cpu_seconds() - cpu);
}
